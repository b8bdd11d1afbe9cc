"""Train: the fields that matter, the rest folded away, what Start will run, and below it the live run."""

import contextlib
import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from kto_workbench.config import KTOConfig, config_to_yaml
from kto_workbench.errors import WorkbenchError
from kto_workbench.feedback import Feedback, suggest_weights
from kto_workbench.judging.rules import check_judge
from kto_workbench.objectives import OBJECTIVES, OPTIONS, unused_by
from kto_workbench.runs import create_run, resume, start
from kto_workbench.runs.launch import stop as stop_training
from kto_workbench.runs.settings import Suggestion, row_lengths, suggest_settings
from kto_workbench.ui import estimate, fields, html, live
from kto_workbench.ui.data import DataTab
from kto_workbench.ui.presets import Presets
from kto_workbench.ui.words import label, language_of, retell, say
from kto_workbench.ui.workbench import RUNS_OFFERED, Workbench

log = logging.getLogger(__name__)

EXPECT_SECONDS = 30.0
LINES = (
    ("model",),
    ("objective",),
    ("tuning", "load_in_4bit"),
    ("beta", "learning_rate"),
    ("desirable_weight", "undesirable_weight"),
    ("num_train_epochs", "batch_size"),
    ("lora_r", "max_length"),
)


@dataclass
class TrainTab:
    """What the other tabs need of this one."""

    run: gr.Dropdown
    options: dict[str, Component]  # the widget of each option
    asked: set[Component]  # whose values `config_from` takes
    config_from: Callable[[dict[Component, Any]], KTOConfig]  # raises WorkbenchError


