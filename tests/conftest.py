"""What tests share: one trained run, a `kto` command in a process of its own, and patience with processes."""

import functools
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from warm import WarmPython

pytest_plugins = ["promises"]

# Before anything imports torch, and inherited by every child: several test runs may share two cores, and none of them
# has a network.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

# A training that takes a few seconds: 40 rows in batches of 8 are 5 steps an epoch, a checkpoint every 4 steps.
SMALL = dict(
    model="demo",
    batch_size=8,
    max_steps=24,
    save_steps=4,
    eval_steps=6,
    sample_steps=-1,
    eval_fraction=0.2,
    lora_r=4,
    lora_alpha=8,
    threads=1,
)
SMALL_ROWS = 50


# Files begin in this order, then the others: whoever is given a long one last keeps everybody waiting.
LONGEST = (
    "test_ui test_crew test_ui_compare test_docs test_ui_feedback test_training test_sweeps test_notebooks "
    "test_evaluation test_damage test_ui_events test_shell test_answering test_sides test_runs test_soak test_step "
    "test_best_of_run test_ui_evaluate test_kills test_processes"
).split()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes longest, file by file."""
    place = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.stem, len(place)))


@functools.cache
def warm_python() -> WarmPython:
    """Where commands are called that need no fresh imports; started by the first of them."""
    return WarmPython()


def pytest_sessionfinish():
    """Reap what has ended, or Python would warn of it after the last line."""
    if warm_python.cache_info().currsize:
        warm_python().close()
    from kto_workbench.runs.children import reap

    reap()


def wait_for(condition: Callable[[], Any], seconds: float = 90, what: str = "") -> Any:
    """The first true value of a condition; fails the test when it takes longer than anything should."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"waited {seconds} s in vain for {what or condition}"
        time.sleep(0.02)
    return value


def ended(run):
    """Wait until nothing works on a run any more; returns its status, and shows its log if that is not good."""
    wait_for(lambda: not run.status().active, what=f"the end of {run}, which logs: {run.log()}")
    return run.status()


@pytest.fixture(scope="session")
def small_data(tmp_path_factory) -> Path:
    """The first 50 thumbs of the demo, in a file that goes by no name."""
    from kto_workbench.feedback.named import find_demo_file

    lines = find_demo_file("demo").read_text(encoding="utf-8").splitlines()[:SMALL_ROWS]
    path = tmp_path_factory.mktemp("data") / "small.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def call_kto(
    *arguments: Any, code: int = 0, cwd: Path | None = None, timeout: int = 180
) -> subprocess.CompletedProcess:
    """Call `kto` in a process of its own; fails the test unless it exits with `code`."""
    python = warm_python()
    command = [*python.command(), "-m", "kto_workbench", *map(str, arguments)]
    environment = python.environment()
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, timeout=timeout, env=environment)
    assert done.returncode == code, (arguments, done.stdout, done.stderr)
    return done


@pytest.fixture(scope="session")
def trained_by_shell(tmp_path_factory, small_data):
    """`kto train CONFIG --json` with some options in the file and some as flags: its output, and the finished run."""
    from kto_workbench import Run

    folder = tmp_path_factory.mktemp("trained")
    flags = {"batch_size": SMALL["batch_size"], "max_steps": SMALL["max_steps"]}
    config = {**SMALL, "data": str(small_data), "workspace": str(folder / "workspace")}
    lines = [f"{name}: {json.dumps(value)}\n" for name, value in config.items() if name not in flags]
    (folder / "config.yaml").write_text("".join(lines))
    arguments = ["--batch-size", flags["batch_size"], "--max_steps", flags["max_steps"], "--json"]
    done = call_kto("train", "config.yaml", *arguments, cwd=folder)
    return done, Run(json.loads(done.stdout)["path"])


@pytest.fixture(scope="session")
def trained(trained_by_shell):
    """A run that a child process has trained to the end; tests must leave it as it is."""
    return trained_by_shell[1]


@pytest.fixture
def kto(tmp_path):
    """Call `kto` in a process of its own, in an empty folder."""
    return functools.partial(call_kto, cwd=tmp_path)


def only_json(done: subprocess.CompletedProcess) -> dict[str, Any]:
    """The one JSON object that is all of a command's output."""
    value = json.loads(done.stdout)
    assert isinstance(value, dict) and done.stdout.count("\n") == 1, done.stdout
    return value
