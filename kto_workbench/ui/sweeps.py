"""Sweeps: a grid over a few options of what the Train tab says, its trials in one table, and who is best."""

import itertools
import math
from typing import Any

import gradio as gr

from kto_workbench.config import options
from kto_workbench.errors import WorkbenchError
from kto_workbench.runs.children import reap
from kto_workbench.runs.sweeps import ACTIVE, MEASURES, Plan, Sweep, create_sweep, find_sweep, list_sweeps, make_plan
from kto_workbench.runs.sweeps import start as start_sweep
from kto_workbench.runs.sweeps import stop as stop_sweep
from kto_workbench.runs.trials import find_best, left_over, rows, standings
from kto_workbench.ui import estimate, fields, html
from kto_workbench.ui.fields import offer
from kto_workbench.ui.train import TrainTab
from kto_workbench.ui.words import label, language_of, retell, say
from kto_workbench.ui.workbench import RUNS_OFFERED, Workbench
from kto_workbench.views.drawing import PALETTE, Dot, Line

# What the form's lines begin with: option, values, and an example of some.
FIRST = (("beta", "0.3, 1, 3", "0.03, 0.1, 0.3"), ("learning_rate", "", "1e-4, 3e-4"), ("seed", "", "1, 2, 3"))
LOOK_SECONDS = 2.0
SWEPT = (
    "beta", "learning_rate", "lora_r", "num_train_epochs", "batch_size", "desirable_weight", "undesirable_weight",
    "lora_alpha", "objective", "z0", "reference", "sft_weight", "max_steps", "seed",
)  # fmt: skip
HALVING = 3
AUTO = "auto"


def build(bench: Workbench, page: gr.Blocks, tab: gr.Tab, train: TrainTab) -> gr.Timer:
    """Lay out the panel, folded, and wire it; returns what ticks while a sweep is at work."""
    with gr.Accordion(label("sweep.title"), open=False, elem_id="sweep"):
        gr.HTML(label("sweep.intro"), elem_classes="kto-bare kto-section")
        grid: list[tuple[gr.Dropdown, gr.Textbox]] = []
        for number, (option, values, example) in enumerate(FIRST, 1):
            with gr.Row():
                name = gr.Dropdown(
                    [(label(f"option.{one}"), one) for one in SWEPT if one in options()],
                    value=option,
                    label=label("sweep.option"),
                    elem_id=f"sweep-option-{number}",
                    filterable=False,
                    min_width=150,
                )
                text = gr.Textbox(
                    values,
                    label=label("sweep.values"),
                    placeholder=example,
                    elem_id=f"sweep-values-{number}",
                    max_lines=1,
                    scale=2,
                    min_width=200,
                )
                grid.append((name, text))
        by = gr.Dropdown(
            [(label(f"sweep.by.{one}"), one) for one in (AUTO, *MEASURES)],
            value=AUTO,
            label=label("sweep.by"),
            info=label("sweep.by.help"),
            elem_id="sweep-by",
            filterable=False,
        )
        halving = gr.Checkbox(
            label=label("sweep.halving"), info=label("sweep.halving.help"), elem_id="sweep-halving", container=False
        )
        preview = gr.HTML(elem_id="sweep-preview", elem_classes="kto-bare kto-told")
        with gr.Row(elem_classes="kto-buttons"):
            begin = gr.Button(label("sweep.start"), variant="primary", elem_id="sweep-start", min_width=120)
            end = gr.Button(label("train.stop"), elem_id="sweep-stop", interactive=False, min_width=100)
            again = gr.Button(label("sweep.again"), elem_id="sweep-again", visible=False, min_width=100)
        told = gr.HTML(elem_id="sweep-message", elem_classes="kto-bare kto-told")
        shown = gr.Dropdown([], label=label("sweep.shown"), elem_id="sweep-shown", filterable=False, visible=False)
        result = gr.HTML(elem_id="sweep-result", elem_classes="kto-bare kto-as-cards")
        timer = gr.Timer(LOOK_SECONDS, active=False)

    form = [by, halving, *(widget for line in grid for widget in line)]
    asked = {*train.asked, *form}

    def plan_of(values: dict[Any, Any]) -> Plan:
        texts: dict[str, str] = {}
        for name, text in grid:
            if str(values[text] or "").strip():
                texts[str(values[name])] = str(values[text])
        chosen = None if values[by] == AUTO else values[by]
        return make_plan(train.config_from(values), texts, chosen, HALVING if values[halving] else 0)

    def foresee(values: dict[Any, Any], request: gr.Request) -> str:
        language = language_of(request)
        try:
            return html.message(foreseen(bench, plan_of(values), language), "plain")
        except WorkbenchError as error:
            return html.message(retell(language, error), "warning")

    def start(values: dict[Any, Any], request: gr.Request) -> list[Any]:
        language = language_of(request)
        try:
            plan = plan_of(values)
            bench.feedback(plan.config.data)  # no other file than those offered
            sweep = create_sweep(plan)
            start_sweep(sweep)
        except WorkbenchError as error:
            return [html.message(retell(language, error)), *(gr.skip() for _ in outputs)]
        return ["", *look(sweep.id, request)]

    def act(do: Any, done: str) -> Any:
        def clicked(name: str | None, request: gr.Request) -> list[Any]:
            language = language_of(request)
            try:
                do(sweep_named(bench, name))
            except WorkbenchError as error:
                return [html.message(retell(language, error)), *look(name, request)]
            return [html.message(say(language, done), "fine"), *look(name, request)]

        return clicked

    def look(name: str | None, request: gr.Request) -> list[Any]:
        reap()
        language = language_of(request)
        known = list_sweeps(bench.workspace)
        sweep = next((one for one in known if one.id == name), known[0] if known else None)
        states = {one.id: one.state()["state"] for one in known}
        choices = [(f"{name} · {say(language, f'sweep.state.{state}')}", name) for name, state in states.items()]
        state = states[sweep.id] if sweep else ""
        return [
            offer(choices, sweep and sweep.id, name, visible=bool(known)),
            show(language, sweep) if sweep else "",
            gr.Button(interactive=state in ACTIVE and state != "stopping"),
            gr.Button(visible=state in ("stopped", "failed", "crashed") or state == "finished" and is_left(sweep)),
            gr.Timer(active=state in ACTIVE),
        ]

    outputs = [shown, result, end, again, timer]
    quiet: dict[str, Any] = {"show_progress": "hidden", "queue": False}
    gr.on([page.load, tab.select, shown.change, timer.tick], look, [shown], outputs, **quiet)
    gr.on(
        [tab.select, *(widget.change for widget in form)],
        foresee,
        asked,
        [preview],
        trigger_mode="always_last",
        **quiet,
    )
    begin.click(start, asked, [told, *outputs], show_progress="minimal")
    end.click(act(stop_sweep, "sweep.stopping"), [shown], [told, *outputs], **quiet)
    again.click(act(start_sweep, "sweep.going_on"), [shown], [told, *outputs], **quiet)
    return timer


