"""Evaluate on many prompts: `kto compare` in a process of its own, which outlives page and server.

What is known of it stands in runs/<id>/evaluations/ (see judging/records.py); this page only starts it and looks.
"""

import contextlib
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from kto_workbench.config import DEMO_MODEL
from kto_workbench.errors import ConfigError, DataError, RunError, WorkbenchError
from kto_workbench.feedback.prompts import load_prompts, load_questions
from kto_workbench.judging.endpoint import Prices, estimate_cost
from kto_workbench.judging.questions import DEMO, HELD_OUT, find_questions
from kto_workbench.judging.records import ACTIVE, Record, list_records, new_record
from kto_workbench.judging.rules import KINDS, parse_judge
from kto_workbench.judging.steps import checkpoints_of
from kto_workbench.runs import Run
from kto_workbench.runs.children import reap, start_apart
from kto_workbench.runs.sides import Side, home_of
from kto_workbench.ui import html
from kto_workbench.ui.answers import (
    any_trained,
    home_named,
    offer_both,
    offer_others,
    run_of,
    side_field,
    side_named,
    sides_named,
)
from kto_workbench.ui.fields import offer
from kto_workbench.ui.outcome import record_title, show
from kto_workbench.ui.words import label, language_of, retell, say
from kto_workbench.ui.workbench import Workbench

NO_JUDGE = "none"
LOOK_SECONDS = 1.0
LIMIT = 64


@dataclass(frozen=True)
class Wish:
    """What the page's fields say."""

    run: str | None
    against: str
    checkpoints: bool
    prompts: str
    limit: float | None
    kind: str
    argument: str
    endpoint: str | None
    criteria: str
    max_tokens: float | None
    price_read: float | None
    price_written: float | None

    @property
    def judge(self) -> str | None:
        """The judge as the command knows it. Raises ConfigError if its argument can't be read."""
        if self.kind == NO_JUDGE:
            return None
        if self.kind not in KINDS:
            raise ConfigError(f"There is no judge {self.kind!r}.")
        argument = (self.endpoint if self.kind == "endpoint" else self.argument) or ""
        spec = f"{self.kind}:{argument.strip()}" if KINDS[self.kind] else self.kind
        parse_judge(spec)
        return spec

    @property
    def at_most(self) -> int | None:
        """How many prompts, None for all."""
        return int(self.limit) if self.limit else None