def build(bench: Workbench, page: gr.Blocks, data: DataTab) -> TrainTab:
    """Lay out the tab and wire it to the Data tab."""
    defaults = fields.defaults("demo")
    with gr.Row(equal_height=False):
        with gr.Column(scale=7, min_width=300):
            with gr.Row(elem_classes="kto-buttons", equal_height=True):
                # Not before the weights of the data have arrived: empty ones would reach the server as 0.
                begin = gr.Button(
                    label("train.start"), variant="primary", elem_id="train-start", interactive=False, min_width=120
                )
                stop = gr.Button(label("train.stop"), elem_id="train-stop", interactive=False, min_width=100)
                again = gr.Button(label("train.resume"), elem_id="train-resume", visible=False, min_width=100)
                run = gr.Dropdown(
                    [],
                    label=label("live.run"),
                    elem_id="train-run",
                    allow_custom_value=True,
                    container=False,
                    scale=4,
                    min_width=240,
                )
            told = gr.HTML(elem_id="train-message", elem_classes="kto-bare kto-told")
            live.build(bench, page, run, stop, again)
        with gr.Column(scale=4, min_width=300):
            gr.HTML(label("train.new"), elem_classes="kto-bare kto-section")
            widgets = _basic_fields(defaults)
            goes_on = gr.HTML(elem_id="train-goes-on", elem_classes="kto-bare kto-told")
            expected = gr.HTML(elem_id="train-expected", elem_classes="kto-bare")
            why = gr.HTML(elem_id="train-why", elem_classes="kto-bare")
            with gr.Accordion(label("train.more"), open=False, elem_id="train-more"):
                for group, options in fields.folded_groups().items():
                    gr.HTML(label(f"group.{group}"), elem_classes="kto-bare kto-section")
                    for name in options:
                        widgets[name] = fields.widget(name, defaults[name])
            with gr.Accordion(label("train.presets"), open=False, elem_id="train-presets"):
                preset = gr.Dropdown(
                    [], label=label("train.preset"), info=label("train.preset.help"), allow_custom_value=True
                )
                with gr.Row(elem_classes="kto-buttons"):
                    take = gr.Button(label("train.preset.load"), size="sm", elem_id="preset-load", min_width=80)
                    keep = gr.Button(label("train.preset.save"), size="sm", elem_id="preset-save", min_width=80)
                preset_told = gr.HTML(elem_id="preset-message", elem_classes="kto-bare kto-told")
            with gr.Accordion(label("train.exact"), open=False, elem_id="train-exact"):
                # Code, not a text box: with a copy button in its label, a text box has no name for screen readers.
                command = gr.Code(
                    label=label("train.command"),
                    language="shell",
                    interactive=False,
                    wrap_lines=True,
                    show_line_numbers=False,
                    elem_id="train-command",
                )
                yaml = gr.Code(
                    label="config.yaml", language="yaml", interactive=False, max_lines=18, show_line_numbers=False
                )

    keyed: dict[Component, str] = {widget: name for name, widget in widgets.items()}
    asked = {*keyed, data.source}

    def config_from(values: dict[Component, Any]) -> KTOConfig:
        # What the objective does not use is not shown, and at its default.
        unused = unused_by(values[widgets["objective"]])
        chosen = {name: values[widget] for widget, name in keyed.items() if name not in unused}
        chosen["data"], chosen["workspace"] = values[data.source], str(bench.workspace)
        chosen["mapping"] = "\n".join(bench.mapping(values[data.source]))
        config = fields.read(chosen)
        check_judge(config)
        return config

    def preview(values: dict[Component, Any], request: gr.Request) -> tuple[str, str, Any, Any]:
        language = language_of(request)
        pairs_of = functools.partial(bench.feedback, values[data.source])
        try:
            config = config_from(values)
        except WorkbenchError as error:
            return html.message(retell(language, error)), "", gr.skip(), gr.skip()
        told = start_and_reference(language, config) + objective_and_pairs(language, config, pairs_of)
        return "", told, fields.command(config), config_to_yaml(config)

    def expect(values: dict[Component, Any], request: gr.Request) -> str:
        try:
            config = config_from(values)
            feedback, runs = bench.feedback(values[data.source]), bench.runs()[:RUNS_OFFERED]
            said = estimate.expected(language_of(request), config, feedback, runs)
        except Exception:  # an estimate is a courtesy: whatever it trips over must not cost the page
            log.debug("No estimate.", exc_info=True)
            return ""
        return html.message(said, "plain")

    def begin_run(values: dict[Component, Any], request: gr.Request) -> tuple[Any, str]:
        language = language_of(request)
        try:
            bench.feedback(values[data.source])  # no other file than those offered
            busy = any(run.status().active for run in bench.runs())
            run = create_run(config_from(values))
            start(run)
        except WorkbenchError as error:
            return gr.skip(), html.message(retell(language, error))
        note = html.message(say(language, "train.queued"), "warning") if busy else ""
        return gr.Dropdown(choices=live.run_choices(bench, language), value=run.id), note

    def stop_run(run_id: str, request: gr.Request) -> str:
        try:
            ended = stop_training(bench.run(run_id))
        except WorkbenchError as error:
            return html.message(retell(language_of(request), error))
        return html.message(say(language_of(request), "train.ended" if ended else "train.stopping"), "fine")

    def resume_run(run_id: str, request: gr.Request) -> str:
        try:
            resume(bench.run(run_id))
        except WorkbenchError as error:
            return html.message(retell(language_of(request), error))
        return ""

    def weights(source: str, ratio: float) -> tuple[Any, Any, gr.Button]:
        ready = gr.Button(interactive=True)
        try:
            counts = bench.feedback(source).balance()
        except WorkbenchError:
            return gr.skip(), gr.skip(), ready
        up, down = suggest_weights(counts.n_desirable, counts.n_undesirable, ratio=float(ratio or 1.0))
        return round(up, 4), round(down, 4), ready

    def follow(values: dict[Component, Any], request: gr.Request) -> dict[Component, Any]:
        now = (str(values[widgets["model"]] or "").strip() or "demo", values[widgets["tuning"]] or "lora")
        chosen = {name: values[widget] for widget, name in keyed.items()}
        found = suggestions(now, values[data.source], values[widgets["template"]])
        suggested = {one.option: one.value for one in found}
        changed = fields.follow(chosen, values[followed], now, values[suggested_before], suggested)
        return {
            followed: now,
            suggested_before: suggested,
            why: reasons(language_of(request), found),
            **{widgets[name]: fields.to_widget(name, new) for name, new in changed.items()},
        }

    def show_used(objective: str) -> list[Any]:
        unused = unused_by(objective)
        return [gr.update(visible=name not in unused) for name in OPTIONS]

    def suggestions(now: tuple[str, str], source: str, template: str) -> list[Suggestion]:
        try:
            lengths = None if now[0] == "demo" else row_lengths(bench.feedback(source), now[0], template)
            return suggest_settings(*now, lengths=lengths)
        except Exception:  # a suggestion is a courtesy, too
            log.debug("No suggestion.", exc_info=True)
            return []

    presets = Presets(bench.workspace)

    def save_preset(values: dict[Component, Any], request: gr.Request) -> tuple[Any, str]:
        try:
            name = presets.save(values[preset], config_from(values))
        except WorkbenchError as error:
            return gr.skip(), html.message(retell(language_of(request), error))
        saved = html.message(say(language_of(request), "train.preset.saved", name=name), "fine")
        return gr.Dropdown(choices=presets.names(), value=name), saved

    def load_preset(name: str, request: gr.Request) -> dict[Component, Any]:
        try:
            config = presets.load(name)
        except WorkbenchError as error:
            return {preset_told: html.message(retell(language_of(request), error))}
        values = {widget: fields.to_widget(option, getattr(config, option)) for widget, option in keyed.items()}
        return {preset_told: "", followed: (config.model, config.tuning), **values}

    followed = gr.State(("demo", "lora"))  # the model and the tuning that the fields are filled in for
    suggested_before = gr.State({})  # and what followed from them
    quiet: dict[str, Any] = {"show_progress": "hidden", "queue": False}
    opened = page.load
    gr.on(
        [opened, data.source.change, data.renewed.change, data.ratio.change],
        weights,
        [data.source, data.ratio],
        [widgets["desirable_weight"], widgets["undesirable_weight"], begin],
        **quiet,
    )
    gr.on(
        [*(widgets[name].change for name in ("model", "tuning")), data.source.change, opened],
        follow,
        {*keyed, data.source, followed, suggested_before},
        [*keyed, followed, suggested_before, why],
        **quiet,
    )
    widgets["objective"].change(show_used, [widgets["objective"]], [widgets[name] for name in OPTIONS], **quiet)
    changes = [widget.change for widget in keyed] + [data.source.change, opened]
    gr.on(changes, preview, asked, [told, goes_on, command, yaml], trigger_mode="always_last", **quiet)
    # Memory is freed and runs end while the page is open.
    gr.on(
        [*changes, run.change, gr.Timer(EXPECT_SECONDS).tick],
        expect,
        asked,
        [expected],
        trigger_mode="always_last",
        **quiet,
    )
    data.follow(*(widgets[name] for name in ("model", "max_length", "template", "template_kwargs")))
    opened(lambda: gr.Dropdown(choices=presets.names()), None, [preset], **quiet)
    keep.click(save_preset, {*asked, preset}, [preset, preset_told], **quiet)
    take.click(load_preset, [preset], [preset_told, followed, *keyed], **quiet)
    begin.click(begin_run, asked, [run, told], show_progress="minimal")
    stop.click(stop_run, [run], [told], **quiet)
    again.click(resume_run, [run], [told], **quiet)
    return TrainTab(run, widgets, asked, config_from)


