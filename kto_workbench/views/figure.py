"""The curves of a run as one matplotlib figure, for notebooks and reports.

from kto_workbench import Run, plot
plot(Run("workspace/runs/20260101-120000-ab12")).savefig("curves.png")
"""

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from kto_workbench.objectives import OBJECTIVES
from kto_workbench.runs import Run
from kto_workbench.runs.shelf import title_of
from kto_workbench.views.curves import CHARTS, DOWN, FAINT, PLAIN, UP, Points, points, smooth
from kto_workbench.views.records import Columns, records_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {
    "chosen": "thumbs up (chosen)",
    "rejected": "thumbs down (rejected)",
    "margin": "margin",
    "beta_z0": "β·z0",
    "delta": "δ, the mean reward",
    "z0": "z0",
    "z0_raw": "z0 before clamping at 0",
    "kl_sampled": "KL, of its own answers",
    "loss": "loss",
    "win_rate": "win rate by the judge",
}
# The look of all figures, in notebooks and reports: what matters is the ink, also in print. Colours: curves.py.
STYLE = {
    "figure.dpi": 100,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#8884",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
}
# Of z0 and the KL.
WHY_THEY_DIFFER = (
    "z0 looks at answers that other rows happen to bring, and never below 0; the KL is measured on what the tuned "
    "model itself would say, so it sees how far the model has really gone."
)


