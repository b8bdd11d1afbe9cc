"""Compare: two sides beside each other on one prompt or many, with the same seed; what differs, and why.

Beside it: the blind vote (blind.py), and the evaluation on many prompts by a judge (evaluate.py).
"""

import contextlib
import random
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from kto_workbench.errors import RunError, WorkbenchError
from kto_workbench.feedback.prompts import load_prompts
from kto_workbench.runs.answering import SideError, with_system
from kto_workbench.runs.shelf import title_of
from kto_workbench.runs.sides import REFERENCE, AnySide, check_scored
from kto_workbench.ui import blind, evaluate, html
from kto_workbench.ui.answers import (
    ASKING,
    SIDES,
    UPDATE_SECONDS,
    any_trained,
    offer_both,
    offer_others,
    run_of,
    side_field,
    side_title,
    sides_named,
    without_picture,
)
from kto_workbench.ui.heat import heat_map
from kto_workbench.ui.html import LONGEST_TEXT, esc
from kto_workbench.ui.markdown import with_markdown
from kto_workbench.ui.suggestions import prompts_for
from kto_workbench.ui.words import label, language_of, retell, say
from kto_workbench.ui.workbench import Workbench
from kto_workbench.views.differences import only_here

PAGE = 5  # prompts shown, and answered, at once
MOST_PROMPTS = 200  # more than anybody reads; the evaluation takes as many as there are
BETWEEN_PROMPTS = re.compile(r"^\s*---\s*$", re.MULTILINE)

# The buttons in the cards say which answer they mean; one button of the page tells the server.
WHY_JS = """() => document.addEventListener("click", event => {
  const button = event.target.closest?.("#compare-answers [data-why]")
  if (!button) return
  window.ktoWhy = button.dataset.why
  document.getElementById("compare-why").click()
})"""
WHICH_JS = "(now, which, marked) => [now, window.ktoWhy ?? '', marked]"
BACK_TO_BUTTON_JS = """() => document.querySelector(`#compare-answers [data-why="${window.ktoWhy}"]`)?.focus()"""

Answer = tuple[int, str]  # the number of a prompt, and a side


