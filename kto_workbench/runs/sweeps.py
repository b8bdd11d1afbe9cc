"""A sweep: one training for each point of a grid of options, one after the other; its trials are ordinary runs.

workspace/sweeps/<id>/  sweep.yaml   complete: grid, rule and config; `kto sweep sweep.yaml` gives the same sweep
                        state.json   who works on it; replaced atomically
                        log.txt      what that process printed
                        commands/    a file that asks: stop

Which run is which trial stands in the run's own data.json, written at once with the run, and what is decided follows
from the runs' records alone. So whoever goes on with a sweep that was killed knows all that the one before it knew:
finished trials stay, the one that was broken off resumes from its checkpoint, the others are yet to come. Trials of the
same model and data share the reference's log-probabilities, and its answers to what a judge is asked, which the
workspace keeps.

Trials that look hopeless may be ended early by successive halving (Jamieson and Talwalkar 2016): all are trained for a
part of their steps, the best of them go on for `halving` times as many, and so on; the rest end there. Resuming is
exact, so a trial that waited is the same as one that did not.

Optuna was looked at for this: a grid needs no sampler, its halving decides while a trial runs (which makes the outcome
depend on the order) and it would bring SQLAlchemy and Alembic for a second truth beside the directories.

    sweep = create_sweep(make_plan(config, {"beta": "0.03,0.1,0.3"}))
    start(sweep)                       # a process of its own; `python -m kto_workbench.runs.sweeping DIRECTORY`
    find_best(sweep, rows(sweep))      # of trials.py: while it runs, and after
"""

import functools
import itertools
import json
import math
import os
import re
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from pydantic import TypeAdapter
from typing_extensions import TypedDict

from kto_workbench import files
from kto_workbench.config import MOST_BYTES, KTOConfig, options, unknown_option
from kto_workbench.errors import ConfigError, DataError, RunError
from kto_workbench.feedback import Feedback, load_feedback
from kto_workbench.feedback.held_out import hold_out, prompt_numbers
from kto_workbench.feedback.pairs import find_pairs
from kto_workbench.objectives import OBJECTIVES
from kto_workbench.runs import schemas
from kto_workbench.runs.children import identity, is_alive, reap, start_apart
from kto_workbench.runs.directory import Run, list_runs
from kto_workbench.runs.jsonlines import without_nan, write_atomically
from kto_workbench.runs.launch import alone, anchored, check_startable
from kto_workbench.runs.launch import stop as stop_run

MOST_TRIALS = 100
SWEEP_ID = re.compile(r"sweep-\d{8}-\d{6}-[0-9a-f]{4}")
GRACE_SECONDS = 30.0
ACTIVE = ("starting", "running", "stopping")
# By what trials are compared: the record's name, that of its standard error, and whether more is better.
MEASURES = {
    "ranking": ("eval_ranking", "eval_ranking_error", True),
    "judge": ("judged_win_rate", "judged_error", True),
    "eval_loss": ("eval_loss", "eval_loss_error", False),
}
# A loss is on a scale of its own for each value of these.
SCALES_LOSS = ("objective", "beta", "desirable_weight", "undesirable_weight", "z0", "reference", "sft_weight")
# What all trials must share, or their outcomes could not be compared, and what a sweep itself says.
SHARED = (
    "data", "mapping", "workspace", "eval_fraction", "judge", "judge_steps", "judge_prompts", "judge_criteria",
    "judge_max_tokens", "early_stop", "keep_best", "sample_prompts", "template_kwargs",
)  # fmt: skip


@dataclass(frozen=True)
class Trial:
    """One run of a sweep: its number from 1 on, the options of the grid, and its config."""

    number: int
    values: dict[str, Any]
    config: KTOConfig

    @property
    def point(self) -> tuple[tuple[str, Any], ...]:
        """Its options but for the seed: trials of one point differ in nothing else."""
        return tuple((name, value) for name, value in self.values.items() if name != "seed")


