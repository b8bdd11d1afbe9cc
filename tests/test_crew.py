"""Two processes on a CPU, over gloo: the same numbers as one, whoever holds what; deaths, stops and resumes."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from test_pairs import paired_file
from test_training import adapter_of, make_config, world  # noqa: F401

from kto_workbench import train
from kto_workbench.engine.training import train_run
from kto_workbench.runs import create_run
from kto_workbench.runs.directory import list_runs
from kto_workbench.runs.launch import resume, start

WORKER = Path(__file__).parent / "crew_worker.py"
OPTIONS = dict(learning_rate=2e-3, batch_size=7, max_steps=12, save_steps=5, eval_steps=6)


def torchrun(*runs, processes=2):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--standalone"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, WORKER, *runs], env=environment, capture_output=True, text=True, timeout=400)


def assert_same_adapter(a, b, share=1e-5):
    """All tensors together: Adam makes whole steps of rounding where a single tensor's gradient is nearly 0."""
    a, b = adapter_of(a), adapter_of(b)
    assert a.keys() == b.keys()
    apart = sum((a[name] - b[name]).square().sum() for name in b).sqrt()
    assert apart <= share * sum(b[name].square().sum() for name in b).sqrt()


def records(run):
    return [record for record in run.metrics() if "loss" in record]


@pytest.fixture(scope="module")
def runs(world, tmp_path_factory):  # noqa: F811
    """The same training by one process, by two that each hold the model, and by two that share it out; and more."""
    workspace = tmp_path_factory.mktemp("crews")
    # Odd shares: five pairs a batch for two processes, small passes.
    paired = str(paired_file(workspace / "pairs.jsonl"))
    options = {
        "ddp": {},
        "fsdp2": {},
        "scarce": {},
        "small-passes": {"tokens_per_pass": 24},
        "fsdp2-small-passes": {"tokens_per_pass": 24},
        "every": {"z0": "every", "kl_every": 4, "kl_sample": 6},
        "pair-batches": {"batch_size": 2},
        "bco": {"objective": "bco", "tokens_per_pass": 24},
        "dpo": {"objective": "dpo", "data": paired, "batch_size": 5, "tokens_per_pass": 24},
        "dpo-fsdp2": {"objective": "dpo", "data": paired, "batch_size": 5},
        "full": {"tuning": "full", "learning_rate": 1e-3},
        "full-fsdp2": {"tuning": "full", "learning_rate": 1e-3},
    }
    made = {name: create_run(make_config(world, workspace, **{**OPTIONS, **o})) for name, o in options.items()}
    how = {name: name for name in ("fsdp2", "scarce")}
    how |= dict.fromkeys(("fsdp2-small-passes", "full-fsdp2", "dpo-fsdp2"), "fsdp2")
    done = torchrun(*(f"{run.path}:{how.get(name, '')}" for name, run in made.items()))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    alone = {
        "alone": train(make_config(world, workspace, **OPTIONS), progress=False),
        "every-alone": train(make_config(world, workspace, **{**OPTIONS, **options["every"]}), progress=False),
        "pairs-alone": train(make_config(world, workspace, **{**OPTIONS, "batch_size": 2}), progress=False),
        "bco-alone": train(make_config(world, workspace, **{**OPTIONS, "objective": "bco"}), progress=False),
        "dpo-alone": train(make_config(world, workspace, **{**OPTIONS, **options["dpo"]}), progress=False),
        "full-alone": train(make_config(world, workspace, **{**OPTIONS, **options["full"]}), progress=False),
    }
    return made | alone


TWINS = {
    "ddp": "alone", "fsdp2": "alone", "scarce": "alone", "small-passes": "alone", "fsdp2-small-passes": "alone",
    "every": "every-alone", "pair-batches": "pairs-alone", "bco": "bco-alone", "dpo": "dpo-alone",
    "dpo-fsdp2": "dpo-alone",
}  # fmt: skip


@pytest.mark.parametrize("name", TWINS)
def test_two_processes_end_where_one_does(runs, name):
    many, one = runs[name], runs[TWINS[name]]
    assert_same_adapter(many, one)
    assert [r["step"] for r in records(many)] == list(range(1, 13))
    for a, b in zip(many.metrics(), one.metrics(), strict=True):
        assert a.keys() == b.keys()
        for metric, value in b.items():
            if metric not in ("tokens_per_second", "memory_bytes", "seconds"):
                assert a[metric] == (value if value is None else pytest.approx(value, rel=1e-4, abs=1e-5)), metric


