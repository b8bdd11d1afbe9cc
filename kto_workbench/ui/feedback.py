"""Feedback: talk to a run's model, keep a thumb for each answer, say more about it, and go round again.

Three panels beside what was collected: the chat (`build`), the review of many answers (review.py), and the next round.
"""

import functools
import random
import time
from collections.abc import Iterator
from typing import Any

import gradio as gr

from kto_workbench.config import DEMO_MODEL
from kto_workbench.errors import WorkbenchError
from kto_workbench.feedback import suggest_weights
from kto_workbench.feedback.store import ThumbStore
from kto_workbench.runs.sides import AnySide, EndpointSide, ModelSide
from kto_workbench.ui import html, review
from kto_workbench.ui.answers import (
    ASKING,
    UPDATE_SECONDS,
    answer_origin,
    offer_sides,
    side_field,
    side_named,
    side_or_none,
    without_picture,
)
from kto_workbench.ui.chat import COPY_JS, Chat
from kto_workbench.ui.data import DataTab, sources
from kto_workbench.ui.fields import to_widget
from kto_workbench.ui.train import TrainTab
from kto_workbench.ui.words import label, language_of, retell, say
from kto_workbench.ui.workbench import THUMBS, Workbench

LONGEST_CHAT = 60  # turns
DAYS_SHOWN = 7
SIDES_SHOWN = 8
WORDS_SHOWN = 34  # characters of an answer in a list
# What the next round takes over from the run that was talked with, and what its two questions decide.
ROUND_OPTIONS = ("model", "template", "template_kwargs", "tuning", "load_in_4bit", "start_adapter", "reference")

WEIGHTS = ("desirable_weight", "undesirable_weight")  # follow from the thumbs


