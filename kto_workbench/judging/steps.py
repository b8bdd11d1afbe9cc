"""The sides that a run has to show over time: its checkpoints, and the tuned model at the end."""

from kto_workbench.errors import RunError
from kto_workbench.runs import Run
from kto_workbench.runs.sides import Side


def checkpoints_of(run: Run) -> list[Side]:
    """The checkpoints that are still there, and the tuned model unless the last of them is of the same step.

    Raises RunError if there are none.
    """
    sides = [Side(run, folder.name) for folder in run.checkpoint_folders()]
    if not sides:
        raise RunError(f"Run {run.id} has kept no checkpoints; save_steps and save_total_limit say how many it keeps.")
    return sides if step_of(sides[-1]) == run.status().step or not run.trained() else [*sides, Side(run)]


def step_of(side: Side) -> int:
    """The step that a side was trained to."""
    number = side.part.removeprefix("checkpoint-")
    return int(number) if number.isdigit() else side.run.status().step
