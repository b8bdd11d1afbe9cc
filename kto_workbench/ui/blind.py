"""The blind vote: two answers, shuffled; a key says which is better; then the sides are unveiled, and counted.

Which side is A is known to this process alone until a card is voted on. Each vote is kept with the tuned side's run
(judging/votes.py) and becomes two thumbs in the store, the winner's up and the loser's down; a tie becomes none, since
neither answer was said to be good or bad.
"""

import random
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr

from kto_workbench.errors import WorkbenchError
from kto_workbench.feedback.prompts import load_prompts
from kto_workbench.feedback.store import ThumbStore
from kto_workbench.judging.questions import HELD_OUT, find_questions
from kto_workbench.judging.verdicts import REFERENCE, TIE, TUNED
from kto_workbench.judging.votes import Vote, keep_vote, read_votes, summarize_votes
from kto_workbench.runs.answering import SideError, with_system
from kto_workbench.runs.sides import AnySide, home_of
from kto_workbench.ui import html, keys
from kto_workbench.ui.answers import ASKING, SIDES, answer_origin, side_title, sides_named
from kto_workbench.ui.html import esc
from kto_workbench.ui.outcome import outcome
from kto_workbench.ui.suggestions import prompts_for
from kto_workbench.ui.words import label, language_of, retell, say
from kto_workbench.ui.workbench import Workbench

FIRST_BATCH, BATCH = 2, 8  # prompts answered at once: few at first, so that the first card soon shows
AHEAD = 12  # pairs to have ready
MOST_CARDS = 500
BALLOTS_KEPT = 8  # in this process, for pages that are loaded again
WHO = "blind vote"  # in the store
SUGGESTED, FILE = "suggested", "file"

CHOICES = ("left", "tie", "right")
ACTIONS = (*CHOICES, "next")
KEYS = {"ArrowLeft": "left", "ArrowDown": "tie", "ArrowRight": "right", " ": "next", "Enter": "next"}
PLACES = ("A", "B")


class Asked(NamedTuple):
    """The widgets of the tab that say who answers, and how."""

    run: gr.Dropdown
    against: gr.Dropdown
    system: gr.Textbox
    temperature: gr.Slider
    length: gr.Slider


@dataclass
class Pair:
    """Both sides' answers to a prompt. `left` is the side that is A, `winner` None until there is a vote."""

    prompt: Any
    answers: Mapping[str, str]
    seed: int
    left: str
    winner: str | None = None

    @property
    def same(self) -> bool:
        """Whether both sides say the same, so that nobody needs to be asked."""
        return self.answers[TUNED] == self.answers[REFERENCE]

    @property
    def in_order(self) -> tuple[str, str]:
        """The sides as they stand: A, then B."""
        return (self.left, REFERENCE if self.left == TUNED else TUNED)


