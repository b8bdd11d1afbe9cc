"""What came of a sweep's trials: rows of one table, who goes on, who is best and how sure that is.

All of it follows from the records of the runs. A trial's outcome is its held-out ranking, its judge's win rate or its
held-out loss, with a standard error over rows or prompts; where the grid has several seeds, the outcome of a point is
the mean over them, and its error that of the mean. Intervals are of 95 %. That two of them overlap does not mean that
the two points are the same, and where all were measured on the same rows it is rather too careful.
"""

import functools
import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kto_workbench.runs import jsonlines, schemas
from kto_workbench.runs.directory import Run
from kto_workbench.runs.sweeps import MEASURES, MOST_TRIALS, Plan, Sweep, Trial

Point = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class Outcome:
    """What a trial had come to at a step: the value that trials are compared by, and its standard error if known."""

    step: int
    value: float
    error: float | None


def outcome_at(run: Run, plan: Plan, part: float) -> Outcome | None:
    """A trial's outcome at its first evaluation behind a part of its steps; None before that.

    One that its judge has ended earlier has come as far as it will.
    """
    status, found = run.status(), _outcomes(run, plan)
    reached = [one for one in found if status.total_steps and one.step >= part * status.total_steps - 1e-9]
    return (reached or (found[-1:] if status.state == "finished" else []) or [None])[0]


def outcome_of(run: Run, plan: Plan) -> Outcome | None:
    """A trial's outcome as far as it has come: of the step that its model is of."""
    found = _outcomes(run, plan)
    best = run.status().best_step
    kept = [one for one in found if one.step == best]
    return (kept or found)[-1] if found else None


def _outcomes(run: Run, plan: Plan) -> list[Outcome]:
    name, error, _ = MEASURES[plan.by]
    return [Outcome(r["step"], r[name], r.get(error)) for r in _measured(run) if r.get(name) is not None]


def _measured(run: Run) -> Sequence[dict[str, Any]]:
    """Those of a run's records that compare trials."""
    path = run.path / "metrics.jsonl"
    try:
        stat = path.lstat()
    except OSError:
        return []
    return _read_measured(path, stat.st_mtime_ns, stat.st_size)


@functools.lru_cache(maxsize=4 * MOST_TRIALS)
def _read_measured(path: Path, changed: int, size: int) -> Sequence[dict[str, Any]]:
    """A table of many trials is looked at every second or two: what has not changed is not read again."""
    wanted = {name for name, _, _ in MEASURES.values()}
    return [record for record in jsonlines.read(path, 0, schemas.take_metrics)[0] if wanted & record.keys()]


def points_of(trials: Sequence[Trial]) -> dict[Point, list[Trial]]:
    """Trials by their point, in order."""
    points: dict[Point, list[Trial]] = {}
    for trial in trials:
        points.setdefault(trial.point, []).append(trial)
    return points


def left_behind(plan: Plan, runs: Mapping[int, Run], given_up: Collection[int] = ()) -> dict[Point, float]:
    """The points that go no further, each with the part of its steps behind which that was decided.

    A rung is decided when all trials that are still in have an outcome there, have failed, or are given up.
    """
    out: dict[Point, float] = {}
    before: dict[int, int] = {}
    for part in plan.rungs():
        still = {point: trials for point, trials in points_of(plan.trials()).items() if point not in out}
        numbers = [trial.number for trials in still.values() for trial in trials]
        found = {number: outcome_at(runs[number], plan, part) for number in numbers if number in runs}
        lost = {number for number in found if number in given_up or runs[number].status().state == "failed"}
        if any(found.get(number) is None and number not in lost for number in numbers):
            return out
        steps = {number: one.step for number, one in found.items() if one is not None}
        if steps and all(before.get(number) == step for number, step in steps.items()):
            continue  # no evaluation lies between the two rungs
        before = steps
        ranked = sorted(still, key=lambda point: -_merit(plan, [found.get(t.number) for t in still[point]]))
        out |= dict.fromkeys(ranked[math.ceil(len(ranked) / plan.halving) :], part)
    return out


def _merit(plan: Plan, outcomes: Sequence[Outcome | None]) -> float:
    """How good a point is, the higher the better; a point that failed is the worst."""
    values = [one.value for one in outcomes if one is not None]
    if not values:
        return -math.inf
    return statistics.fmean(values) * (1 if MEASURES[plan.by][2] else -1)


