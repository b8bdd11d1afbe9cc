"""A training that is killed at any moment and resumed ends as if nothing had happened: to the bit, on a CPU."""

import json
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_training import make_config, world  # noqa: F401, a fixture

from kto_workbench.runs import Run, create_run

MEASURED = ("tokens_per_second", "memory_bytes", "seconds")  # they differ from run to run
OPTIONS = dict(num_train_epochs=2, save_steps=2, sample_steps=3, sample_max_new_tokens=4, threads=1)


@pytest.fixture(scope="module")
def trainer():
    """Ends a run's training when asked to; see killed_training.py."""
    command = [sys.executable, str(Path(__file__).parent / "killed_training.py")]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )

    def train(run: Run, **moment: float) -> int:
        process.stdin.write(json.dumps({"run": str(run.path), **moment}) + "\n")
        process.stdin.flush()
        return int(process.stdout.readline())

    yield train
    process.stdin.close()
    process.wait(60)
    process.stdout.close()


def outcome(run):
    """What must be the same however often a run was killed."""
    metrics = [{k: v for k, v in record.items() if k not in MEASURED} for record in run.metrics()]
    return metrics, run.samples(), run.rewards()


@pytest.fixture(scope="module")
def calm(world, trainer, tmp_path_factory):  # noqa: F811
    run = create_run(make_config(world, tmp_path_factory.mktemp("calm"), **OPTIONS))
    assert trainer(run) == 0 and run.status().state == "finished"
    return run


# A run opens, renames and removes some 150 files.
@pytest.mark.reliability("A training killed at any moment resumes to the same bits")
@pytest.mark.parametrize("seeds", [range(12), pytest.param(range(12, 200), marks=pytest.mark.long)], ids=len)
def test_killed_and_resumed_it_ends_at_the_same_bits(world, calm, trainer, tmp_path, seeds, cases):  # noqa: F811
    expected, adapter = outcome(calm), load_file(calm.adapter / "adapter_model.safetensors")
    killed = 0
    for seed in seeds:
        draw = random.Random(seed)
        run = create_run(make_config(world, tmp_path / str(seed), **OPTIONS))
        for _ in range(draw.choice([1, 1, 2])):
            moment = {"seconds": draw.uniform(0, 1.5)} if draw.random() < 0.3 else {"writes": draw.randint(1, 150)}
            killed += (ended := trainer(run, **moment)) == -signal.SIGKILL
            assert ended in (0, -signal.SIGKILL), (seed, moment, run.status())
            assert run.status().state in ("finished", "crashed"), (seed, moment, run.status())
            if ended == 0:
                break
        else:
            assert trainer(run) == 0, (seed, run.status())
        assert run.status().state == "finished" and outcome(run) == expected, seed
        ours = load_file(run.adapter / "adapter_model.safetensors")
        assert ours.keys() == adapter.keys() and all(torch.equal(ours[name], adapter[name]) for name in adapter), seed
        cases(1)
    assert killed > 0.8 * len(seeds)
