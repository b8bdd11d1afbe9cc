"""Feedback: talk to the tuned model (or to its reference), and keep a thumb for each answer to train on."""

import random
import time
from collections.abc import Iterator
from typing import Any

import gradio as gr

from kto_workbench.errors import WorkbenchError
from kto_workbench.feedback.store import ThumbStore
from kto_workbench.ui import html
from kto_workbench.ui.answers import SIDES, UPDATE_SECONDS, compared_runs
from kto_workbench.ui.data import DataTab, sources
from kto_workbench.ui.words import label, language_of, retell, say
from kto_workbench.ui.workbench import THUMBS, Workbench

LONGEST_CHAT = 60  # turns


def build(bench: Workbench, page: gr.Blocks, tab: gr.Tab, data: DataTab) -> gr.Button:
    """Lay out the tab; returns the button that trains on what was collected."""
    store = ThumbStore(bench.workspace)
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=300):
            chat = gr.Chatbot(
                label=label("feedback.chat"),
                elem_id="feedback-chat",
                height=460,
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
            told = gr.HTML(elem_id="feedback-message", elem_classes="kto-bare kto-told")
        with gr.Column(scale=3, min_width=280):
            run = gr.Dropdown([], label=label("compare.run"), elem_id="feedback-run", allow_custom_value=True)
            side = gr.Radio(
                [(label(f"answer.{one}"), one) for one in reversed(SIDES)],
                value="tuned",
                label=label("feedback.side"),
                elem_id="feedback-side",
            )
            temperature = gr.Slider(0, 2, value=0.9, step=0.05, label=label("compare.temperature"))
            length = gr.Slider(8, 2048, value=128, step=8, label=label("compare.length"))
            collected = gr.HTML(elem_id="feedback-collected", elem_classes="kto-bare")
            train = gr.Button(label("feedback.train"), variant="primary", elem_id="feedback-train")
    growing = gr.State(False)  # half an answer is nothing to vote on
    kept = gr.State({})  # which answer of this conversation has which vote in the store

    def answer(
        turns: list[Any], run_id: str, side: str, temperature: float, length: float, request: gr.Request
    ) -> Iterator[tuple[Any, str, bool]]:
        messages = conversation(turns)
        if not messages or messages[-1]["role"] != "user":
            yield gr.skip(), html.message(say(language_of(request), "compare.empty")), False
            return
        yield [*messages, {"role": "assistant", "content": "…"}], "", True
        text, sent = "", time.monotonic()
        try:
            for piece in bench.answerer.stream(
                bench.run(run_id).path,
                [messages],
                seed=random.randrange(2**31),
                temperature=float(temperature),
                max_new_tokens=int(length),
                sides=(side if side in SIDES else "tuned",),
            ):
                text = piece["text"]
                if time.monotonic() - sent > UPDATE_SECONDS:
                    sent = time.monotonic()
                    yield [*messages, {"role": "assistant", "content": text}], "", True
        except WorkbenchError as error:
            yield messages, html.message(retell(language_of(request), error)), False
            return
        yield [*messages, {"role": "assistant", "content": text}], "", False

    def ask(turns: list[Any], prompt: str) -> tuple[list[Any], str]:
        messages = conversation(turns)[-LONGEST_CHAT:]
        if (prompt or "").strip():
            messages.append({"role": "user", "content": prompt.strip()})
        return messages, ""

    def take_back_answer(turns: list[Any]) -> list[Any]:
        messages = conversation(turns)
        return messages[:-1] if messages and messages[-1]["role"] == "assistant" else messages

    def vote(
        turns: list[Any],
        run_id: str,
        side: str,
        temperature: float,
        kept: dict[Any, int] | None,
        growing: bool,
        event: gr.LikeData,
        request: gr.Request,
    ) -> tuple[Any, str, str]:
        language, kept, messages = language_of(request), dict(kept or {}), conversation(turns)
        index = event.index[0] if isinstance(event.index, (list, tuple)) else int(event.index)
        if not 0 < index < len(messages) or messages[index]["role"] != "assistant":
            return gr.skip(), gr.skip(), ""
        if growing and index == len(messages) - 1:
            return gr.skip(), gr.skip(), html.message(say(language, "feedback.wait"), "warning")
        answered = (index, messages[index]["content"])
        try:
            _keep(store, kept, answered, messages[:index], event.liked, _origin(bench, run_id, side, temperature))
        except WorkbenchError as error:
            return gr.skip(), gr.skip(), html.message(retell(language, error))
        return kept, count(language), ""

    def count(language: str) -> str:
        try:
            counts = store.balance()
        except WorkbenchError as error:
            return html.message(retell(language, error))
        return html.cards(
            (say(language, f"side.{one}"), f"{number:,}", say(language, "feedback.collected"))
            for one, number in (("up", counts.n_desirable), ("down", counts.n_undesirable))
        )

    def refresh(run_id: str | None, request: gr.Request) -> tuple[Any, str]:
        language = language_of(request)
        choices = compared_runs(bench, language)
        known = {value for _, value in choices}
        chosen = run_id if run_id in known else (choices[0][1] if choices else None)
        return gr.Dropdown(choices=choices, value=chosen), count(language)

    def use(request: gr.Request) -> Any:
        return gr.Dropdown(choices=sources(bench), value=THUMBS)

    quiet: dict[str, Any] = {"show_progress": "hidden", "queue": False}
    inputs = [chat, run, side, temperature, length]
    streamed: dict[str, Any] = {"show_progress": "hidden", "concurrency_id": "answers"}
    gr.on([page.load, tab.select], refresh, [run], [run, collected], **quiet)
    asked = gr.on([send.click, prompt.submit], ask, [chat, prompt], [chat, prompt], **quiet)
    asked.then(answer, inputs, [chat, told, growing], **streamed)
    again.click(take_back_answer, [chat], [chat], **quiet).then(answer, inputs, [chat, told, growing], **streamed)
    clear.click(lambda: ([], {}, ""), None, [chat, kept, told], **quiet)
    chat.like(vote, [chat, run, side, temperature, kept, growing], [kept, collected, told], **quiet)
    train.click(use, None, [data.source], **quiet)
    return train


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


def _origin(bench: Workbench, run_id: str, side: str, temperature: float) -> dict[str, Any]:
    run = bench.run(run_id)
    tuned = side == "tuned"
    return {
        "model": run.config().model,
        "run": run.id,
        "adapter": str(run.adapter) if tuned else "",
        "sampling": {"temperature": float(temperature)},
    }


def _keep(
    store: ThumbStore,
    kept: dict[Any, int],
    answered: tuple[int, str],
    prompt: list[dict[str, str]],
    liked: bool | str | None,
    origin: dict[str, Any],
) -> None:
    """Add a vote, turn it around, or take it back: the same answer has one vote at most."""
    taken_back = liked is None or liked == ""
    up = liked is True or liked == "Like"
    if answered in kept:
        thumb = kept[answered]
        store.retract(thumb) if taken_back else store.change(thumb, up)
    elif not taken_back:
        kept[answered] = store.add(prompt, answered[1], up, **origin)