def rows(sweep: Sweep, plan: Plan | None = None) -> list[dict[str, Any]]:
    """A row for each trial, also those yet to come.

    `trial`, `values`, `run` and `name` (None before it is made), `state` (`planned` before that, `ended` where halving
    has ended it), `ended_at` (the part of its steps behind which it was), `step`, `total_steps`, `value`, `error` and
    `value_step`, `loss`, `margin`, `win_rate`, `reference` {reused, computed}, `message`.
    """
    plan = plan or sweep.plan()
    runs = sweep.runs()
    out = left_behind(plan, runs)
    found = []
    for trial in plan.trials():
        row: dict[str, Any] = {"trial": trial.number, "values": trial.values, "run": None, "name": None}
        row |= {"state": "planned", "ended_at": out.get(trial.point), "step": 0, "total_steps": 0, "message": ""}
        row |= dict.fromkeys(("value", "error", "value_step", "loss", "margin", "win_rate")) | {"reference": {}}
        run = runs.get(trial.number)
        if run is not None:
            status, last, outcome = run.status(), run.last_metrics(), outcome_of(run, plan)
            ended = status.state == "stopped" and trial.point in out
            row |= {
                "run": run.id,
                "name": run.about()["name"],
                "state": "ended" if ended else status.state,
                "step": status.step,
                "total_steps": status.total_steps,
                "loss": last.get("loss"),
                "margin": last.get("rewards/margins"),
                "reference": run.reference(),
                "message": status.error or status.message,
            }
            judged = [one for one in _measured(run) if one.get("judged_win_rate") is not None]
            row["win_rate"] = judged[-1]["judged_win_rate"] if judged else None
            if outcome is not None:
                row |= {"value": outcome.value, "error": outcome.error, "value_step": outcome.step}
        found.append(row)
    return found


def left_over(found: Sequence[Mapping[str, Any]]) -> list[int]:
    """The trials that are neither trained to the end nor ended by the rule: failed, deleted, or yet to come."""
    return [row["trial"] for row in found if row["state"] not in ("finished", "ended")]


@dataclass(frozen=True)
class Standing:
    """A point of the grid with what came of it.

    `value` with its interval from `low` to `high`, infinite where nothing is known of it; `error` is the standard error
    `over` rows, prompts or seeds; `n` trials.
    """

    values: dict[str, Any]
    trials: list[int]
    value: float
    error: float | None
    low: float
    high: float
    over: str

    def overlaps(self, other: "Standing") -> bool:
        """Whether the two intervals have something in common."""
        return self.low <= other.high and other.low <= self.high


def standings(plan: Plan, found: Sequence[Mapping[str, Any]], *, finished: bool = True) -> list[Standing]:
    """The points of which every trial has finished, or has an outcome at all, the best first, from a sweep's rows."""
    by_number = {row["trial"]: row for row in found}
    better = MEASURES[plan.by][2]
    done = []
    for point, trials in points_of(plan.trials()).items():
        mine = [by_number[trial.number] for trial in trials]
        if any(row["value"] is None or (finished and row["state"] != "finished") for row in mine):
            continue
        values = [row["value"] for row in mine]
        if len(values) > 1:
            error, over = statistics.stdev(values) / len(values) ** 0.5, "seeds"
            reach = t_95(len(values) - 1) * error
        else:
            error, over = mine[0]["error"], "prompts" if plan.by == "judge" else "rows"
            reach = math.inf if error is None else t_95(math.inf) * error
        mean = statistics.fmean(values)
        numbers = [trial.number for trial in trials]
        done.append(Standing(dict(point), numbers, mean, error, mean - reach, mean + reach, over))
    return sorted(done, key=lambda one: -one.value if better else one.value)


def find_best(sweep: Sweep, found: Sequence[Mapping[str, Any]], plan: Plan | None = None) -> dict[str, Any] | None:
    """The best of the points that were trained to the end; None while there is none.

    Returns:
        `values`, `trials`, `value`, `error`, `over`, `interval` (None where nothing is known of it), `compared` (how
        many others were trained to the end) and `not_apart`, the `values` of those whose interval overlaps with it.
    """
    ranked = standings(plan or sweep.plan(), found)
    if not ranked:
        return None
    best = ranked[0]
    return {
        "values": best.values,
        "trials": best.trials,
        "value": best.value,
        "error": best.error,
        "over": best.over,
        "interval": [best.low, best.high] if math.isfinite(best.low) else None,
        "compared": len(ranked) - 1,
        "not_apart": [other.values for other in ranked[1:] if other.overlaps(best)],
    }


def t_95(freedom: float) -> float:
    """How many standard errors a 95 % interval reaches to each side, of a mean over `freedom` + 1 values.

    Student's t; from the fifth on its expansion around the normal quantile (Abramowitz and Stegun 26.7.5), which is off
    by less than 1 %.
    """
    if freedom <= 4:
        return (math.inf, 12.706, 4.303, 3.182, 2.776)[int(freedom)]
    z = statistics.NormalDist().inv_cdf(0.975)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
