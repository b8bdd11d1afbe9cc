"""Review: answers to many prompts, one card at a time, a thumb for each at the speed of a key.

Answers are generated in batches, ahead of the reader. A review lives in this process, so that a reload of the page
comes back to its card; its votes are in the store, each on disk before the next card shows.
"""

import random
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from kto_workbench.errors import DataError, RunError, WorkbenchError
from kto_workbench.feedback.held_out import held_out_prompts, prompt_key
from kto_workbench.feedback.loading import load_feedback
from kto_workbench.feedback.prompts import load_prompts
from kto_workbench.feedback.store import ThumbStore
from kto_workbench.runs import Run
from kto_workbench.ui import html, keys
from kto_workbench.ui.answers import ASKING, run_of, side_named
from kto_workbench.ui.html import esc
from kto_workbench.ui.words import label, language_of, retell, say
from kto_workbench.ui.workbench import Workbench

FIRST_BATCH, BATCH = 4, 16  # answers generated at once: few at first, so that the first card soon shows
AHEAD = 24  # unread answers to have
REVIEWS_KEPT = 8  # in this process, for pages that are loaded again

ACTIONS = ("back", "down", "up", "skip")
KEYS = {
    "ArrowUp": "up",
    "u": "up",
    "ArrowDown": "down",
    "d": "down",
    "ArrowRight": "skip",
    " ": "skip",
    "ArrowLeft": "back",
    "z": "back",
}


@dataclass
class Card:
    """One answer to judge."""

    prompt: Any
    text: str
    seed: int
    thumb: int | None = None  # its vote in the store
    label: bool | None = None


