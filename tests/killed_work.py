"""Does work in children of its own that are killed at a moment that was asked for; torch is imported once for all.

Reads a JSON object a line: {"work": a name below, …, "writes": n} or {…, "seconds": s}. Each thing that is done is told
by a line `done …`, and how the child ended by a line `ended CODE`, negative for a signal. It is killed at the n-th time
that it opens a file to write, renames or removes one, or so many seconds after it has begun; with neither, it works to
the end.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time

from kto_workbench.answers.export import export
from kto_workbench.engine.training import train_run
from kto_workbench.feedback.store import ThumbStore
from kto_workbench.runs import Run
from kto_workbench.ui.workbench import Workbench

WRITES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate")


def kill_at_write(number: int) -> None:
    """Have this process end at its n-th write, in the middle of whatever it is doing."""
    left = [number]

    def look(event: str, arguments: tuple) -> None:
        writes = event in WRITES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if writes and not str(arguments[0]).startswith(("/dev", "/proc")):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)


def tell(done: object) -> None:
    """Say that something is done, in one write."""
    os.write(1, f"done {done}\n".encode())


def train(run: str) -> None:
    """A run, from its latest checkpoint if it has one."""
    train_run(Run(run))


def write_out(run: str, format: str) -> None:
    """An export of a run."""
    tell(export(Run(run), format))


def vote(workspace: str, count: int) -> None:
    """Thumbs, each given, turned around and explained."""
    store = ThumbStore(workspace)
    for number in range(count):
        thumb = store.add(f"Question {number}?", "An answer. " * 500, True)
        tell(f"add {number}")
        store.change(thumb, False)
        tell(f"change {number}")
        store.annotate(thumb, f"because of {number}")
        tell(f"annotate {number}")


def receive(workspace: str, name: str) -> None:
    """A file that the browser has sent, kept and read as the Data tab does."""
    bench = Workbench(workspace)
    source = bench.keep_upload(bench.received / name)
    tell("kept")
    bench.keep_mapping(source, {"prompt": "q", "completion": "a", "label": "l"})
    tell(len(bench.feedback(source).rows))


WORK = {"train": train, "export": write_out, "vote": vote, "receive": receive}


def work(wanted: dict) -> None:
    """What the child does."""
    begin, writes, seconds = WORK[wanted.pop("work")], wanted.pop("writes", None), wanted.pop("seconds", None)
    if writes:
        kill_at_write(writes)
    if seconds is not None:
        threading.Thread(target=lambda: (time.sleep(seconds), os.kill(os.getpid(), signal.SIGKILL))).start()
    begin(**wanted)


def main() -> None:
    """Serve until stdin ends."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = 1
            with contextlib.suppress(Exception), contextlib.redirect_stdout(sys.stderr):
                work(json.loads(line))
                code = 0
            os._exit(code)
        _, status = os.waitpid(pid, 0)
        os.write(1, f"ended {os.waitstatus_to_exitcode(status)}\n".encode())


if __name__ == "__main__":
    main()
