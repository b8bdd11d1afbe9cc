"""Who answers: a run's tuned model, its reference, one of its checkpoints; any model; an endpoint by its name.

    20260101-120000-ab12                    the tuned model: the final adapter
    20260101-120000-ab12@reference          what it was trained against
    20260101-120000-ab12@checkpoint-50      the adapter of a checkpoint that is still there
    model:demo, model:Qwen/Qwen3-0.6B       a model as it is: `demo`, a folder, a hub id
    endpoint:local                          a server that the owner has given this name (endpoints.py)

Nothing here loads a model; `answers.sides` does.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from kto_workbench import files
from kto_workbench.config import DEMO_MODEL, KTOConfig
from kto_workbench.errors import ModelError, RunError
from kto_workbench.feedback.rendering import check_model_folder
from kto_workbench.runs.directory import Run, find_run
from kto_workbench.runs.endpoints import Endpoint, find_endpoint, read_endpoints

TUNED, REFERENCE = "tuned", "reference"
MODEL, ENDPOINT = "model:", "endpoint:"


@dataclass(frozen=True)
class Side:
    """One side of a run: the run, and which of its models: `tuned`, `reference` or `checkpoint-N`."""

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

    def config(self) -> KTOConfig:
        """How it is loaded and asked: as in its run."""
        return self.run.config()


@dataclass(frozen=True)
class ModelSide:
    """A model as it is, by no run: `demo`, a folder or a hub id. Raises ModelError for a folder without a model."""

    model: str
    run = None

    def __post_init__(self) -> None:
        if not self.model.strip() or not self.model.isprintable():
            raise ModelError(f"{self.model!r} is not the name of a model.")
        check_model_folder(self.model)
        folder = Path(self.model).expanduser()
        if self.model != DEMO_MODEL and folder.is_dir() and not (folder / "config.json").is_file():
            raise ModelError(f"There is no model in {self.model}: it has no config.json.")

    @property
    def name(self) -> str:
        """What `find_side` takes."""
        return f"{MODEL}{self.model}"

    def config(self) -> KTOConfig:
        """How it is loaded and asked: as a training would by default."""
        return KTOConfig(model=self.model)


@dataclass(frozen=True)
class EndpointSide:
    """A model at an endpoint: it answers, and gives no log-probabilities of a given text."""

    endpoint: Endpoint
    run = None

    @property
    def name(self) -> str:
        """What `find_side` takes."""
        return f"{ENDPOINT}{self.endpoint.name}"

    @property
    def model(self) -> str:
        """The model, as the server calls it."""
        return self.endpoint.model

    def config(self) -> KTOConfig:
        """How it is asked: as a training would by default."""
        return KTOConfig(model=self.model)


AnySide = Side | ModelSide | EndpointSide


@dataclass(frozen=True)
class Home:
    """Where what is said of a side without a run is kept: the workspace, laid out like a run's directory."""

    path: Path


def home_of(side: AnySide, workspace: str | Path) -> Run | Home:
    """Where evaluations and votes on a side are kept: with its run, else in the workspace itself."""
    return side.run or Home(Path(workspace))


def sides_of(run: Run) -> list[Side]:
    """What a run has to show: its reference, its checkpoints in order, its tuned model."""
    tuned = [Side(run)] if run.trained() else []
    return [Side(run, REFERENCE), *(Side(run, path.name) for path in run.checkpoint_folders()), *tuned]


def reference_of(side: AnySide) -> Side:
    """What a side is compared with if nothing else is named: its run's reference. Raises RunError if it has no run."""
    if side.run is None:
        raise RunError(f"{side.name} is no run, so it has no reference of its own: say what to compare it against.")
    return Side(side.run, REFERENCE)


def check_scored(*sides: AnySide) -> None:
    """Raise RunError unless all sides can say how likely a given text is to them."""
    if any(isinstance(side, EndpointSide) for side in sides):
        raise RunError("An endpoint gives no log-probabilities of a given text, so there is no heat map.")


def find_side(name: str, workspace: str | Path = "workspace") -> AnySide:
    """Read a side's name; a run may be shortened as for `find_run`, and what is no run may be a model or an endpoint.

    Raises RunError, ModelError or ConfigError.
    """
    name = str(name)
    if found := side_by_kind(name, workspace):
        return found
    run_name, _, part = name.partition("@")
    try:
        run = find_run(run_name, workspace)
    except RunError:
        if name == DEMO_MODEL or re.fullmatch(r"[\w.\-]+/[\w.\-]+", name) or files.is_folder(Path(name).expanduser()):
            return ModelSide(name)
        if name in read_endpoints(workspace):
            return EndpointSide(find_endpoint(name, workspace))
        raise
    return part_of(run, part)


def side_by_kind(name: str, workspace: str | Path) -> ModelSide | EndpointSide | None:
    """A side that is named with its kind, `model:…` or `endpoint:…`; None for other names."""
    if name.startswith(MODEL):
        return ModelSide(name.removeprefix(MODEL).strip())
    if name.startswith(ENDPOINT):
        return EndpointSide(find_endpoint(name.removeprefix(ENDPOINT), workspace))
    return None


def part_of(run: Run, part: str) -> Side:
    """One of a run's sides that are there; "" is the tuned model. Raises RunError."""
    side = Side(run, part or TUNED)
    if side.part not in (TUNED, REFERENCE) and side not in sides_of(run):
        known = ", ".join(one.part for one in sides_of(run))
        raise RunError(f"Run {run.id} has no {part!r}; it has {known}.")
    return side
