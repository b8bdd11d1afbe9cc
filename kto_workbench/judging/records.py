"""Evaluations kept with their run, one file each, and its only reader and writer.

    runs/<id>/evaluations/<name>.json    what was asked, how far it is, what came of it; replaced all at once
    runs/<id>/evaluations/<name>.log     what its process printed, where the page started it

A file that says `starting` or `running` is believed only as long as its process lives: an evaluation that was killed is
`crashed`, whatever it wrote last.
"""

import json
import os
import re
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil

from kto_workbench.errors import RunError
from kto_workbench.runs import Run
from kto_workbench.runs.directory import SAME_START_SECONDS
from kto_workbench.runs.jsonlines import without_nan, write_atomically

ACTIVE = ("starting", "running")
# How long a process may take from its start to the first line of its record.
GRACE_SECONDS = 30.0


class Record:
    """One evaluation's file.

    It holds `state` (starting, running, finished, failed, stopped, and, when read, crashed), `created`, `about` (what
    was asked: sides, judge, prompts), `progress` {stage, done, total}, `error`, and once finished `evaluation` and
    `answers`.
    """

    def __init__(self, run: Run, name: str) -> None:
        if not re.fullmatch(r"[\w\-]{1,80}", name):
            raise RunError(f"There is no evaluation {name!r}.")
        self.run, self.name = run, name
        self.path = run.path / "evaluations" / f"{name}.json"

    @property
    def log_path(self) -> Path:
        """What the process printed."""
        return self.path.with_suffix(".log")

    def read(self) -> dict[str, Any]:
        """The record, its state checked against the process table; {} if there is none."""
        found = self._stored()
        if found.get("state") in ACTIVE and not _is_alive(found):
            found |= {"state": "crashed", "error": found.get("error") or "Its process ended without a word."}
        return found

    def write(self, **changes: Any) -> None:
        """Replace some fields. Raises RunError if the run's directory can't be written to."""
        now = {**self._stored(), **changes}
        try:
            write_atomically(self.path, json.dumps(without_nan(now), ensure_ascii=False) + "\n")
        except OSError as error:
            raise RunError(f"Can't write to {self.path.parent}: {error.strerror}.") from None

    def claim(self) -> None:
        """Say that this process is at it."""
        self.belongs_to(os.getpid(), state="running")

    def belongs_to(self, pid: int, **changes: Any) -> None:
        """Write down which process is at it."""
        try:
            self.write(pid=pid, process_started=psutil.Process(pid).create_time(), **changes)
        except psutil.Error:  # it is gone already
            self.write(pid=pid, process_started=0.0, **changes)

    def stop(self) -> None:
        """End the process that is at it; what was judged so far stays in the judge's cache."""
        found = self.read()
        if found.get("state") not in ACTIVE:
            return
        try:
            process = psutil.Process(found["pid"])
            process.terminate()
            process.wait(5)
        except (psutil.Error, KeyError):
            pass
        self.write(state="stopped")

    def _stored(self) -> dict[str, Any]:
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}


def new_record(run: Run, about: dict[str, Any]) -> Record:
    """Begin a new evaluation's file. Raises RunError if the run's directory can't be written to."""
    record = Record(run, f"{datetime.now():%Y%m%d-%H%M%S-%f}")
    try:
        record.path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise RunError(f"Can't write to {record.path.parent}: {error.strerror}.") from None
    record.write(state="starting", created=time.time(), about=about, progress={}, error="")
    return record


def list_records(run: Run) -> list[Record]:
    """The run's evaluations, the newest first."""
    names = sorted((path.stem for path in (run.path / "evaluations").glob("*.json")), reverse=True)
    return [Record(run, name) for name in names if re.fullmatch(r"[\w\-]+", name)]


def newest_evaluation(run: Run) -> dict[str, Any] | None:
    """The `evaluation` of the newest record that is finished; None if there is none."""
    for record in list_records(run):
        found = record.read()
        if found.get("state") == "finished":
            return found["evaluation"]
    return None


def _is_alive(found: dict[str, Any]) -> bool:
    if not found.get("pid"):
        return time.time() - found.get("created", 0) < GRACE_SECONDS
    try:
        process = psutil.Process(found["pid"])
        same = abs(process.create_time() - (found.get("process_started") or 0)) < SAME_START_SECONDS
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False
