"""Killed at any moment, work goes on as if nothing had happened: trainings, exports, votes, uploads."""

import json
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_training import make_config, world  # noqa: F401, a fixture

from kto_workbench.feedback.store import ThumbStore
from kto_workbench.runs import Run, create_run
from kto_workbench.ui.workbench import Workbench

MEASURED = ("tokens_per_second", "memory_bytes", "seconds")  # they differ from run to run
OPTIONS = dict(num_train_epochs=2, save_steps=2, sample_steps=3, sample_max_new_tokens=4, threads=1)


def quick_and_long(quick: int, all_of_them: int):
    """So many seeds always, and the rest in `make reliability`."""
    rest = pytest.param(range(quick, all_of_them), marks=[pytest.mark.long, pytest.mark.timeout(2 * 3600)])
    return pytest.mark.parametrize("seeds", [range(quick), rest], ids=len)


@pytest.fixture(scope="module")
def work():
    """Does some work, and ends it when asked to; see killed_work.py. Returns how it ended, and what it had done."""
    command = [sys.executable, str(Path(__file__).parent / "killed_work.py")]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )

    def do(work: str, **wanted) -> tuple[int, list[str]]:
        process.stdin.write(json.dumps({"work": work, **wanted}) + "\n")
        process.stdin.flush()
        done = []
        while True:
            what, _, how = process.stdout.readline().rstrip("\n").partition(" ")
            if what == "ended":
                return int(how), done
            assert what == "done"
            done.append(how)

    yield do
    process.stdin.close()
    process.wait(60)
    process.stdout.close()


# trainings -----------------------------------------------------------------------------------------------------------


def outcome(run):
    """What must be the same however often a run was killed."""
    metrics = [{k: v for k, v in record.items() if k not in MEASURED} for record in run.metrics()]
    return metrics, run.samples(), run.rewards()


@pytest.fixture(scope="module")
def calm(world, work, tmp_path_factory):  # noqa: F811
    run = create_run(make_config(world, tmp_path_factory.mktemp("calm"), **OPTIONS))
    assert work("train", run=str(run.path))[0] == 0 and run.status().state == "finished"
    return run


# A run opens, renames and removes some 150 files: of checkpoints, metrics, the status, the cache of the reference.
@pytest.mark.reliability("A training killed at any moment resumes to the same bits")
@quick_and_long(8, 110)
def test_killed_and_resumed_it_ends_at_the_same_bits(world, calm, work, tmp_path, seeds, cases):  # noqa: F811
    expected, adapter = outcome(calm), load_file(calm.adapter / "adapter_model.safetensors")
    killed = 0
    for seed in seeds:
        draw = random.Random(seed)
        run = create_run(make_config(world, tmp_path / str(seed), **OPTIONS))
        for _ in range(draw.choice([1, 1, 2])):
            moment = {"seconds": draw.uniform(0, 1.5)} if draw.random() < 0.3 else {"writes": draw.randint(1, 150)}
            ended, _ = work("train", run=str(run.path), **moment)
            killed += ended == -signal.SIGKILL
            assert ended in (0, -signal.SIGKILL), (seed, moment, run.status())
            assert run.status().state in ("finished", "crashed"), (seed, moment, run.status())
            if ended == 0:
                break
        else:
            assert work("train", run=str(run.path))[0] == 0, (seed, run.status())
        assert run.status().state == "finished" and outcome(run) == expected, seed
        ours = load_file(run.adapter / "adapter_model.safetensors")
        assert ours.keys() == adapter.keys() and all(torch.equal(ours[name], adapter[name]) for name in adapter), seed
        shutil.rmtree(tmp_path / str(seed))
        cases(1)
    assert killed > 0.8 * len(seeds)


