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
from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from kto_workbench import files
from kto_workbench.errors import RunError
from kto_workbench.runs import Run
from kto_workbench.runs.children import end, identity, is_alive
from kto_workbench.runs.jsonlines import without_nan, write_atomically
from kto_workbench.runs.schemas import Count, Number, Pid, Prompt, Time

ACTIVE = ("starting", "running")
# How long a process may take from its start to the first line of its record.
GRACE_SECONDS = 30.0
NAME = re.compile(r"[\w\-]{1,80}")
Share = Annotated[float, Field(ge=0, le=1)]


class Progress(TypedDict, total=False):
    """How far an evaluation is."""

    stage: Literal["answers", "scores", "judge", "waiting", "waking"]
    done: Count
    total: Count


class About(TypedDict, total=False):
    """What was asked; more of it may be kept than is read."""

    tuned: str
    against: str
    prompts: str
    n_prompts: Count
    judge: str | None
    judge_model: str | None
    judge_url: str | None
    checkpoints: bool


class Lengths(TypedDict):
    """A side's answers, on average."""

    words: Number | None
    tokens: Number | None
    distinct_1: Number | None
    distinct_2: Number | None


class Distance(TypedDict):
    """The KL to the other side, in nats."""

    per_answer: Number | None
    per_token: Number | None
    missing: NotRequired[str]


class Unrated(TypedDict):
    """What nobody rated: the share of questions that each side answers well; see unrated.py."""

    name: str
    n: Count
    reference: Share
    tuned: Share
    p: Share
    alarm: bool


class Outcome(TypedDict):
    """Who won by how much; see answers/evaluation.py."""

    judge: NotRequired[str | None]
    n: NotRequired[Count]
    wins: Count
    ties: Count
    losses: Count
    win_rate: Share | None
    interval: Annotated[list[Share], Field(min_length=2, max_length=2)] | None
    sign_test_p: Number | None
    position_bias: Number | None
    requests: Count
    cached: Count
    unparsed: Count
    longer_won: NotRequired[Number | None]
    length_ratio: NotRequired[Number | None]
    unrated: NotRequired[list[Unrated]]
    tuned: Lengths
    kl: Distance


class Step(Outcome):
    """The outcome of a checkpoint."""

    step: Count
    side: NotRequired[str]


class Evaluation(Outcome):
    """The outcome of an evaluation, pair by pair and checkpoint by checkpoint."""

    reference: Lengths
    verdicts: NotRequired[list[Literal["tuned", "reference", "tie"] | None] | None]
    checkpoints: NotRequired[list[Step]]


class Answer(TypedDict):
    """A prompt with both answers."""

    prompt: Prompt
    reference: str
    tuned: str


class Kept(TypedDict, total=False):
    """An evaluation's file."""

    state: Literal["starting", "running", "finished", "failed", "stopped", "crashed"]
    created: Time
    pid: Pid
    process_started: Time
    process_mark: str
    seconds: Number
    error: str
    about: About
    progress: Progress
    evaluation: Evaluation
    answers: list[Answer]


_KEPT, _ANYTHING = TypeAdapter(Kept), TypeAdapter(dict[str, Any])


class Record:
    """One evaluation's file.

    It holds `state` (starting, running, finished, failed, stopped, and, when read, crashed), `created`, `about` (what
    was asked: sides, judge, prompts), `progress` {stage, done, total}, `error`, and once finished `evaluation` and
    `answers`.
    """

    def __init__(self, run: Run, name: str) -> None:
        if not NAME.fullmatch(name):
            raise RunError(f"There is no evaluation {name!r}.")
        self.run, self.name = run, name
        self.path = run.path / "evaluations" / f"{name}.json"

    @property
    def log_path(self) -> Path:
        """What the process printed."""
        return self.path.with_suffix(".log")

    def read(self) -> dict[str, Any]:
        """The record, its state checked against the process table; {} if there is none."""
        found, problem = files.read_json(self.path, _KEPT)
        if found is None:
            unreadable = {"state": "crashed", "error": f"Its file {self.path.name} {problem}."}
            return {} if problem == files.MISSING else unreadable
        if found.get("state") in ACTIVE and not _is_alive(found):
            found |= {"state": "crashed", "error": found.get("error") or "Its process ended without a word."}
        if found.get("state") == "finished" and "evaluation" not in found:
            return {"state": "crashed", "error": f"Its file {self.path.name} lacks `evaluation`."}
        return found

    def write(self, **changes: Any) -> None:
        """Replace some fields. Raises RunError if the run's directory can't be written to."""
        now = {**(files.read_json(self.path, _ANYTHING)[0] or {}), **changes}
        try:
            write_atomically(self.path, json.dumps(without_nan(now), ensure_ascii=False) + "\n")
        except OSError as error:
            raise RunError(f"Can't write to {self.path.parent}: {error.strerror}.") from None

    def claim(self) -> None:
        """Say that this process is at it."""
        self.belongs_to(os.getpid(), state="running")

    def belongs_to(self, pid: int, **changes: Any) -> None:
        """Write down which process is at it."""
        self.write(**identity(pid), **changes)

    def stop(self) -> None:
        """End the process that is at it; what was judged so far stays in the judge's cache."""
        found = self.read()
        if found.get("state") not in ACTIVE:
            return
        end(*_identity(found))
        self.write(state="stopped")


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
    names = sorted(
        (path.stem for path in files.listed(run.path / "evaluations") if path.suffix == ".json"), reverse=True
    )
    return [Record(run, name) for name in names if NAME.fullmatch(name)]


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
    return is_alive(*_identity(found))


def _identity(found: dict[str, Any]) -> tuple[Any, ...]:
    return found.get("pid"), found.get("process_started"), found.get("process_mark", "")
