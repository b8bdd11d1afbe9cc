"""Processes that hang, that have another's number, and clocks that jump: what is told, and how it is ended."""

import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest
from conftest import call_kto, only_json, wait_for

from kto_workbench import KTOConfig
from kto_workbench.errors import RunError
from kto_workbench.runs import resume
from kto_workbench.runs.children import end, identity, is_alive
from kto_workbench.runs.directory import STALE_AFTER_SECONDS, new_run
from kto_workbench.runs.launch import stop

# Works as a training does, without a model; told to, it hangs: a regular expression that holds the interpreter.
WORKER = """
import re, sys, time
from kto_workbench.runs import Run
from kto_workbench.runs.heartbeat import Heartbeat
from kto_workbench.runs.turn import turn
run = Run(sys.argv[1])
run.claim()
with Heartbeat(run), turn(run, run.config().workspace):
    run.set_status(state="running", total_steps=9)
    while not run.was_asked("stop"):
        if run.was_asked("sample-now", forget=True):
            re.match(r"(a+)+$", "a" * 60 + "b")
        time.sleep(0.01)
run.set_status(state="stopped", ended=time.time())
"""


@pytest.fixture
def work():
    started = []

    def begin(run):
        started.append(subprocess.Popen([sys.executable, "-c", WORKER, str(run.path)], start_new_session=True))
        return started[-1]

    yield begin
    for worker in started:
        worker.kill()
        worker.wait()


def silent_for(run, seconds):
    """Make a run's last heartbeat older than it is, as if that time had gone by."""
    status = json.loads((run.path / "status.json").read_text())
    status["beat"] -= seconds
    (run.path / "status.json").write_text(json.dumps(status))


def stopped_as(process):
    wait_for(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)


@pytest.mark.reliability("A process that hangs is told, and ended, and gives the device back")
@pytest.mark.parametrize("how", ["stopped", "busy"])
def test_a_child_that_hangs_is_told_and_ended_and_gives_its_turn_back(tmp_path, work, how):
    config = KTOConfig(workspace=str(tmp_path))
    first, second = (new_run(config, {}) for _ in range(2))
    hung = work(first)
    wait_for(lambda: first.status().state == "running")
    work(second)
    wait_for(lambda: second.status().message.startswith("Waiting"))
    if how == "stopped":
        hung.send_signal(signal.SIGSTOP)
        stopped_as(hung)
    else:
        first.ask("sample-now")
        wait_for(lambda: not first.was_asked("sample-now"))
        wait_for(lambda: time.monotonic() - json.loads((first.path / "status.json").read_text())["beat"] > 3)
    silent_for(first, STALE_AFTER_SECONDS + 1)
    status = first.status()
    assert status.state == "not answering" and status.active and not status.resumable
    assert status.message.startswith(f"Process {hung.pid} has not answered for ")
    with pytest.raises(RunError, match="is not answering"):
        resume(first)
    listed = only_json(call_kto("runs", "--workspace", tmp_path, "--json"))["runs"]
    told = next(row for row in listed if row["run"] == first.id)
    assert (told["state"], told["pid"]) == ("not answering", hung.pid)
    assert f"Process {hung.pid} has not answered" in call_kto("runs", "--workspace", tmp_path).stdout
    assert second.status().state == "queued"  # the device is still held

    said = call_kto("stop", first.id, "--workspace", tmp_path).stdout
    assert "did not answer and was ended" in said
    hung.wait(20)
    assert first.status().state == "stopped" and first.status().resumable
    wait_for(lambda: second.status().state == "running")
    assert not stop(second)  # it answers, and ends itself
    wait_for(lambda: second.status().state == "stopped")


def test_a_child_that_goes_on_counts_again_as_running(tmp_path, work):
    run = new_run(KTOConfig(workspace=str(tmp_path)), {})
    worker = work(run)
    wait_for(lambda: run.status().state == "running")
    worker.send_signal(signal.SIGSTOP)
    stopped_as(worker)
    silent_for(run, STALE_AFTER_SECONDS + 1)
    assert run.status().state == "not answering"
    worker.send_signal(signal.SIGCONT)
    wait_for(lambda: run.status().state == "running")
    stop(run)
    assert worker.wait(20) == 0 and run.status().state == "stopped"


# A process of a launch, in a session of its own as torchrun starts it, and the launcher that has started it.
RANK = (
    "import time\nfrom kto_workbench.runs.children import end_with_parent\nend_with_parent()\nprint(1)\ntime.sleep(600)"
)
LAUNCHER = f"""
import subprocess, sys, time
rank = subprocess.Popen([sys.executable, "-uc", {RANK!r}], stdout=subprocess.PIPE, start_new_session=True)
rank.stdout.readline()
print(rank.pid, flush=True)
time.sleep(600)
"""


def test_a_process_of_a_launch_ends_with_its_launcher():
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER], stdout=subprocess.PIPE)
    with launcher.stdout as told:
        rank = psutil.Process(int(told.readline()))
    launcher.kill()
    launcher.wait()
    wait_for(lambda: not rank.is_running() or rank.status() == psutil.STATUS_ZOMBIE, seconds=30)


def test_stop_pressed_twice_is_one_stop(tmp_path, work):
    run = new_run(KTOConfig(workspace=str(tmp_path)), {})
    worker = work(run)
    wait_for(lambda: run.status().state == "running")
    worker.send_signal(signal.SIGSTOP)  # so that it has not heard of the first when the second comes
    stopped_as(worker)
    assert not stop(run) and not stop(run) and run.status().state == "running"
    worker.send_signal(signal.SIGCONT)
    assert worker.wait(20) == 0 and run.status().state == "stopped"  # by itself, and not ended
    with pytest.raises(RunError, match=f"^Run {run.id} is stopped, so it can't be asked to stop.$"):
        stop(run)


@pytest.mark.reliability("A foreign process, or a clock that jumps, is never taken for a run's end or life")
def test_a_process_that_got_the_number_is_not_taken_for_the_run(tmp_path):
    run = new_run(KTOConfig(workspace=str(tmp_path)), {})
    foreign = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        # The same number, begun in the same second as the run's was: only the mark tells them apart.
        known = identity(foreign.pid)
        run.set_status(state="running", **{**known, "process_mark": known["process_mark"] + "0"})
        assert run.status().state == "crashed"
        with pytest.raises(RunError, match="is crashed"):
            stop(run)
        assert not end(foreign.pid, known["process_started"] - 100)
        assert foreign.poll() is None
    finally:
        foreign.kill()
        foreign.wait()


@pytest.mark.reliability("A foreign process, or a clock that jumps, is never taken for a run's end or life")
@pytest.mark.parametrize("hours", [-5, 5])
def test_a_clock_that_jumps_does_no_harm(tmp_path, hours):
    run = new_run(KTOConfig(workspace=str(tmp_path)), {})
    run.claim()
    status = json.loads((run.path / "status.json").read_text())
    # As if the clock had been set since: what was noted by it is hours off, and so is when processes seem to begin.
    for name in ("heartbeat", "process_started", "created", "queued"):
        status[name] += hours * 3600
    (run.path / "status.json").write_text(json.dumps(status))
    assert run.status().state == "queued"
    assert is_alive(os.getpid(), status["process_started"], status["process_mark"])
    silent_for(run, STALE_AFTER_SECONDS + 1)
    assert run.status().state == "not answering"  # and silence is still noticed
