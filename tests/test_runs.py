"""A run's directory is the only truth: torn lines, kills, reused PIDs, the queue on disk; with real processes."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from conftest import SMALL, call_kto, ended, only_json, wait_for
from safetensors.torch import load_file

from kto_workbench import KTOConfig
from kto_workbench.errors import DataError, ModelError, RunError
from kto_workbench.runs import Run, Status, create_run, find_run, list_runs, resume, start
from kto_workbench.runs.directory import GRACE_SECONDS, STALE_AFTER_SECONDS, new_run


@pytest.fixture
def run(tmp_path):
    return new_run(KTOConfig(workspace=str(tmp_path / "workspace")), {"rows": 2})


@pytest.fixture
def sleeper():
    """A living process that is nobody's training."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    yield process
    process.kill()
    process.wait()


def write_status(run, **values):
    (run.path / "status.json").write_text(json.dumps(values))


# records -------------------------------------------------------------------------------------------------------------


def test_a_torn_last_line_is_left_for_the_next_read(run):
    run.record({"step": 1, "loss": 0.5})
    with (run.path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 2, "lo')  # the writer is not done, or was killed
    records, offset = run.metrics_since(0)
    assert records == [{"step": 1, "loss": 0.5}] and offset == len('{"step": 1, "loss": 0.5}\n')
    assert run.metrics_since(offset) == ([], offset)
    with (run.path / "metrics.jsonl").open("ab") as file:
        file.write(b'ss": 0.25}\n')
    assert run.metrics_since(offset)[0] == [{"step": 2, "loss": 0.25}]
    assert [record["step"] for record in run.metrics()] == [1, 2]


def test_a_resumed_run_forgets_the_torn_line_and_what_came_after_its_checkpoint(run):
    for step in (1, 2, 3):
        run.record({"step": step})
        run.record_sample({"step": step})
    with (run.path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 4, "lo')
    run.rewind(2)
    run.record({"step": 3, "again": True})
    assert run.metrics() == [{"step": 1}, {"step": 2}, {"step": 3, "again": True}]
    assert run.samples() == [{"step": 1}, {"step": 2}]


def test_a_damaged_line_costs_only_itself(run):
    (run.path / "metrics.jsonl").write_bytes(b'{"step": 1}\n\x00\xffnonsense\n{"step": 3}\n')
    assert run.metrics() == [{"step": 1}, {"step": 3}]


def test_nan_is_null_and_every_line_is_json(run):
    run.record({"step": 1, "loss": float("nan"), "kl": float("inf"), "nested": [float("-inf"), 1.5]})
    line = (run.path / "metrics.jsonl").read_text()
    assert line == '{"step": 1, "loss": null, "kl": null, "nested": [null, 1.5]}\n'
    run.set_status(epoch=float("nan"))
    assert json.loads((run.path / "status.json").read_text())["epoch"] is None


def test_text_of_every_kind_stays_on_its_line(run):
    answer = "line\nbreak\r\u2028separator 👍 \x85"
    run.record_sample({"step": 1, "tuned": answer})
    run.record_sample({"step": 2, "tuned": answer})
    assert [sample["tuned"] for sample in run.samples()] == [answer] * 2


def test_the_log_shows_a_progress_bar_once_in_its_last_state(run):
    # The bar's states used to come out as lines of their own, and pushed everything else out of the log's end.
    run.log_path.write_bytes(b"begin\n" + b"".join(b"\r%d%%" % i for i in range(101)) + b"\nwindows\r\nend\n")
    assert run.log() == "begin\n100%\nwindows\nend"
    assert run.log(lines=2) == "windows\nend"


# status --------------------------------------------------------------------------------------------------------------

WRITER = """
import sys
from kto_workbench.runs import Run
run = Run(sys.argv[1])
for i in range(100_000):
    run.set_status(step=i, message="x" * (i * 37 % 5000))
    if i == 0:
        print("begun", flush=True)
"""


def test_a_reader_never_sees_half_a_status(run):
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(run.path)], stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout.readline() == "begun\n"
        seen = set()
        end = time.monotonic() + 1.0
        while time.monotonic() < end:
            status = json.loads((run.path / "status.json").read_text())  # raises on half a file
            assert len(status["message"]) == status["step"] * 37 % 5000
            seen.add(status["step"])
        assert len(seen) > 10
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()
    # The kill came at any moment of a write: what is there is whole.
    assert Run(run.path).status().message.strip("x") == ""


def test_the_heartbeat_never_writes_an_old_step_over_a_new_one(run):
    # Both read, change and replace the file; without a lock between them a "finished" could become "running" again.
    done = threading.Event()

    def beat():
        while not done.is_set():
            run.set_status()

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        for step in range(1, 60):
            run.set_status(step=step)
            assert run.status().step == step
    finally:
        done.set()
        thread.join()


def test_running_means_this_process_by_pid_and_start_time(run, sleeper):
    started = psutil.Process(sleeper.pid).create_time()
    now = time.time()
    write_status(run, state="running", pid=sleeper.pid, process_started=started, heartbeat=now)
    assert run.status().state == "running"
    # The machine was restarted and another process has got the PID: same number, other start.
    write_status(run, state="running", pid=sleeper.pid, process_started=started - 100, heartbeat=now)
    status = run.status()
    assert status.state == "crashed" and status.resumable and not status.active
    assert status.error == "Its process ended without a word; the end of its log says more."


def test_a_living_process_that_has_been_silent_for_long_is_not_answering(run, sleeper):
    started = psutil.Process(sleeper.pid).create_time()
    for silent, state in ((STALE_AFTER_SECONDS - 10, "running"), (STALE_AFTER_SECONDS + 1, "not answering")):
        write_status(
            run, state="running", pid=sleeper.pid, process_started=started, heartbeat=time.time() - silent
        )  # fmt: skip
        assert run.status().state == state


def test_a_zombie_is_dead(run):
    zombie = subprocess.Popen([sys.executable, "-c", ""])
    started = psutil.Process(zombie.pid).create_time()
    wait_for(lambda: psutil.Process(zombie.pid).status() == psutil.STATUS_ZOMBIE)
    write_status(run, state="running", pid=zombie.pid, process_started=started, heartbeat=time.time())
    assert run.status().state == "crashed"
    zombie.wait()


def test_a_run_that_nobody_has_begun_waits_a_while_and_then_can_be_resumed(run):
    assert run.status().state == "queued" and run.status().active
    write_status(run, state="queued", pid=None, heartbeat=time.time() - GRACE_SECONDS - 1)
    assert run.status().state == "crashed" and run.status().resumable


@pytest.mark.parametrize("state", ["finished", "stopped", "failed"])
def test_an_end_stays_an_end_whatever_became_of_the_process(run, state):
    write_status(run, state=state, pid=2**22 + 1, process_started=1.0, heartbeat=1.0)
    assert run.status().state == state


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"state": "finished", "from_the_future": 1}'])
def test_a_status_that_is_damaged_or_from_another_version_does_not_break_the_list(run, text):
    (run.path / "status.json").write_text(text)
    assert run.status().state == ("finished" if "finished" in text else "crashed")


