"""What to ask both sides: a file of prompts, those that a run has held out, or the demo's own."""

from pathlib import Path
from typing import Any

from kto_workbench.errors import ConfigError, RunError
from kto_workbench.feedback import load_feedback
from kto_workbench.feedback.held_out import held_out_prompts
from kto_workbench.feedback.named import asset
from kto_workbench.feedback.prompts import load_questions
from kto_workbench.runs import Run

HELD_OUT, DEMO = "held-out", "demo"

Question = tuple[Any, tuple[str, ...]]


def find_questions(source: str | Path, run: Run | None, limit: int | None = None) -> list[Question]:
    """Prompts, a text or chat messages each, with the answers that are expected of them, () where none is known.

    Args:
        source: a file, `held-out` for the prompts that the run did not train on, or `demo` for those of the demo.
        run: whose prompts `held-out` means; None if no run answers.
        limit: at most so many, spread evenly over all of them.

    Raises:
        DataError: the file can't be read or holds no prompt.
        RunError: the run held none out, or its feedback has changed since.
        ConfigError: the limit is below 1.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"Option `limit` should be at least 1, not {limit}.")
    if source == HELD_OUT:
        found: list[Question] = [(prompt, ()) for prompt in held_out_of(run)]
    else:
        found = load_questions(asset("evaluation.jsonl") if source == DEMO else source)
    count = min(limit or len(found), len(found))
    return [found[i * len(found) // count] for i in range(count)]


def held_out_of(run: Run | None) -> list[Any]:
    """The prompts that a run has held out of its training, each once. Raises RunError."""
    if run is None:
        raise RunError("Only a run has held prompts out, and none is asked here: take a file of prompts.")
    config = run.config()
    rows = load_feedback(config.data, workspace=config.workspace, mapping=config.mapping).rows
    if run.data().get("rows", len(rows)) != len(rows):
        raise RunError(f"The feedback of run {run.id} has changed since, so what it held out is no longer known.")
    found = held_out_prompts([row.asked for row in rows], config.eval_fraction, config.seed)
    if not found:
        raise RunError(f"Run {run.id} has held no prompts out; its eval_fraction is {config.eval_fraction:g}.")
    return found
