"""The live half of Train: progress, curves and watched answers of one run, looked up once a second.

A tick sends only what has changed. What it changes against is in the page's own state, so a page that outlives the
server, or that opens a second time, simply gets everything at its next tick.
"""

import contextlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
import pandas as pd

from kto_workbench.errors import WorkbenchError
from kto_workbench.objectives import OBJECTIVES
from kto_workbench.runs import Run, Status
from kto_workbench.runs.shelf import title_of
from kto_workbench.ui import html
from kto_workbench.ui.fields import offer
from kto_workbench.ui.words import LANGUAGES, label, language_of, retell, say
from kto_workbench.ui.workbench import RUNS_OFFERED, Workbench
from kto_workbench.views.curves import CHARTS, HELD_OUT, LAID_OVER, OF_ANSWERS, chart_points, curves_of
from kto_workbench.views.drawing import bounds, ticks
from kto_workbench.views.notes import notes_on
from kto_workbench.views.records import Records, records_of

TICK_SECONDS = 1.0  # between two looks while the run works; `Workbench.idle_seconds` while there is nothing to see
HELD_OUT_POINTS = 100
# By chart: the step of Learn that explains it.
EXPLAINED_BY = {
    "rewards": "r",
    "z0": "z0",
    "loss": "loss",
    "logps": "word",
    "learning_rate": "loss",
    "grad_norm": "beta",
}
# Where the run's objective has no z0.
TITLES_WITHOUT_Z0 = {"rewards": "chart.rewards.alone", "z0": "chart.kl"}
HEIGHTS = {"rewards": 300, "z0": 220, "other": 220}
PIXELS_A_LABEL = 40  # as vega counts
OTHER_CHARTS = [chart for chart in CHARTS if chart not in ("rewards", "z0")]

COLORS = {
    say(language, f"curve.{curve.name}"): curve.color
    for language in LANGUAGES
    for curves in CHARTS.values()
    for curve in curves
} | {
    say(language, "curve.held_out", curve=say(language, f"curve.{name}")): HELD_OUT
    for language in LANGUAGES
    for name in LAID_OVER.values()
}