def build(bench: Workbench, page: gr.Blocks, tab: gr.Tab) -> None:
    """Lay out the panel, folded, and wire it."""
    with gr.Accordion(label("evaluate.title"), open=False, elem_id="evaluate"):
        gr.HTML(label("evaluate.intro"), elem_classes="kto-bare kto-section")
        with gr.Row():
            run = side_field("evaluate-run", scale=2, min_width=220)
            against = side_field("evaluate-against", "compare.against", min_width=220)
            prompts = gr.Dropdown(
                [], label=label("evaluate.prompts"), elem_id="evaluate-prompts", filterable=False, min_width=220
            )
            limit = gr.Number(
                LIMIT, precision=0, minimum=0, label=label("evaluate.limit"), elem_id="evaluate-limit", min_width=120
            )
        with gr.Row(equal_height=False):
            judge = gr.Dropdown(
                [(label(f"judge.{kind}"), kind) for kind in (NO_JUDGE, *KINDS)],
                value=NO_JUDGE,
                label=label("evaluate.judge"),
                elem_id="evaluate-judge",
                min_width=220,
                filterable=False,
            )
            argument = gr.Textbox(
                label=label("evaluate.argument"), elem_id="evaluate-argument", min_width=220, max_lines=1, visible=False
            )
        checkpoints = gr.Checkbox(
            label=label("evaluate.checkpoints"),
            info=label("evaluate.checkpoints.help"),
            elem_id="evaluate-checkpoints",
        )
        with gr.Group(visible=False) as of_endpoint:
            endpoint = gr.Dropdown(
                [],
                label=label("evaluate.endpoint"),
                info=label("evaluate.endpoint.help"),
                filterable=False,
                elem_id="evaluate-endpoint",
            )
            criteria = gr.Textbox(
                label=label("evaluate.criteria"),
                info=label("evaluate.criteria.help"),
                elem_id="evaluate-criteria",
                lines=1,
                max_lines=4,
                max_length=2000,
            )
            with gr.Row():
                max_tokens = gr.Number(
                    16, precision=0, minimum=1, label=label("evaluate.max_tokens"), elem_id="evaluate-max-tokens"
                )
                price_read = gr.Number(
                    None, minimum=0, label=label("evaluate.price_read"), elem_id="evaluate-price-read"
                )
                price_written = gr.Number(
                    None, minimum=0, label=label("evaluate.price_written"), elem_id="evaluate-price-written"
                )
        cost = gr.HTML(elem_id="evaluate-cost", elem_classes="kto-bare kto-told")
        with gr.Row(elem_classes="kto-buttons"):
            start = gr.Button(label("evaluate.start"), variant="primary", elem_id="evaluate-start", min_width=140)
            stop = gr.Button(label("train.stop"), elem_id="evaluate-stop", min_width=100, interactive=False)
            upload = gr.UploadButton(
                label("evaluate.upload"),
                file_types=[".txt", ".csv", ".tsv", ".json", ".jsonl"],
                elem_id="evaluate-upload",
                min_width=140,
            )
        told = gr.HTML(elem_id="evaluate-message", elem_classes="kto-bare kto-told")
        shown = gr.Dropdown(
            [], label=label("evaluate.shown"), elem_id="evaluate-shown", filterable=False, visible=False
        )
        result = gr.HTML(elem_id="evaluate-result", elem_classes="kto-bare")
        timer = gr.Timer(LOOK_SECONDS, active=False)

    fields = [
        run, against, checkpoints, prompts, limit, judge, argument, endpoint, criteria, max_tokens, price_read,
        price_written,
    ]  # fmt: skip

    def sources_for(language: str) -> list[tuple[str, str]]:
        named = [(say(language, f"evaluate.prompts.{name}"), name) for name in (HELD_OUT, DEMO)]
        return named + [(path.name, str(path)) for path in prompt_files(bench)]

    def refresh(
        run_id: str | None,
        against_id: str | None,
        source: str | None,
        judged_by: str | None,
        had: bool,
        request: gr.Request,
    ) -> list[Any]:
        language, has = language_of(request), any_trained(bench)
        if has and not had:  # what stood there for want of a run makes way
            run_id = against_id = None
        sources = sources_for(language)
        names = [(f"{one.name} · {one.model}", one.name) for one in bench.endpoints()]
        return [
            *offer_both(bench, language, run_id, against_id),
            offer(sources, _kept(source, sources), source),
            offer(names, _kept(judged_by, names), judged_by),
            has,
        ]

    def follow(run_id: str | None, against_id: str | None, request: gr.Request) -> Any:
        return offer_others(bench, language_of(request), against_id, run_id)

    def ask_for(kind: str, request: gr.Request) -> list[Any]:
        if KINDS.get(kind) and kind != "endpoint":
            argument = gr.Textbox(label=say(language_of(request), f"evaluate.argument.{kind}"), visible=True)
        else:
            argument = gr.Textbox(visible=False)
        return [argument, gr.Group(visible=kind == "endpoint")]

    def bring_judge(run_id: str | None, source: str | None, by_hand: bool) -> Any:
        return gr.skip() if by_hand else gr.Dropdown(value=judge_for(bench, run_id, source))

    def estimate(request: gr.Request, *values: Any) -> str:
        try:
            return cost_line(bench, Wish(*values), language_of(request))
        except WorkbenchError as error:
            return html.message(retell(language_of(request), error), "warning")

    def begin(request: gr.Request, *values: Any) -> list[Any]:
        wish, language = Wish(*values), language_of(request)
        try:
            record = begin_evaluation(bench, wish)
        except WorkbenchError as error:
            return [html.message(retell(language, error)), *(gr.skip() for _ in range(4))]
        return ["", *look(wish.run, record.name, request)]

    def look(run_id: str | None, name: str | None, request: gr.Request) -> list[Any]:
        reap()
        language, home = language_of(request), home_named(bench, run_id)
        records = list_records(home) if home else []
        chosen = next((one for one in records if one.name == name), records[0] if records else None)
        read = {one.name: one.read() for one in records}
        active = chosen is not None and read[chosen.name].get("state") in ACTIVE
        choices = [(record_title(language, read[one.name]), one.name) for one in records]
        return [
            offer(choices, chosen.name if chosen else None, name, visible=bool(records)),
            show(language, chosen, read[chosen.name]) if chosen else "",
            gr.Timer(active=active),
            gr.Button(interactive=active),
        ]

    def newest(run_id: str | None, request: gr.Request) -> list[Any]:
        return look(run_id, None, request)

    def halt(run_id: str | None, name: str | None, request: gr.Request) -> list[Any]:
        with contextlib.suppress(WorkbenchError):
            Record(home_of(side_named(bench, run_id), bench.workspace), name or "").stop()
        return look(run_id, name, request)

    def take(file: str, request: gr.Request) -> list[Any]:
        language = language_of(request)
        try:
            path, count = keep_prompts(bench, file)
        except (WorkbenchError, OSError) as error:
            return [gr.skip(), html.message(retell(language, error))]
        return [
            gr.Dropdown(choices=sources_for(language), value=str(path)),
            html.message(say(language, "evaluate.taken", count=count, name=path.name), "fine"),
        ]

    quiet: dict[str, Any] = {"show_progress": "hidden", "queue": False}
    seen = [shown, result, timer, stop]
    chosen = [run, against, prompts, endpoint, gr.State(False)]  # the last: whether there was a run
    gr.on([page.load, tab.select], refresh, chosen, chosen, **quiet)
    by_hand = gr.State(False)  # a judge that somebody chose stays
    judge.input(lambda: True, None, [by_hand], **quiet)
    gr.on([page.load, run.change, prompts.change], bring_judge, [run, prompts, by_hand], [judge], **quiet)
    judge.change(ask_for, [judge], [argument, of_endpoint], **quiet)
    # Held-out prompts are read from the feedback each time: not at every letter of a pattern.
    typed = [argument, criteria]
    changed = [run, against, checkpoints, prompts, limit, judge, endpoint, max_tokens, price_read, price_written]
    gr.on([*(field.blur for field in typed), *(field.change for field in changed)], estimate, fields, [cost], **quiet)
    run.change(newest, [run], seen, **quiet)
    run.change(follow, [run, against], [against], **quiet)
    start.click(begin, fields, [told, *seen], **quiet)
    stop.click(halt, [run, shown], seen, **quiet)
    gr.on([shown.input, timer.tick], look, [run, shown], seen, **quiet)
    upload.upload(take, [upload], [prompts, told], **quiet)