def test_only_one_process_works_on_a_run(run, sleeper):
    write_status(
        run,
        state="running",
        pid=sleeper.pid,
        process_started=psutil.Process(sleeper.pid).create_time(),
        heartbeat=time.time(),
    )
    with pytest.raises(RunError, match=f"is running already, in process {sleeper.pid}"):
        run.claim()
    with pytest.raises(RunError, match="is running already"):
        start(run)
    with pytest.raises(RunError, match="is running; only a stopped, failed or crashed run can be resumed"):
        resume(run)


# time left -----------------------------------------------------------------------------------------------------------


def test_time_left_counts_from_the_first_step_of_this_process():
    # Resumed at step 60 of 100. This process began to train 30 s before its last step, and has done 10 steps: 3 s each.
    # 30 steps are left: 30 · 3 = 90 s, of which 5 s have gone by since that step.
    now = time.time()
    status = Status(
        state="running", step=70, first_step=60, total_steps=100,
        training_started=now - 35, stepped=now - 5, heartbeat=now,
    )  # fmt: skip
    assert status.seconds_left == pytest.approx(85, abs=0.5)
    # Counted from step 0 it would have been 30 s / 70 steps · 30 = 13 s.


def test_time_left_is_unknown_until_a_step_is_done_and_when_nothing_runs():
    now = time.time()
    known = dict(first_step=60, total_steps=100, training_started=now - 3, stepped=now - 1, heartbeat=now)
    assert Status(state="running", step=60, **known).seconds_left is None  # right after a resume
    assert Status(state="running", step=61, **known).seconds_left is not None
    assert Status(state="finished", step=61, **known).seconds_left is None
    assert Status(state="queued", step=61, **known).seconds_left is None


