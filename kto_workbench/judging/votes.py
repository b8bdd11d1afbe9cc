"""Votes of people who did not know which side had written which answer, kept with the tuned side's run.

    runs/<id>/votes.jsonl    one vote a line, appended

    keep_vote(run, Vote(ballot="…", prompt="Hello!", tuned_side=…, against=…, tuned="Hi!", reference="Hm.", …))
    summarize_votes(read_votes(run))["win_rate"]

A line that a crash has torn is passed over, and the next vote begins a line of its own.
"""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from kto_workbench import files
from kto_workbench.errors import RunError
from kto_workbench.judging.verdicts import Verdicts, summarize
from kto_workbench.runs import Run, jsonlines
from kto_workbench.runs.schemas import Prompt, Time

FILE_NAME = "votes.jsonl"


@dataclass(frozen=True)
class Vote:
    """One vote on a pair of answers.

    `winner` is `tuned`, `reference` or `tie`; `left` is the side that was shown on the left. `same` says that both
    answers were equal, so that nobody was asked. `thumbs` are the votes that came of it in the store.
    """

    ballot: str
    prompt: Prompt
    tuned_side: str
    against: str
    tuned: str
    reference: str
    left: Literal["tuned", "reference"]
    winner: Literal["tuned", "reference", "tie"]
    same: bool = False
    sampling: dict[str, Any] = field(default_factory=dict)
    thumbs: tuple[int, ...] = ()
    created: Time = field(default_factory=time.time)


_take = jsonlines.of_schema(TypeAdapter(Vote))


def keep_vote(run: Run, vote: Vote) -> None:
    """Append a vote. Raises RunError if the run's directory can't be written to."""
    path = run.path / FILE_NAME
    try:
        if not _ends_with_its_line(path):
            with files.open_to_append(path) as file:
                file.write(b"\n")
        jsonlines.append(path, asdict(vote))
    except OSError as error:
        raise RunError(f"Can't write to {path}: {error.strerror}.") from None


def read_votes(run: Run, *, tuned_side: str | None = None, against: str | None = None) -> list[Vote]:
    """The run's votes, the oldest first; those of two sides alone if they are named."""
    votes = jsonlines.read(run.path / FILE_NAME, 0, _take)[0]
    wanted = [(name, value) for name, value in (("tuned_side", tuned_side), ("against", against)) if value is not None]
    return [vote for vote in votes if all(getattr(vote, name) == value for name, value in wanted)]


def summarize_votes(votes: Sequence[Vote]) -> dict[str, Any]:
    """`n`, `wins`, `ties`, `losses` of the tuned side, `win_rate`, `interval` (Wilson, 95 %), `sign_test_p`."""
    return summarize(Verdicts([vote.winner for vote in votes]))


def _ends_with_its_line(path: Path) -> bool:
    size = path.lstat().st_size if files.is_plain(path) else 0
    return not size or files.read_bytes(path, offset=size - 1)[0] == b"\n"
