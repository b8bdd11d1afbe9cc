"""Which curves a training has, smoothed, and thinned out so that no peak is lost.

Rewards contain β and z0 does not, so a picture that lays z0 over rewards draws β·z0.
"""

from dataclasses import dataclass

import numpy as np

from kto_workbench.objectives import METRICS, OBJECTIVES
from kto_workbench.views.records import Columns
from kto_workbench.views.thinning import Points, Smoother


@dataclass(frozen=True)
class Curve:
    """One line of a chart: what it is called and which column it draws, in which unit, times β if `scaled`."""

    name: str
    column: str
    color: str
    scaled: bool = False
    unit: float = 1.0

    def factor(self, beta: float) -> float:
        """What the column's numbers are multiplied by."""
        return (beta if self.scaled else 1.0) / self.unit


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
    "memory": (Curve("memory", "memory_bytes", PLAIN, unit=2.0**30),),
}


def curves_of(chart: str, objective: str) -> tuple[Curve, ...]:
    """The curves of a chart that mean something in a training with this objective."""
    missing = set(METRICS) - set(OBJECTIVES[objective].metrics)
    return tuple(curve for curve in CHARTS[chart] if curve.column not in missing)


# By chart: the curve that held-out rows are laid over; a chart with all of them twice could not be read.
LAID_OVER = {"rewards": "margin", "loss": "loss"}


def points(columns: Columns, curve: Curve, beta: float = 1.0) -> Points:
    """The (steps, values) of a curve, without those steps that have no value: a batch may hold one class only."""
    values = columns[curve.column] * curve.factor(beta)
    steps = columns["step"]
    known = np.isfinite(values) & np.isfinite(steps)
    return steps[known], values[known]


def smooth(values: np.ndarray, weight: float) -> np.ndarray:
    """A moving average; see Smoother."""
    return Smoother(weight).next(values)


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
        steps, values = columns.thinned(curve.column, smoothing, limit // len(curves))
        result[curve.name] = steps, values * curve.factor(beta)
    return result
