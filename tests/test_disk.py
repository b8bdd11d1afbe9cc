"""Full disks, read-only and vanished ones, damaged thumbs, names of every kind: one sentence, and nothing is lost."""

import asyncio
import errno
import functools
import gc
import os
import shutil
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest
from pages import Page
from safetensors import SafetensorError
from starlette.testclient import TestClient

from kto_workbench import KTOConfig
from kto_workbench import __main__ as shell
from kto_workbench.errors import DataError, WorkbenchError
from kto_workbench.feedback.store import ThumbStore
from kto_workbench.files import disk_refusal
from kto_workbench.runs import Run, jsonlines, list_runs
from kto_workbench.runs.directory import EXPORT_FORMATS, new_run
from kto_workbench.runs.shelf import delete_run, deleted_runs, empty_trash, restore_run, trash_bytes
from kto_workbench.ui import app
from kto_workbench.ui.workbench import RECEIVED_SECONDS, Workbench


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 2 MiB of its own; mounting one takes root, as test machines and containers have it."""
    if os.geteuid():
        pytest.skip("only root may mount a disk")
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=False)


def fill(folder):
    """Leave not one byte free; returns the file to delete for room."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            with pytest.raises(OSError) as full:
                while file.write(bytes(size)):
                    pass
            assert full.value.errno == errno.ENOSPC
    return path


def call(capsys, *words):
    """What a verb says on stderr, which is one sentence, as it fails."""
    code = shell.main([str(word) for word in words])
    said = capsys.readouterr()
    assert code == 2 and "Traceback" not in said.err and len(said.err.strip().splitlines()) == 1, (words, said)
    return said.err.strip()


def rows(path: Path, count: int = 4) -> Path:
    path.write_text('{"prompt": "a", "completion": "b ", "label": true}\n' * count)
    return path


@pytest.mark.reliability("A full, read-only or vanished disk is one sentence, and nothing kept is lost")
def test_a_full_disk_is_one_sentence_and_room_mends_it(small_disk, tmp_path, capsys):
    data = rows(tmp_path / "rows.jsonl")
    run = new_run(KTOConfig(workspace=str(small_disk), data=str(data)), {})
    run.record({"step": 1, "loss": 0.5})
    store = ThumbStore(small_disk)
    kept = store.add("Hello!", "Hi.", True)
    run.set_status(state="stopped", step=1)
    filler = fill(small_disk)
    space = ["--workspace", small_disk]
    assert "No space left on device" in call(capsys, "train", data, *space)
    with pytest.raises(DataError, match="Can't use the thumbs in .*(full|disk)"):
        store.add("Bye!", "So long.", False, note="x" * 100_000)
    with pytest.raises(WorkbenchError, match="No space left"):
        run.ask("stop") if run.status().active else jsonlines_full(run)
    written = small_disk / "written.jsonl"
    assert "No space left" in call(capsys, "check", data, "--fix", "duplicates", "--out", written, *space)
    # What was said before stays readable, and how the run stands can still be noted down.
    assert run.metrics() == [{"step": 1, "loss": 0.5}] and store.get(kept).completion == "Hi."
    run.set_status(state="failed", error="The disk is full.")
    assert (run.status().state, run.status().error) == ("failed", "The disk is full.")
    assert [one.id for one in list_runs(small_disk)] == [run.id]
    assert [path.name for path in (small_disk / "runs").iterdir()] == [run.id]  # nothing half made is left
    filler.unlink()
    run.record({"step": 2, "loss": 0.25})
    assert [record["step"] for record in run.metrics()] == [1, 2]
    assert len(store) == 1 and store.add("Bye!", "So long.", False) and len(store) == 2


def jsonlines_full(run):
    try:
        run.record({"step": 2, "text": "x" * 100_000})
    except OSError as error:
        assert run.metrics() == [{"step": 1, "loss": 0.5}]  # no half of a line is left
        raise WorkbenchError(error.strerror) from None