@dataclass(frozen=True)
class Plan:
    """All that a sweep is: the config that its trials share, the grid, how they are compared and when they are ended.

    `halving`: 0 trains every trial to its end; 3 lets the best third go on, each time for three times as many steps.
    """

    config: KTOConfig
    grid: dict[str, tuple[Any, ...]]
    by: str = "ranking"
    halving: int = 0

    def trials(self) -> list[Trial]:
        """Every trial, the last option of the grid changing fastest."""
        return self._trials

    @functools.cached_property
    def _trials(self) -> list[Trial]:
        points = (dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values()))
        return [Trial(n, values, self.config.replace(**values)) for n, values in enumerate(points, 1)]

    def rungs(self) -> list[float]:
        """The parts of a training behind which the best go on: with 9 points and halving 3, 1/9 and 1/3."""
        points = len({trial.point for trial in self.trials()})
        if self.halving < 2:
            return []
        count = int(math.log(points, self.halving) + 1e-9)
        return [self.halving**-n for n in range(count, 0, -1)]

    def to_yaml(self) -> str:
        """The plan as `read_plan` reads it."""
        grid = {name: list(values) for name, values in self.grid.items()}
        plan = {"grid": grid, "by": self.by, "halving": self.halving, "config": self.config.model_dump(mode="json")}
        return yaml.safe_dump(plan, sort_keys=False, allow_unicode=True)


def make_plan(
    config: KTOConfig, grid: Mapping[str, str | Sequence[Any]], by: str | None = None, halving: int = 0
) -> Plan:
    """A plan, checked; values of the grid may be texts with commas between, as the shell has them.

    Args:
        config: what all trials share.
        grid: values by option.
        by: `ranking`, `judge` or `eval_loss`; None: the judge if the config names one, else the ranking.
        halving: see Plan.

    Raises:
        ConfigError: an option can't be swept, a value can't be had, or the trials could not be compared.
    """
    by = by or ("judge" if config.judge else "ranking")
    if by not in MEASURES:
        raise ConfigError(f"Trials are compared by {', '.join(MEASURES)}; not by {by!r}.")
    if halving != 0 and not 2 <= halving <= 10:
        raise ConfigError(f"Option `halving` should be 0, or between 2 and 10, not {halving}.")
    grid = {name.replace("-", "_"): values for name, values in grid.items()}
    read = {name: _values_of(config, name, values) for name, values in grid.items()}
    count = math.prod(map(len, read.values())) if read else 0
    if count < 2:
        raise ConfigError("A sweep needs at least two trials: give an option several values, as in beta=0.03,0.1,0.3.")
    if count > MOST_TRIALS:
        raise ConfigError(f"That would be {count} trials; a sweep takes at most {MOST_TRIALS}.")
    plan = Plan(config, read, by, halving)
    trials = plan.trials()  # each combination is checked
    if by == "judge" and not config.judge:
        raise ConfigError("To compare trials by a judge, name one with option `judge`.")
    if not config.eval_fraction:
        raise ConfigError("Trials are compared on held-out rows: option `eval_fraction` must be above 0.")
    objectives = {trial.config.objective for trial in trials}
    without = next((name for name in objectives if not OBJECTIVES[name].reference), None)
    if by == "ranking" and without:
        raise ConfigError(f"Objective `{without}` gives no rewards to rank rows by; compare by a judge.")
    if by == "ranking" and len({OBJECTIVES[name].paired for name in objectives}) > 1:
        raise ConfigError("Objectives on pairs and on single answers hold out other rows; compare by a judge.")
    scales = [name for name in SCALES_LOSS if name in read]
    if by == "eval_loss" and scales:
        raise ConfigError(
            f"Losses of different `{scales[0]}` are not comparable: each has a scale of its own. Compare by `ranking`, "
            "which asks how often a thumb up gets the higher reward, or by a judge."
        )
    return plan


def _values_of(config: KTOConfig, name: str, values: str | Sequence[Any]) -> tuple[Any, ...]:
    """The values of one option, as the config reads them, each once."""
    if name not in options():
        raise ConfigError(unknown_option(name))
    if name in SHARED:
        raise ConfigError(f"Option `{name}` is shared by all trials of a sweep, so it can't be in its grid.")
    given = [one.strip() for one in values.split(",")] if isinstance(values, str) else list(values)
    given = [one for one in given if one != ""]
    return tuple(dict.fromkeys(getattr(config.replace(**{name: one}), name) for one in given))


def read_plan(path: Path) -> Plan:
    """The plan in a sweep.yaml. Raises ConfigError."""
    text, problem = files.read_text(path, at_most=MOST_BYTES)
    if problem:
        raise ConfigError(f"Can't read the sweep {path}: it {problem}.")
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError):
        found = None
    if not _is_plan(found):
        raise ConfigError(f"There is no sweep in the file {path}: it has no `grid` and `config`.")
    try:
        halving = int(found.get("halving") or 0)
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"Option `halving` should be 0, or between 2 and 10, not {found['halving']!r}.") from None
    by = found.get("by")
    return make_plan(KTOConfig(**found["config"]), found["grid"], None if by is None else str(by), halving)


