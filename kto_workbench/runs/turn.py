"""One device, one job: later ones wait their turn, in order, on disk; and one process at a time holds models to answer.

Each waiting job is a process of its own, and a small one: its libraries are loaded when its turn has come. The turn is
a file lock, which the operating system takes back from a process that dies; the order is that of the runs' queueing.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from kto_workbench import files
from kto_workbench.errors import RunError
from kto_workbench.runs.directory import HEARTBEAT_SECONDS, Run, list_runs
from kto_workbench.runs.jsonlines import write_atomically

POLL_SECONDS = 0.3
SILENT_SECONDS = 30.0  # after which the process that holds the models is taken to hang


class StoppedEarly(Exception):
    """The run was asked to stop before its first step."""

    def __init__(self) -> None:
        super().__init__("Stopped before the first step.")


@contextmanager
def turn(run: Run, workspace: str | Path) -> Iterator[None]:
    """Wait until the device is free and every run queued earlier has had its turn, then hold it.

    Raises StoppedEarly if the run is asked to stop meanwhile.
    """
    lock = FileLock(Path(workspace) / "device.lock")
    ahead, told = [], float("-inf")
    while True:
        if run.was_asked("stop", forget=True):
            raise StoppedEarly
        due = time.monotonic() - told > HEARTBEAT_SECONDS
        # Behind others there is no hurry, and a look reads what all of them have written since.
        if due or not ahead:
            ahead = _ahead_of(run, workspace)
            if not ahead:
                try:
                    lock.acquire(timeout=0)
                    break
                except Timeout:
                    pass
        if due:
            message = f"Waiting for the device: {len(ahead)} before this one." if ahead else "Waiting for the device."
            run.set_status(state="queued", message=message)
            told = time.monotonic()
        time.sleep(POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def device_held(workspace: str | Path, waits: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold the device for work that is no training, such as an evaluation; told through `waits` if that takes a while.

    Whoever waits here takes the device when it is free, also before a run that was queued earlier.
    """
    lock = FileLock(Path(workspace) / "device.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waits()
        lock.acquire(poll_interval=POLL_SECONDS)
    try:
        yield
    finally:
        lock.release()


def device_is_taken(workspace: str | Path) -> bool:
    """Whether a training, or other work that holds the device, is at it now."""
    lock = FileLock(Path(workspace) / "device.lock")
    try:
        with lock.acquire(timeout=0):
            return False
    except Timeout:
        return True


class AnsweringTurn:
    """The right to hold models that answer: one process of a workspace has it at a time, whoever serves the page.

    It is kept from one request to the next, so that models stay warm, and given up when another process waits for it:
    `wanted()` tells, and is to be asked again and again. The operating system takes it back from a process that dies.
    """

    def __init__(self, workspace: str | Path) -> None:
        self._lock = FileLock(Path(workspace) / "answering.lock", thread_local=False)
        self._holder, self._asked = (Path(workspace) / f"answering.{what}" for what in ("pid", "wanted"))
        self._seen = files.stamp(self._asked)

    @property
    def held(self) -> bool:
        """Whether this process has it."""
        return self._lock.is_locked

    def take(self) -> None:
        """Wait until no other process has it. Raises RunError when the one that has it does not answer."""
        if self.held:
            return
        beat, since = None, time.monotonic()
        while True:
            try:
                self._lock.acquire(timeout=0)
                break
            except Timeout:
                pass
            except OSError:  # a disk that takes no lock: then without one
                return
            now = files.stamp(self._holder)
            if now != beat:
                beat, since = now, time.monotonic()
            elif time.monotonic() - since > SILENT_SECONDS:
                pid = files.read_text(self._holder, at_most=20)[0] or "?"
                raise RunError(
                    f"Process {pid}, which answers for another server of this workspace, does not answer; end it first."
                )
            _touch(self._asked)
            time.sleep(POLL_SECONDS)
        self._seen = files.stamp(self._asked)  # that was us
        with contextlib.suppress(OSError):
            write_atomically(self._holder, str(os.getpid()))

    def beat(self) -> None:
        """Show those who wait that the process which has it lives."""
        if self.held:
            _touch(self._holder)

    def wanted(self) -> bool:
        """Whether another process has asked for it since this was asked last."""
        before, self._seen = self._seen, files.stamp(self._asked)
        return self.held and self._seen != before

    def give(self) -> None:
        """Let another process have it."""
        self._lock.release()


def _touch(path: Path) -> None:
    with contextlib.suppress(OSError):  # a full disk, or one that is gone
        files.open_to_append(path).close()
        os.utime(path)


def _ahead_of(run: Run, workspace: str | Path) -> list[Run]:
    mine = (run.status().queued, run.id)
    waiting = [(other, other.status()) for other in list_runs(workspace) if other.id != run.id]
    return [other for other, status in waiting if status.state == "queued" and (status.queued, other.id) < mine]