@dataclass
class Ballot:
    """One way through prompts.

    Args:
        store: takes the thumbs.
        prompts: each a text or messages.
        sides: `tuned` and `reference`.
        sampling: as it is kept with every vote, without the seed.
        answer: (prompts, seed=…) yields the events of `Answerer.stream` for both sides.
        unveils: whether each card shows its sides once it is voted on.
    """

    store: ThumbStore
    prompts: Sequence[Any]
    sides: Mapping[str, AnySide]
    sampling: Mapping[str, Any]
    answer: Callable[..., Iterator[dict[str, Any]]]
    unveils: bool = True
    name: str = field(default_factory=lambda: secrets.token_hex(8))
    pairs: list[Pair] = field(default_factory=list)
    position: int = 0
    asked: int = 0
    revealed: bool = False  # the figures are shown
    awaited: bool = False  # the page was told to wait for the next card
    _voting: threading.RLock = field(default_factory=threading.RLock)
    _asking: threading.Lock = field(default_factory=threading.Lock)

    @property
    def shown(self) -> Pair | None:
        """The pair to judge now; None while it is not there yet, and at the end."""
        return self.pairs[self.position] if self.position < len(self.pairs) else None

    @property
    def number(self) -> int:
        """Which card this is, from 1 on: pairs of equal answers are no cards."""
        return 1 + self.position - sum(pair.same for pair in self.pairs[: self.position])

    @property
    def expected(self) -> int:
        """How many cards there will be, as far as is known: a prompt that is not answered yet counts as one."""
        return len(self.prompts) - sum(pair.same for pair in self.pairs)

    @property
    def over(self) -> bool:
        """Whether all prompts have been voted on, and the last card is left."""
        return self.shown is None and self.asked >= len(self.prompts)

    @property
    def wanting(self) -> bool:
        """Whether more pairs should be made."""
        return self.asked < len(self.prompts) and len(self.pairs) - self.position < AHEAD

    def answer_ahead(self, wait: bool = True) -> Iterator[None]:
        """Have pairs made until enough wait; yields after each batch. Raises WorkbenchError.

        One batch at a time. If one is being made already, and `wait` is False, whoever has it made goes on.
        """
        while self.wanting and self._asking.acquire(blocking=wait):
            try:
                if self.wanting:
                    self._make_batch()
            finally:
                self._asking.release()
            yield

    def _make_batch(self) -> None:
        part = self.prompts[self.asked : self.asked + (BATCH if self.pairs else FIRST_BATCH)]
        seed = random.randrange(2**31)
        found: dict[tuple[int, str], str] = {}
        for event in self.answer(part, seed=seed):
            if "error" in event:  # a pair needs both sides
                raise SideError(event["error"])
            found[event["prompt"], event["side"]] = event["text"]
        for number, prompt in enumerate(part):
            answers = {side: found[number, side] for side in SIDES}
            self.pairs.append(Pair(prompt, answers, seed, secrets.choice(SIDES)))
        self.asked += len(part)
        self._pass_equal_ones()

    def vote(self, number: int, choice: str) -> None:
        """Keep a vote for the card that was shown: `left`, `right` or `tie`. The first one counts."""
        with self._voting:
            pair = self.shown
            if number != self.position or pair is None or pair.winner is not None or choice not in CHOICES:
                return
            self._keep(pair, TIE if choice == "tie" else pair.in_order[choice == "right"])
            if not self.unveils:
                self.go_on(number)

    def go_on(self, number: int) -> None:
        """From a card that was voted on to the next."""
        with self._voting:
            if number == self.position and self.shown is not None and self.shown.winner is not None:
                self.position += 1
                self._pass_equal_ones()

    def _pass_equal_ones(self) -> None:
        """Two equal answers are a tie that nobody needs to be asked about."""
        with self._voting:
            while (pair := self.shown) is not None and pair.same:
                if pair.winner is None:
                    self._keep(pair, TIE, same=True)
                self.position += 1

    def _keep(self, pair: Pair, winner: str, same: bool = False) -> None:
        """Two thumbs, unless it is a tie, and the vote; all of it or nothing."""
        sampling = {**self.sampling, "seed": pair.seed}
        thumbs: list[int] = []
        try:
            for side in SIDES if winner != TIE else ():
                origin = answer_origin(self.sides[side], sampling)
                thumbs.append(self.store.add(pair.prompt, pair.answers[side], side == winner, who=WHO, **origin))
            vote = Vote(
                ballot=self.name,
                prompt=pair.prompt,
                tuned_side=self.sides[TUNED].name,
                against=self.sides[REFERENCE].name,
                tuned=pair.answers[TUNED],
                reference=pair.answers[REFERENCE],
                left=pair.left,
                winner=winner,
                same=same,
                sampling=sampling,
                thumbs=tuple(thumbs),
            )
            keep_vote(home_of(self.sides[TUNED], self.store.path.parent), vote)
        except WorkbenchError:
            for thumb in thumbs:
                self.store.retract(thumb)
            raise
        pair.winner = winner