# exports -------------------------------------------------------------------------------------------------------------


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.reliability("An export killed at any moment is whole or not there, and is made again")
@quick_and_long(4, 30)
def test_a_killed_export_is_whole_or_not_there(trained, work, tmp_path, seeds, cases):
    run = Run(shutil.copytree(trained.path, tmp_path / "runs" / "r", ignore=shutil.ignore_patterns("checkpoints")))
    expected = {}
    for form in ("adapter", "merged", "gguf"):
        assert work("export", run=str(run.path), format=form)[0] == 0
        expected[form] = contents(run.path / "export" / form)
        shutil.rmtree(run.path / "export" / form)
    killed = 0
    for seed in seeds:
        draw = random.Random(seed)
        form = draw.choice(list(expected))
        moment = {"seconds": draw.uniform(0, 0.5)} if draw.random() < 0.3 else {"writes": draw.randint(1, 9)}
        ended, _ = work("export", run=str(run.path), format=form, **moment)
        killed += ended == -signal.SIGKILL
        target = run.path / "export" / form
        assert not target.exists() or contents(target) == expected[form], (seed, form, moment)
        if not target.exists():
            assert work("export", run=str(run.path), format=form)[0] == 0, (seed, form, moment)
        assert contents(target) == expected[form] and [path.name for path in target.parent.iterdir()] == [form], seed
        shutil.rmtree(target)
        cases(1)
    assert killed > 0.5 * len(seeds)


# votes ---------------------------------------------------------------------------------------------------------------


def after(done: list[str]) -> list[tuple[str, bool, str]]:
    """Question, label and note of each thumb when so much was done."""
    found = []
    for what in done:
        verb, _, number = what.partition(" ")
        question = f"Question {number}?"
        if verb == "add":
            found.append((question, True, ""))
        else:
            found[-1] = (question, False, f"because of {number}" if verb == "annotate" else "")
    return found


VOTES = 1000  # more than any machine takes in the quarter of a second before the kill


@pytest.mark.reliability("Votes are kept once they were taken, whenever a process is killed")
@quick_and_long(4, 30)
def test_no_vote_is_lost_or_doubled(work, tmp_path, seeds, cases):
    killed = 0
    for seed in seeds:
        draw = random.Random(seed)
        store = ThumbStore(tmp_path / str(seed))
        ended, done = work("vote", workspace=str(store.path.parent), count=VOTES, seconds=draw.uniform(0, 0.25))
        killed += ended == -signal.SIGKILL
        following = [f"{verb} {number}" for number in range(VOTES + 1) for verb in ("add", "change", "annotate")][
            len(done)
        ]
        kept = [(thumb.prompt, thumb.label, thumb.note) for thumb in store.thumbs()]
        # The one under way when the kill came is there or is not; what was said to be kept is.
        assert kept in (after(done), after([*done, following])), (seed, done)
        assert ended in (0, -signal.SIGKILL) and store.add("One more?", "Yes.", True) == len(kept) + 1
        cases(1)
    assert killed > 0.7 * len(seeds)


# uploads -------------------------------------------------------------------------------------------------------------


@pytest.mark.reliability("A file that was dropped is kept whole or not at all, whenever the server is killed")
@quick_and_long(4, 30)
def test_a_killed_upload_is_kept_whole_or_not_at_all(work, tmp_path, seeds, cases):
    text = '{"q": "a", "a": "b", "l": true}\n' * 400
    killed = 0
    for seed in seeds:
        draw = random.Random(seed)
        bench = Workbench(tmp_path / str(seed))

        def drop(bench=bench, **moment):
            bench.received.mkdir(parents=True, exist_ok=True)
            (bench.received / "thumbs.jsonl").write_text(text)
            return work("receive", workspace=str(bench.workspace), name="thumbs.jsonl", **moment)

        moment = {"seconds": draw.uniform(0, 0.05)} if draw.random() < 0.3 else {"writes": draw.randint(1, 6)}
        ended, done = drop(**moment)
        killed += ended == -signal.SIGKILL
        kept = bench.uploaded()
        assert [path.read_text() for path in kept] == [text] * len(kept) and len(kept) >= ("kept" in done), seed
        assert drop() == (0, ["kept", "400"]), (seed, moment)  # dropped again it is the same file
        assert [path.name for path in bench.uploaded()] == ["thumbs.jsonl"], (seed, moment)
        cases(1)
    assert killed > 0.2 * len(seeds)  # the others had ended before their moment came
