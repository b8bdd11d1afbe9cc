"""Work that outlives whoever started it: a process in a session of its own, whose last words are in a log."""

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import BinaryIO

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


def reap() -> int:
    """Let go of the children that have ended, so that none of them looks alive; returns how many are at work."""
    _children[:] = [child for child in _children if child.poll() is None]
    return len(_children)