def build(bench: Workbench, page: gr.Blocks, tab: gr.Tab, data: DataTab, train_tab: TrainTab) -> gr.Button:
    """Lay out the tab; returns the button that trains on what was collected."""
    store = ThumbStore(bench.workspace)
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=300), gr.Tabs(overflow_behavior="wrap"):
            with gr.Tab(label("feedback.tab.chat"), id="chat"):
                chat = Chat(
                    label=label("feedback.chat"),
                    elem_id="feedback-chat",
                    height=420,
                    placeholder=label("feedback.empty"),
                    render_markdown=False,
                    group_consecutive_messages=False,
                    allow_file_downloads=False,
                    buttons=["copy"],
                    layout="bubble",
                )
                prompt = gr.Textbox(
                    label=label("compare.prompt"), elem_id="feedback-prompt", lines=1, max_lines=6, max_length=20_000
                )
                with gr.Row(elem_classes="kto-buttons"):
                    send = gr.Button(label("feedback.send"), variant="primary", elem_id="feedback-send", min_width=110)
                    again = gr.Button(label("feedback.again"), elem_id="feedback-again", min_width=110)
                    clear = gr.Button(label("feedback.clear"), elem_id="feedback-clear", min_width=110)
                    gr.HTML(label("answers.read"), elem_classes="kto-bare")
                told = gr.HTML(elem_id="feedback-message", elem_classes="kto-bare kto-told")
                with gr.Group():
                    about = gr.Dropdown(
                        [],
                        label=label("feedback.about"),
                        info=label("feedback.about.help"),
                        filterable=False,
                        elem_id="feedback-about",
                    )
                    note = gr.Textbox(
                        label=label("feedback.note"),
                        info=label("feedback.note.help"),
                        max_length=2_000,
                        elem_id="feedback-note",
                    )
                    better = gr.Textbox(
                        label=label("feedback.better"),
                        info=label("feedback.better.help"),
                        lines=2,
                        max_lines=12,
                        max_length=20_000,
                        elem_id="feedback-better",
                    )
                with gr.Row(elem_classes="kto-buttons"):
                    keep = gr.Button(label("feedback.keep"), elem_id="feedback-keep", min_width=160)
                said = gr.HTML(elem_id="feedback-said", elem_classes="kto-bare kto-told")
            with gr.Tab(label("feedback.tab.review"), id="review") as review_tab:
                queue = review.lay_out()
        with gr.Column(scale=3, min_width=280):
            who = side_field("feedback-run")
            temperature = gr.Slider(0, 2, value=0.9, step=0.05, label=label("compare.temperature"))
            length = gr.Slider(8, 2048, value=128, step=8, label=label("compare.length"), elem_id="feedback-length")
            collected = gr.HTML(elem_id="feedback-collected", elem_classes="kto-bare")
            days = gr.HTML(elem_id="feedback-days", elem_classes="kto-bare")
            gr.HTML(label("round.title"), elem_classes="kto-bare kto-section")
            start = gr.Radio(
                [(label(f"round.start.{one}"), one) for one in ("adapter", "base")],
                value="adapter",
                label=label("round.start"),
                elem_id="feedback-start",
            )
            reference = gr.Radio(
                [(label(f"round.reference.{one}"), one) for one in ("base", "start")],
                value="base",
                label=label("round.reference"),
                elem_id="feedback-reference",
            )
            follows = gr.HTML(elem_id="feedback-follows", elem_classes="kto-bare kto-told")
            train = gr.Button(label("feedback.train"), variant="primary", elem_id="feedback-train")
    newest = gr.State(None)  # the newest run when they were last listed
    growing = gr.State(False)  # half an answer is nothing to vote on
    kept = gr.State({})  # which answer of this conversation has which vote in the store
    made = gr.State({})  # where each answer of this conversation is from
    loaded = gr.State(("", ""))  # note and better answer as they were put into their fields
    more = [about, note, better, loaded]

    def answer(
        turns: list[Any],
        name: str,
        temperature: float,
        length: float,
        made: dict[Any, Any],
        request: gr.Request,
    ) -> Iterator[tuple[Any, str, bool, Any]]:
        messages = conversation(turns)
        if not messages or messages[-1]["role"] != "user":
            yield gr.skip(), html.message(say(language_of(request), "compare.empty")), False, gr.skip()
            return
        yield [*messages, {"role": "assistant", "content": "…"}], "", True, gr.skip()
        text, sent, seed = "", time.monotonic(), random.randrange(2**31)
        try:
            side = side_named(bench, name)
            origin = _origin(bench, name, temperature, length, seed=seed)
            for piece in bench.answerer.stream(
                {side.name: side},
                [messages],
                seed=seed,
                temperature=float(temperature),
                max_new_tokens=int(length),
            ):
                text = piece["text"]
                if time.monotonic() - sent > UPDATE_SECONDS:
                    sent = time.monotonic()
                    yield [*messages, {"role": "assistant", "content": text}], "", True, gr.skip()
        except WorkbenchError as error:
            yield messages, html.message(retell(language_of(request), error)), False, gr.skip()
            return
        made = {**(made or {}), (len(messages), text): origin}
        remark = without_picture(language_of(request), [side], [messages])
        remark = remark and html.message(remark, "info")
        yield [*messages, {"role": "assistant", "content": text}], remark, False, made

    def ask(turns: list[Any], prompt: str) -> tuple[list[Any], str, str]:
        messages = conversation(turns)[-LONGEST_CHAT:]
        if (prompt or "").strip():
            messages.append({"role": "user", "content": prompt.strip()})
        return messages, "", ""

    def take_back_answer(turns: list[Any]) -> list[Any]:
        messages = conversation(turns)
        return messages[:-1] if messages and messages[-1]["role"] == "assistant" else messages

    def load(messages: list[dict[str, str]], kept: dict[Any, int] | None, index: int | None) -> tuple[Any, ...]:
        """The fields for one answer, with what is kept of it; for the last where it is not there."""
        choices = _answers(messages)
        if index not in [value for _, value in choices]:
            index = choices[-1][1] if choices else None
        text = messages[index]["content"] if index is not None else ""
        stored = _stored(store, (kept or {}).get((index, text)), text)
        return gr.Dropdown(choices=choices, value=index), *stored, stored

    def thumbs(turns: list[Any], kept: dict[Any, int] | None) -> Any:
        """The votes under the answers: a chat that is written anew forgets them."""
        messages, votes = conversation(turns), kept or {}
        found = [votes.get((place, messages[place]["content"])) for _, place in _answers(messages)]
        labels = [None if thumb is None else store.get(thumb).label for thumb in found]
        return gr.Chatbot(feedback_value=[{True: "Like", False: "Dislike", None: None}[one] for one in labels])

    def choose(turns: list[Any], kept: Any, index: int | None) -> tuple[Any, ...]:
        return load(conversation(turns), kept, index)

    def choose_if_free(values: dict[Any, Any], index: int | None) -> tuple[Any, ...]:
        """Put another answer into the fields, unless something unsaved stands in them for one that is still there."""
        messages, now = conversation(values[chat]), values[about]
        unsaved = (values[note] or "", values[better] or "") != tuple(values[loaded])
        if unsaved and now in [value for _, value in _answers(messages)[:-1]]:
            return gr.Dropdown(choices=_answers(messages), value=now), gr.skip(), gr.skip(), gr.skip()
        return load(messages, values[kept], index)

    def choose_last(values: dict[Any, Any]) -> tuple[Any, ...]:
        return thumbs(values[chat], values[kept]), *choose_if_free(values, None)

    def choose_clicked(values: dict[Any, Any], event: gr.SelectData) -> tuple[Any, ...]:
        return choose_if_free(values, _index(event))

    def origin_of(values: dict[Any, Any], answered: tuple[int, str]) -> dict[str, Any]:
        """Where an answer of the conversation is from, whatever has been chosen since."""
        if answered in (values[made] or {}):
            return values[made][answered]
        return _origin(bench, values[who], values[temperature], values[length])

    def vote(values: dict[Any, Any], event: gr.LikeData, request: gr.Request) -> dict[Any, Any]:
        language, messages, index = language_of(request), conversation(values[chat]), _index(event)
        if index not in [value for _, value in _answers(messages)]:
            return {said: ""}
        if values[growing] and index == len(messages) - 1:
            return {said: html.message(say(language, "feedback.wait"), "warning")}
        answered, votes = (index, messages[index]["content"]), dict(values[kept] or {})
        what = ""
        try:
            _keep(store, votes, answered, messages[:index], event.liked, origin_of(values, answered))
            if index == values[about] and not _taken_back(event.liked):
                what = _say_more(store, votes[answered], values[note], values[better])
        except WorkbenchError as error:
            return {said: html.message(retell(language, error)), kept: votes}
        now = load(messages, votes, index) if index == values[about] else choose_if_free({**values, kept: votes}, index)
        return {
            kept: votes,
            chat: thumbs(values[chat], votes),
            said: html.message(say(language, what), "fine") if what else "",
            **dict(zip(tallied, tally(language), strict=True)),
            **dict(zip(more, now, strict=True)),
        }

    def keep_more(values: dict[Any, Any], request: gr.Request) -> dict[Any, Any]:
        language, messages, index = language_of(request), conversation(values[chat]), values[about]
        if index not in [value for _, value in _answers(messages)]:
            return {said: html.message(say(language, "feedback.about.none"), "warning")}
        if values[growing] and index == len(messages) - 1:
            return {said: html.message(say(language, "feedback.wait"), "warning")}
        answered, votes = (index, messages[index]["content"]), dict(values[kept] or {})
        written = (values[better] or "").strip()
        try:
            if answered not in votes and written and written != answered[1].strip():
                # Who writes a better answer finds this one worse.
                _keep(store, votes, answered, messages[:index], False, origin_of(values, answered))
            elif answered not in votes and (values[note] or "").strip():
                return {said: html.message(say(language, "feedback.thumb_first"), "warning")}
            what = _say_more(store, votes[answered], values[note], written) if answered in votes else ""
        except WorkbenchError as error:
            return {said: html.message(retell(language, error)), kept: votes}
        kind = "fine" if what else "warning"
        return {
            kept: votes,
            chat: thumbs(values[chat], votes),
            said: html.message(say(language, what or "feedback.nothing_new"), kind),
            **dict(zip(tallied, tally(language), strict=True)),
            **dict(zip(more, load(messages, votes, index), strict=True)),
        }

    def tally(language: str) -> tuple[str, str]:
        """What was collected, by label, by day and by who wrote the answer."""
        try:
            counts, by_day, by_side = store.balance(), store.by_day(), store.by_side()
        except WorkbenchError as error:
            return html.message(retell(language, error)), ""
        cards = html.cards(
            (say(language, f"side.{one}"), f"{number:,}", say(language, "feedback.collected"))
            for one, number in (("up", counts.n_desirable), ("down", counts.n_undesirable))
        )
        found = [(f"{day:%Y-%m-%d}", one.n_desirable, one.n_undesirable) for day, one in reversed(by_day.items())]
        if len(found) > DAYS_SHOWN:
            older = found[DAYS_SHOWN - 1 :]
            sums = (sum(up for _, up, _ in older), sum(down for *_, down in older))
            found = [*found[: DAYS_SHOWN - 1], (say(language, "feedback.days.before"), *sums)]
        wrote = [
            (name or say(language, "feedback.by_hand"), one.n_desirable, one.n_undesirable)
            for name, one in by_side.items()
        ]
        return cards, html.days(language, found) + html.days(language, wrote[:SIDES_SHOWN], "feedback.wrote")

    def refresh(name: str | None, newest: str | None, request: gr.Request) -> tuple[Any, ...]:
        """Who can be talked with; a run that has been trained since is chosen, for the next round is about it."""
        language = language_of(request)
        now = next((run.id for run in bench.runs() if run.trained()), None)
        wanted = name if name and newest == now else now or name
        return offer_sides(bench, language, wanted, name), now, *tally(language)

    def tell_round(name: str | None, start: str, reference: str, request: gr.Request) -> tuple[Any, ...]:
        side = side_or_none(bench, name)
        found = side.run if side else None
        if found is None:
            model = getattr(side, "model", DEMO_MODEL)
            kind = "endpoint" if isinstance(side, EndpointSide) else "model"
            told = say(language_of(request), f"round.follows.{kind}", model=model)
            return gr.Radio(visible=False), gr.Radio(visible=False), html.message(told, "plain")
        goes_on = start == "adapter"
        try:
            full = goes_on and found.config().tuning == "full"
        except WorkbenchError as error:
            return gr.skip(), gr.Radio(visible=False), html.message(retell(language_of(request), error))
        follows = "fresh" if not goes_on else "full" if full else reference
        told = html.message(say(language_of(request), f"round.follows.{follows}"), "plain")
        return gr.Radio(visible=True), gr.Radio(visible=goes_on and not full), told

    def use(name: str | None, start: str, reference: str, renewed: int, ratio: float) -> tuple[Any, ...]:
        try:
            options, counts = next_round(side_or_none(bench, name), start, reference), store.balance()
        except WorkbenchError:  # said where the run, or the thumbs, are chosen
            return (gr.skip(),) * (2 + len(ROUND_OPTIONS) + len(WEIGHTS))
        weights = suggest_weights(counts.n_desirable, counts.n_undesirable, ratio=float(ratio or 1.0))
        options |= dict(zip(WEIGHTS, (round(weight, 4) for weight in weights), strict=True))
        chosen = [
            to_widget(name, options[name]) if name in options else gr.skip() for name in (*ROUND_OPTIONS, *WEIGHTS)
        ]
        return gr.Dropdown(choices=sources(bench), value=THUMBS), renewed + 1, *chosen

    quiet: dict[str, Any] = {"show_progress": "hidden", "queue": False}
    tallied = [collected, days]
    asked = [who, temperature, length]
    answering = ([chat, *asked, made], [chat, told, growing, made])
    fields = {chat, kept, *more}
    questions, told_of_it = [who, start, reference], [start, reference, follows]
    gr.on([page.load, tab.select], refresh, [who, newest], [who, newest, *tallied], **quiet).then(
        tell_round, questions, told_of_it, **quiet
    )
    gr.on([one.input for one in questions], tell_round, questions, told_of_it, **quiet)
    sent = gr.on([send.click, prompt.submit], ask, [chat, prompt], [chat, prompt, said], **quiet)
    retried = again.click(take_back_answer, [chat], [chat], **quiet)
    for begun in (sent, retried):
        begun.then(answer, *answering, **ASKING).then(choose_last, fields, [chat, *more], **quiet)
    clear.click(lambda: ([], {}, {}, "", ""), None, [chat, kept, made, told, said], **quiet).then(
        choose, [chat, kept, about], more, **quiet
    )
    about.input(choose, [chat, kept, about], more, **quiet)
    chat.select(choose_clicked, fields, more, **quiet)
    voting = {*fields, *asked, made, growing}
    voted = [chat, kept, said, *tallied, *more]
    page.load(None, None, None, js=COPY_JS)
    chat.like(vote, voting, voted, **quiet)
    keep.click(keep_more, voting, voted, **quiet)
    review.wire(queue, bench, page, review_tab, asked, functools.partial(_origin, bench), tally, tallied)
    chosen = [data.source, data.renewed, *(train_tab.options[name] for name in (*ROUND_OPTIONS, *WEIGHTS))]
    train.click(use, [*questions, data.renewed, data.ratio], chosen, **quiet)
    return train


