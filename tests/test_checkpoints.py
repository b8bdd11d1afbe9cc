"""Checkpoints that are torn, and numbers that are none: what is passed over, what is kept, and that it is said."""

import logging
import os

import pytest
import torch
from safetensors.torch import load_file
from test_disk import fill, small_disk  # noqa: F401, a fixture
from test_training import assert_same_adapter, crash_at, make_config, world  # noqa: F401, a fixture

from kto_workbench import WorkbenchError, train
from kto_workbench.engine.training import train_run
from kto_workbench.runs import create_run
from kto_workbench.runs.checkpoints import SEAL, flaw, newest_whole


def crashed(world, tmp_path, step=8):  # noqa: F811
    """A run with whole checkpoints at steps 3 and 6, that crashed later on."""
    run = create_run(make_config(world, tmp_path))
    crash_at(run, step=step)
    assert [path.name for path in run.checkpoint_folders()] == ["checkpoint-3", "checkpoint-6"]
    return run


@pytest.fixture(scope="module")
def whole(world, tmp_path_factory):  # noqa: F811
    return train(make_config(world, tmp_path_factory.mktemp("whole")), progress=False)


SPOILED = [
    ("optimizer.pt", b"", "has a torn optimizer.pt"),
    ("scheduler.pt", b"", "has a torn scheduler.pt"),
    ("rng_state.pth", None, "lacks its rng_state.pth"),
    ("adapter_model.safetensors", "flip", "has a damaged adapter_model.safetensors"),
    ("kto_state.json", b"{}", "has a torn kto_state.json"),
    (SEAL, b"{", f"has a {SEAL} that is not a whole JSON object"),
]


@pytest.mark.reliability("A torn checkpoint is passed over for the newest whole one, with a line in the log")
@pytest.mark.parametrize(("name", "data", "told"), SPOILED)
def test_a_torn_checkpoint_is_passed_over_for_the_older_whole_one(world, tmp_path, whole, caplog, name, data, told):  # noqa: F811
    run = crashed(world, tmp_path)
    path = run.path / "checkpoints" / "checkpoint-6" / name
    if data is None:
        path.unlink()
    elif data == "flip":
        path.write_bytes(path.read_bytes()[:-1] + bytes([path.read_bytes()[-1] ^ 1]))
    else:
        path.write_bytes(data)
    run.set_status(state="queued", pid=None)
    train_run(run)
    assert f"checkpoint-6 {told}, so it is passed over." in caplog.text
    assert run.status().first_step == 3 and run.status().state == "finished"
    assert_same_adapter(run, whole, rtol=1e-5)


def test_a_checkpoint_without_a_seal_counts_if_it_has_what_a_resume_needs(world, tmp_path, caplog):  # noqa: F811
    run = crashed(world, tmp_path)
    newest, older = (run.path / "checkpoints" / f"checkpoint-{step}" for step in (6, 3))
    (newest / SEAL).unlink()
    assert flaw(newest) == "" and newest_whole(run) == newest
    (newest / "optimizer.pt").write_bytes(b"")
    assert flaw(newest) == "lacks its optimizer, or has an empty one" and newest_whole(run) == older
    (older / "trainer_state.json").write_text('{"global_')
    assert newest_whole(run) is None and "No checkpoint is whole, so the training begins anew." in caplog.text


# numbers -------------------------------------------------------------------------------------------------------------


def no_numbers_at(monkeypatch, steps):
    """Have the gradient be no number at some steps, as an overflow would."""
    from kto_workbench.engine import trainer

    step = trainer.kto_step

    def spoiled(scorer, batch, config, tokens, *, train, **options):
        sums = step(scorer, batch, config, tokens, train=train, **options)
        if train:
            spoiled.calls += 1
            if spoiled.calls in steps:
                next(p for p in scorer.parameters() if p.grad is not None).grad.view(-1)[0] = float("inf")
        return sums

    spoiled.calls = 0
    monkeypatch.setattr(trainer, "kto_step", spoiled)


@pytest.mark.reliability("A step without a number is skipped; three in a row keep the last good adapter")
def test_a_step_without_numbers_is_skipped_counted_and_shown(world, tmp_path, monkeypatch):  # noqa: F811
    no_numbers_at(monkeypatch, {2, 3, 5})
    told = []
    run = create_run(make_config(world, tmp_path))
    set_status = run.set_status
    run.set_status = lambda **changes: told.append(changes.get("message", "")) or set_status(**changes)
    train_run(run)
    records = {record["step"]: record for record in run.metrics() if "loss" in record}
    assert run.status().state == "finished"
    # Steps 2, 3 and 5 have no loss of their own, and count.
    assert {step: records[step].get("skipped_steps") for step in range(1, 6)} == {1: None, 2: 1, 3: 2, 4: 2, 5: 3}
    assert {step: records[step]["loss"] is None for step in range(1, 6)} == {
        1: False,
        2: True,
        3: True,
        4: False,
        5: True,
    }
    assert any(line.startswith("Step 5 was skipped") and "3 skipped so far" in line for line in told)
    assert all(w.isfinite().all() for w in load_file(run.adapter / "adapter_model.safetensors").values())


