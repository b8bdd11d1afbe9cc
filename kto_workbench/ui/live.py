"""The live half of Train: progress, curves and watched answers of one run, looked up once a second.

A tick sends only what has changed. What it changes against is in the page's own state, so a page that outlives the
server, or that opens a second time, simply gets everything at its next tick.
"""

from dataclasses import dataclass
from typing import Any

import gradio as gr
import pandas as pd

from kto_workbench.runs import Run, Status
from kto_workbench.ui import html
from kto_workbench.ui.words import LANGUAGES, label, language_of, say
from kto_workbench.ui.workbench import RUNS_OFFERED, Workbench
from kto_workbench.views.curves import CHARTS, chart_points
from kto_workbench.views.records import Records, records_of

TICK_SECONDS = 1.0
OTHER_CHARTS = [chart for chart in CHARTS if chart not in ("rewards", "z0")]
COLORS = {
    say(language, f"curve.{curve.name}"): curve.color
    for language in LANGUAGES
    for curves in CHARTS.values()
    for curve in curves
}


@dataclass
class LiveView:
    """What the rest of the page needs of it."""

    run: gr.Dropdown


def build(bench: Workbench, page: gr.Blocks, stop: gr.Button, again: gr.Button) -> LiveView:
    """Lay out the live view; `stop` and `again` follow the run's state."""
    run = gr.Dropdown([], label=label("live.run"), elem_id="train-run", allow_custom_value=True, show_label=True)
    progress = gr.HTML(elem_id="train-progress", elem_classes="kto-bare")
    with gr.Row(equal_height=True):
        part = gr.Radio(
            [(label("live.train"), "train"), (label("live.eval"), "eval")],
            value="train",
            label=label("live.part"),
            elem_id="train-part",
            min_width=200,
        )
        smoothing = gr.Slider(0, 0.95, value=0.6, step=0.05, label=label("live.smoothing"), elem_id="train-smoothing")
    rewards = _chart("rewards", 300)
    with gr.Row(equal_height=True):
        with gr.Column(min_width=280):
            z0 = _chart("z0", 230)
        with gr.Column(min_width=280):
            other = _chart("other", 230)
            chart = gr.Dropdown(
                [(label(f"chart.{name}"), name) for name in OTHER_CHARTS],
                value="loss",
                label=label("live.chart"),
                elem_id="train-chart",
                filterable=False,
            )
    watched = gr.HTML(elem_id="train-samples", elem_classes="kto-bare")
    seen = gr.State({})

    def look(
        run_id: str | None, part: str, smoothing: float, chart: str, seen: dict[str, Any] | None, request: gr.Request
    ) -> list[Any]:
        language = language_of(request)
        found = bench.run_or_none(run_id)
        shown = Shown(dict(seen or {}))
        choices = run_choices(bench, language)
        updates = {run: gr.Dropdown(choices=choices, value=run_id) if shown.changed("choices", choices) else gr.skip()}
        if found is None:
            if shown.changed("run", None):
                updates |= {progress: html.message(say(language, "live.none"), "plain"), rewards: None, z0: None}
                updates |= {
                    other: None,
                    watched: "",
                    stop: gr.Button(interactive=False),
                    again: gr.Button(visible=False),
                }
            return _in_order(updates, outputs, shown)
        status, records = found.status(), records_of(found)
        settings = (found.id, part, smoothing, language, records.version)
        if shown.changed("progress", (found.id, _visible(status), language)):
            updates[progress] = show_progress(language, found, status)
            updates[stop] = gr.Button(interactive=status.state in ("queued", "starting", "running"))
            updates[again] = gr.Button(visible=status.resumable)
        if shown.changed("curves", settings):
            beta = found.config().beta
            updates[rewards] = frame(records, "rewards", part, language, beta, smoothing)
            updates[z0] = frame(records, "z0", part, language, beta, smoothing)
        if shown.changed("other", (*settings, chart)):
            updates[other] = frame(records, chart if chart in OTHER_CHARTS else "loss", part, language, 1.0, smoothing)
        if shown.changed("samples", (found.id, _size(found.path / "samples.jsonl"), language)):
            updates[watched] = html.samples(language, found.samples())
        return _in_order(updates, outputs, shown)

    def attach(request: gr.Request) -> Any:
        return gr.Dropdown(choices=run_choices(bench, language_of(request)), value=bench.run_to_watch())

    outputs = [run, progress, stop, again, rewards, z0, other, watched, seen]
    inputs = [run, part, smoothing, chart, seen]
    quiet: dict[str, Any] = {"show_progress": "hidden", "queue": False}
    page.load(attach, None, [run], **quiet).then(look, inputs, outputs, **quiet)
    gr.on(
        [gr.Timer(TICK_SECONDS).tick, run.change, part.change, smoothing.release, chart.change],
        look,
        inputs,
        outputs,
        **quiet,
    )
    for plot in (rewards, z0, other):
        plot.select(_zoom, None, [plot], **quiet)
        plot.double_click(lambda: gr.LinePlot(x_lim=None), None, [plot], **quiet)
    return LiveView(run)


def _zoom(event: gr.SelectData) -> Any:
    return gr.LinePlot(x_lim=list(event.index))


class Shown:
    """What the page shows already, so that a tick sends only what is new."""

    def __init__(self, marks: dict[str, Any]) -> None:
        self.marks = marks

    def changed(self, part: str, mark: Any) -> bool:
        """Whether this part must be sent again; it is then taken as sent."""
        mark = repr(mark)
        if self.marks.get(part) == mark:
            return False
        self.marks[part] = mark
        return True


def _in_order(updates: dict[Any, Any], outputs: list[Any], shown: Shown) -> list[Any]:
    return [updates.get(output, gr.skip()) for output in outputs[:-1]] + [shown.marks]


def _chart(name: str, height: int) -> gr.LinePlot:
    return gr.LinePlot(
        x="step",
        y="value",
        color="curve",
        x_title=" ",
        y_title=" ",
        color_title=" ",
        color_map=COLORS,
        height=height,
        label=label(f"chart.{name}"),
        elem_id=f"train-{name}-plot",
        buttons=["fullscreen", "export"],
    )


def frame(records: Records, chart: str, part: str, language: str, beta: float, smoothing: float) -> pd.DataFrame:
    """A chart's curves as the long table that gr.LinePlot draws."""
    columns = records.eval if part == "eval" else records.train
    # Held-out rows are evaluated a few times in a run: smoothing would only hide them.
    curves = chart_points(columns, chart, beta=beta, smoothing=0.0 if part == "eval" else float(smoothing or 0))
    parts = [
        pd.DataFrame({"step": steps.astype(int), "value": values, "curve": say(language, f"curve.{name}")})
        for name, (steps, values) in curves.items()
        if len(steps)
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame({"step": [], "value": [], "curve": []})


def show_progress(language: str, run: Run, status: Status) -> str:
    """The progress card; with the end of the log where something went wrong."""
    card = html.progress(language, run, status)
    return card + (html.log_tail(language, run.log()) if status.state in ("failed", "crashed") else "")


def run_choices(bench: Workbench, language: str) -> list[tuple[str, str]]:
    """The newest runs with their states, to choose from."""
    return [
        (f"{run.id} · {say(language, f'state.{run.status().state}')}", run.id) for run in bench.runs()[:RUNS_OFFERED]
    ]


def _visible(status: Status) -> tuple[Any, ...]:
    left = None if status.seconds_left is None else round(status.seconds_left)
    return status.state, status.step, status.total_steps, status.message, status.error, left


def _size(path: Any) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
