"""Feedback known by name: the demo's files, and the thumbs collected in a workspace."""

from pathlib import Path

import kto_workbench
from kto_workbench.errors import WorkbenchError

DEMO_FILES = {
    "demo": "kind_and_brief.jsonl",
    "demo-rare": "kind_and_brief_rare.jsonl",
    "demo-pairs": "kind_and_brief_pairs.jsonl",
    "demo-right-or-wrong": "right_or_wrong.jsonl",
}
THUMBS = "thumbs"
NAMES = (*DEMO_FILES, THUMBS)


def asset(*parts: str) -> Path:
    """A file or folder that comes with the workbench: in the repository's assets/ or the installed package's copy."""
    package = Path(kto_workbench.__file__).parent
    places = [root.joinpath("assets", *parts) for root in (package.parent, package)]
    for place in places:
        if place.exists():
            return place
    name = "/".join(parts)
    raise WorkbenchError(
        f"assets/{name} is missing; `python -m kto_workbench.demo.build` makes the demo's files again."
    )


def find_demo_file(name: str) -> Path:
    """The demo feedback of this name."""
    return asset("feedback", DEMO_FILES[name])