def _kept(value: str | None, choices: Sequence[tuple[str, str]]) -> str | None:
    known = [choice for _, choice in choices]
    return value if value in known else known[0] if known else None


def judge_for(bench: Workbench, run_name: str | None, source: str | None) -> str:
    """The judge that the data brings: answers that are expected, or the demo's own; else none."""
    path = Path(str(source or ""))
    with contextlib.suppress(WorkbenchError, OSError):
        if path in prompt_files(bench) and all(expected for _, expected in load_questions(path)):
            return "contains"
    run = run_of(bench, run_name)
    with contextlib.suppress(WorkbenchError):
        if run is not None and run.config().model == DEMO_MODEL:
            return "demo"
    return NO_JUDGE


# what can be asked ---------------------------------------------------------------------------------------------------


def prompt_files(bench: Workbench) -> list[Path]:
    """The files of prompts that were dropped on this page, the newest first."""
    files = [path for path in (bench.workspace / "prompts").glob("*") if path.is_file()]
    return sorted(files, key=lambda path: path.stat().st_mtime, reverse=True)


def keep_prompts(bench: Workbench, received: str) -> tuple[Path, int]:
    """Keep a file from the browser in the workspace if it holds prompts; returns its path and how many."""
    path = bench.received_file(received)
    count = len(load_prompts(path))
    folder = bench.workspace / "prompts"
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^\w.\-]+", "_", path.name).lstrip("._")[-100:] or "prompts.txt"
    return Path(shutil.move(path, folder / name)), count