def is_plan(path: str | Path) -> bool:
    """Whether a YAML file is that of a sweep, and not a config."""
    text, problem = files.read_text(Path(path), at_most=MOST_BYTES, links=True)
    try:
        return not problem and _is_plan(yaml.safe_load(text))
    except (yaml.YAMLError, RecursionError):
        return False


def _is_plan(found: Any) -> bool:
    if not isinstance(found, dict) or not isinstance(found.get("config"), dict):
        return False
    grid = found.get("grid")
    named = all(isinstance(name, str) for part in (found["config"], grid or {}) for name in part)
    return isinstance(grid, dict) and named and all(isinstance(values, list | str) for values in grid.values())


class _State(TypedDict, total=False):
    """state.json."""

    state: Literal["starting", "running", "stopping", "finished", "stopped", "failed"]
    created: schemas.Time
    ended: schemas.Time | None
    pid: schemas.Pid | None
    process_started: schemas.Time
    process_mark: str
    error: str


_STATE = TypeAdapter(_State)


class Sweep:
    """One sweep's directory."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not files.is_there(self.path / "sweep.yaml"):
            raise RunError(f"There is no sweep in {self.path}; `kto sweep` lists those that exist.")

    @property
    def id(self) -> str:
        """The directory's name."""
        return self.path.name

    @property
    def workspace(self) -> Path:
        """The workspace that it is in."""
        return self.path.parent.parent

    @property
    def log_path(self) -> Path:
        """What its process printed."""
        return self.path / "log.txt"

    def plan(self) -> Plan:
        """What it is, in the workspace that it lies in. Raises ConfigError."""
        plan = read_plan(self.path / "sweep.yaml")
        return replace(plan, config=plan.config.replace(workspace=str(self.workspace.resolve())))

    def state(self) -> dict[str, Any]:
        """`state` (starting, running, stopping, finished, stopped, failed, and, when read, crashed), `error`, `pid`."""
        found, problem = files.read_json(self.path / "state.json", _STATE)
        if found is None:
            return {"state": "crashed", "error": f"Its state.json {problem}."}
        if found.get("state") in ACTIVE and not self._alive(found):
            found |= {"state": "crashed", "error": "Its process is gone; it goes on where it was."}
        return dict(found)

    @property
    def active(self) -> bool:
        """Whether a living process works on it."""
        return self.state()["state"] in ACTIVE

    def _alive(self, found: Mapping[str, Any]) -> bool:
        if not found.get("pid"):
            return time.time() - found.get("created", 0.0) < GRACE_SECONDS
        return is_alive(found["pid"], found.get("process_started"), found.get("process_mark", ""))

    def set_state(self, **changes: Any) -> None:
        """Replace some fields of state.json. Raises RunError if they can't be written."""
        before = files.read_json(self.path / "state.json", _STATE)[0] or {}
        try:
            write_atomically(self.path / "state.json", json.dumps(without_nan({**before, **changes}), indent=1) + "\n")
        except OSError as error:
            raise RunError(f"Can't write to {self.path}: {error.strerror}.") from None

    def claim(self) -> None:
        """Write this process down as the one that works on it. Raises RunError if another one does."""
        found = self.state()
        if found["state"] in ACTIVE and found.get("pid") not in (None, os.getpid()):
            raise RunError(f"Sweep {self.id} is {found['state']} already, in process {found['pid']}.")
        self.set_state(**identity(os.getpid()), state="running", error="", ended=None)

    def leave_stop(self) -> None:
        """Ask its process to stop."""
        folder = self.path / "commands"
        folder.mkdir(exist_ok=True)
        files.open_to_append(folder / "stop").close()

    def was_asked_to_stop(self, *, forget: bool = False) -> bool:
        """Whether somebody has asked; `forget` takes it away."""
        path = self.path / "commands" / "stop"
        asked = files.is_there(path)
        if asked and forget:
            path.unlink(missing_ok=True)
        return asked

    def runs(self) -> dict[int, Run]:
        """Its runs by the number of their trial; those that are not there are yet to come."""
        found = {}
        for run in list_runs(self.workspace):
            data = run.data()
            if data.get("sweep") == self.id and data.get("trial"):
                found[data["trial"]] = run  # the oldest, of two
        return found


def sweeps_folder(workspace: str | Path) -> Path:
    """Where a workspace keeps its sweeps."""
    return Path(workspace) / "sweeps"