def sweep_named(bench: Workbench, name: str | None) -> Sweep:
    """A sweep of this workspace by its exact id. Raises RunError."""
    found = next((one for one in list_sweeps(bench.workspace) if one.id == name), None)
    return found or find_sweep(f"sweep-{name or ''}", bench.workspace)


def is_left(sweep: Sweep) -> bool:
    """Whether some of its runs failed or are gone, and can be trained again."""
    try:
        return bool(left_over(rows(sweep)))
    except WorkbenchError:
        return False


def foreseen(bench: Workbench, plan: Plan, language: str) -> str:
    """How many runs that would be, and how long they would take, as far as that can be told."""
    trials = plan.trials()
    text = say(language, "sweep.count", count=len(trials))
    feedback, runs = bench.feedback(plan.config.data), bench.runs()[:RUNS_OFFERED]
    seconds = [estimate.seconds_of(trial.config, feedback, runs) for trial in trials]
    if all(one is not None for one in seconds):
        text += say(language, "sweep.time", time=html.time_left(language, sum(seconds)))
    return text + say(language, "sweep.halved" if plan.halving else "sweep.whole", times=plan.halving)


def show(language: str, sweep: Sweep) -> str:
    """The sweep's trials in one table, who is best, and a picture of the outcome against the options."""
    try:
        plan = sweep.plan()
    except WorkbenchError as error:
        return html.message(retell(language, error))
    found, state = rows(sweep, plan), sweep.state()
    failed = state["state"] in ("failed", "crashed")
    told = html.message(retell(language, state.get("error", "")), "error") if failed else ""
    return told + verdict(language, sweep, plan, found) + picture(language, plan, found) + table(language, plan, found)