def questions_of(bench: Workbench, wish: Wish, run: Run | None) -> list[Any]:
    """The prompts that the wish means, and no file but those that the page offers. Raises WorkbenchError."""
    if wish.prompts not in (HELD_OUT, DEMO) and Path(str(wish.prompts)) not in prompt_files(bench):
        raise DataError("That is not a file of prompts that this page received; drop it again.")
    return find_questions(wish.prompts, run, wish.at_most)


def cost_line(bench: Workbench, wish: Wish, language: str) -> str:
    """How many prompts will be answered; for an endpoint also what it will be asked at most."""
    sides = sides_named(bench, wish.run, wish.against)
    run = sides["tuned"].run
    asked = [prompt for prompt, _ in questions_of(bench, wish, run or sides["reference"].run)]
    line = say(language, "evaluate.count", count=len(asked))
    if wish.judge and wish.kind == "endpoint":
        bench.endpoint(wish.endpoint)
        prices = None
        if wish.price_read or wish.price_written:
            prices = Prices(wish.price_read or 0, wish.price_written or 0)
        cost = estimate_cost(
            asked,
            answer_tokens=sides["tuned"].config().sample_max_new_tokens,
            max_tokens=int(wish.max_tokens or 16),
            criteria=wish.criteria or "",
            sides=len(checkpoints_of(run)) if wish.checkpoints and run else 1,
            prices=prices,
        )
        line += " " + say(
            language,
            "evaluate.cost",
            requests=cost["requests"],
            read=cost["tokens_read"],
            written=cost["tokens_written"],
            price=say(language, "evaluate.price", price=cost["price"]) if prices else "",
        )
    return html.message(line, "plain")


def begin_evaluation(bench: Workbench, wish: Wish) -> Record:
    """Start an evaluation in a process of its own. Raises WorkbenchError."""
    sides = sides_named(bench, wish.run, wish.against)
    side, against = sides["tuned"], sides["reference"]
    run, home = side.run, home_of(side, bench.workspace)
    if wish.checkpoints:
        if run is None:
            raise RunError(f"{side.name} is no run, so it has no checkpoints.")
        side = Side(run)
    if any(record.read().get("state") in ACTIVE for record in list_records(home)):
        raise RunError(f"An evaluation of {side.name} is at work already; stop it or let it end.")
    judge, asked = wish.judge, questions_of(bench, wish, run or against.run)
    if wish.kind == "endpoint":
        bench.endpoint(wish.endpoint)
    about = {
        "tuned": side.name,
        "against": against.name,
        "prompts": Path(wish.prompts).name,
        "n_prompts": len(asked),
        "judge": judge,
        "checkpoints": bool(wish.checkpoints),
    }
    record = new_record(home, about)
    command = ["compare", side.name, "--json"]
    # With "=", so that nothing that was typed can be taken for an option.
    command += [f"--workspace={bench.workspace.resolve()}", f"--evaluation={record.name}"]
    command += [f"--prompts={wish.prompts if wish.prompts in (HELD_OUT, DEMO) else Path(wish.prompts).resolve()}"]
    command += [f"--against={against.name}"]
    command += [f"--limit={wish.at_most}"] if wish.at_most else []
    command += ["--checkpoints"] if wish.checkpoints else []
    command += [f"--judge={judge}"] if judge else []
    if wish.kind == "endpoint":
        command += [
            f"--judge-criteria={wish.criteria or ''}",
            f"--judge-max-tokens={int(wish.max_tokens or 16)}",
        ]
    try:
        with record.log_path.open("wb") as log:
            child = start_apart("kto_workbench", command, log, mute=True)  # the record holds it all
    except OSError as error:
        raise RunError(f"Can't write to {record.path.parent}: {error.strerror}.") from None
    record.belongs_to(child.pid)
    return record
