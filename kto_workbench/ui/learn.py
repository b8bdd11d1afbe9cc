"""Learn: KTO's value function to play with, one's own rewards on it, and how it differs from DPO and SFT."""

from typing import Any

import gradio as gr
import numpy as np

from kto_workbench.runs import Run
from kto_workbench.ui import html
from kto_workbench.ui.words import label, language_of, say
from kto_workbench.ui.workbench import Workbench
from kto_workbench.views.curves import DOWN, PLAIN, REFERENCE, UP
from kto_workbench.views.drawing import Dot, Line
from kto_workbench.views.learning import faded_beyond, pull, pull_of_dpo, value
from kto_workbench.views.records import records_of

DOTS = 40


def build(bench: Workbench, page: gr.Blocks, tab: gr.Tab, watched: gr.Dropdown) -> None:
    """Lay out the tab; `watched` is the run whose rewards are drawn on the curves."""
    gr.Markdown(label("learn.value"), elem_classes="kto-text")
    with gr.Row():
        beta = gr.Slider(0.01, 2, value=0.5, step=0.01, label="β", elem_id="learn-beta", min_width=170)
        up = gr.Slider(0, 10, value=1, step=0.1, label=label("option.desirable_weight"), min_width=170)
        down = gr.Slider(0, 10, value=1, step=0.1, label=label("option.undesirable_weight"), min_width=170)
        z0 = gr.Slider(0, 10, value=0, step=0.1, label="z0", elem_id="learn-z0", min_width=170)
    with gr.Row(elem_classes="kto-buttons"):
        mine = gr.Button(label("learn.mine"), size="sm", elem_id="learn-mine", min_width=220)
    values = gr.HTML(elem_id="learn-values", elem_classes="kto-bare")
    gr.Markdown(label("learn.pull"), elem_classes="kto-text")
    pulls = gr.HTML(elem_id="learn-pulls", elem_classes="kto-bare")
    gr.Markdown(label("learn.others"), elem_classes="kto-text")
    others = gr.HTML(elem_id="learn-others", elem_classes="kto-bare")
    gr.Markdown(label("learn.sign"), elem_classes="kto-text", elem_id="learn-sign")

    def draw(beta: float, up: float, down: float, z0: float, run_id: str | None, request: gr.Request) -> list[str]:
        rewards = last_rewards(bench.run_or_none(run_id))
        return pictures(language_of(request), float(beta), float(up), float(down), float(z0), rewards)

    def settings(run_id: str | None) -> list[Any]:
        run = bench.run_or_none(run_id)
        if run is None:
            return [gr.skip()] * 4
        config, last = run.config(), records_of(run).train.last("kl")
        weights = [1.0 if weight is None else weight for weight in (config.desirable_weight, config.undesirable_weight)]
        return [config.beta, *weights, round(last or 0.0, 2)]

    quiet: dict[str, Any] = {"show_progress": "hidden", "queue": False}
    sliders = [beta, up, down, z0]
    pictured = [values, pulls, others]
    mine.click(settings, [watched], sliders, **quiet)
    events = [slider.change for slider in sliders] + [tab.select, watched.change, page.load]
    gr.on(events, draw, [*sliders, watched], pictured, trigger_mode="always_last", **quiet)


def last_rewards(run: Run | None) -> dict[str, np.ndarray]:
    """The newest mean log-ratios of thumbs up and down, in nats: rewards without their β."""
    if run is None:
        return {}
    beta, train = run.config().beta, records_of(run).train
    ratios = {side: train[f"rewards/{key}"] / beta for side, key in (("up", "chosen"), ("down", "rejected"))}
    return {side: found[np.isfinite(found)][-DOTS:] for side, found in ratios.items()}


def pictures(
    language: str, beta: float, up: float, down: float, z0: float, rewards: dict[str, np.ndarray]
) -> list[str]:
    """The three charts: what an answer is worth, how hard it is pulled, and how hard DPO and SFT would pull."""
    far = faded_beyond(beta)
    reach = max(
        8.0, min(1.8 * far, 60.0), *(float(np.abs(found).max()) * 1.1 for found in rewards.values() if len(found))
    )
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
        for x in rewards.get(side, ()):
            worth_dots.append(Dot(float(x), float(value(x, **how)), color))
            strength_dots.append(Dot(float(x), float(pull(x, **how)), color))
    faded = say(language, "learn.faded")
    kto = pull(r, up=True, beta=beta, weight=1.0, z0=0.0)
    dpo = pull_of_dpo(r, beta=beta)
    beside = [
        Line("KTO", r, kto / kto.max(), UP),
        Line("DPO", r, dpo / beta, REFERENCE),
        Line("SFT", r, np.ones_like(r), PLAIN),
    ]
    return [
        chart("learn.chart.value", worth, dots=worth_dots, verticals=[(z0, "z0")]),
        chart("learn.chart.pull", strength, dots=strength_dots, verticals=[(z0 - far, faded), (z0 + far, faded)]),
        chart("learn.chart.others", beside, y_range=(0.0, 1.08)),
    ]