def build(bench: Workbench, page: gr.Blocks, run: gr.Dropdown, stop: gr.Button, again: gr.Button) -> None:
    """Lay out the live view of the chosen run; the buttons `stop` and `again` follow its state."""
    progress = gr.HTML(elem_id="train-progress", elem_classes="kto-bare")
    noted = gr.HTML(elem_id="train-notes", elem_classes="kto-bare kto-told")
    rewards_key, rewards = _chart("rewards")
    with gr.Row():
        z0_key, z0 = _chart("z0")
        other_key, other = _chart("other")
    plots = {"rewards": rewards, "z0": z0, "other": other}
    kl_told = gr.HTML(elem_id="train-kl", elem_classes="kto-bare")
    part, chart, smoothing = _controls()
    with gr.Row(elem_classes="kto-toolbar"):
        gr.HTML(label("samples.title"), elem_classes="kto-bare kto-section")
        now = gr.Button(label("samples.now"), size="sm", elem_id="train-sample-now", scale=0, min_width=130)
    watched = gr.HTML(elem_id="train-samples", elem_classes="kto-bare")
    seen, timer = gr.State({}), gr.Timer(TICK_SECONDS)

    def look(
        run_id: str | None, part: str, smoothing: float, chart: str, seen: dict[str, Any] | None, request: gr.Request
    ) -> list[Any]:
        language, shown = language_of(request), Shown(seen)
        chosen = run_id
        run_id = run_id or bench.run_to_watch()  # one may have been started from a shell meanwhile
        found = bench.run_or_none(run_id)
        shown.forget_unless("run", found and found.id)
        choices = run_choices(bench, language)
        updates: dict[Any, Any] = {}
        pace = TICK_SECONDS if found is not None and found.status().active else bench.idle_seconds
        if shown.changed("pace", pace):
            updates[timer] = gr.Timer(pace)
        if shown.changed("choices", (choices, run_id)):
            updates[run] = offer(choices, run_id, chosen)
        if found is None:
            if shown.changed("nothing", language):
                updates |= {
                    progress: html.message(say(language, "live.none"), "plain"),
                    watched: "",
                    noted: "",
                    kl_told: "",
                }
                updates |= {rewards: None, z0: None, other: None, rewards_key: "", z0_key: "", other_key: ""}
                updates |= {stop: gr.Button(interactive=False), again: gr.Button(visible=False)}
                updates |= {now: gr.Button(interactive=False)}
            return in_order(updates, shown)
        try:
            config = found.config()
        except WorkbenchError as error:
            if shown.changed("progress", str(error)):
                updates |= {progress: html.message(retell(language, error)), stop: gr.Button(interactive=False)}
            return in_order(updates, shown)
        status, records = found.status(), records_of(found)
        if titles := shown.marks.pop("due", None):
            # Alone: a chart that is born with its new values in the same moment would show the old ones.
            updates |= {plots[name]: gr.LinePlot(y_title=title) for name, title in titles.items()}
            return in_order(updates, shown)
        drawn = (part, smoothing, language, records.version)

        def drawn_once(name: str, beta: float, family: Sequence[str]) -> tuple[str, pd.DataFrame]:
            how = (part, language, beta, smoothing)
            return records.made((name, *family, *how), lambda: draw(records, name, *how, family, config.objective))

        if shown.changed("progress", (_visible(status), language)):
            updates[progress] = show_progress(language, found, status)
            updates[stop] = gr.Button(interactive=status.active and status.state != "stopping")
            updates[again] = gr.Button(visible=status.resumable)
            updates[now] = gr.Button(interactive=status.state == "running")
        if shown.changed("curves", drawn):
            beta = config.beta
            # Without a reference there are no rewards; what there is of the answers has curves of the same names.
            of_answers = "rewards" if OBJECTIVES[config.objective].reference else "logps"
            updates[rewards_key], updates[rewards] = drawn_once(of_answers, beta, ["rewards"])
            updates[noted] = records.made(
                ("notes", language), lambda: html.notes(language, notes_on(records.train, records.eval, config))
            )
            updates[z0_key], updates[z0] = drawn_once("z0", beta, ["z0"])
            updates[kl_told] = about_kl(language, records, config.objective) + about_judge(
                language, records, config.judge
            )
        if shown.changed("other", (*drawn, chart)):
            known = chart if chart in OTHER_CHARTS else "loss"
            updates[other_key], updates[other] = drawn_once(known, 1.0, OTHER_CHARTS)
        if shown.changed("samples", (_size(found.path / "samples.jsonl"), language)):
            updates[watched] = html.samples(language, found.samples())
        titles = {
            name: title_as_wide_as_labels(updates[plot], HEIGHTS[name])
            for name, plot in plots.items()
            if plot in updates
        }
        known = shown.marks.get("titles", {})
        if due := {name: title for name, title in titles.items() if name in known and known[name] != title}:
            shown.marks["due"] = due  # at the next look
        shown.marks["titles"] = known | titles
        return in_order(updates, shown)

    def in_order(updates: dict[Any, Any], shown: Shown) -> list[Any]:
        return [updates.get(output, gr.skip()) for output in outputs[:-1]] + [shown.marks]

    def sample_now(run_id: str | None) -> Any:
        found = bench.run_or_none(run_id)
        with contextlib.suppress(WorkbenchError):  # it may have ended this moment
            if found:
                found.ask("sample-now")
        return gr.Button(interactive=False)  # until the next look

    def attach(request: gr.Request) -> Any:
        return gr.Dropdown(choices=run_choices(bench, language_of(request)), value=bench.run_to_watch())

    outputs = [
        run,
        progress,
        stop,
        again,
        now,
        noted,
        rewards_key,
        rewards,
        z0_key,
        z0,
        other_key,
        other,
        kl_told,
        watched,
        timer,
        seen,
    ]
    inputs = [run, part, smoothing, chart, seen]
    quiet: dict[str, Any] = {"show_progress": "hidden", "queue": False}
    page.load(attach, None, [run], **quiet).then(look, inputs, outputs, **quiet)
    gr.on([timer.tick, run.change, part.change, smoothing.release, chart.change], look, inputs, outputs, **quiet)
    now.click(sample_now, [run], [now], **quiet)
    for plot in plots.values():
        plot.select(_zoom, None, [plot], **quiet)
        plot.double_click(lambda: gr.LinePlot(x_lim=None), None, [plot], **quiet)