def create_sweep(plan: Plan) -> Sweep:
    """Check the feedback, and write a new sweep's directory. Nothing is started.

    Raises DataError or ModelError if no trial could be trained, RunError if the directory can't be written.
    """
    config = anchored(plan.config)
    plan = replace(plan, config=config)
    feedback = load_feedback(config.data, workspace=config.workspace, mapping=config.mapping)
    for trial in plan.trials():
        check_startable(trial.config, feedback)
    _require_measure(plan, feedback)
    folder = sweeps_folder(config.workspace)
    path = folder / f"sweep-{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"
    try:
        path.mkdir(parents=True)
        state = {"state": "stopped", "created": time.time()}
        write_atomically(path / "state.json", json.dumps(state, indent=1) + "\n")
        write_atomically(path / "sweep.yaml", plan.to_yaml())
    except OSError as error:
        raise RunError(f"Can't make a sweep in {folder}: {error.strerror}.") from None
    return Sweep(path)


def _require_measure(plan: Plan, feedback: Feedback) -> None:
    """Raise DataError where a trial would hold out nothing that it could be compared on."""
    rows, config = feedback.rows, plan.config
    prompts, up = prompt_numbers(rows), rows.table.column("label").to_numpy().astype(bool)
    paired = OBJECTIVES[plan.trials()[0].config.objective].paired
    needed = "rows" if plan.by != "ranking" else "pairs" if paired else "thumbs of both kinds"
    for seed in dict.fromkeys(trial.config.seed for trial in plan.trials()):
        _, held = hold_out(prompts, config.eval_fraction, seed)
        if needed == "pairs":
            enough = np.isin(find_pairs(rows, seed, prompts), held).all(axis=1).any()
        else:
            enough = len(held) if needed == "rows" else len(np.unique(up[held])) == 2
        if not enough:
            raise DataError(
                f"Trials are compared on what is held out of {config.data}, and with seed {seed} that has no {needed}: "
                "raise `eval_fraction`."
            )


def list_sweeps(workspace: str | Path = "workspace") -> list[Sweep]:
    """Every sweep of a workspace, the newest first."""
    found = [path for path in files.listed(sweeps_folder(workspace)) if SWEEP_ID.fullmatch(path.name)]
    return [Sweep(path) for path in sorted(found, reverse=True) if files.is_there(path / "sweep.yaml")]


def find_sweep(name: str, workspace: str | Path = "workspace") -> Sweep | None:
    """A sweep by its directory, its id or a part of it that no other has; None where the name is none of a sweep's."""
    if name and files.is_there(Path(name) / "sweep.yaml"):
        return Sweep(name)
    known = list_sweeps(workspace)
    matches = [one for one in known if name == one.id]
    matches = matches or [one for one in known if name.startswith("sweep-") and name in one.id]
    if len(matches) > 1:
        raise RunError(f"{len(matches)} sweeps go by {name!r}: {', '.join(one.id for one in matches[:4])}.")
    if not matches and name.startswith("sweep-"):
        raise RunError(f"There is no sweep {name!r} in {sweeps_folder(workspace)}; `kto sweep` lists those that exist.")
    return matches[0] if matches else None


def start(sweep: Sweep) -> int:
    """Start working on a sweep, or go on with it, in a process of its own; returns its PID at once."""
    with alone(sweep.path, f"Sweep {sweep.id}"):
        return _start(sweep)


def _start(sweep: Sweep) -> int:
    if sweep.active:
        raise RunError(f"Sweep {sweep.id} is {sweep.state()['state']} already.")
    sweep.was_asked_to_stop(forget=True)
    sweep.set_state(state="starting", created=time.time(), pid=None, error="", ended=None)
    try:
        with files.open_to_append(sweep.log_path) as log:
            child = start_apart("kto_workbench.runs.sweeping", [sweep.path.resolve()], log)
    except OSError as error:
        sweep.set_state(state="stopped")
        raise RunError(f"Can't start sweep {sweep.id} in {sweep.path}: {error.strerror}.") from None
    sweep.set_state(**identity(child.pid))
    return child.pid


def stop(sweep: Sweep) -> None:
    """Ask a sweep to stop: the trial at work saves its adapter first.

    Where its own process is gone, the trial that it has left at work is asked. Raises RunError if nothing is at work.
    """
    if sweep.active:
        sweep.leave_stop()
        return
    at_work = [run for run in sweep.runs().values() if run.status().active]
    if not at_work:
        raise RunError(f"Sweep {sweep.id} is {sweep.state()['state']}, so it can't be asked to stop.")
    for run in at_work:
        stop_run(run)


def follow(sweep: Sweep, every: float = 0.3) -> Iterator[dict[str, Any]]:
    """Yield a sweep's state until it has ended; the last one says how."""
    while True:
        reap()
        state = sweep.state()
        yield state
        if state["state"] not in ACTIVE:
            return
        time.sleep(every)
