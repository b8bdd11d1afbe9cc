"""Trains runs in children of its own that are killed at a moment that was asked for; torch is imported once for all.

Reads a JSON object a line, {"run": its directory, "writes": n} or {"run": …, "seconds": s}, and answers with how the
child ended: its exit code, negative for a signal. Killed at the n-th time that it opens a file to write, renames or
removes one, or after so many seconds; with neither, it trains to the end.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time

from kto_workbench.engine.training import train_run
from kto_workbench.runs import Run

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


def train(wanted: dict) -> None:
    """What the child does."""
    if "writes" in wanted:
        kill_at_write(wanted["writes"])
    if "seconds" in wanted:
        threading.Thread(target=lambda: (time.sleep(wanted["seconds"]), os.kill(os.getpid(), signal.SIGKILL))).start()
    train_run(Run(wanted["run"]))


def main() -> None:
    """Serve until stdin ends."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = 1
            with contextlib.suppress(Exception), contextlib.redirect_stdout(sys.stderr):
                train(json.loads(line))
                code = 0
            os._exit(code)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main()