class Shown:
    """What the page shows already, so that a tick sends only what is new."""

    def __init__(self, marks: dict[str, Any] | None) -> None:
        self.marks = dict(marks or {})

    def changed(self, part: str, mark: Any) -> bool:
        """Whether this part must be sent again; it is then taken as sent."""
        mark = repr(mark)
        if self.marks.get(part) == mark:
            return False
        self.marks[part] = mark
        return True

    def forget_unless(self, part: str, mark: Any) -> None:
        """Take everything else for unsent, unless this mark is the one that was sent."""
        if self.changed(part, mark):
            self.marks = {part: repr(mark)}


def _controls() -> tuple[gr.Dropdown, gr.Dropdown, gr.Slider]:
    with gr.Row():
        part = gr.Dropdown(
            [(label(f"live.{name}"), name) for name in ("both", "train", "eval")],
            value="both",
            label=label("live.part"),
            elem_id="train-part",
            filterable=False,
            min_width=150,
        )
        chart = gr.Dropdown(
            [(label(f"chart.{name}"), name) for name in OTHER_CHARTS],
            value="loss",
            label=label("live.chart"),
            elem_id="train-chart",
            filterable=False,
            min_width=150,
        )
        smoothing = gr.Slider(
            0, 0.95, value=0.6, step=0.05, label=label("live.smoothing"), elem_id="train-smoothing", min_width=200
        )
    return part, chart, smoothing


def _chart(name: str) -> tuple[gr.HTML, gr.LinePlot]:
    """A chart under its legend, which also tells the newest values to those who can't see the curves."""
    with gr.Column(elem_classes="kto-chart", min_width=260):
        key = gr.HTML(elem_id=f"train-{name}-key", elem_classes="kto-bare")
        plot = gr.LinePlot(
            x="step",
            y="value",
            color="curve",
            x_title=" ",
            y_title=" ",
            x_axis_format="~r",
            colors_in_legend=[],
            color_map=COLORS,
            height=HEIGHTS[name],
            show_label=False,
            elem_id=f"train-{name}-plot",
            buttons=["fullscreen", "export"],
        )
    return key, plot


def _zoom(event: gr.SelectData) -> Any:
    return gr.LinePlot(x_lim=list(event.index))


def draw(
    records: Records,
    chart: str,
    part: str,
    language: str,
    beta: float,
    smoothing: float,
    family: Sequence[str],
    objective: str = "kto",
) -> tuple[str, pd.DataFrame]:
    """A chart's heading with its legend, and its curves as the long table that gr.LinePlot draws.

    Curves that mean nothing with the run's objective are left out.

    The legend tells the values of the newest step as they were logged, as the Runs tab does; only curves are smoothed.

    gr.LinePlot gives colours to the names in the first table it gets, and to no others: every table must name all
    curves of the `family` of charts that take turns in that plot, if only with a gap.

    `part` is `train`, `eval` (held-out rows), or `both`: one curve of the held-out rows laid over those of training.
    """
    columns = records.eval if part == "eval" else records.train
    # Held-out rows are evaluated a few times in a run: smoothing would only hide them.
    smoothing = 0.0 if part == "eval" else float(smoothing or 0)
    curves = chart_points(columns, chart, beta=beta, smoothing=smoothing, sampled=records.sampled)
    name = {curve.name: say(language, f"curve.{curve.name}") for other in family for curve in CHARTS[other]}
    keys = []
    meant = curves_of(chart, objective)
    for curve in meant:
        newest = (records.sampled if curve.column in OF_ANSWERS else columns).last(curve.column)
        keys.append((name[curve.name], curve.color, None if newest is None else newest * curve.factor(beta)))
    for other in family:
        if laid_over := LAID_OVER.get(other):
            name[f"held out {laid_over}"] = say(language, "curve.held_out", curve=name[laid_over])
    laid_over = LAID_OVER.get(chart)
    if part == "both" and laid_over in {curve.name for curve in meant}:
        curve = next(curve for curve in CHARTS[chart] if curve.name == laid_over)
        held_out = records.eval.thinned(curve.column, 0.0, HELD_OUT_POINTS)
        if len(held_out[0]):
            curves[f"held out {laid_over}"] = held_out[0], held_out[1] * curve.factor(beta)
            keys.append((name[f"held out {laid_over}"], HELD_OUT, float(curves[f"held out {laid_over}"][1][-1])))
    steps = columns["step"]
    when = say(language, "live.at_step", step=int(steps[-1])) if len(steps) and np.isfinite(steps[-1]) else ""
    more = html.learn_link(language, EXPLAINED_BY[chart]) if chart in EXPLAINED_BY else ""
    title = f"chart.{chart}" if OBJECTIVES[objective].centre == "z0" else TITLES_WITHOUT_Z0.get(chart, f"chart.{chart}")
    head = html.chart_head(say(language, title), keys, when=when, more=more)
    drawn = {key: steps_values for key, steps_values in curves.items() if len(steps_values[0])}
    # Never nothing at all: a LinePlot that is emptied while it takes its size ends in a script error.
    first = min((steps[0] for steps, _ in drawn.values()), default=0)
    gap = ([first], [float("nan")])
    parts = [(word, *drawn.get(key, gap)) for key, word in name.items()]
    table = {
        "step": np.concatenate([steps for _, steps, _ in parts]).astype(int),
        "value": np.concatenate([values for _, _, values in parts]),
        "curve": [word for word, steps, _ in parts for _ in range(len(steps))],
    }
    return head, pd.DataFrame(table)


