"""Compare: one prompt, the reference and the tuned model side by side, same seed on both sides."""

import random
import time
from collections.abc import Iterator
from typing import Any

import gradio as gr

from kto_workbench.errors import WorkbenchError
from kto_workbench.ui import evaluate, html
from kto_workbench.ui.answers import SIDES, UPDATE_SECONDS, compared_runs
from kto_workbench.ui.suggestions import prompts_for
from kto_workbench.ui.words import label, language_of, retell, say
from kto_workbench.ui.workbench import Workbench


def build(bench: Workbench, page: gr.Blocks, tab: gr.Tab) -> None:
    """Lay out the tab and wire it."""
    gr.HTML(label("compare.intro"), elem_classes="kto-bare kto-section")
    with gr.Row(equal_height=False):
        with gr.Column(scale=5, min_width=300):
            prompt = gr.Textbox(
                label=label("compare.prompt"), lines=3, max_lines=12, elem_id="compare-prompt", max_length=20_000
            )
            ideas = gr.Dataset(
                components=[gr.Textbox(visible=False)],
                samples=[],
                label=label("compare.ideas"),
                elem_id="compare-ideas",
                layout="gallery",
            )
        with gr.Column(scale=3, min_width=280):
            run = gr.Dropdown([], label=label("compare.run"), elem_id="compare-run", allow_custom_value=True)
            with gr.Accordion(label("compare.settings"), open=False):
                system = gr.Textbox(label=label("compare.system"), lines=2, elem_id="compare-system")
                temperature = gr.Slider(
                    0,
                    2,
                    value=0.7,
                    step=0.05,
                    label=label("compare.temperature"),
                    info=label("compare.temperature.help"),
                )
                length = gr.Slider(8, 2048, value=128, step=8, label=label("compare.length"))
                seed = gr.Number(42, precision=0, minimum=0, label=label("compare.seed"), elem_id="compare-seed")
    with gr.Row(elem_classes="kto-buttons"):
        generate = gr.Button(label("compare.generate"), variant="primary", elem_id="compare-generate", min_width=140)
        another = gr.Button(label("compare.another"), elem_id="compare-another", min_width=140)
        halt = gr.Button(label("compare.halt"), elem_id="compare-halt", min_width=100)
    told = gr.HTML(elem_id="compare-message", elem_classes="kto-bare kto-told")
    with gr.Row(equal_height=True):
        boxes = []
        for side in SIDES:
            with gr.Column(min_width=280):
                gr.HTML(label(f"answer.{side}"), elem_classes="kto-bare kto-section")
                boxes.append(gr.HTML(html.answer("", True), elem_id=f"compare-{side}", elem_classes="kto-bare"))
    evaluate.build(bench, page, tab)

    def answer(
        run_id: str, prompt: str, system: str, temperature: float, length: float, seed: float, request: gr.Request
    ) -> Iterator[tuple[str, str, str]]:
        language = language_of(request)
        texts = dict.fromkeys(SIDES, "")
        finished = dict.fromkeys(SIDES, False)

        def now(note: str = "") -> tuple[str, str, str]:
            return note, *(html.answer(texts[side], finished[side]) for side in SIDES)

        if not (prompt or "").strip():
            yield html.message(say(language, "compare.empty")), gr.skip(), gr.skip()
            return
        yield now(html.message(say(language, "compare.waiting"), "plain"))
        sent = time.monotonic()
        try:
            for piece in bench.answerer.stream(
                bench.run(run_id).path,
                [prompt.strip()],
                seed=int(seed or 0),
                temperature=float(temperature),
                max_new_tokens=int(length),
                system=(system or "").strip() or None,
            ):
                texts[piece["side"]], finished[piece["side"]] = piece["text"], piece["done"]
                if time.monotonic() - sent > UPDATE_SECONDS:
                    sent = time.monotonic()
                    yield now()
        except WorkbenchError as error:
            yield now(html.message(retell(language, error)))
            return
        same = texts["reference"] == texts["tuned"]
        yield now(html.message(say(language, "compare.same"), "warning") if same else "")

    def refresh(run_id: str | None, request: gr.Request) -> Any:
        choices = compared_runs(bench, language_of(request))
        known = {value for _, value in choices}
        return gr.Dropdown(choices=choices, value=run_id if run_id in known else (choices[0][1] if choices else None))

    def suggest(run_id: str | None) -> Any:
        found = bench.run_or_none(run_id)
        return gr.Dataset(samples=[[text] for text in prompts_for(found)])

    inputs = [run, prompt, system, temperature, length, seed]
    outputs = [told, *boxes]
    quiet: dict[str, Any] = {"show_progress": "hidden", "queue": False}
    gr.on([page.load, tab.select], refresh, [run], [run], **quiet)
    run.change(suggest, [run], [ideas], **quiet)
    page.load(suggest, [run], [ideas], **quiet)
    ideas.click(lambda sample: sample[0], [ideas], [prompt], **quiet)
    running = gr.on([generate.click], answer, inputs, outputs, show_progress="hidden", concurrency_id="answers")
    renewed = another.click(lambda: random.randrange(2**31), None, [seed], **quiet).then(
        answer, inputs, outputs, show_progress="hidden", concurrency_id="answers"
    )
    halt.click(None, None, None, cancels=[running, renewed])