async def built(workspace):
    return app.build(workspace)  # outside of a running loop gradio makes some of its own, and leaves them open


@pytest.mark.reliability("A full, read-only or vanished disk is one sentence, and nothing kept is lost")
# Gradio leaves the file open that it could not write: here, not in another test.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_upload_that_finds_no_room_is_one_sentence_and_leaves_none_of_it(small_disk):
    kept = rows(small_disk / "kept.jsonl")
    served = asyncio.run(built(small_disk))
    with TestClient(served, base_url="http://127.0.0.1", raise_server_exceptions=False) as client:
        for size, code in ((3_000_000, 507), (300_000, 200), (1_900_000, 507), (300_000, 200)):
            answer = client.post("/gradio_api/upload", files={"files": ("thumbs.jsonl", b"x" * size)})
            assert answer.status_code == code, (size, answer.text)
            if code == 507:
                said = "The disk can't be written to: No space left on device; make room, and go on."
                assert answer.text == said and "tmp" not in {
                    path.name[:3] for path in (small_disk / "cache/page").iterdir()
                }
    assert kept.read_text().count("label") == 4
    gc.collect()


@pytest.mark.reliability("A full, read-only or vanished disk is one sentence, and nothing kept is lost")
@pytest.mark.parametrize(
    ("error", "why"),
    [
        # What safetensors and torch said on disks that were full, and on one whose quota was.
        (SafetensorError("Error while serializing: I/O error: Disk quota exceeded (os error 122)"), "quota exceeded"),
        (SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"), "No space left"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"), "No space left"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "quota exceeded"),
        (RuntimeError("[enforce fail at alloc_cpu.cpp:127] . DefaultCPUAllocator: can't allocate memory"), ""),
    ],
)
def test_what_libraries_say_of_a_full_disk_or_quota_is_one_sentence(error, why):
    said = disk_refusal(error)
    assert (why in said and said.startswith("The disk can't be written to: ")) if why else said == ""


@pytest.mark.reliability("A full, read-only or vanished disk is one sentence, and nothing kept is lost")
@pytest.mark.parametrize("form", EXPORT_FORMATS)
def test_an_export_that_finds_no_room_is_one_sentence_and_goes_well_after_room_is_made(
    small_disk, trained, capsys, form
):
    run = Run(shutil.copytree(trained.path, small_disk / "runs" / "r", ignore=shutil.ignore_patterns("checkpoints")))
    filler = fill(small_disk)
    export = ["export", run.path, "--format", form, "--workspace", small_disk]
    assert "No space left on device" in call(capsys, *export)
    assert run.trained() and not list(run.path.glob("export/*"))
    filler.unlink()
    elsewhere = small_disk.parent / "elsewhere"  # a merged model has no room on so small a disk
    assert shell.main([*map(str, export), "--out", str(elsewhere)]) == 0 and any(elsewhere.iterdir())


@pytest.mark.reliability("A full, read-only or vanished disk is one sentence, and nothing kept is lost")
def test_a_read_only_disk_is_one_sentence(small_disk, tmp_path, capsys):
    data = rows(small_disk / "rows.jsonl")
    run = new_run(KTOConfig(workspace=str(small_disk), data=str(data)), {})
    run.set_status(state="stopped", step=1)
    ThumbStore(small_disk).add("Hello!", "Hi.", True)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    space = ["--workspace", small_disk]
    for words in (["train", data], ["resume", run.id], ["check", data, "--fix", "duplicates"]):
        assert "Read-only file system" in call(capsys, *words, *space), words
    assert shell.main(["runs", *map(str, space)]) == 0 and run.id in capsys.readouterr().out
    with pytest.raises(DataError, match="Can't use the thumbs"):
        ThumbStore(small_disk).add("Bye!", "Bye.", True)
    assert [thumb.prompt for thumb in ThumbStore(small_disk).thumbs()] == ["Hello!"]
    with pytest.raises(WorkbenchError, match="Can't write to the workspace .*: Read-only file system."):
        app.build(small_disk)