def reasons(language: str, found: list[Suggestion]) -> str:
    """Why these settings, a line each, folded."""
    lines = []
    for one in found:
        name, said = say(language, f"option.{one.option}"), say(language, f"suggest.{one.kind}", **one.values)
        lines.append(f"<li><b>{html.symbol(name)} {html.esc(fields.shown(one.value))}</b>: {html.esc(said)}</li>")
    if not lines:
        return ""
    title = html.esc(say(language, "suggest.title"))
    return f'<details class="kto-log kto-reasons"><summary>{title}</summary><ul>{"".join(lines)}</ul></details>'


def start_and_reference(language: str, config: KTOConfig) -> str:
    """What a training goes on from and what its rewards then count against; nothing for a fresh start."""
    if not config.start_adapter:
        return ""
    on = say(language, "round.on", start=config.start_adapter)
    return html.message(f"{on} {say(language, f'round.on.{config.reference}')}", "info")


def objective_and_pairs(language: str, config: KTOConfig, feedback: Callable[[], Feedback]) -> str:
    """What another objective than KTO does, and how many pairs the feedback has where it learns from those."""
    if config.objective == "kto":
        return ""
    said = say(language, f"objective.{config.objective}")
    kind = "info"
    if OBJECTIVES[config.objective].paired:
        with contextlib.suppress(WorkbenchError):
            found = feedback()
            kind = "info" if found.n_pairs else "warning"
            said += " " + say(language, "train.pairs", pairs=found.n_pairs, rows=len(found))
    return html.message(said, kind)


def _basic_fields(defaults: dict[str, Any]) -> dict[str, Component]:
    """The unfolded fields in lines that belong together; one that has no line yet comes last."""
    placed = {name for line in LINES for name in line}
    lines = [*LINES, *((name,) for name in fields.names(basic=True) if name not in placed)]
    widgets: dict[str, Component] = {}
    with gr.Group():
        for line in lines:
            with gr.Row():
                for name in line:
                    widgets[name] = fields.widget(name, defaults[name])
    return widgets
