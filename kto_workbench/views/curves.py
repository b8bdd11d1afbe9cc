"""Which curves a training has, smoothed, and thinned out so that no peak is lost.

Rewards contain β and z0 does not, so a picture that lays z0 over rewards draws β·z0.
"""

import math
from dataclasses import dataclass

import numpy as np

from kto_workbench.objectives import METRICS, OBJECTIVES
from kto_workbench.views.records import Columns


@dataclass(frozen=True)
class Curve:
    """One line of a chart: what it is called and which column it draws, times β if `scaled`."""

    name: str
    column: str
    color: str
    scaled: bool = False


# Colours that people with red-green blindness can tell apart, readable on white and on near-black.
UP, DOWN, REFERENCE, PLAIN, FAINT = "#0d8f83", "#d9730d", "#8b6bd8", "#7b8794", "#a8b0ba"
SAMPLED = "#3c78c8"
# Measured a few times in a run, on the model's own answers: in Records.sampled.
OF_ANSWERS = ("kl_sampled", "judged_win_rate")
# Of held-out rows, drawn over those of training; the page dashes what has this colour.
HELD_OUT = "#c2477f"

CHARTS: dict[str, tuple[Curve, ...]] = {
    "rewards": (
        Curve("chosen", "rewards/chosen", UP),
        Curve("rejected", "rewards/rejected", DOWN),
        Curve("margin", "rewards/margins", PLAIN),
        Curve("beta_z0", "kl", REFERENCE, scaled=True),
        Curve("delta", "delta", REFERENCE),
    ),
    "z0": (
        Curve("z0", "kl", REFERENCE),
        Curve("z0_raw", "kl_raw", FAINT),
        Curve("kl_sampled", "kl_sampled", SAMPLED),
    ),
    "loss": (Curve("loss", "loss", PLAIN),),
    "accuracies": (Curve("accuracies", "rewards/accuracies", PLAIN),),
    "judged": (Curve("win_rate", "judged_win_rate", SAMPLED),),
    "logps": (Curve("chosen", "logps/chosen", UP), Curve("rejected", "logps/rejected", DOWN)),
    "learning_rate": (Curve("learning_rate", "learning_rate", PLAIN),),
    "grad_norm": (Curve("grad_norm", "grad_norm", PLAIN),),
    "tokens_per_second": (Curve("tokens_per_second", "tokens_per_second", PLAIN),),
    "memory": (Curve("memory", "memory_gigabytes", PLAIN),),
}


def curves_of(chart: str, objective: str) -> tuple[Curve, ...]:
    """The curves of a chart that mean something in a training with this objective."""
    missing = set(METRICS) - set(OBJECTIVES[objective].metrics)
    return tuple(curve for curve in CHARTS[chart] if curve.column not in missing)


# By chart: the curve that held-out rows are laid over; a chart with all of them twice could not be read.
LAID_OVER = {"rewards": "margin", "loss": "loss"}

Points = tuple[np.ndarray, np.ndarray]


def points(columns: Columns, curve: Curve, beta: float = 1.0) -> Points:
    """The (steps, values) of a curve, without those steps that have no value: a batch may hold one class only."""
    if curve.column == "memory_gigabytes":
        values = columns["memory_bytes"] / 2**30
    else:
        values = columns[curve.column] * (beta if curve.scaled else 1.0)
    steps = columns["step"]
    known = np.isfinite(values) & np.isfinite(steps)
    return steps[known], values[known]


DIGITS = 100  # by which numbers within a stretch may differ


def smooth(values: np.ndarray, weight: float) -> np.ndarray:
    """Exponential moving average: 0 leaves the values, towards 1 they follow slower; unbiased from the first value on.

    out_i = Σ_j≤i weight^(i−j) v_j / Σ_j≤i weight^(i−j), so with weight ½ the values 0, 3 become 0, (0 + 2·3)/3 = 2.
    """
    if not 0 < weight < 1 or len(values) < 2:
        return values
    # Within a stretch, out_i = weight^i (out before it + Σ v_j / weight^j), all at once; across all values the powers
    # would leave what a float can hold.
    stretch = max(1, int(-DIGITS / math.log10(weight)))
    powers = weight ** np.arange(1, stretch + 1)
    totals, before = np.empty(len(values)), 0.0
    for start in range(0, len(values), stretch):
        part = values[start : start + stretch]
        power = powers[: len(part)]
        totals[start : start + stretch] = power * (before + np.cumsum(part / power))
        before = totals[start + len(part) - 1]
    totals *= 1 - weight
    totals[:stretch] /= 1 - powers[: len(values)]  # later on, a weight to this power is nothing
    return totals


def downsample(steps: np.ndarray, values: np.ndarray, limit: int) -> Points:
    """At most `limit` of the points: of each stretch its lowest and its highest, and always the first and the last."""
    count = len(steps)
    if count <= max(limit, 4):
        return steps, values
    stretches = (limit - 2) // 2
    edges = np.linspace(1, count - 1, stretches + 1).astype(int)
    kept = {0, count - 1}
    for start, end in zip(edges[:-1], edges[1:], strict=True):
        if start < end:
            stretch = values[start:end]
            kept.update((start + int(stretch.argmin()), start + int(stretch.argmax())))
    index = np.array(sorted(kept))
    return steps[index], values[index]


def chart_points(
    columns: Columns,
    chart: str,
    *,
    beta: float = 1.0,
    smoothing: float = 0.0,
    limit: int = 600,
    sampled: Columns | None = None,
) -> dict[str, Points]:
    """The points of every curve of a chart by the curve's name, at most `limit` for the whole chart.

    `sampled` holds what is measured a few times in a run, so that nothing of it is smoothed.
    """
    curves = CHARTS[chart]
    result = {}
    for curve in curves:
        if curve.column in OF_ANSWERS:
            result[curve.name] = points(Columns() if sampled is None else sampled, curve)
            continue
        steps, values = points(columns, curve, beta)
        result[curve.name] = downsample(steps, smooth(values, smoothing), limit // len(curves))
    return result
