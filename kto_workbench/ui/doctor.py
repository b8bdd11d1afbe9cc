"""The doctor's button: what works on this machine and what is missing, as text to copy into a bug report."""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from kto_workbench.doctor.examination import examine
from kto_workbench.doctor.results import Subject, summary
from kto_workbench.ui.words import label
from kto_workbench.ui.workbench import Workbench


def build(bench: Workbench) -> None:
    """Lay out the button and the place for its lines, which come one by one.

    They are in English whatever the page's language: they are for whoever reads the report.
    """
    with gr.Row(elem_classes="kto-buttons"):
        ask = gr.Button(label("doctor.ask"), size="sm", elem_id="doctor-ask", min_width=90)
    told = gr.Code(
        label=label("doctor.told"),
        interactive=False,
        wrap_lines=True,
        show_line_numbers=False,
        buttons=["copy"],
        visible=False,
        elem_id="doctor-told",
    )

    def look() -> Iterator[tuple[Any, Any]]:
        results = []
        yield gr.Code(value="…", visible=True), gr.Button(interactive=False)
        for result in examine(Subject(bench.workspace)):
            results.append(result)
            yield gr.Code(value="\n".join(one.line() for one in results)), gr.skip()
        lines = [*(one.line() for one in results), "", summary(results)]
        yield gr.Code(value="\n".join(lines)), gr.Button(interactive=True)

    ask.click(look, None, [told, ask], show_progress="hidden", concurrency_id="doctor", trigger_mode="once")