def test_the_first_epoch_is_slower_than_the_others():
    now = time.time()
    known = dict(state="running", total_steps=300, steps_an_epoch=100, training_started=now - 40, stepped=now)
    # 20 steps in 40 s, of which the reference took 30: 0.5 s a step, and 1.5 s more in each of the first 100.
    status = Status(step=20, reference_seconds=30.0, **known)
    assert status.seconds_left == pytest.approx(280 * 0.5 + 80 * 1.5, abs=0.5)
    # Behind the first epoch, 120 steps in 190 s with 130 s of reference: 0.5 s a step and nothing more.
    later = {**known, "training_started": now - 190}
    assert Status(step=120, reference_seconds=130.0, **later).seconds_left == pytest.approx(180 * 0.5, abs=0.5)


def test_time_left_does_not_rise_while_a_long_step_goes_on(run):
    # With a heartbeat every 2 s in a step of a minute, pace was taken from the heartbeat: one step done after 60 s and
    # 100 s gone, 99 steps left, made 100 · 99 s instead of 60 · 99 − 40 s.
    now = time.time()
    write_status(
        run, state="running", step=1, total_steps=100, training_started=now - 100, stepped=now - 40, heartbeat=now,
        pid=os.getpid(), process_started=psutil.Process().create_time(),
    )  # fmt: skip
    run.set_status()  # a heartbeat
    left, late = run.status().seconds_left, time.time() - now
    assert left == pytest.approx(60 * 99 - 40, abs=1 + late)
    run.set_status(step=2)  # a step: 100 s for 2, 98 left
    left, late = run.status().seconds_left, time.time() - now
    assert left == pytest.approx(50 * 98, abs=2 + 98 * late)  # what this test takes counts as a part of the step


# asking --------------------------------------------------------------------------------------------------------------


def test_what_can_not_be_asked_is_refused_in_one_sentence(run):
    with pytest.raises(RunError, match="^A run can be asked to stop, save-now, sample-now; not to 'dance'.$"):
        run.ask("dance")
    run.set_status(state="finished")
    with pytest.raises(RunError, match=f"^Run {run.id} is finished, so it can't be asked to save now.$"):
        run.ask("save-now")
    assert not run.was_asked("save-now")


def test_a_question_is_answered_once(run):
    run.ask("stop")
    assert run.was_asked("stop") and run.was_asked("stop", forget=True) and not run.was_asked("stop")


# finding -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def three(tmp_path):
    """Three runs of a workspace, in the order in which they were made."""
    config = KTOConfig(workspace=str(tmp_path))
    return [new_run(config, {}) for _ in range(3)]


def test_runs_are_listed_newest_first_even_within_a_second(tmp_path):
    # Their ids end at random: by name alone, `latest` was any of those made in the same second.
    runs = [new_run(KTOConfig(workspace=str(tmp_path)), {}) for _ in range(8)]
    assert [run.id for run in list_runs(tmp_path)] == [run.id for run in reversed(runs)]
    assert find_run("latest", tmp_path).id == runs[-1].id
    (tmp_path / "runs" / "no-run").mkdir()
    assert len(list_runs(tmp_path)) == 8 and list_runs(tmp_path / "nowhere") == []


def test_a_run_is_found_by_id_part_and_path(three, tmp_path):
    wanted = three[1]
    end = wanted.id.rsplit("-", 1)[1]
    if sum(end in run.id for run in three) > 1:
        end = wanted.id
    for name in (wanted.id, end, wanted.path, str(wanted.path)):
        assert find_run(name, tmp_path).path == wanted.path