def next_round(side: AnySide | None, start: str, reference: str) -> dict[str, Any]:
    """What the next training takes from who was talked with: the model, where it starts, what rewards count against.

    Args:
        side: of a run, or a model as it is; an endpoint can't be trained, so what is trained is chosen elsewhere.
        start: `adapter` to go on from what the run has learned, `base` to begin afresh.
        reference: with its adapter as the start, `start` for the model with it, `base` for the model without.
    """
    options: dict[str, Any] = {"start_adapter": "", "reference": "base"}
    if isinstance(side, ModelSide):
        return options | {"model": side.model}
    run = side.run if side else None
    if run is None:
        return options
    config = run.config()
    options |= {
        name: getattr(config, name) for name in ("model", "template", "template_kwargs", "tuning", "load_in_4bit")
    }
    if start == "adapter" and config.tuning == "full":
        options["model"] = str(run.model)
    elif start == "adapter":
        options |= {"start_adapter": run.id, "reference": "start" if reference == "start" else "base"}
    return options


def conversation(turns: Any) -> list[dict[str, str]]:
    """The chat as plain messages: gradio hands texts back as lists of parts."""
    messages = []
    for turn in turns or []:
        content = turn.get("content", "")
        if isinstance(content, list):
            content = "".join(str(part.get("text", "")) if isinstance(part, dict) else str(part) for part in content)
        if turn.get("role") in ("user", "assistant"):
            messages.append({"role": turn["role"], "content": str(content)})
    return messages


