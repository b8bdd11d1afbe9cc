"""What the tabs that ask models share: choosing who answers, in one way everywhere; how often the page is told."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from kto_workbench.config import DEMO_MODEL
from kto_workbench.errors import ConfigError, WorkbenchError
from kto_workbench.feedback.images import keys_in
from kto_workbench.runs import Run
from kto_workbench.runs.directory import RUN_ID
from kto_workbench.runs.shelf import title_of
from kto_workbench.runs.sides import (
    REFERENCE,
    TUNED,
    AnySide,
    EndpointSide,
    Home,
    ModelSide,
    Side,
    home_of,
    part_of,
    reference_of,
    side_by_kind,
    sides_of,
)
from kto_workbench.ui.fields import offer
from kto_workbench.ui.words import label, say
from kto_workbench.ui.workbench import RUNS_OFFERED, Workbench

SIDES = ("reference", "tuned")
ITS_REFERENCE = "reference"  # chosen for the other side: that of the run itself
# Each update costs the browser some milliseconds; more than a dozen a second arrive late rather than often.
UPDATE_SECONDS = 0.08
# Of events that ask models. Those for models of this machine take turns at its one process; who waits for a slow
# endpoint holds up nobody else, unless as many wait at once, and no longer than completions.py lets a reply take.
ASKED_AT_ONCE = 8
ASKING: dict[str, Any] = {
    "show_progress": "hidden", "concurrency_id": "answers", "concurrency_limit": ASKED_AT_ONCE
}  # fmt: skip

# choosing ------------------------------------------------------------------------------------------------------------


def side_field(elem_id: str, name: str = "side.choose", **settings: Any) -> gr.Dropdown:
    """The one way to choose who answers: a run or one of its checkpoints, an endpoint, or any model, which is typed."""
    if name == "side.choose":  # the field beside it needs no help of its own
        settings["info"] = label("side.choose.help")
    return gr.Dropdown([], label=label(name), elem_id=elem_id, allow_custom_value=True, **settings)


def offer_sides(bench: Workbench, language: str, wanted: str | None, chosen: str | None) -> gr.Dropdown:
    """The field with all that can be chosen now, and what is wanted in it, where that means something.

    `chosen` is what the field showed when the page asked.
    """
    choices = offered_sides(bench, language)
    return offer(choices, _kept(bench, choices, wanted), chosen)


def offer_others(bench: Workbench, language: str, chosen: str | None, side: str | None) -> gr.Dropdown:
    """The field for what a side is held against: for a run its own reference first, for others another side."""
    choices = offered_sides(bench, language)
    choices = [*(one for one in choices if one[1] != side), *(one for one in choices if one[1] == side)]
    if not side or run_of(bench, side) is not None:
        choices = [(say(language, "compare.its_reference"), ITS_REFERENCE), *choices]
    meant = chosen not in (side, ITS_REFERENCE)  # nobody means to hold a side against itself
    return offer(choices, _kept(bench, choices, chosen if meant else None), chosen)


def any_trained(bench: Workbench) -> bool:
    """Whether there is a run to answer with."""
    return any(run.trained() for run in bench.runs()[:RUNS_OFFERED])


def offer_both(bench: Workbench, language: str, chosen: str | None, other: str | None) -> tuple[gr.Dropdown, ...]:
    """The fields for both sides of a comparison."""
    side = _kept(bench, offered_sides(bench, language), chosen)
    return offer_sides(bench, language, chosen, chosen), offer_others(bench, language, other, side)


def _kept(bench: Workbench, choices: Sequence[tuple[str, str]], chosen: str | None) -> str:
    """A choice that still means something, else the first."""
    known = [value for _, value in choices]
    return chosen if chosen in known or (chosen and side_or_none(bench, chosen) is not None) else known[0]


def offered_sides(bench: Workbench, language: str) -> list[tuple[str, str]]:
    """What can answer, by its name: trained runs, the newest first, endpoints, the demo, checkpoints, references."""
    found: dict[str, list[AnySide]] = {"tuned": [], "checkpoint": [], "reference": []}
    for run in bench.runs()[:RUNS_OFFERED]:
        for side in sides_of(run):
            found[side.part.split("-")[0]].append(side)
    others = [*(EndpointSide(one) for one in bench.endpoints()), ModelSide(DEMO_MODEL)]
    shown = [*found["tuned"], *others, *found["checkpoint"], *found["reference"]]
    return [(side_title(side, language), side.name) for side in shown]


def side_title(side: AnySide, language: str) -> str:
    """A side as people call it: its run, and which of its models; or its model, and where that is."""
    if isinstance(side, EndpointSide):
        return say(language, "side.endpoint", name=side.endpoint.name, model=side.model)
    if isinstance(side, ModelSide):
        return say(language, "side.model", model=side.model)
    name = title_of(side.run)
    if side.part == TUNED:
        return f"{name} · {say(language, f'state.{side.run.status().state}')}"
    if side.part == REFERENCE:
        return f"{name} · {say(language, 'side.reference')}"
    return f"{name} · {say(language, 'side.checkpoint', step=side.part.removeprefix('checkpoint-'))}"


# what was chosen -----------------------------------------------------------------------------------------------------


def side_named(bench: Workbench, name: str | None) -> AnySide:
    """A side by what the page sends: a run's exact id, an endpoint's name, or a model. Raises WorkbenchError."""
    name = str(name or "").strip()
    if found := side_by_kind(name, bench.workspace):
        return found
    run_id, _, part = name.partition("@")
    if not name or RUN_ID.match(name) or bench.run_or_none(run_id) is not None:
        return part_of(bench.run(run_id), part)
    if "://" in name:
        # Where this server's keys may go is not for a visitor to say.
        raise ConfigError("An address can't be given here: whoever runs this workbench names endpoints.")
    return ModelSide(name)


def side_or_none(bench: Workbench, name: str | None) -> AnySide | None:
    """The side, or None if it is gone or there is none of this name."""
    try:
        return side_named(bench, name)
    except WorkbenchError:
        return None


def run_of(bench: Workbench, name: str | None) -> Run | None:
    """The run that a side is of; None if it is of none."""
    side = side_or_none(bench, name)
    return side.run if side else None


def without_picture(language: str, sides: Iterable[AnySide], prompts: Iterable[Any]) -> str:
    """A remark where a run that learned from prompts with images is asked without one; else nothing."""
    missed = any(side.run is not None and side.run.trained_with_images() for side in sides)
    return say(language, "answer.no_picture") if missed and not any(map(keys_in, prompts)) else ""


def home_named(bench: Workbench, name: str | None) -> Run | Home | None:
    """Where what is said of a side is kept; None if there is no such side."""
    side = side_or_none(bench, name)
    return home_of(side, bench.workspace) if side else None


def sides_named(bench: Workbench, run: str | None, against: str | None) -> dict[str, AnySide]:
    """The two sides of a comparison, of which `against` may be `reference`: the run's own. Raises WorkbenchError."""
    tuned = side_named(bench, run)
    other = reference_of(tuned) if against in (None, "", ITS_REFERENCE) else side_named(bench, against)
    return {"reference": other, "tuned": tuned}


def answer_origin(side: AnySide, sampling: Mapping[str, Any]) -> dict[str, Any]:
    """Where an answer is from, as `ThumbStore.add` takes it."""
    if not isinstance(side, Side):
        return {"model": side.model, "side": side.name, "sampling": dict(sampling)}
    run = side.run
    folders: dict[str, Path | None] = {TUNED: run.adapter, REFERENCE: None}
    folder = folders.get(side.part, run.path / "checkpoints" / side.part)
    return {
        "model": run.config().model,
        "run": run.id,
        "adapter": str(folder or ""),
        "side": side.name,
        "sampling": dict(sampling),
    }
