"""What can stand on a side of a comparison: a run's tuned model, its reference, or one of its checkpoints.

    20260101-120000-ab12                    the tuned model: the final adapter
    20260101-120000-ab12@reference          what it was trained against
    20260101-120000-ab12@checkpoint-50      the adapter of a checkpoint that is still there

Nothing here loads a model; `engine.sides` does.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from kto_workbench.errors import RunError
from kto_workbench.runs.directory import Run, find_run

TUNED, REFERENCE = "tuned", "reference"


@dataclass(frozen=True)
class Side:
    """One side: a run, and which of its models: `tuned`, `reference` or `checkpoint-N`."""

    run: Run
    part: str = TUNED

    def __post_init__(self) -> None:
        # The part becomes the name of a folder, and may come from a browser.
        if self.part not in (TUNED, REFERENCE) and not re.fullmatch(r"checkpoint-\d+", self.part):
            raise RunError(f"A side is a run's tuned model, its reference or a checkpoint-N, not {self.part!r}.")

    @property
    def name(self) -> str:
        """What `find_side` takes: the run's id, with the part unless it is the tuned model."""
        return self.run.id if self.part == TUNED else f"{self.run.id}@{self.part}"


def sides_of(run: Run) -> list[Side]:
    """What a run has to show: its reference, its checkpoints in order, its tuned model."""
    tuned = [Side(run)] if run.trained() else []
    return [Side(run, REFERENCE), *(Side(run, path.name) for path in run.checkpoint_folders()), *tuned]


def find_side(name: str, workspace: str | Path = "workspace") -> Side:
    """Read a side's name; its run may be shortened as for `find_run`. Raises RunError."""
    run_name, _, part = str(name).partition("@")
    run = find_run(run_name, workspace)
    side = Side(run, part or TUNED)
    if side.part not in (TUNED, REFERENCE) and side not in sides_of(run):
        known = ", ".join(one.part for one in sides_of(run))
        raise RunError(f"Run {run.id} has no {part!r}; it has {known}.")
    return side