def plot(run: Run | Sequence[Run], smoothing: float = 0.6) -> "Figure":
    """Draw rewards with β·z0, the margin, z0 and the loss of a run; several runs are laid over each other.

    Lines are smoothed, the faint ones behind them are not, and dots are the held-out rows.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    runs = [run] if isinstance(run, Run) else list(run)
    with rc_context(STYLE):
        figure = Figure(figsize=(10, 6.4))
        axes = figure.subplots(2, 2)
    objectives = [one.config().objective for one in runs]
    for axis, chart in zip(axes.flat, ("rewards", "margin", "z0", "loss"), strict=True):
        _decorate(axis, chart, title_of_chart(chart, *objectives))
    for index, one in enumerate(runs):
        _draw(axes, one, index if len(runs) > 1 else None, smoothing)
    for axis in axes.flat:
        handles, _ = axis.get_legend_handles_labels()
        if handles:
            # Where no corner is free, lines show through.
            axis.legend(fontsize=8, frameon=True, facecolor="white", edgecolor="none", framealpha=0.75)
        else:
            rewards = any(OBJECTIVES[name].reference for name in objectives)
            said = "nothing logged yet" if rewards or axis not in axes[0] else "sft counts no rewards"
            axis.text(0.5, 0.5, said, transform=axis.transAxes, ha="center", color=PLAIN)
    figure.suptitle(_title(runs), fontsize=11, x=0.01, ha="left")
    # A notebook shows the picture even where nobody has imported pyplot.
    figure._repr_png_ = lambda: _png(figure)
    return figure


def _png(figure: "Figure") -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()


TITLES = {
    "rewards": "Rewards, with β·z0 between them",
    "margin": "Margin: chosen − rejected",
    "z0": "Reference point z0, and the KL (nats, without β)",
    "loss": "Loss",
    "judged": "Win rate against the reference, by the judge",
}
# Where the objective has no z0.
TITLES_WITHOUT_Z0 = {"rewards": "Rewards", "z0": "KL (nats)"}
SEVERAL = (UP, DOWN, "#8b6bd8", "#3c78c8", "#b0479a", "#6b8e23")


def title_of_chart(chart: str, *objectives: str) -> str:
    """What a chart of runs with these objectives shows."""
    z0 = any(OBJECTIVES[name].centre == "z0" for name in objectives)
    return TITLES[chart] if z0 else (TITLES | TITLES_WITHOUT_Z0)[chart]


def _decorate(axis: "Axes", chart: str, title: str) -> None:
    axis.set_title(title, fontsize=10)
    axis.set_xlabel("step", fontsize=9)
    axis.tick_params(labelsize=8)
    if chart != "loss":
        axis.axhline(0, color=PLAIN, linewidth=0.8)


def _draw(axes: np.ndarray, run: Run, position: int | None, smoothing: float) -> None:
    records, beta = records_of(run), run.config().beta
    several = position is not None
    rewards, margin, z0, loss = axes.flat
    places = [*((margin if curve.name == "margin" else rewards, curve) for curve in CHARTS["rewards"])]
    places += [*((z0, curve) for curve in reversed(CHARTS["z0"][:2])), (loss, CHARTS["loss"][0])]
    for axis, curve in places:
        if several and curve.name in ("beta_z0", "delta", "z0_raw"):
            continue  # three runs of four lines each would be a thicket
        # One colour a run: its rejected rewards are the dashed ones.
        dashed = several and curve.name == "rejected"
        color = SEVERAL[position % len(SEVERAL)] if position is not None else curve.color
        name = (f"{title_of(run)} rejected" if dashed else title_of(run)) if several else NAMES[curve.name]
        _line(axis, points(records.train, curve, beta), color, "--" if dashed else "-", name, smoothing)
        held_out = points(records.eval, curve, beta)
        if len(held_out[0]) and curve.color != FAINT:
            axis.plot(*held_out, "o", color=color, markersize=3.5, markerfacecolor="none")
    _sampled(z0, records.sampled, SEVERAL[position % len(SEVERAL)] if position is not None else None)
    if not several and len(records.eval):
        for axis in (rewards, margin, loss):
            axis.plot([], [], "o", color=PLAIN, markersize=3.5, markerfacecolor="none", label="held-out rows")


def _sampled(axis: "Axes", sampled: Columns, color: str | None) -> None:
    """The KL with twice its standard error on both sides; `color` is that of one run among several, then dotted."""
    curve = CHARTS["z0"][2]
    known = np.isfinite(sampled["kl_sampled"])
    if not known.any():
        return
    axis.errorbar(
        sampled["step"][known],
        sampled["kl_sampled"][known],
        yerr=2 * np.nan_to_num(sampled["kl_sampled_error"][known]),
        fmt=":o" if color else "-o",
        color=color or curve.color,
        markersize=3,
        linewidth=1.2,
        capsize=2,
        label=None if color else f"{NAMES[curve.name]} ± 2 standard errors",
    )


def in_words_kl(sampled: Columns, objective: str = "kto") -> str:
    """The newest KL with its standard error, and why it is not z0, if any; nothing where none was measured."""
    kl, error, count = (sampled.last(f"kl_sampled{end}") for end in ("", "_error", "_count"))
    if kl is None:
        return ""
    around = "" if error is None else f" ± {error:.2g}"
    said = f"KL {kl:.3g}{around} nats, over {count:.0f} answers sampled at temperature 1."
    return f"{said} {WHY_THEY_DIFFER}" if OBJECTIVES[objective].centre == "z0" else said


def in_words_judged(run: Run) -> str:
    """What the judge said last and at its best, with the standard error; nothing where none judged."""
    sampled = records_of(run).sampled
    known = np.flatnonzero(np.isfinite(sampled["judged_win_rate"]))
    if not len(known):
        return ""

    def at(record: int) -> str:
        rate, error = sampled["judged_win_rate"][record], sampled["judged_error"][record]
        around = f" ± {error:.2g}" if np.isfinite(error) else ""
        return f"{rate:.3g}{around} at step {sampled['step'][record]:.0f}"

    best = known[sampled["judged_win_rate"][known].argmax()]
    told = f"Judge {run.config().judge}, over {sampled['judged_count'][known[-1]]:.0f} held-out prompts: win rate "
    told += at(known[-1]) + (f", the highest {at(best)}" if best != known[-1] else "")
    kept = run.status().best_step
    return told + (f"; the model is that of step {kept}." if kept is not None else ".")


def _line(axis: "Axes", drawn: Points, color: str, style: str, name: str, smoothing: float) -> None:
    steps, values = drawn
    if not len(steps):
        return
    axis.plot(steps, values, color=color, alpha=0.22, linewidth=0.8)
    marker = "o" if len(steps) == 1 else None
    axis.plot(steps, smooth(values, smoothing), style, color=color, linewidth=1.6, label=name, marker=marker)


def _title(runs: Sequence[Run]) -> str:
    if len(runs) != 1:
        return f"{len(runs)} runs"
    config = runs[0].config()
    parts = [title_of(runs[0]), f"model {_end_of(config.model)}", f"data {_end_of(config.data)}"]
    if config.objective != "kto":
        parts.append(config.objective)
    used = OBJECTIVES[config.objective].options
    if "beta" in used:
        parts.append(f"β {config.beta:g}")
    if "desirable_weight" in used:
        parts += [f"λ_D {config.desirable_weight or 1:.3g}", f"λ_U {config.undesirable_weight or 1:.3g}"]
    return "   ".join([*parts, f"learning rate {config.learning_rate:g}"])


def _end_of(path: str) -> str:
    return path.rstrip("/").rsplit("/", 1)[-1]
