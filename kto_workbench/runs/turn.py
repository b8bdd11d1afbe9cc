"""One device, one job: later ones wait their turn, in order, on disk.

Each waiting job is its own small process, before it has loaded any model. The turn is a file lock, which the operating
system takes back from a process that dies; the order is that of the runs' queueing.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from kto_workbench.runs.directory import Run, list_runs

POLL_SECONDS = 0.3


class StoppedEarly(Exception):
    """The run was asked to stop before its first step."""


@contextmanager
def turn(run: Run, workspace: str | Path) -> Iterator[None]:
    """Wait until the device is free and every run queued earlier has had its turn, then hold it.

    Raises StoppedEarly if the run is asked to stop meanwhile.
    """
    lock = FileLock(Path(workspace) / "device.lock")
    said = ""
    while True:
        if run.was_asked("stop", forget=True):
            raise StoppedEarly
        ahead = _ahead_of(run, workspace)
        if not ahead:
            try:
                lock.acquire(timeout=0)
                break
            except Timeout:
                pass
        message = f"Waiting for the device: {len(ahead)} before this one." if ahead else "Waiting for the device."
        # The heartbeat is renewed with every look; the sentence only when it changes.
        run.set_status(state="queued", **({"message": message} if message != said else {}))
        said = message
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


def _ahead_of(run: Run, workspace: str | Path) -> list[Run]:
    mine = (run.status().queued, run.id)
    waiting = [(other, other.status()) for other in list_runs(workspace) if other.id != run.id]
    return [other for other, status in waiting if status.state == "queued" and (status.queued, other.id) < mine]