def test_a_name_that_fits_several_runs_or_none_is_one_sentence(three, tmp_path):
    with pytest.raises(RunError, match=r"^3 runs in \S+ go by '20': ") as caught:
        find_run("20", tmp_path)  # the century
    assert all(run.id in str(caught.value) for run in three)
    for name in ("nothing", "", tmp_path / "runs"):
        with pytest.raises(RunError, match="There is no run '.*' in .*; `kto runs` lists those that exist.$"):
            find_run(name, tmp_path)
    with pytest.raises(RunError, match="There is no run in"):
        Run(tmp_path)


# making --------------------------------------------------------------------------------------------------------------


def test_a_workspace_that_can_not_be_written_is_one_sentence(tmp_path, small_data):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunError, match="^Can't make a run in .*/file/runs: Not a directory.$"):
        create_run(KTOConfig(data=str(small_data), workspace=str(tmp_path / "file")))


def test_a_run_can_go_on_from_any_folder(tmp_path, small_data, monkeypatch):
    # A workspace was kept as it was typed: resumed from another folder, a run waited at another queue.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thumbs.jsonl").write_bytes(small_data.read_bytes())
    (tmp_path / "demo").mkdir()  # a folder that happens to have the name of the demo's model and data
    config = create_run(KTOConfig(data="thumbs.jsonl", workspace="w")).config()
    assert (config.data, config.workspace) == (str(tmp_path / "thumbs.jsonl"), str(tmp_path / "w"))
    config = create_run(KTOConfig(data="demo", model="demo", workspace="w")).config()
    assert (config.data, config.model) == ("demo", "demo")


def test_weights_are_settled_when_a_run_is_made(tmp_path):
    # demo: 100 thumbs up, 300 down → λ_D · 100 = 1 · 300
    run = create_run(KTOConfig(data="demo", workspace=str(tmp_path)))
    assert (run.config().desirable_weight, run.config().undesirable_weight) == (3.0, 1.0)
    assert (run.data()["n_desirable"], run.data()["n_undesirable"]) == (100, 300)
    run = create_run(KTOConfig(data="demo", workspace=str(tmp_path), desirable_weight=2.0))
    assert (run.config().desirable_weight, run.config().undesirable_weight) == (2.0, 1.0)


def test_what_can_not_be_trained_makes_no_run(tmp_path):
    for values, error in (
        ({"data": str(tmp_path / "none.jsonl")}, DataError),
        ({"model": str(tmp_path / "none")}, ModelError),
    ):
        with pytest.raises(error, match="There is no"):
            create_run(KTOConfig(**{"data": "demo", "workspace": str(tmp_path), **values}))
    assert not (tmp_path / "runs").exists()


def test_a_checkpoint_counts_once_its_last_file_is_whole(run):
    for step, state in ((2, '{"global_step": 2}'), (10, '{"global_step": 10}'), (12, '{"global_'), (14, None)):
        folder = run.path / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        if state:
            (folder / "trainer_state.json").write_text(state)
    assert run.latest_checkpoint().name == "checkpoint-10"  # 12 is torn, 14 lacks it; and 10 > 2, unlike "10" and "2"


# the queue -----------------------------------------------------------------------------------------------------------

# Waits and works as a training does, without a model: the queue is the same.
WORKER = """
import sys, time
from kto_workbench.runs import Run
from kto_workbench.runs.turn import StoppedEarly, turn
run = Run(sys.argv[1])
run.claim()
try:
    with turn(run, run.config().workspace):
        run.set_status(state="running", training_started=time.time())
        while not run.was_asked("stop"):
            time.sleep(0.01)
            run.set_status(message="")
        ended = time.time()
    run.set_status(state="finished", ended=ended)
except StoppedEarly:
    run.set_status(state="stopped")
"""


def work(run):
    return subprocess.Popen([sys.executable, "-c", WORKER, str(run.path)])