def about_kl(language: str, records: Records, objective: str = "kto") -> str:
    """How sure the KL is, and why it is not z0 where there is one; nothing where none was measured."""
    error, count = (records.sampled.last(f"kl_sampled_{what}") for what in ("error", "count"))
    if error is None or count is None:
        return ""
    said = say(language, "chart.kl.error", error=f"{error:.2g}", count=int(count))
    if OBJECTIVES[objective].centre == "z0":
        said += say(language, "chart.z0.why")
    return html.aside(said)


def about_judge(language: str, records: Records, judge: str) -> str:
    """What the judge said last, how sure that is, and what was the best; nothing where none judged."""
    sampled = records.sampled
    known = np.flatnonzero(np.isfinite(sampled["judged_win_rate"]))
    if not len(known):
        return ""
    last, best = known[-1], known[sampled["judged_win_rate"][known].argmax()]
    facts = {
        "judge": judge,
        "step": int(sampled["step"][last]),
        "rate": f"{sampled['judged_win_rate'][last]:.3g}",
        "error": f"{np.nan_to_num(sampled['judged_error'][last]):.2g}",
        "count": int(sampled["judged_count"][last]),
        "best": f"{sampled['judged_win_rate'][best]:.3g}",
        "best_step": int(sampled["step"][best]),
    }
    return html.aside(say(language, "chart.judged.why", **facts))


def title_as_wide_as_labels(table: pd.DataFrame, height: int) -> str:
    """A blank title about as long as the widest label of a chart's upright axis.

    gr.LinePlot makes room for the labels that a chart is born with, and draws it anew only when a title changes: those
    of a run's first step are short, and the minus signs of later ones would be cut off.
    """
    values = table["value"].to_numpy()
    if not np.isfinite(values).any():
        return " "  # a chart without values has no labels at all: whatever comes needs more room
    found = ticks(*bounds(values), max(2, height // PIXELS_A_LABEL))
    decimals = max(0, -math.floor(math.log10(found[1] - found[0]) + 1e-9)) if len(found) > 1 else 0
    return " " * (1 + max((len(f"{value:,.{decimals}f}") for value in found), default=1))


def show_progress(language: str, run: Run, status: Status) -> str:
    """The progress card; with the end of the log where something went wrong."""
    card = html.progress(language, run, status)
    return card + (html.log_tail(language, run.log()) if status.state in ("failed", "crashed", "not answering") else "")


def run_choices(bench: Workbench, language: str) -> list[tuple[str, str]]:
    """The newest runs with their states, to choose from."""
    return [
        (f"{title_of(run)} · {say(language, f'state.{run.status().state}')}", run.id)
        for run in bench.runs()[:RUNS_OFFERED]
    ]


def _visible(status: Status) -> tuple[Any, ...]:
    left = None if status.seconds_left is None else round(status.seconds_left)
    return status.state, status.step, status.total_steps, status.message, status.error, left


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
