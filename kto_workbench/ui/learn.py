"""Learn: six steps (lessons.py), then one's own rewards on the value function, and how KTO differs from DPO and SFT."""

from typing import Any

import gradio as gr
import numpy as np

from kto_workbench.errors import WorkbenchError
from kto_workbench.runs import Run
from kto_workbench.ui import html, lessons
from kto_workbench.ui.invite import Invitation
from kto_workbench.ui.words import label, language_of, say
from kto_workbench.ui.workbench import Workbench
from kto_workbench.views.curves import DOWN, PLAIN, REFERENCE, UP
from kto_workbench.views.drawing import Dot, Line
from kto_workbench.views.learning import Dots, dots_of, faded_beyond, pull, pull_of_dpo, recorded_steps, value
from kto_workbench.views.records import records_of


def build(bench: Workbench, page: gr.Blocks, tab: gr.Tab, watched: gr.Dropdown) -> Invitation:
    """Lay out the tab; `watched` is the run whose rewards are drawn on the curves. Returns what to say without one."""
    lessons.build(page, tab)
    gr.HTML(label("lesson.mine"), elem_classes="kto-bare kto-section")
    invitation = Invitation(bench, page, tab, "learn")
    with gr.Row(elem_id="learn-sliders"):
        beta = gr.Slider(0.01, 2, value=0.5, step=0.01, label="β", elem_id="learn-beta")
        up = gr.Slider(0, 10, value=1, step=0.1, label=label("option.desirable_weight"))
        down = gr.Slider(0, 10, value=1, step=0.1, label=label("option.undesirable_weight"))
        z0 = gr.Slider(0, 10, value=0, step=0.1, label="z0", elem_id="learn-z0")
    with gr.Row(elem_classes="kto-buttons"):
        mine = gr.Button(label("learn.mine"), size="sm", elem_id="learn-mine", min_width=220)
    step = gr.Slider(1, 2, value=2, step=1, label=label("learn.step"), visible=False, elem_id="learn-step")
    values = gr.HTML(elem_id="learn-values", elem_classes="kto-bare")
    pulls = gr.HTML(elem_id="learn-pulls", elem_classes="kto-bare")
    gr.Markdown(label("learn.others"), elem_classes="kto-text")
    others = gr.HTML(elem_id="learn-others", elem_classes="kto-bare")
    gr.Markdown(label("learn.sign"), elem_classes="kto-text", elem_id="learn-sign")

    def draw(
        beta: float, up: float, down: float, z0: float, step: float, run_id: str | None, request: gr.Request
    ) -> list[str]:
        language = language_of(request)
        run = bench.run_or_none(run_id)
        dots = look_at(run, step)
        charts = pictures(language, float(beta), float(up), float(down), float(z0), dots)
        return [charts[0] + about_dots(language, run, dots), *charts[1:]]

    def settings(run_id: str | None, step: float) -> list[Any]:
        run = bench.run_or_none(run_id)
        dots = look_at(run, step)
        if run is None or dots is None:
            return [gr.skip()] * 4
        config = run.config()
        then = records_of(run).train.last("kl") if dots.z0 is None else dots.z0
        weights = [1.0 if weight is None else weight for weight in (config.desirable_weight, config.undesirable_weight)]
        return [config.beta, *weights, round(then or 0.0, 2)]

    def offer_steps(run_id: str | None, offered: Any) -> tuple[Any, Any, Any]:
        run = bench.run_or_none(run_id)
        usable = gr.Button(interactive=run is not None)
        steps = recorded_steps(run) if run else []
        now = [run_id, *steps[:1], *steps[-1:]]
        if now == offered:  # the step that was chosen stays
            return gr.skip(), now, usable
        if len(steps) < 2:
            return gr.Slider(visible=False), now, usable
        return gr.Slider(minimum=steps[0], maximum=steps[-1], value=steps[-1], visible=True), now, usable

    offered = gr.State(None)  # the run, its first and its last recorded step
    quiet: dict[str, Any] = {"show_progress": "hidden", "queue": False}
    sliders = [beta, up, down, z0]
    pictured = [values, pulls, others]
    drawn = {"inputs": [*sliders, step, watched], "outputs": pictured, **quiet}
    mine.click(settings, [watched, step], sliders, **quiet)
    gr.on([slider.change for slider in (*sliders, step)], draw, trigger_mode="always_last", **drawn)
    opened = gr.on(
        [tab.select, watched.change, page.load], offer_steps, [watched, offered], [step, offered, mine], **quiet
    )
    opened.then(draw, **drawn)
    return invitation


def look_at(run: Run | None, step: float) -> Dots | None:
    """Where a run's answers lie at a step; None without a run that can be read."""
    try:
        return dots_of(run, step) if run else None
    except WorkbenchError:  # its config was edited by hand; the Train tab says so
        return None


def about_dots(language: str, run: Run | None, dots: Dots | None) -> str:
    """What the dots are, in one sentence; nothing where there are none."""
    if run is None or dots is None or not len(dots.up) + len(dots.down):
        return ""
    if dots.step is None:
        said = say(language, "learn.means", run=run.id)
    else:
        counts = {"up": len(dots.up), "down": len(dots.down), "z0": html.number(dots.z0)}
        said = say(language, "learn.rows", run=run.id, step=dots.step, **counts)
    return f'<p class="kto-plain">{html.esc(said)}</p>'


def pictures(language: str, beta: float, up: float, down: float, z0: float, dots: Dots | None) -> list[str]:
    """The three charts: what an answer is worth, how hard it is pulled, and how hard DPO and SFT would pull."""
    far = faded_beyond(beta)
    ratios = {"up": dots.up, "down": dots.down} if dots else {}
    furthest = max((float(np.abs(found).max()) for found in ratios.values() if len(found)), default=0.0)
    reach = max(8.0, min(1.8 * far, 60.0), 1.1 * furthest)
    r = np.linspace(-reach, reach, 161)
    sides = ((True, "up", up, UP), (False, "down", down, DOWN))
    names = {side: say(language, f"side.{side}") for side in ("up", "down")}

    def chart(title: str, lines: list[Line], **options: Any) -> str:
        head = html.chart_head(say(language, title), [(line.name, line.color, None) for line in lines], values=False)
        return f'<div class="kto-panel">{head}{html.drawing(lines, say(language, title), **options)}</div>'

    worth, strength, worth_dots, strength_dots = [], [], [], []
    for is_up, side, weight, color in sides:
        how = {"up": is_up, "beta": beta, "weight": weight, "z0": z0}
        worth.append(Line(names[side], r, value(r, **how), color))
        strength.append(Line(names[side], r, pull(r, **how), color))
        for x in ratios.get(side, ()):
            worth_dots.append(Dot(float(x), float(value(x, **how)), color))
            strength_dots.append(Dot(float(x), float(pull(x, **how)), color))
    kto = pull(r, up=True, beta=beta, weight=1.0, z0=0.0)
    dpo = pull_of_dpo(r, beta=beta)
    beside = [
        Line("KTO", r, kto / kto.max(), UP),
        Line("DPO", r, dpo / beta, REFERENCE),
        Line("SFT", r, np.ones_like(r), PLAIN),
    ]
    return [
        chart("learn.chart.value", worth, dots=worth_dots, verticals=[(z0, "z0")]),
        chart("learn.chart.pull", strength, dots=strength_dots, verticals=[(z0 - far, "1/10"), (z0 + far, "1/10")]),
        chart("learn.chart.others", beside, y_range=(0.0, 1.08)),
    ]