@dataclass
class Comparison:
    """Prompts, both sides' answers as far as they are written, and what is shown of them.

    `why` holds what explains an answer, `opened` the answers whose heat map is shown; `failed` says of a side why it
    does not answer; `ended` says that no more answers will come.
    """

    prompts: Sequence[Any]
    sides: Mapping[str, AnySide]
    texts: dict[Answer, str] = field(default_factory=dict)
    done: set[Answer] = field(default_factory=set)
    why: dict[Answer, dict[str, Any]] = field(default_factory=dict)
    opened: set[Answer] = field(default_factory=set)
    failed: dict[str, str] = field(default_factory=dict)
    page: int = 0
    ended: bool = False

    @property
    def answering(self) -> dict[str, AnySide]:
        """The sides that have not failed."""
        return {name: side for name, side in self.sides.items() if name not in self.failed}

    @property
    def unexplained(self) -> str:
        """Why there is no heat map, in a sentence; nothing where there is one."""
        try:
            check_scored(*self.sides.values())
        except RunError as error:
            return str(error)
        return ""

    @property
    def pages(self) -> int:
        """How many pages there are, one at least."""
        return max(1, -(-len(self.prompts) // PAGE))

    def take(self, first: int, piece: Mapping[str, Any]) -> None:
        """Note an event of `Answerer.stream`, whose prompts began at number `first`."""
        if "error" in piece:
            self.failed[piece["side"]] = piece["error"]
            return
        answer = (first + piece["prompt"], piece["side"])
        self.texts[answer] = piece["text"]
        if piece["done"]:
            self.done.add(answer)

    def complete(self, number: int) -> bool:
        """Whether both sides have answered a prompt."""
        return all((number, side) in self.done for side in SIDES)


def build(bench: Workbench, page: gr.Blocks, tab: gr.Tab) -> None:
    """Lay out the tab and wire it."""
    gr.HTML(label("compare.intro"), elem_classes="kto-bare kto-section")
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=300):
            prompt = gr.Textbox(
                label=label("compare.prompt"),
                info=label("compare.prompt.help"),
                lines=3,
                max_lines=12,
                elem_id="compare-prompt",
                max_length=20_000,
            )
            ideas = gr.Dataset(
                components=[gr.Textbox(visible=False)],
                samples=[],
                label=label("compare.ideas"),
                elem_id="compare-ideas",
                layout="gallery",
            )
            with gr.Accordion(label("compare.file.title"), open=False, elem_id="compare-many"):
                file = gr.File(label=label("compare.file"), type="filepath", height=120, elem_id="compare-file")
        with gr.Column(scale=3, min_width=280):
            run = side_field("compare-run")
            against = side_field("compare-against", "compare.against")
            with gr.Accordion(label("compare.settings"), open=False, elem_id="compare-settings"):
                system = gr.Textbox(label=label("compare.system"), lines=2, elem_id="compare-system")
                temperature = gr.Slider(
                    0,
                    2,
                    value=0.7,
                    step=0.05,
                    label=label("compare.temperature"),
                    info=label("compare.temperature.help"),
                    elem_id="compare-temperature",
                )
                length = gr.Slider(8, 2048, value=128, step=8, label=label("compare.length"), elem_id="compare-length")
                seed = gr.Number(42, precision=0, minimum=0, label=label("compare.seed"), elem_id="compare-seed")
                unload = gr.Button(label("compare.unload"), size="sm", elem_id="compare-unload")
    with gr.Row(elem_classes="kto-buttons"):
        generate = gr.Button(label("compare.generate"), variant="primary", elem_id="compare-generate", min_width=140)
        another = gr.Button(label("compare.another"), elem_id="compare-another", min_width=140)
        halt = gr.Button(label("compare.halt"), elem_id="compare-halt", min_width=100)
        marked = gr.Checkbox(
            True, label=label("compare.marks"), elem_id="compare-marks", container=False, scale=0, min_width=180
        )
        gr.HTML(label("answers.read"), elem_classes="kto-bare")
    told = gr.HTML(elem_id="compare-message", elem_classes="kto-bare kto-told")
    blind.build(bench, page, blind.Asked(run, against, system, temperature, length))
    answers = gr.HTML(show("en", None), elem_id="compare-answers", elem_classes="kto-bare")
    with gr.Row(elem_classes="kto-buttons", visible=False) as pager:
        before = gr.Button("←", elem_id="compare-before", min_width=60)
        after = gr.Button("→", elem_id="compare-after", min_width=60)
    explain = gr.Button(visible="hidden", elem_id="compare-why")
    which = gr.Textbox(visible=False)
    now = gr.State(None)
    evaluate.build(bench, page, tab)

    def answer(
        run_name: str,
        against_name: str,
        prompt: str,
        file: str | None,
        system: str,
        temperature: float,
        length: float,
        seed: float,
        marked: bool,
        request: gr.Request,
    ) -> Iterator[tuple[Any, ...]]:
        language = language_of(request)
        yield gr.skip(), html.message(say(language, "compare.waiting"), "plain"), gr.skip(), gr.skip()
        try:
            sides = sides_named(bench, run_name, against_name)
            prompts = prompts_asked(bench, prompt, file)
        except WorkbenchError as error:
            yield gr.skip(), html.message(retell(language, error)), gr.skip(), gr.skip()
            return
        if not prompts:
            yield gr.skip(), html.message(say(language, "compare.empty")), gr.skip(), gr.skip()
            return
        more = len(prompts) - MOST_PROMPTS
        prompts = [with_system(one, (system or "").strip()) for one in prompts[:MOST_PROMPTS]]
        comparison = Comparison(prompts, sides)

        def update(note: str = "") -> tuple[Any, ...]:
            return gr.skip(), note, show(language, comparison, marked), gr.skip()

        yield comparison, gr.skip(), show(language, comparison, marked), gr.Row(visible=comparison.pages > 1)
        sent = time.monotonic()
        try:
            for first in range(0, len(prompts), PAGE):
                pieces = bench.answerer.stream(
                    comparison.answering,
                    prompts[first : first + PAGE],
                    seed=int(seed or 0),
                    temperature=float(temperature),
                    max_new_tokens=int(length),
                )
                with contextlib.suppress(SideError):  # which is told beside the other side's answer
                    for piece in pieces:
                        comparison.take(first, piece)
                        if time.monotonic() - sent > pause_between_updates(comparison, first) or "error" in piece:
                            sent = time.monotonic()
                            yield update()
        except WorkbenchError as error:
            comparison.ended = True
            yield update(html.message(retell(language, error)))
            return
        comparison.ended = True
        note = ""
        texts = comparison.texts
        if not comparison.failed and all(texts[i, "reference"] == texts[i, "tuned"] for i in range(len(prompts))):
            note = html.message(say(language, "compare.same"), "warning")
        elif more > 0:
            note = html.message(say(language, "compare.more", shown=MOST_PROMPTS, count=more), "warning")
        yield update(note)

    def stopped(comparison: Comparison | None, marked: bool, request: gr.Request) -> Any:
        if comparison is None:
            return gr.skip()
        comparison.ended = True
        return show(language_of(request), comparison, marked)

    def shown(comparison: Comparison | None, marked: bool, request: gr.Request) -> str:
        return show(language_of(request), comparison, marked)

    def unload_models(request: gr.Request) -> str:
        bench.unload()
        return html.message(say(language_of(request), "compare.unloaded"), "fine")

    def turn(step: int) -> Any:
        def turned(comparison: Comparison | None, marked: bool, request: gr.Request) -> str:
            if comparison is not None:
                comparison.page = min(max(0, comparison.page + step), comparison.pages - 1)
            return show(language_of(request), comparison, marked)

        return turned

    def tell_why(
        comparison: Comparison | None, which: str, marked: bool, request: gr.Request
    ) -> Iterator[tuple[str, Any]]:
        language = language_of(request)
        number, _, side = str(which).partition(":")
        meant = (int(number) if number.isdecimal() else -1, side)
        if comparison is None or meant not in comparison.done:
            yield gr.skip(), gr.skip()
            return
        if meant in comparison.opened:
            comparison.opened.remove(meant)
        else:
            yield html.message(say(language, "why.waiting"), "plain"), gr.skip()
            try:
                comparison.why[meant] = comparison.why.get(meant) or bench.answerer.explain(
                    comparison.sides["tuned"],
                    comparison.prompts[meant[0]],
                    comparison.texts[meant],
                    against=comparison.sides["reference"],
                )
            except WorkbenchError as error:
                yield html.message(retell(language, error)), gr.skip()
                return
            comparison.opened.add(meant)
        yield "", show(language, comparison, marked)

    def refresh(run_name: str | None, against_name: str | None, had: bool, request: gr.Request) -> tuple[Any, ...]:
        has = any_trained(bench)
        if has and not had:  # what stood there for want of a run makes way
            run_name = against_name = None
        return *offer_both(bench, language_of(request), run_name, against_name), has

    def follow(run_name: str | None, against_name: str | None, request: gr.Request) -> tuple[Any, Any]:
        """What suits another side: prompts to try, and what it can be held against."""
        found = run_of(bench, run_name)
        others = offer_others(bench, language_of(request), against_name, run_name)
        return gr.Dataset(samples=[[text] for text in prompts_for(found)]), others

    inputs = [run, against, prompt, file, system, temperature, length, seed, marked]
    outputs = [now, told, answers, pager]
    quiet: dict[str, Any] = {"show_progress": "hidden", "queue": False}
    had_run = gr.State(False)
    gr.on([page.load, tab.select], refresh, [run, against, had_run], [run, against, had_run], **quiet)
    page.load(shown, [now, marked], [answers], **quiet)
    page.load(None, None, None, js=WHY_JS)
    run.change(follow, [run, against], [ideas, against], **quiet)
    ideas.click(lambda sample: sample[0], [ideas], [prompt], **quiet)
    running = gr.on([generate.click], answer, inputs, outputs, **ASKING)
    renewed = another.click(lambda: random.randrange(2**31), None, [seed], **quiet).then(
        answer, inputs, outputs, **ASKING
    )
    halt.click(None, None, None, cancels=[running, renewed]).then(stopped, [now, marked], [answers], **quiet)
    unload.click(unload_models, None, [told], **quiet)
    marked.change(shown, [now, marked], [answers], **quiet)
    before.click(turn(-1), [now, marked], [answers], **quiet)
    after.click(turn(1), [now, marked], [answers], **quiet)
    explain.click(tell_why, [now, which, marked], [told, answers], js=WHICH_JS, **ASKING).then(
        None, None, None, js=BACK_TO_BUTTON_JS
    )


# what is asked -------------------------------------------------------------------------------------------------------


def prompts_asked(bench: Workbench, text: str | None, file: str | None) -> list[Any]:
    """The prompts of a file that the browser sent, else those of the text. Raises DataError."""
    if file:
        return load_prompts(bench.received_file(file))
    return [part.strip() for part in BETWEEN_PROMPTS.split(text or "") if part.strip()]


def pause_between_updates(comparison: Comparison, first: int) -> float:
    """Seconds: a page of many texts costs the browser more, and a page that does not show them changes little."""
    if first != comparison.page * PAGE:
        return 10 * UPDATE_SECONDS
    return UPDATE_SECONDS * (1 if len(comparison.prompts) == 1 else 3)


# what is shown -------------------------------------------------------------------------------------------------------


def show(language: str, comparison: Comparison | None, marked: bool = True) -> str:
    """A page of prompts, each with both answers; before the first answer, where they will be."""
    if comparison is None:
        boxes = "".join(
            f'<section class="kto-side"><h3>{esc(say(language, f"answer.{side}"))}</h3>'
            f'<div id="compare-{side}">{_box("", True)}</div></section>'
            for side in SIDES
        )
        return f'<div class="kto-sides">{boxes}</div>'
    first = comparison.page * PAGE
    numbers = range(first, min(first + PAGE, len(comparison.prompts)))
    cards = "".join(_card(language, comparison, number, marked, number == first) for number in numbers)
    where = ""
    if len(comparison.prompts) > 1:
        ready = sum(comparison.complete(number) for number in range(len(comparison.prompts)))
        where = say(
            language, "compare.where", first=first + 1, last=numbers[-1] + 1, total=len(comparison.prompts), ready=ready
        )
        where = f'<p class="kto-plain kto-facts">{esc(where)}</p>'
    key = f'<p class="kto-plain">{_key(language)}</p>' if marked and "<mark" in cards else ""
    notes = [retell(language, comparison.unexplained)]
    notes.append(without_picture(language, comparison.sides.values(), comparison.prompts))
    note = "".join(f'<p class="kto-plain">{esc(one)}</p>' for one in notes if one)
    return f'<div class="kto-stack">{where}{key}{cards}{note}</div>'


def _card(language: str, comparison: Comparison, number: int, marked: bool, first: bool) -> str:
    sides = "".join(_side(language, comparison, (number, side), marked, first) for side in SIDES)
    return (
        f'<article class="kto-compared"><header>{html.conversation(comparison.prompts[number])}</header>'
        f'<div class="kto-sides">{sides}</div></article>'
    )


def _side(language: str, comparison: Comparison, answer: Answer, marked: bool, first: bool) -> str:
    number, side = answer
    place = f' id="compare-{side}"' if first else ""
    done, text = answer in comparison.done, comparison.texts.get(answer, "")
    if side in comparison.failed and not done:
        body = html.message(retell(language, comparison.failed[side]))
    elif answer in comparison.opened:
        body = heat_map(language, comparison.why[answer])
    elif marked and comparison.complete(number):
        other = comparison.texts[number, SIDES[side == SIDES[0]]]
        body = _box(with_markdown(text[:LONGEST_TEXT], with_marks(text, other)), True)
    else:
        # What is still being written is shown as it is.
        body = _box(html.answer(text) if done else esc(text), done or comparison.ended)
    button = ""
    if done and not comparison.unexplained:
        says = say(language, "why.close" if answer in comparison.opened else "why.open")
        button = f'<button type="button" class="kto-why" data-why="{number}:{side}">{esc(says)}</button>'
    return (
        f'<section class="kto-side kto-of-{side}"><h3>{_heading(language, comparison.sides, side)}</h3>'
        f"<div{place}>{body}</div>{button}</section>"
    )


def _heading(language: str, sides: Mapping[str, AnySide], side: str) -> str:
    """Which side this is; that of another run, a checkpoint, or one without a run goes by its name alone."""
    one = sides[side]
    if one.run is None or (side == "reference" and one.part != REFERENCE):
        return esc(side_title(one, language))
    title = title_of(one.run) if one.part in ("tuned", REFERENCE) else side_title(one, language)
    return f"{esc(say(language, f'answer.{side}'))} <small>{esc(title)}</small>"


def with_marks(text: str, other: str) -> str:
    """A text as HTML, with what the other lacks marked."""
    parts = only_here(text[:LONGEST_TEXT], other[:LONGEST_TEXT])
    marked = "".join(f'<mark class="kto-only">{esc(part)}</mark>' if lacks else esc(part) for part, lacks in parts)
    return marked + (" …" if len(text) > LONGEST_TEXT else "")


def _key(language: str) -> str:
    return f'<mark class="kto-only">{esc(say(language, "compare.key.mark"))}</mark> {esc(say(language, "compare.key"))}'


def _box(content: str, done: bool) -> str:
    """An answer as it grows; `content` is HTML."""
    return f'<div class="kto-answer-box" aria-live="polite" aria-busy="{str(not done).lower()}">{content}</div>'
