"""What notebooks begin with: one look for all figures, small tables, answers with coloured tokens, curves that move.

    from kto_workbench import KTOConfig, train
    from kto_workbench.notebook import begin, live

    workspace = begin()
    run = train(KTOConfig(model="demo", workspace=workspace), progress=False, on_record=live())

What shows something needs IPython, which a notebook brings along.
"""

import logging
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from kto_workbench.runs import Run
from kto_workbench.views.curves import DOWN, FAINT, HELD_OUT, PLAIN, REFERENCE, SAMPLED, UP, Curve, points, smooth
from kto_workbench.views.figure import STYLE, plot
from kto_workbench.views.records import records_of

if TYPE_CHECKING:
    from IPython.display import HTML
    from matplotlib.axes import Axes

__all__ = [
    "DOWN", "FAINT", "HELD_OUT", "PLAIN", "REFERENCE", "SAMPLED", "UP",
    "begin", "curve", "live", "table", "tokens", "zero_lines",
]  # fmt: skip

_folders: list[tempfile.TemporaryDirectory[str]] = []
# RGB of tokens that became likelier, and of those that became less likely.
_LIKELIER, _LESS_LIKELY = "13,148,136", "217,119,6"
SECONDS = 0.7  # between two drawings of a live figure


def begin() -> str:
    """Give figures this project's look, keep libraries quiet, and return a workspace that is gone with the notebook.

    Name a folder of your own as `workspace` to keep the runs.
    """
    import matplotlib.pyplot as plt

    # Nothing that matters in a notebook: announced renames, a missing widget, 4-bit kernels that a CPU lacks.
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message="IProgress not found")
    for name in ("bitsandbytes", "transformers.trainer_utils"):  # the latter of how it sorts checkpoints
        logging.getLogger(name).setLevel(logging.ERROR)
    plt.rcParams.update(STYLE)
    _folders.append(tempfile.TemporaryDirectory(prefix="kto-"))
    return _folders[-1].name


def zero_lines(*axes: "Axes") -> None:
    """Thin lines through 0, under the curves."""
    for ax in axes:
        ax.axhline(0, color=PLAIN, linewidth=0.8, zorder=1)
        ax.axvline(0, color=PLAIN, linewidth=0.8, zorder=1)


def curve(run: Run, name: str, *, smoothing: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """(steps, values) of a number in a run's records, such as `rewards/chosen`, without the steps that lack it.

    `smoothing`, from 0 to below 1, is how much each value takes over from those before it.
    """
    steps, values = points(records_of(run).train, Curve(name, name, PLAIN))
    return steps, smooth(values, smoothing)


def table(head: Sequence[Any], rows: Iterable[Sequence[Any]]) -> "HTML":
    """A small table; texts are escaped, since answers and prompts may hold anything."""
    from IPython.display import HTML

    cell = lambda tag, text: f'<{tag} style="text-align:left;vertical-align:top">{escape(str(text))}</{tag}>'
    line = lambda tag, texts: "<tr>" + "".join(cell(tag, text) for text in texts) + "</tr>"
    return HTML("<table>" + line("th", head) + "".join(line("td", row) for row in rows) + "</table>")


def tokens(*explained: Mapping[str, Any]) -> "HTML":
    """Answers as `explain` tells of them, each token coloured by how much likelier training made it.

    Teal tokens became likelier, orange ones less likely; the full colour is the largest change of that answer. Pointing
    at a token shows its log-ratio in nats, and the line below each answer the reward that they add up to.
    """
    from IPython.display import HTML

    return HTML("".join(map(_coloured, explained)))


def _coloured(why: Mapping[str, Any]) -> str:
    most = max(map(abs, why["log_ratios"]), default=0) or 1.0
    spans = "".join(
        f'<span style="background:rgba({_LIKELIER if value > 0 else _LESS_LIKELY},{0.75 * abs(value) / most:.2f})" '
        f'title="{value:+.2f} nats">{escape(piece)}</span>'
        for piece, value in zip(why["tokens"], why["log_ratios"], strict=True)
    )
    total = f"reward = {why['beta']:g} × {sum(why['log_ratios']):+.2f} = {why['reward']:+.2f}"
    return f"<p>{spans}<br><small>{total}</small></p>"


def live(draw: Callable[[Run], Any] = plot, *, seconds: float = SECONDS) -> Callable[[Run], None]:
    """A figure that follows a training in place: give it to `train` as `on_record`.

    Args:
        draw: makes the figure of a run, `plot` unless you have your own.
        seconds: between two drawings at least, so that drawing does not slow the training down.
    """
    shown: list[Any] = []
    drawn = float("-inf")

    def show(run: Run) -> None:
        nonlocal drawn
        from IPython.display import display

        done = not run.status().active or run.status().step >= (run.status().total_steps or float("inf"))
        if time.monotonic() - drawn < seconds and not done:
            return
        if shown:
            shown[0].update(draw(run))
        else:
            shown.append(display(draw(run), display_id=True))
        drawn = time.monotonic()

    return show