def _answers(messages: list[dict[str, str]]) -> list[tuple[str, int]]:
    """The answers of a conversation by their place in it, each with its number and how it begins."""
    places = [place for place, message in enumerate(messages) if place and message["role"] == "assistant"]
    return [(f"{number}. {_beginning(messages[place]['content'])}", place) for number, place in enumerate(places, 1)]


def _beginning(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= WORDS_SHOWN else words[:WORDS_SHOWN].rstrip() + " …"


def _index(event: gr.EventData) -> int:
    return int(event.index[0] if isinstance(event.index, (list, tuple)) else event.index)


def _origin(bench: Workbench, name: str | None, temperature: float, length: float, **sampling: Any) -> dict[str, Any]:
    """Where an answer is from, as `ThumbStore.add` takes it. Raises WorkbenchError."""
    made = {"temperature": float(temperature), "max_new_tokens": int(length), **sampling}
    return answer_origin(side_named(bench, name), made)


def _keep(
    store: ThumbStore,
    kept: dict[Any, int],
    answered: tuple[int, str],
    prompt: list[dict[str, str]],
    liked: bool | str | None,
    origin: dict[str, Any],
) -> None:
    """Add a vote, turn it around, or take it back: the same answer has one vote at most."""
    up = liked is True or liked == "Like"
    if answered in kept:
        thumb = kept[answered]
        store.retract(thumb) if _taken_back(liked) else store.change(thumb, up)
    elif not _taken_back(liked):
        kept[answered] = store.add(prompt, answered[1], up, **origin)


def _taken_back(liked: bool | str | None) -> bool:
    """Whether a thumb was clicked that had been given already."""
    return liked is None or liked == ""


def _stored(store: ThumbStore, thumb: int | None, text: str) -> tuple[str, str]:
    """The note to an answer, and the better answer or else the answer itself, to be edited."""
    if thumb is None:
        return "", text
    better = store.edited(thumb)
    return store.get(thumb).note, better.completion if better else text


def _say_more(store: ThumbStore, thumb: int, note: str | None, better: str | None) -> str:
    """Keep what is new of a vote's note and better answer; returns the key of what to say, "" if nothing is new."""
    vote, written, what = store.get(thumb), store.edited(thumb), ""
    note, better = (note or "").strip(), (better or "").strip()
    if note != vote.note:
        store.annotate(thumb, note)
        what = "feedback.kept.note"
    if better in ("", vote.completion.strip()):  # as it was: there is no better answer (any more)
        if written:
            store.retract(written.id)
            what = "feedback.kept.back"
    elif written is None or better != written.completion:
        store.edit(thumb, better)
        what = "feedback.kept.better"
    return what