@pytest.mark.reliability("A step without a number is skipped; three in a row keep the last good adapter")
def test_three_in_a_row_end_the_run_with_the_last_good_adapter(world, tmp_path, monkeypatch):  # noqa: F811
    short = train(make_config(world, tmp_path / "short", save_steps=1, save_total_limit=9), progress=False)
    good = load_file(short.path / "checkpoints" / "checkpoint-4" / "adapter_model.safetensors")
    no_numbers_at(monkeypatch, {5, 6, 7})
    run = create_run(make_config(world, tmp_path / "long"))
    with pytest.raises(WorkbenchError, match="no longer a number at step 5: .* Lower the learning rate"):
        train_run(run)
    assert run.status().state == "failed" and "no longer a number at step 5" in run.status().error
    kept = load_file(run.adapter / "adapter_model.safetensors")
    assert kept.keys() == good.keys() and all(torch.equal(kept[name], good[name]) for name in good)


@pytest.mark.reliability("A full, read-only or vanished disk is one sentence, and nothing kept is lost")
def test_a_disk_that_fills_up_amid_a_checkpoint_keeps_the_older_one(world, small_disk, caplog, monkeypatch):  # noqa: F811
    """The second checkpoint meets a full disk; after room is made, the run goes on from the first, to the same end."""
    caplog.set_level(logging.INFO)
    run = create_run(make_config(world, small_disk, save_total_limit=9))
    filled = []
    record = run.record

    def fill_up_after_four(metrics):
        record(metrics)
        if metrics["step"] == 4 and "loss" in metrics:
            free = os.statvfs(small_disk)
            with (small_disk / "filler").open("wb") as file:
                file.write(bytes(max(0, free.f_bavail * free.f_frsize - 60_000)))
            filled.append(True)

    run.record = fill_up_after_four
    with pytest.raises(WorkbenchError, match="^The disk can't be written to: .*No space left on device"):
        train_run(run)
    assert filled and run.status().state == "failed" and "No space left on device" in run.status().error
    assert newest_whole(run).name == "checkpoint-3"
    assert [path.name for path in (run.path / "checkpoints").iterdir()] == ["checkpoint-3"]
    (small_disk / "filler").unlink()
    run.record = record
    run.set_status(state="queued", pid=None)
    train_run(run)
    assert run.status().state == "finished" and run.status().first_step == 3
    steps = [r["step"] for r in run.metrics() if "loss" in r]
    assert steps == list(range(1, run.status().total_steps + 1))


# the last words of libraries -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_a_checkpoint_of_an_older_version_that_can_not_be_loaded_is_one_sentence(world, tmp_path, name):  # noqa: F811
    run = crashed(world, tmp_path)
    folder = run.path / "checkpoints" / "checkpoint-6"
    (folder / SEAL).unlink()
    (folder / name).write_bytes(b"not what torch has saved")
    run.set_status(state="queued", pid=None)
    with pytest.raises(WorkbenchError, match=r"^The checkpoint .*checkpoint-6 can't be loaded; without that folder"):
        train_run(run)
    assert "weights_only" not in run.status().error and run.status().resumable


def test_what_can_not_be_reported_to_is_refused_at_once(world, tmp_path, capsys):  # noqa: F811
    from kto_workbench import __main__ as shell

    data = str(world / "thumbs.jsonl")
    for words, told in (
        (
            ["train", data, "--report-to", "nonsense"],
            "Option `report_to` should name any of tensorboard, wandb, trackio",
        ),
        (["train", data, "--data", "demo"], "Name one of them."),
        (["train", data, "--desirable-weight", "1e300"], "Option `desirable_weight` should be at most"),
    ):
        assert shell.main([*words, "--workspace", str(tmp_path)]) == 2
        said = capsys.readouterr().err
        assert told in said and said.count("\n") == 1, said
    assert not (tmp_path / "runs").exists()


def test_a_model_whose_weights_are_no_numbers_is_one_sentence(world, tmp_path):  # noqa: F811
    import shutil

    from safetensors.torch import save_file

    model = tmp_path / "model"
    shutil.copytree(world / "model", model)
    weights = load_file(model / "model.safetensors")
    save_file({name: w * float("nan") for name, w in weights.items()}, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(WorkbenchError) as caught:
        train(make_config(world, tmp_path, model=str(model)), progress=False)
    assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