@pytest.mark.reliability("A full, read-only or vanished disk is one sentence, and nothing kept is lost")
def test_a_vanished_disk_is_one_sentence(small_disk, tmp_path, capsys):
    run = new_run(KTOConfig(workspace=str(small_disk)), {})
    subprocess.run(["umount", "-l", small_disk], check=True)
    assert call(capsys, "resume", run.id, "--workspace", small_disk).startswith("There is no run ")
    assert run.metrics() == [] and run.status().state == "crashed" and len(run.problems()) == 3
    with pytest.raises(WorkbenchError, match="Can't write to"):
        run.leave("stop")


def test_deleting_frees_space_once_the_trash_is_emptied(tmp_path, capsys):
    runs = [new_run(KTOConfig(workspace=str(tmp_path)), {}) for _ in range(2)]
    for run in runs:
        (run.path / "weights").write_bytes(bytes(300_000))
        run.set_status(state="finished")
        delete_run(run)
    assert trash_bytes(tmp_path) >= 600_000 and not list_runs(tmp_path)
    restore_run(runs[0].id, tmp_path)
    assert shell.main(["runs", "--empty-trash", "--workspace", str(tmp_path)]) == 0
    assert "1 deleted runs are gone for good; 0.3 MiB" in capsys.readouterr().out
    assert not deleted_runs(tmp_path) and trash_bytes(tmp_path) == 0
    assert [run.id for run in list_runs(tmp_path)] == [runs[0].id]
    assert empty_trash(tmp_path) == (0, 0)


