"""Work that outlives whoever started it: a process in a session of its own, whose last words are in a log.

A process is known by its number and by a mark that no other process has, not even one that gets its number later, and
that does not move when somebody sets the clock.
"""

import contextlib
import functools
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import psutil

# The kernel counts a start from a boot time that it knows to the second, and that a clock's correction may move by one.
SAME_START_SECONDS = 2.0
PARENT_SECONDS = 1.0  # between two looks whether it is still there

# Kept so that an ended child is reaped instead of staying a zombie, and never waited for.
_children: list[subprocess.Popen] = []


def start_apart(module: str, arguments: Sequence[object], log: BinaryIO, *, mute: bool = False) -> subprocess.Popen:
    """Start `python -m module arguments…` in a process that goes on when this one ends.

    Args:
        module: to run.
        arguments: of its command line.
        log: takes what it writes to stderr, and to stdout unless `mute`.
        mute: throw away its stdout.
    """
    reap()
    child = subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL if mute else log,
        stderr=log,
        start_new_session=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    _children.append(child)
    return child


@contextlib.contextmanager
def large_imports() -> Iterator[None]:
    """Import libraries without looking for garbage among what they bring, neither now nor later: half of a start.

    What torch and transformers make while they are imported stays to the end of the process. Python would go through
    it a dozen times meanwhile, and once more at its end.
    """
    looking = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if looking:
            gc.enable()


def launched() -> bool:
    """Whether this process is one of several that a launcher has started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def end_with_parent() -> None:
    """From now on, end this process when the one that has started it is gone, without a word.

    A launcher that is killed leaves its processes behind: they would hold their devices, and wait for each other.
    """
    parent = os.getppid()

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_SECONDS)
        os._exit(1)

    threading.Thread(target=look, name="parent", daemon=True).start()


def reap() -> int:
    """Let go of the children that have ended, so that none of them looks alive; returns how many are at work."""
    _children[:] = [child for child in _children if child.poll() is None]
    return len(_children)


def identity(pid: int) -> dict[str, Any]:
    """What a process can be known by later on: `pid`, `process_started`, `process_mark`; it may be gone already."""
    try:
        started = psutil.Process(pid).create_time()
    except psutil.Error:
        started = 0.0
    return {"pid": pid, "process_started": started, "process_mark": _mark(pid)}


def is_alive(pid: int | None, process_started: float | None, process_mark: str = "") -> bool:
    """Whether the process with this identity lives: not another one that has got its number, and not a zombie."""
    if not pid:
        return False
    if process_mark and boot():  # asked of every run at every look, so by a single small file
        state, began = _seen(pid)
        return state not in ("", "Z", "X") and f"{boot()}:{began}" == process_mark
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return False
        return abs(process.create_time() - (process_started or 0)) < SAME_START_SECONDS
    except (psutil.Error, OverflowError, ValueError):
        return False


def end(pid: int | None, process_started: float | None, process_mark: str = "", *, patience: float = 5.0) -> bool:
    """End a process and all that it has started, politely and then for certain; whether it was there to be ended.

    The kernel ends for certain even a process that is stopped, or too busy to listen.
    """
    if not is_alive(pid, process_started, process_mark) or pid == os.getpid():
        return False
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(pid)
        family = [process, *process.children(recursive=True)]
        process.terminate()
        _, alive = psutil.wait_procs(family, timeout=patience)
        for one in alive:
            with contextlib.suppress(psutil.Error):
                one.kill()
        with contextlib.suppress(OSError, AttributeError):
            os.killpg(pid, signal.SIGKILL)  # a session of its own has what was started since
        psutil.wait_procs(alive, timeout=patience)
    reap()
    return True


def _mark(pid: int) -> str:
    """The boot and the tick of it at which a process began; empty where the system does not tell."""
    began = _seen(pid)[1]
    return f"{boot()}:{began}" if boot() and began else ""


@functools.cache
def boot() -> str:
    """What tells this start of the machine from every other; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _seen(pid: int) -> tuple[str, str]:
    """A process's state and the tick at which it began, as the kernel tells them; empty if there is none."""
    try:
        # The name, in brackets, may hold anything; the first field behind it is the state, the 20th the start.
        told = Path(f"/proc/{pid}/stat").read_text(errors="replace").rsplit(")", 1)[1].split()
        return told[0], told[19]
    except (OSError, IndexError, ValueError):
        return "", ""