@dataclass
class Review:
    """One way through prompts: what has been answered, where the reader is, what was voted.

    Args:
        store: takes the votes.
        prompts: each a text or messages.
        each: answers to each prompt; those that turn out the same are shown once.
        origin: of the answers, as `ThumbStore.add` takes it.
        answer: (prompts, seed=…) yields the events of `Answerer.stream`.
    """

    store: ThumbStore
    prompts: Sequence[Any]
    each: int
    origin: dict[str, Any]
    answer: Callable[..., Iterator[dict[str, Any]]]
    cards: list[Card] = field(default_factory=list)
    position: int = 0
    asked: int = 0  # prompts
    awaited: bool = False  # the page was told to wait for the next card
    _voting: threading.Lock = field(default_factory=threading.Lock)
    _asking: threading.Lock = field(default_factory=threading.Lock)

    @property
    def total(self) -> int:
        """How many cards there will be, as far as is known."""
        return len(self.cards) + (len(self.prompts) - self.asked) * self.each

    @property
    def shown(self) -> Card | None:
        """The card to judge now; None while it is not there yet, and at the end."""
        return self.cards[self.position] if self.position < len(self.cards) else None

    def answer_ahead(self) -> Iterator[None]:
        """Have answers generated until enough wait to be read; yields after each batch. Raises WorkbenchError."""
        while self.wanting:
            with self._asking:  # two pages may show one review
                if self.wanting:
                    self._make_batch()
            yield

    @property
    def wanting(self) -> bool:
        """Whether more answers should be generated."""
        return self.asked < len(self.prompts) and len(self.cards) - self.position < AHEAD

    def _make_batch(self) -> None:
        size = max(1, (BATCH if self.cards else FIRST_BATCH) // self.each)
        part = self.prompts[self.asked : self.asked + size]
        seed = random.randrange(2**31)
        repeated = [prompt for prompt in part for _ in range(self.each)]
        texts = {event["prompt"]: event["text"] for event in self.answer(repeated, seed=seed) if event["done"]}
        for number, prompt in enumerate(part):
            mine = (texts[i] for i in range(number * self.each, (number + 1) * self.each))
            self.cards += [Card(prompt, text, seed) for text in dict.fromkeys(mine)]
        self.asked += len(part)

    def vote(self, number: int, up: bool) -> None:
        """Keep a vote for a card, or turn it around, and go to the next."""
        if not 0 <= number < len(self.cards):
            return
        with self._voting:
            card = self.cards[number]
            if card.thumb is None:
                sampling = {**self.origin.get("sampling", {}), "seed": card.seed}
                origin = {**self.origin, "sampling": sampling}
                card.thumb = self.store.add(card.prompt, card.text, up, **origin)
            else:
                self.store.change(card.thumb, up)
            card.label = up
            self.position = number + 1

    def skip(self, number: int) -> None:
        """Go to the next card."""
        if 0 <= number < len(self.cards):
            self.position = number + 1

    def back(self, number: int) -> None:
        """Go to the card before, and take its vote back; from the end, to the last card."""
        before = (number if 0 <= number < len(self.cards) else self.position) - 1
        if before < 0:
            return
        with self._voting:
            card = self.cards[before]
            if card.label is not None:
                self.store.retract(card.thumb)
                card.label = None
            self.position = before

    def counts(self) -> tuple[int, int]:
        """Thumbs up and down in this review."""
        labels = [card.label for card in self.cards]
        return labels.count(True), labels.count(False)


@dataclass
class ReviewPanel:
    """The widgets of the panel, laid out before those that it depends on."""

    source: gr.Radio
    file: gr.File
    each: gr.Slider
    start: gr.Button
    told: gr.HTML
    card: gr.HTML
    actions: dict[str, gr.Button]


def lay_out() -> ReviewPanel:
    """The panel's widgets, top to bottom."""
    gr.HTML(label("review.help"), elem_classes="kto-bare kto-section")
    with gr.Row(equal_height=True):
        source = gr.Radio(
            [(label(f"review.from.{one}"), one) for one in ("held_out", "all", "file")],
            value="held_out",
            label=label("review.from"),
            elem_id="review-from",
            min_width=220,
        )
        each = gr.Slider(1, 8, value=2, step=1, label=label("review.each"), elem_id="review-each", min_width=220)
    file = gr.File(label=label("review.file"), type="filepath", height=120, visible=False, elem_id="review-file")
    with gr.Row(elem_classes="kto-buttons"):
        start = gr.Button(label("review.start"), variant="primary", elem_id="review-start", min_width=160)
    told = gr.HTML(elem_id="review-message", elem_classes="kto-bare kto-told")
    with gr.Column(elem_id="review-panel"):
        card = gr.HTML(elem_id="review-card", elem_classes="kto-bare")
        with gr.Row(elem_id="review-actions"):
            actions = {
                name: gr.Button(label(f"review.{name}"), elem_id=f"review-{name}", min_width=120) for name in ACTIONS
            }
    return ReviewPanel(source, file, each, start, told, card, actions)


def wire(
    panel: ReviewPanel,
    bench: Workbench,
    page: gr.Blocks,
    tab: gr.Tab,
    asked: Sequence[Any],
    origin: Callable[..., dict[str, Any]],
    tally: Callable[[str], tuple[Any, ...]],
    tallied: Sequence[Any],
) -> None:
    """Wire the panel.

    Args:
        panel: from `lay_out`.
        bench: the workspace.
        page: all tabs.
        tab: the panel's own.
        asked: the widgets that say who answers, and how: side, temperature, longest answer.
        origin: of an answer, from the values of these widgets.
        tally: what is shown of the votes, in a language.
        tallied: the widgets for it.
    """
    store, who = ThumbStore(bench.workspace), asked[0]
    reviews: OrderedDict[str, Review] = OrderedDict()
    # A reload comes back to the same card; the name is all that the browser keeps.
    mine = gr.BrowserState("", storage_key="kto-workbench-review", secret="kto-workbench")
    shown = gr.Number(-1, visible=False)

    def begin(
        source: str,
        path: str | None,
        each: float,
        side_name: str,
        temperature: float,
        length: float,
        request: gr.Request,
    ) -> tuple[Any, Any, str]:
        language = language_of(request)
        try:
            side = side_named(bench, side_name)
            prompts = _prompts(bench, side.run, source, path)
            made = origin(side_name, temperature, length)
        except WorkbenchError as error:
            return gr.skip(), gr.skip(), html.message(retell(language, error))
        if not prompts:
            return gr.skip(), gr.skip(), html.message(say(language, "review.no_file"), "warning")

        def answer(prompts: list[Any], *, seed: int) -> Iterator[dict[str, Any]]:
            return bench.answerer.stream(
                {side.name: side}, prompts, seed=seed, temperature=float(temperature), max_new_tokens=int(length)
            )

        name = secrets.token_urlsafe(16)
        reviews[name] = Review(store, prompts, min(max(1, int(each)), 8), made, answer)
        while len(reviews) > REVIEWS_KEPT:
            reviews.popitem(last=False)
        return name, now(language, reviews[name]), ""

    def write_ahead(name: str, request: gr.Request) -> Iterator[tuple[Any, Any]]:
        language, review = language_of(request), reviews.get(name)
        yield gr.skip(), gr.skip()  # of an event that yields nothing, gradio would empty the outputs
        if review is None:
            return
        try:
            for _ in review.answer_ahead():
                # A reader may have come to the end of the cards while this batch was written.
                yield now(language, review) if review.awaited else gr.skip(), gr.skip()
        except WorkbenchError as error:
            yield gr.skip(), html.message(retell(language, error))

    def act(action: str) -> Callable[..., tuple[Any, ...]]:
        def acted(name: str, number: float, request: gr.Request) -> tuple[Any, ...]:
            language, review = language_of(request), reviews.get(name)
            unchanged = [gr.skip() for _ in tallied]
            if review is None:
                return gr.skip(), html.message(say(language, "review.gone"), "warning"), *unchanged
            try:
                if action in ("up", "down"):
                    review.vote(int(number), action == "up")
                elif action == "skip":
                    review.skip(int(number))
                else:
                    review.back(int(number))
            except WorkbenchError as error:
                return gr.skip(), html.message(retell(language, error)), *unchanged
            return now(language, review), "", *tally(language)

        return acted

    def come_back(name: str, request: gr.Request) -> Any:
        review = reviews.get(name)
        return now(language_of(request), review) if review else ""

    quiet: dict[str, Any] = {"show_progress": "hidden", "queue": False}
    ahead: dict[str, Any] = {**ASKING, "trigger_mode": "once"}
    card, told = panel.card, panel.told
    # Who is no run has no prompts of its own: a file, which is the way from nothing to a first training.
    who.change(lambda name: "file" if run_of(bench, name) is None else gr.skip(), [who], [panel.source], **quiet)
    panel.source.change(lambda source: gr.File(visible=source == "file"), [panel.source], [panel.file], **quiet)
    begun = panel.start.click(begin, [panel.source, panel.file, panel.each, *asked], [mine, card, told], **quiet)
    begun.success(None, None, None, js=keys.focus("review"))
    begun.then(write_ahead, [mine], [card, told], **ahead)
    page.load(None, None, None, js=keys.listen("review", KEYS))
    # Not when the page loads: what the browser keeps is not at hand before its tab has been opened.
    tab.select(come_back, [mine], [card], **quiet).then(write_ahead, [mine], [card, told], **ahead)
    for action, button in panel.actions.items():
        pressed = button.click(
            act(action), [mine, shown], [card, told, *tallied], js=keys.with_shown_card("review"), **quiet
        )
        pressed.then(write_ahead, [mine], [card, told], **ahead)


def now(language: str, review: Review) -> str:
    """What the page shows now, noting whether it waits: looked up first, so that no batch comes in between unseen."""
    review.awaited = review.shown is None
    return show(language, review)


def show(language: str, review: Review) -> str:
    """The card to judge, or that it is being written, or that it was the last."""
    up, down = review.counts()
    card = review.shown
    at = min(review.position, review.total)
    votes = esc(say(language, "review.votes", up=up, down=down))
    share = 100 * at / max(1, review.total)
    bar = f'<div class="kto-track" aria-hidden="true"><i style="width:{share:.2f}%"></i></div>'
    if card is None:
        over = review.asked >= len(review.prompts)
        text = say(language, "review.over", up=up, down=down) if over else say(language, "review.waiting")
        return f'<div class="kto-review">{bar}{html.message(text, "fine" if over else "plain")}</div>'
    where = esc(say(language, "review.where", number=at + 1, total=review.total))
    given = "" if card.label is None else html.thumb(language, card.label)
    text = html.answer(card.text) if card.text.strip() else f"<em>{esc(say(language, 'review.empty'))}</em>"
    return (
        f'<article class="kto-review" data-card="{review.position}"><header><span class="kto-facts">{where}</span>'
        f'{given}<small class="kto-facts">{votes}</small></header>{bar}<div>{html.conversation(card.prompt)}</div>'
        f'<div class="kto-answer-box">{text}</div></article>'
    )


def _prompts(bench: Workbench, run: Run | None, source: str, path: str | None) -> list[Any]:
    """What to ask, each prompt once; none if no file was given. Raises WorkbenchError."""
    if source == "file":
        found = load_prompts(bench.received_file(path)) if path else []
    elif run is None:
        raise RunError("Only a run has prompts of its own, and none is asked here: take a file of prompts.")
    else:
        config = run.config()
        found = load_feedback(config.data, workspace=bench.workspace, mapping=config.mapping)
        asked = [row.asked for row in found.rows]
        found = asked if source == "all" else held_out_prompts(asked, config.eval_fraction, config.seed)
        if not found:
            raise DataError(f"Run {run.id} held no prompts out; take all of its data, or a file.")
    return list({prompt_key(prompt): prompt for prompt in found}.values())
