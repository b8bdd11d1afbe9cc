"""What the verbs share."""

import argparse
import contextlib
import json
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Any

from kto_workbench.runs.directory import Run
from kto_workbench.runs.jsonlines import without_nan


def workspace_of(arguments: argparse.Namespace) -> str:
    """The workspace that was named, or the usual one."""
    return arguments.workspace or "workspace"


def as_json(value: Any) -> str:
    """One line of JSON; NaN is null."""
    return json.dumps(without_nan(value), ensure_ascii=False)


def last_metrics(run: Run) -> dict[str, Any]:
    """The last training record of a run, {} if there is none."""
    return run.last_metrics()


@contextlib.contextmanager
def stop_on_signals(active: Callable[[], bool], stop: Callable[[], object], said: str) -> Iterator[None]:
    """Ctrl+C, or a polite kill, asks what is followed to stop; once more, or where nothing is at work, it ends us."""
    asked = False

    def handle(number: int, frame: Any) -> None:
        nonlocal asked
        if asked or not active():
            raise KeyboardInterrupt
        asked = True
        stop()
        print(f"\nStopping, and saving {said}; once more leaves it running.", file=sys.stderr)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