@pytest.mark.parametrize("name", ["full", "full-fsdp2"])
def test_a_whole_model_too(runs, name):
    from safetensors.torch import load_file

    many, one = (load_file(runs[run].model / "model.safetensors") for run in (name, "full-alone"))
    assert many.keys() == one.keys()
    for tensor in one:
        assert (many[tensor] - one[tensor]).norm() <= 1e-5 * one[tensor].norm(), tensor


def test_memory_that_runs_out_on_one_halves_on_both(runs):
    state = json.loads((runs["scarce"].path / "checkpoints" / "checkpoint-12" / "kto_state.json").read_text())
    assert state["tokens_per_pass"] <= 30
    assert runs["scarce"].status().state == "finished"


def test_a_rank_without_one_class_and_batches_of_two(runs):
    # A batch of two gives each process one row: of one class. Some batch must have had both.
    assert any(r["rewards/margins"] is not None for r in records(runs["pair-batches"]))


def wait_for(condition, seconds=120, run=None):
    """Wait for an event of a run, as long as the run lives."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        assert run is None or run.status().active, run.log()
        time.sleep(0.1)


def workers_of(run):
    """The processes that train a run, by rank."""
    found = {}
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if str(run.path.resolve()) in command and "accelerate.commands.launch" not in command:
            rank = process.environ().get("RANK")
            if rank is not None:
                found[int(rank)] = process
    return found


def test_a_killed_rank_is_a_crash_and_resumes_with_any_number_of_processes(world, tmp_path):  # noqa: F811
    options = {**OPTIONS, "max_steps": 30, "save_steps": 3, "eval_steps": 0, "eval_fraction": 0.0}
    run = create_run(make_config(world, tmp_path, processes=2, **options))
    start(run)
    wait_for(lambda: len(records(run)) >= 5 and run.latest_checkpoint() is not None, run=run)
    workers_of(run)[1].send_signal(signal.SIGKILL)
    wait_for(lambda: not run.status().active, seconds=15)
    assert run.status().state == "crashed", run.status()
    assert len(records(run)) < 30
    # It goes on in one process, and ends where a run that nothing happened to does.
    run.set_status(state="queued", pid=None)
    train_run(run)
    whole = train(make_config(world, tmp_path, **options), progress=False)
    assert [r["step"] for r in records(run)] == list(range(1, 31))
    assert_same_adapter(run, whole)


def test_stop_reaches_both_and_resume_starts_both(world, tmp_path):  # noqa: F811
    options = {**OPTIONS, "max_steps": -1, "num_train_epochs": 400, "eval_fraction": 0.0}
    run = create_run(make_config(world, tmp_path, processes=2, sharding="fsdp2", **options))
    start(run)
    wait_for(lambda: len(records(run)) >= 2, run=run)
    asked_at = run.status().step
    run.ask("stop")
    wait_for(lambda: not run.status().active)
    assert run.status().state == "stopped" and run.adapter.exists()
    assert run.status().step >= asked_at
    wait_for(lambda: not workers_of(run), seconds=20)
    before = records(run)[-1]["step"]
    resume(run)
    wait_for(lambda: records(run)[-1]["step"] > before + 1, run=run)
    run.ask("stop")
    wait_for(lambda: not run.status().active)
    assert run.status().state == "stopped"
    steps = [r["step"] for r in records(run)]
    assert steps == list(range(1, len(steps) + 1))


def test_more_processes_than_gpus_is_one_sentence(world, tmp_path, monkeypatch):  # noqa: F811
    from kto_workbench.engine import child

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    run = create_run(make_config(world, tmp_path, processes=2, device="auto"))
    assert child.main(str(run.path)) == 2
    assert run.status().state == "failed"
    assert run.status().error == "2 processes need 2 GPUs, and this machine has one GPU; use `processes: 1`."


def test_accelerates_own_launcher_trains_a_config(world, tmp_path):  # noqa: F811
    from kto_workbench.config import save_config

    save_config(make_config(world, tmp_path / "w", **OPTIONS), tmp_path / "config.yaml")
    root = Path(__file__).parents[1]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", root / "configs" / "fsdp2.yaml"]
    command += ["--main_process_port", "0", "-m", "kto_workbench", "train", tmp_path / "config.yaml"]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, cwd=root)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    (run,) = list_runs(tmp_path / "w")
    assert run.status().state == "finished" and [r["step"] for r in records(run)] == list(range(1, 13))
    assert_same_adapter(run, train(make_config(world, tmp_path, **OPTIONS), progress=False))
