"""What the tabs that ask models share: which runs can answer, on which sides, how often the page is told."""

from collections.abc import Mapping
from typing import Any

from kto_workbench.errors import RunError
from kto_workbench.runs.shelf import title_of
from kto_workbench.runs.sides import REFERENCE, TUNED, Side, sides_of
from kto_workbench.ui.words import say
from kto_workbench.ui.workbench import RUNS_OFFERED, Workbench

SIDES = ("reference", "tuned")
ITS_REFERENCE = "reference"  # chosen for the other side: that of the run itself
# Each update costs the browser some milliseconds; more than a dozen a second arrive late rather than often.
UPDATE_SECONDS = 0.08


def compared_runs(bench: Workbench, language: str) -> list[tuple[str, str]]:
    """The runs that have an adapter, or a model, to answer with, the newest first."""
    return [
        (f"{title_of(run)} · {say(language, f'state.{run.status().state}')}", run.id)
        for run in bench.runs()[:RUNS_OFFERED]
        if run.trained()
    ]


def offered_sides(bench: Workbench, language: str, *, references: bool = False) -> list[tuple[str, str]]:
    """What can stand on a side, by `Side.name`: tuned models, the newest first, then checkpoints, then references."""
    found: dict[str, list[Side]] = {"tuned": [], "checkpoint": [], "reference": []}
    for run in bench.runs()[:RUNS_OFFERED]:
        for side in sides_of(run):
            found[side.part.split("-")[0]].append(side)
    shown = [*found["tuned"], *found["checkpoint"], *(found["reference"] if references else [])]
    return [(side_title(side, language), side.name) for side in shown]


def side_title(side: Side, language: str) -> str:
    """A side as people call it: its run, and which of its models."""
    name = title_of(side.run)
    if side.part == TUNED:
        return f"{name} · {say(language, f'state.{side.run.status().state}')}"
    if side.part == REFERENCE:
        return f"{name} · {say(language, 'side.reference')}"
    return f"{name} · {say(language, 'side.checkpoint', step=side.part.removeprefix('checkpoint-'))}"


def side_named(bench: Workbench, name: str | None) -> Side:
    """A side of this workspace by its exact name. Raises RunError."""
    run_id, _, part = str(name or "").partition("@")
    run = bench.run(run_id)
    if not part:
        return Side(run)
    found = {side.part: side for side in sides_of(run)}
    if part not in found:
        raise RunError(f"Run {run.id} has no {part!r}; it has {', '.join(found)}.")
    return found[part]


def sides_named(bench: Workbench, run: str | None, against: str | None) -> dict[str, Side]:
    """The two sides of a comparison, of which `against` may be `reference`: the run's own. Raises RunError."""
    tuned = side_named(bench, run)
    other = Side(tuned.run, REFERENCE) if against in (None, "", ITS_REFERENCE) else side_named(bench, against)
    return {"reference": other, "tuned": tuned}


def answer_origin(side: Side, sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Where an answer is from, as `ThumbStore.add` takes it."""
    run = side.run
    folders = {TUNED: run.adapter, REFERENCE: None}
    folder = folders.get(side.part, run.path / "checkpoints" / side.part)
    return {
        "model": run.config().model,
        "run": run.id,
        "adapter": str(folder or ""),
        "sampling": {"side": side.part, **sampling},
    }