def test_one_device_one_job_in_order_on_disk(tmp_path):
    config = KTOConfig(workspace=str(tmp_path))
    runs = [new_run(config, {}) for _ in range(4)]
    first, second, third, fourth = runs
    # Started in another order than they were queued in; and so close that only the disk can tell.
    workers = {run.id: work(run) for run in (first,)}
    wait_for(lambda: first.status().state == "running")
    workers |= {run.id: work(run) for run in (fourth, third, second)}
    wait_for(lambda: all(run.status().message.startswith("Waiting") for run in (second, third, fourth)))
    wait_for(lambda: fourth.status().message == "Waiting for the device: 2 before this one.")
    assert [run.status().state for run in runs] == ["running", "queued", "queued", "queued"]

    third.ask("stop")  # while it waits
    wait_for(lambda: third.status().state == "stopped")
    os.kill(workers[first.id].pid, signal.SIGKILL)  # its turn ends with it, whatever it was doing
    wait_for(lambda: second.status().state == "running")
    assert first.status().state == "crashed" and fourth.status().state == "queued"
    second.ask("stop")
    wait_for(lambda: fourth.status().state == "running")
    assert second.status().ended <= fourth.status().training_started  # never two at once
    fourth.ask("stop")
    for worker in workers.values():
        worker.wait()
    assert [run.status().state for run in runs] == ["crashed", "finished", "stopped", "finished"]
    assert third.status().training_started is None


def test_work_that_is_no_training_waits_for_the_device_too(tmp_path):
    from kto_workbench.runs.turn import device_held

    hold = (
        "import sys, time; from filelock import FileLock\n"
        "with FileLock(sys.argv[1]): print(1, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", hold, str(tmp_path / "device.lock")]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE)
    try:
        assert holder.stdout.readline() == b"1\n"
        happened = []

        def work():
            with device_held(tmp_path, lambda: happened.append("waits")):
                happened.append("works")

        worker = threading.Thread(target=work)
        worker.start()
        wait_for(lambda: happened == ["waits"])
    finally:
        holder.kill()  # the operating system takes the lock back
        holder.wait()
        holder.stdout.close()
    worker.join(20)
    assert happened == ["waits", "works"]
    with device_held(tmp_path, lambda: happened.append("waits")):
        assert happened == ["waits", "works"]


def test_a_queued_run_whose_process_is_killed_holds_nobody_up(tmp_path):
    config = KTOConfig(workspace=str(tmp_path))
    first, second, third = (new_run(config, {}) for _ in range(3))
    workers = [work(first)]
    wait_for(lambda: first.status().state == "running")
    workers += [work(second), work(third)]
    wait_for(lambda: all(run.status().message.startswith("Waiting") for run in (second, third)))
    workers[1].kill()
    workers[1].wait()
    assert second.status().state == "crashed"
    first.ask("stop")
    wait_for(lambda: third.status().state == "running")
    third.ask("stop")
    assert [worker.wait() for worker in workers] == [0, -signal.SIGKILL, 0]


# real trainings, really killed ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def killed(tmp_path_factory, small_data):
    """Two trainings: the first is killed amid its steps, the second gets its turn and is told to end by SIGTERM; the
    first, resumed meanwhile, goes on after it."""
    workspace = str(tmp_path_factory.mktemp("killed"))
    first = create_run(KTOConfig(**SMALL, data=str(small_data), workspace=workspace))
    start(first)
    with pytest.raises(RunError, match="is queued already"):
        start(first)  # a second click, before its process has said a word
    wait_for(lambda: first.latest_checkpoint() and first.status().state == "running", what=first.log())
    os.kill(first.status().pid, signal.SIGSTOP)  # it would end before the second is there
    options = {**SMALL, "max_steps": 5_000, "workspace": workspace}
    flags = [word for name, value in options.items() for word in ("--" + name.replace("_", "-"), value)]
    second = Run(only_json(call_kto("train", small_data, *flags, "--detach", "--json"))["path"])
    os.kill(first.status().pid, signal.SIGKILL)
    wait_for(lambda: not psutil.pid_exists(first.status().pid) or not first.status().active)
    at_kill = SimpleNamespace(
        status=first.status(), checkpoint=int(first.latest_checkpoint().name.split("-")[1]), steps=len(first.metrics())
    )
    resumed = subprocess.Popen(
        [sys.executable, "-m", "kto_workbench", "resume", first.id, "--workspace", workspace],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: first.status().message == "Waiting for the device.", what=first.log())
    wait_for(lambda: second.status().step >= 2, what=second.log())
    waiting = first.status()
    held = {run.id: (loaded(run), psutil.Process(run.status().pid).memory_info().rss) for run in (first, second)}
    os.kill(second.status().pid, signal.SIGTERM)
    ended(second)
    at_resume = wait_for(
        lambda: (status := first.status()).state == "running" and status.step > status.first_step and status
    )
    said, _ = resumed.communicate()
    assert resumed.returncode == 0
    return SimpleNamespace(
        first=first, second=second, at_kill=at_kill, waiting=waiting, held=held, at_resume=at_resume, said=said
    )