def verdict(language: str, sweep: Sweep, plan: Plan, found: list[dict[str, Any]]) -> str:
    """Who is best, how sure that is, and who can't be told apart from it."""
    best = find_best(sweep, found, plan)
    if best is None:
        trained = any(row["state"] == "finished" for row in found)
        return html.message(say(language, "sweep.unmeasured" if trained else "sweep.none"), "plain")
    facts = {"measure": say(language, f"sweep.measure.{plan.by}"), "options": in_words(language, best["values"])}
    facts["value"] = f"{best['value']:.3f}"
    if best["error"] is None:
        text = say(language, "sweep.best.bare", **facts)
    else:
        over = say(language, f"sweep.over.{best['over']}")
        text = say(language, "sweep.best", error=f"{best['error']:.3f}", over=over, **facts)
    others = "; ".join(in_words(language, values) for values in best["not_apart"])
    if others:
        rest = say(language, "sweep.not_apart", others=others)
    else:
        rest = say(language, "sweep.apart" if best["compared"] else "sweep.alone")
    what = html.aside(say(language, "sweep.ranking")) if plan.by == "ranking" else ""
    return html.message(f"{text} {rest}", "fine" if best["compared"] and not others else "plain") + what


def in_words(language: str, values: dict[str, Any]) -> str:
    """Options with their values."""
    return ", ".join(f"{say(language, f'option.{name}')} {fields.shown(value)}" for name, value in values.items())


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def table(language: str, plan: Plan, found: list[dict[str, Any]]) -> str:
    """A row for each trial."""
    heads = ["sweep.trial", "sweep.options", "runs.state", "runs.steps", f"sweep.measure.{plan.by}"]
    heads += ["curve.loss", "sweep.computed"]
    names = [html.esc(_capital(say(language, head))) for head in heads]
    body = ""
    for row in found:
        outcome = "–" if row["value"] is None else f"{row['value']:.3f}"
        outcome += "" if row["error"] is None else f" ± {row['error']:.3f}"
        state = html.state_pill(language, row["state"])
        if row["state"] == "ended":
            part = say(language, "sweep.ended_at", part=f"{row['ended_at']:.0%}")
            state += f"<br><small>{html.esc(part)}</small>"
        elif row["state"] in ("failed", "crashed"):
            state += f"<br><small>{html.esc(retell(language, row['message']))}</small>"
        run = f"<br><code>{html.esc(row['run'])}</code>" if row["run"] else ""
        cells = [
            html.symbol(in_words(language, row["values"])),
            state,
            f"{row['step']:,} / {row['total_steps']:,}" if row["total_steps"] else "–",
            outcome,
            html.number(row["loss"]),
            f"{row['reference']['computed']:,}" if "computed" in row["reference"] else "–",
        ]
        named = (f'<td data-name="{n}"><div>{cell}</div></td>' for n, cell in zip(names[1:], cells, strict=True))
        body += f"<tr><td><b>{row['trial']}</b>{run}</td>{''.join(named)}</tr>"
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    return (
        f'<div class="kto-scroll kto-tall" {html.region(html.esc(say(language, "sweep.shown")))}>'
        f'<table class="kto-table"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def picture(language: str, plan: Plan, found: list[dict[str, Any]]) -> str:
    """The outcome against the option with the most values, a line for each setting of the others."""
    known = standings(plan, found, finished=False)
    swept = {name: values for name, values in plan.grid.items() if name != "seed" and len(values) > 1}
    if len(known) < 2 or not swept:
        return ""
    option = max(swept, key=lambda name: len(swept[name]))
    series: dict[str, list[tuple[int, Any]]] = {}
    for one in known:
        others = {name: value for name, value in one.values.items() if name in swept and name != option}
        series.setdefault(in_words(language, others), []).append((swept[option].index(one.values[option]), one))
    lines, dots, keys = [], [], []
    for (name, points), color in zip(sorted(series.items()), itertools.cycle(PALETTE), strict=False):
        points.sort(key=lambda point: point[0])
        lines.append(Line(name, [at for at, _ in points], [one.value for _, one in points], color))
        for at, one in points:
            dots.append(Dot(at, one.value, color))
            if math.isfinite(one.low):
                lines.append(Line(name, [at, at], [one.low, one.high], color, dashed=True))
        keys.append((name, color, None))
    measure = say(language, f"sweep.measure.{plan.by}")
    title = _capital(say(language, "sweep.chart", measure=measure, option=say(language, f"option.{option}")))
    shown = [fields.shown(value) for value in swept[option]]
    how = {"dots": dots, "x_names": shown, "x_range": (-0.5, len(shown) - 0.5)}
    head = html.chart_head(title, keys if len(keys) > 1 else [], values=False)
    return f'<div class="kto-panel">{head}{html.drawing(lines, title, ((760, 240), (340, 220)), **how)}</div>'
