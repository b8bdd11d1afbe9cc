"""Runs: what has been trained here, and what became of it."""

from typing import Any

import gradio as gr

from kto_workbench.errors import WorkbenchError
from kto_workbench.runs import Run
from kto_workbench.ui import html
from kto_workbench.ui.words import label, language_of, say
from kto_workbench.ui.workbench import Workbench
from kto_workbench.views.records import records_of

COLUMNS = ("run", "state", "data", "beta", "weights", "rate", "steps", "chosen", "rejected", "margin")
SHOWN = 200


def build(bench: Workbench, page: gr.Blocks, tab: gr.Tab) -> None:
    """Lay out the tab; its table is renewed whenever the tab is opened."""
    table = gr.HTML(elem_id="runs-table", elem_classes="kto-bare")
    with gr.Row(elem_classes="kto-buttons"):
        refresh = gr.Button(label("runs.refresh"), size="sm", elem_id="runs-refresh", min_width=100)

    def show(request: gr.Request) -> str:
        return runs_table(language_of(request), bench.runs()[:SHOWN])

    quiet: dict[str, Any] = {"show_progress": "hidden", "queue": False}
    gr.on([page.load, tab.select, refresh.click], show, None, [table], **quiet)


def runs_table(language: str, runs: list[Run]) -> str:
    """The history: state, data, key settings, last metrics."""
    if not runs:
        return f'<p class="kto-empty">{html.esc(say(language, "live.none"))}</p>'
    heads = "".join(f'<th scope="col">{html.esc(say(language, f"runs.{name}"))}</th>' for name in COLUMNS)
    body = "".join(_line(language, run) for run in runs)
    return (
        f'<div class="kto-scroll kto-tall" tabindex="0"><table class="kto-table"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _line(language: str, run: Run) -> str:
    status = run.status()
    try:
        config, last = run.config(), records_of(run).train.last
    except WorkbenchError as error:
        return (
            f'<tr><td><code>{html.esc(run.id)}</code></td><td colspan="{len(COLUMNS) - 1}">{html.esc(error)}</td></tr>'
        )
    data = run.data()
    cells = [
        f"{_name(config.data)}<br><small>{data.get('n_desirable', 0):,} ↑ {data.get('n_undesirable', 0):,} ↓</small>",
        f"{config.beta:g}",
        f"{html.number(config.desirable_weight)} / {html.number(config.undesirable_weight)}",
        f"{config.learning_rate:g}",
        f"{status.step:,} / {status.total_steps:,}",
        *(html.number(last(key)) for key in ("rewards/chosen", "rewards/rejected", "rewards/margins")),
    ]
    return (
        f"<tr><td><code>{html.esc(run.id)}</code></td><td>{html.state_pill(language, status.state)}</td>"
        + "".join(f"<td>{cell}</td>" for cell in cells)
        + "</tr>"
    )


def _name(path: str) -> str:
    return html.esc(path.rstrip("/").rsplit("/", 1)[-1])