def loaded(run):
    """The files that a run's process has mapped, libraries among them."""
    return Path(f"/proc/{run.status().pid}/maps").read_text()


def test_a_run_that_waits_holds_no_library_of_training(killed):
    (waiting, small), (working, large) = killed.held[killed.first.id], killed.held[killed.second.id]
    assert "libtorch" in working and large > 150e6
    assert "libtorch" not in waiting and small < 80e6, small


def test_a_killed_training_shows_as_crashed(killed):
    status = killed.at_kill.status
    assert status.state == "crashed" and status.resumable and 0 < status.step < status.total_steps == SMALL["max_steps"]
    assert not (killed.first.path / "adapter.part").exists()


def test_it_goes_on_from_its_checkpoint_behind_those_who_waited(killed):
    assert killed.waiting.state == "queued"
    assert killed.second.status().ended <= killed.first.status().training_started
    assert killed.at_resume.first_step == killed.at_kill.checkpoint > 0
    assert killed.first.status().state == "finished" and killed.first.status().step == SMALL["max_steps"]
    assert killed.said.splitlines()[0] == f"Run {killed.first.id} has finished at step {SMALL['max_steps']}."


def test_no_step_is_missing_or_there_twice(killed):
    records = killed.first.metrics()
    assert [r["step"] for r in records if "loss" in r] == list(range(1, SMALL["max_steps"] + 1))
    assert [r["step"] for r in records if "eval_loss" in r] == [6, 12, 18, 24]  # eval_steps 6


def test_it_ends_exactly_where_an_uninterrupted_run_ends(killed, trained):
    for name in ("loss", "kl_raw", "rewards/chosen", "rewards/rejected", "learning_rate"):
        calm, resumed = ([r[name] for r in run.metrics() if "loss" in r] for run in (trained, killed.first))
        for step, (a, b) in enumerate(zip(calm, resumed, strict=True), 1):
            # None: a batch without a thumb of this kind
            assert (a is None and b is None) or b == pytest.approx(a, rel=1e-5, abs=1e-6), (name, step)
    ours, theirs = (load_file(run.adapter / "adapter_model.safetensors") for run in (killed.first, trained))
    assert ours.keys() == theirs.keys() and all((ours[k] - theirs[k]).abs().max() < 1e-6 for k in ours)


def test_time_left_is_right_after_a_resume(killed):
    status = killed.at_resume
    pace = (status.stepped - status.training_started) / (status.step - status.first_step)
    # In the fixture's own time: seconds_left looks at the clock, so here the same by hand, at the moment of the step.
    assert 0 < pace * (status.total_steps - status.step) < 60
    assert status.stepped >= status.training_started > killed.waiting.heartbeat - 60


def test_sigterm_is_a_stop_that_keeps_a_usable_adapter(killed):
    status = killed.second.status()
    assert status.state == "stopped" and 2 <= status.step < 5_000 and status.resumable
    weights = load_file(killed.second.adapter / "adapter_model.safetensors")
    # B starts at zero; after a step it has moved.
    assert weights and all(w.isfinite().all() for w in weights.values())
    assert max(w.abs().max() for name, w in weights.items() if "lora_B" in name) > 0
    # And it can go on from here, to the step.
    assert killed.second.latest_checkpoint().name == f"checkpoint-{status.step}"
    assert [r["step"] for r in killed.second.metrics() if "loss" in r] == list(range(1, status.step + 1))


def test_runs_of_one_second_get_names_of_their_own(tmp_path, monkeypatch):
    tokens = iter(["aaaa", "aaaa", "aaaa", "bbbb"])
    monkeypatch.setattr("kto_workbench.runs.directory.secrets.token_hex", lambda _: next(tokens))
    monkeypatch.setattr("kto_workbench.runs.directory.datetime", type("Now", (), {"now": lambda: datetime(2026, 1, 1)}))
    config = KTOConfig(workspace=str(tmp_path))
    assert [new_run(config, {}).id[-4:] for _ in range(2)] == ["aaaa", "bbbb"]