@pytest.mark.reliability("Whatever became of a file, every verb and event answers in a sentence")
@pytest.mark.parametrize("to", ["..", ".", "elsewhere"])
def test_a_trash_that_leads_elsewhere_is_not_emptied(tmp_path, to):
    workspace = tmp_path / "workspace"
    run = new_run(KTOConfig(workspace=str(workspace)), {})
    run.set_status(state="finished")
    for folder in (tmp_path, workspace / "elsewhere"):
        (folder / "kept").mkdir(parents=True)
        (folder / "kept" / "precious").write_text("x")
        os.utime(folder / "kept", (0, 0))  # older than the trash keeps anything
    (workspace / "trash").symlink_to(to)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    assert empty_trash(workspace) == (0, 0) and trash_bytes(workspace) == 0 and deleted_runs(workspace) == []
    with pytest.raises(WorkbenchError, match="Can't write to .*trash: it is a link."):
        delete_run(run)
    with pytest.raises(WorkbenchError, match="There is no deleted run"):
        restore_run("kept", workspace)
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_a_record_that_never_ends_is_not_searched_for_its_end(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n')
    os.truncate(path, 2**40)  # a hole, which reads as zeros for hours
    assert jsonlines.read(path) == ([{"step": 1}], 2**40)
    os.truncate(path, 12 + jsonlines.AT_ONCE - 1)
    with path.open("ab") as file:
        file.write(b'\n{"step": 2}\n')
    assert [record["step"] for record in jsonlines.read(path)[0]] == [1, 2]


# thumbs --------------------------------------------------------------------------------------------------------------


@pytest.mark.reliability("Damaged thumbs are put aside, and what can be read of them is kept")
@pytest.mark.parametrize("how", ["no database", "empty page", "folder", "link", "pipe"])
def test_damaged_thumbs_are_put_aside_and_the_page_opens(tmp_path, how):
    store = ThumbStore(tmp_path)
    for number in range(400):
        store.add(f"Prompt {number}", "An answer. " * 20, number % 2 == 0)
    with sqlite3.connect(store.path) as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    database.close()
    if how == "no database":
        store.path.write_bytes(b"nonsense" * 4000)
    elif how == "empty page":  # in the middle: what lies before can be read
        with store.path.open("r+b") as file:
            file.seek(4096 * 20)
            file.write(bytes(4096))
    else:
        store.path.unlink()
        make = {"folder": os.mkdir, "pipe": os.mkfifo, "link": functools.partial(os.symlink, tmp_path / "elsewhere")}
        make[how](store.path)
    Page(Workbench(tmp_path)).close()  # it used to end in a traceback
    if how == "link":  # it led nowhere, so only a write meets it; and nothing is written where it leads
        with pytest.raises(DataError, match="The damaged file is feedback-damaged-"):
            store.add("Lost", "Yes.", True)
        assert not (tmp_path / "elsewhere").exists()
    (aside,) = [path for path in tmp_path.glob("feedback-damaged-*") if path.suffix == ".sqlite"]
    saved = [thumb.prompt for thumb in store.thumbs()]
    assert saved == [f"Prompt {number}" for number in range(len(saved))]
    assert (len(saved) > 100) == (how == "empty page")
    new = store.add("One more", "Yes.", True)
    assert store.get(new).prompt == "One more" and (aside.is_dir() or how != "folder")


def test_a_spoiled_thumb_costs_itself(tmp_path):
    store = ThumbStore(tmp_path)
    first, second, third = (store.add(f"Prompt {i}", "Answer", True) for i in range(3))
    with sqlite3.connect(store.path) as database:
        database.execute("UPDATE thumbs SET prompt = '{' WHERE id = ?", (second,))
    database.close()
    assert [thumb.id for thumb in store.thumbs()] == [first, third]


# uploads -------------------------------------------------------------------------------------------------------------


def test_refused_uploads_are_not_kept_and_broken_off_ones_go(tmp_path, monkeypatch):
    bench = Workbench(tmp_path)
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(bench.received))  # as the server has it
    page = Page(bench)
    bench.received.mkdir(parents=True)
    good, bad, old = (bench.received / name for name in ("good.jsonl", "bad.jsonl", "tmp-of-an-upload"))
    rows(good)
    bad.write_text("no feedback at all")
    old.write_bytes(bytes(1000))
    os.utime(old, (time.time() - RECEIVED_SECONDS - 60,) * 2)
    take = page.named("ui.data.build.<locals>.take")
    told = page.fire(take, [[{"path": str(bad), "meta": {"_type": "gradio.FileData"}}]])
    assert bench.uploaded() == [] and not bad.exists() and not old.exists()
    with pytest.raises(DataError, match="bad.jsonl"):
        bench.feedback(str(bench.uploads / "bad.jsonl"))
    told = page.fire(take, [[{"path": str(good), "meta": {"_type": "gradio.FileData"}}]])
    page.close()
    assert [path.name for path in bench.uploaded()] == ["good.jsonl"], told


@pytest.mark.reliability("Files of any name are read, or refused in a sentence")
@pytest.mark.parametrize(
    "name", ["a" * 249 + ".jsonl", "数据 📊.jsonl", "اختبار.jsonl", "x\u202ey.jsonl", "-rf.jsonl", ".x.jsonl"]
)
def test_files_of_any_name_are_read_and_kept(tmp_path, capsys, name):
    data = rows(tmp_path / name)
    assert shell.main(["check", str(data), "--json", "--workspace", str(tmp_path)]) == 0
    capsys.readouterr()
    bench = Workbench(tmp_path / "w")
    bench.received.mkdir(parents=True)
    received = bench.received / name
    received.write_bytes(data.read_bytes())
    kept = Path(bench.keep_upload(received))
    assert kept.parent == bench.uploads and bench.feedback(str(kept)).balance().n_desirable == 4


def test_names_that_no_file_can_have_are_one_sentence(tmp_path, capsys):
    for name in ("a" * 300, "x" * 5000, "\x00", "a/" * 3000):
        for words in (["stop"], ["resume"], ["compare"], ["export"], ["check"], ["train"]):
            call(capsys, *words, name, "--workspace", tmp_path)