def build(bench: Workbench, page: gr.Blocks, asked: Asked) -> None:
    """Lay out the panel, folded, and wire it."""
    with gr.Accordion(label("blind.title"), open=False, elem_id="blind") as panel:
        gr.HTML(label("blind.help"), elem_classes="kto-bare kto-section")
        with gr.Row(equal_height=True):
            source = gr.Radio(
                [(label(f"blind.from.{name}"), name) for name in (HELD_OUT, SUGGESTED, FILE)],
                value=HELD_OUT,
                label=label("review.from"),
                elem_id="blind-from",
                min_width=260,
            )
            count = gr.Number(
                20,
                precision=0,
                minimum=1,
                maximum=MOST_CARDS,
                label=label("blind.count"),
                elem_id="blind-count",
                min_width=120,
            )
            unveils = gr.Checkbox(
                True,
                label=label("blind.unveils"),
                info=label("blind.unveils.help"),
                elem_id="blind-unveils",
                min_width=220,
            )
        file = gr.File(label=label("review.file"), type="filepath", height=120, visible=False, elem_id="blind-file")
        with gr.Row(elem_classes="kto-buttons"):
            start = gr.Button(label("blind.start"), variant="primary", elem_id="blind-start", min_width=160)
            reveal = gr.Button(label("blind.reveal"), elem_id="blind-reveal", min_width=160)
            gr.HTML(label("answers.read"), elem_classes="kto-bare")
        told = gr.HTML(elem_id="blind-message", elem_classes="kto-bare kto-told")
        with gr.Column(elem_id="blind-panel"):
            card = gr.HTML(elem_id="blind-card", elem_classes="kto-bare")
            with gr.Row(elem_id="blind-actions"):
                actions = {
                    name: gr.Button(label(f"blind.{name}"), elem_id=f"blind-{name}", min_width=120) for name in ACTIONS
                }
        figures = gr.HTML(elem_id="blind-result", elem_classes="kto-bare")
    ballots: OrderedDict[str, Ballot] = OrderedDict()
    # A reload comes back to the same card; the name is all that the browser keeps.
    mine = gr.BrowserState("", storage_key="kto-workbench-blind", secret="kto-workbench")
    number_shown = gr.Number(-1, visible=False)

    def begin(
        source: str,
        path: str | None,
        count: float,
        unveils: bool,
        run: str,
        against: str,
        system: str,
        temperature: float,
        length: float,
        request: gr.Request,
    ) -> tuple[Any, ...]:
        language = language_of(request)
        try:
            sides = sides_named(bench, run, against)
            prompts = _prompts(bench, sides, source, path, int(count or 1))
        except WorkbenchError as error:
            return gr.skip(), gr.skip(), html.message(retell(language, error)), gr.skip()
        if not prompts:
            wanted = "review.no_file" if source == FILE else "blind.no_prompts"
            return gr.skip(), gr.skip(), html.message(say(language, wanted), "warning"), gr.skip()
        sampling = {"temperature": float(temperature), "max_new_tokens": int(length)}

        def answer(prompts: Sequence[Any], *, seed: int) -> Iterator[dict[str, Any]]:
            return bench.answerer.stream(sides, prompts, seed=seed, **sampling)

        prompts = [with_system(prompt, (system or "").strip()) for prompt in prompts]
        ballot = Ballot(ThumbStore(bench.workspace), prompts, sides, sampling, answer, bool(unveils))
        ballots[ballot.name] = ballot
        while len(ballots) > BALLOTS_KEPT:
            ballots.popitem(last=False)
        return ballot.name, now(language, ballot), "", ""

    def answer_ahead(name: str, request: gr.Request, wait: bool = True) -> Iterator[tuple[Any, ...]]:
        language, ballot = language_of(request), ballots.get(name)
        yield gr.skip(), gr.skip(), gr.skip()  # of an event that yields nothing, gradio would empty the outputs
        if ballot is None:
            return
        try:
            for _ in ballot.answer_ahead(wait):
                # A voter may have come to the end of the cards while this batch was written.
                yield (now(language, ballot) if ballot.awaited else gr.skip()), gr.skip(), results_of(language, ballot)
        except WorkbenchError as error:
            yield gr.skip(), html.message(retell(language, error)), gr.skip()

    def go_on_answering(name: str, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        """After each vote; who votes faster than a model answers must not have many wait for it."""
        yield from answer_ahead(name, request, wait=False)

    def act(action: str) -> Callable[..., tuple[Any, ...]]:
        def acted(name: str, number: float, request: gr.Request) -> tuple[Any, ...]:
            language, ballot = language_of(request), ballots.get(name)
            if ballot is None:
                return gr.skip(), html.message(say(language, "blind.gone"), "warning"), gr.skip()
            try:
                ballot.go_on(int(number)) if action == "next" else ballot.vote(int(number), action)
            except WorkbenchError as error:
                return gr.skip(), html.message(retell(language, error)), gr.skip()
            return now(language, ballot), "", results_of(language, ballot)

        return acted

    def unveil(name: str, run: str, against: str, request: gr.Request) -> str:
        """The figures of the vote under way; without one, of all votes on the sides that are chosen."""
        language, ballot = language_of(request), ballots.get(name)
        if ballot is not None:
            ballot.revealed = True
            return results_of(language, ballot)
        try:
            return results(language, sides_named(bench, run, against), bench.workspace)
        except WorkbenchError as error:
            return html.message(retell(language, error))

    def come_back(name: str, request: gr.Request) -> tuple[str, str]:
        language, ballot = language_of(request), ballots.get(name)
        if ballot is None:
            return "", ""
        return now(language, ballot), results_of(language, ballot) if ballot.revealed or ballot.over else ""

    quiet: dict[str, Any] = {"show_progress": "hidden", "queue": False}
    ahead: dict[str, Any] = {**ASKING, "trigger_mode": "multiple"}
    seen = [card, told, figures]
    source.change(lambda source: gr.File(visible=source == FILE), [source], [file], **quiet)
    begun = start.click(begin, [source, file, count, unveils, *asked], [mine, *seen], **quiet)
    begun.success(None, None, None, js=keys.focus("blind"))
    begun.then(answer_ahead, [mine], seen, **ahead)
    page.load(None, None, None, js=keys.listen("blind", KEYS))
    # What is told to a folded panel is lost: it asks when it is opened.
    panel.expand(come_back, [mine], [card, figures], **quiet).then(answer_ahead, [mine], seen, **ahead)
    for action, button in actions.items():
        pressed = button.click(act(action), [mine, number_shown], seen, js=keys.with_shown_card("blind"), **quiet)
        pressed.then(go_on_answering, [mine], seen, **ahead)
    reveal.click(unveil, [mine, asked.run, asked.against], [figures], **quiet)


def now(language: str, ballot: Ballot) -> str:
    """What the page shows now, noting whether it waits: looked up first, so that no batch comes in between unseen."""
    ballot.awaited = ballot.shown is None
    return show(language, ballot)


def show(language: str, ballot: Ballot) -> str:
    """The pair to judge, or its sides once it is judged; or that it is being written; or that it was the last."""
    pair, done = ballot.shown, 100 * (ballot.number - 1) / max(1, ballot.expected)
    bar = f'<div class="kto-track" aria-hidden="true"><i style="width:{done:.2f}%"></i></div>'
    if pair is None:
        told = ("blind.over", "fine") if ballot.over else ("review.waiting", "plain")
        return f'<div class="kto-review">{bar}{html.message(say(language, told[0]), told[1])}</div>'
    where = say(language, "review.where", number=ballot.number, total=ballot.expected)
    voted = pair.winner is not None
    blocks = "".join(
        f'<section class="kto-side{" kto-won-side" if pair.winner == side else ""}"><h3>{place}'
        f"{f' · {esc(_who(language, ballot, side))}' if voted else ''}</h3>"
        f'<div class="kto-answer-box">{_answer(language, pair.answers[side])}</div></section>'
        for place, side in zip(PLACES, pair.in_order, strict=True)
    )
    said = html.message(say(language, f"blind.won.{pair.winner}"), "info") if voted else ""
    return (
        f'<article class="kto-review" data-card="{ballot.position}" data-phase="{"voted" if voted else "open"}">'
        f'<header><span class="kto-facts">{esc(where)}</span></header>{bar}<div>{html.conversation(pair.prompt)}</div>'
        f'<div class="kto-sides">{blocks}</div>{said}</article>'
    )


def results_of(language: str, ballot: Ballot) -> Any:
    """The figures of a ballot once they may be seen: at its end, or when they were asked for."""
    if not ballot.over and not ballot.revealed:
        return gr.skip()
    return results(language, ballot.sides, ballot.store.path.parent, ballot.name)


def results(language: str, sides: Mapping[str, AnySide], workspace: Path, ballot: str | None = None) -> str:
    """Win rate, interval and sign test of one ballot, of all votes on the same sides, and the votes one by one."""
    every = read_votes(home_of(sides[TUNED], workspace), tuned_side=sides[TUNED].name, against=sides[REFERENCE].name)
    votes = every if ballot is None else [vote for vote in every if vote.ballot == ballot]
    if not votes:
        return html.message(say(language, "blind.none"), "plain")
    summary = {**summarize_votes(votes), "judge": None}
    lines = []
    if same := sum(vote.same for vote in votes):
        lines.append(say(language, "blind.same", count=same))
    if len(every) > len(votes):
        found = summarize_votes(every)
        low, high = found["interval"]
        lines.append(say(language, "blind.all", n=found["n"], rate=found["win_rate"], low=low, high=high))
    told = "".join(html.message(line, "plain") for line in lines)
    return f'<div class="kto-evaluation">{outcome(language, summary)}{told}{_table(language, votes)}</div>'


def _table(language: str, votes: Sequence[Vote]) -> str:
    names = ("prompt", *SIDES)
    heads = "".join(f'<th scope="col">{esc(say(language, f"blind.column.{name}"))}</th>' for name in ("winner", *names))
    rows = "".join(
        f'<tr data-winner="{esc(vote.winner)}"><td>{esc(say(language, f"blind.winner.{vote.winner}"))}</td>'
        f"<td>{html.conversation(vote.prompt)}</td>"
        + "".join(f'<td class="kto-answer">{html.answer(getattr(vote, side))}</td>' for side in SIDES)
        + "</tr>"
        for vote in votes
    )
    title = esc(say(language, "blind.votes", count=len(votes)))
    return (
        f'<details class="kto-log"><summary>{title}</summary><div class="kto-scroll" {html.region(title)}>'
        f'<table class="kto-table"><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div></details>'
    )


def _who(language: str, ballot: Ballot, side: str) -> str:
    """A side as it is unveiled."""
    one = ballot.sides[side]
    if one.run is None or (side == REFERENCE and one.part != REFERENCE):
        return side_title(one, language)
    return say(language, f"answer.{side}")


def _answer(language: str, text: str) -> str:
    return html.answer(text) if text.strip() else f"<em>{esc(say(language, 'review.empty'))}</em>"


def _prompts(bench: Workbench, sides: Mapping[str, AnySide], source: str, path: str | None, count: int) -> list[Any]:
    """What to ask, at most `count`; none if no file was given. Raises WorkbenchError."""
    count, run = min(max(1, count), MOST_CARDS), sides[TUNED].run or sides[REFERENCE].run
    if source == FILE:
        return load_prompts(bench.received_file(path))[:count] if path else []
    if source == SUGGESTED:
        return list(prompts_for(run))[:count]
    return [prompt for prompt, _ in find_questions(HELD_OUT, run, count)]
