"""Runs: what has been trained here, laid over each other, told apart, named, resumed, deleted and taken back."""

from pathlib import Path
from typing import Any

import gradio as gr

from kto_workbench.errors import WorkbenchError
from kto_workbench.objectives import unused_by
from kto_workbench.runs import Run, resume
from kto_workbench.runs.directory import EXPORT_FORMATS
from kto_workbench.runs.shelf import (
    about_run,
    delete_run,
    deleted_runs,
    describe_run,
    empty_trash,
    restore_run,
    title_of,
)
from kto_workbench.ui import doctor, html, sweeps
from kto_workbench.ui.export import begin_export, can_export, is_exporting, show_exports
from kto_workbench.ui.fields import offer
from kto_workbench.ui.folder import open_folder
from kto_workbench.ui.train import TrainTab
from kto_workbench.ui.words import label, language_of, retell, say
from kto_workbench.ui.workbench import Workbench
from kto_workbench.views.curves import CHARTS, OF_ANSWERS
from kto_workbench.views.drawing import PALETTE, Line
from kto_workbench.views.records import records_of
from kto_workbench.views.report import write_report

COLUMNS = ("run", "state", "data", "beta", "weights", "rate", "steps", "chosen", "rejected", "margin")
CURVES_OF = ("rewards", "loss", "z0", "judged")
LAST = ("rewards/chosen", "rewards/rejected", "rewards/margins")
METRICS = {curve.name: curve for chart in CURVES_OF for curve in CHARTS[chart] if curve.name != "beta_z0"}
SHOWN = 200
LAID_OVER = 6
POINTS_EACH = 150
EXPORT_SECONDS = 1.0


def build(bench: Workbench, page: gr.Blocks, tab: gr.Tab, train: TrainTab, *, at_screen: bool) -> None:
    """Lay out the tab; it is renewed whenever it is opened.

    `train` has the run that is watched; `at_screen` says that no other machine reaches the page.
    """
    watched = train.run
    table = gr.HTML(elem_id="runs-table", elem_classes="kto-bare kto-as-cards")
    with gr.Row():
        chosen = gr.Dropdown(
            [],
            multiselect=True,
            max_choices=LAID_OVER,
            allow_custom_value=True,
            label=label("runs.pick"),
            info=label("runs.pick.help"),
            elem_id="runs-chosen",
            scale=3,
            min_width=260,
        )
        metric = gr.Dropdown(
            [(label(f"curve.{name}"), name) for name in METRICS],
            value="margin",
            label=label("runs.metric"),
            elem_id="runs-metric",
            filterable=False,
            min_width=150,
        )
        part = gr.Dropdown(
            [(label("live.train"), "train"), (label("live.eval"), "eval")],
            value="train",
            label=label("live.part"),
            elem_id="runs-part",
            filterable=False,
            min_width=150,
        )
    overlay = gr.HTML(elem_id="runs-overlay", elem_classes="kto-bare")
    difference = gr.HTML(elem_id="runs-difference", elem_classes="kto-bare")
    with gr.Row():
        name = gr.Textbox(label=label("runs.name"), elem_id="runs-name", max_lines=1, max_length=80, min_width=200)
        note = gr.Textbox(label=label("runs.note"), elem_id="runs-note", lines=1, max_lines=6, scale=3, min_width=240)
    with gr.Row(elem_classes="kto-buttons"):
        save = gr.Button(label("runs.save"), size="sm", elem_id="runs-save", min_width=90)
        watch = gr.Button(label("runs.watch"), size="sm", elem_id="runs-watch", min_width=90)
        again = gr.Button(label("train.resume"), size="sm", elem_id="runs-resume", min_width=90)
        report = gr.DownloadButton(label("runs.report"), size="sm", elem_id="runs-report", min_width=90)
        exports = {
            form: gr.Button(label(f"export.button.{form}"), size="sm", elem_id=f"runs-export-{form}", min_width=90)
            for form in EXPORT_FORMATS
        }
        show_folder = gr.Button(label("runs.open"), size="sm", elem_id="runs-open", min_width=90)
        delete = gr.Button(label("runs.delete"), size="sm", elem_id="runs-delete", min_width=90)
        undo = gr.Button(label("runs.undo"), size="sm", elem_id="runs-undo", visible=False, min_width=90)
        empty = gr.Button(label("runs.empty"), size="sm", elem_id="runs-empty", visible=False, min_width=90)
    folder = gr.Code(
        label=label("runs.folder"),
        interactive=False,
        lines=1,
        wrap_lines=True,
        show_line_numbers=False,
        buttons=["copy"],
        elem_id="runs-folder",
        visible=False,
    )
    told = gr.HTML(elem_id="runs-message", elem_classes="kto-bare kto-told")
    exported = gr.HTML(elem_id="runs-exported", elem_classes="kto-bare kto-told")
    exporting = gr.Timer(EXPORT_SECONDS, active=False)
    at_work = sweeps.build(bench, page, tab, train)
    doctor.build(bench)
    acting = [save, watch, again, report, delete, folder, show_folder, *exports.values()]

    def show(chosen_ids: list[str] | None, request: gr.Request) -> list[Any]:
        language, runs = language_of(request), bench.runs()[:SHOWN]
        known = {run.id for run in runs}
        kept = [one for one in chosen_ids or [] if one in known] or [run.id for run in runs[:1]]
        choices = [(title_of(run), run.id) for run in runs]
        gone = deleted_runs(bench.workspace)
        return [
            runs_table(language, runs),
            offer(choices, kept, chosen_ids),
            gr.Button(visible=bool(gone)),
            gr.Button(visible=bool(gone)),
        ]

    def history(request: gr.Request) -> str:
        return runs_table(language_of(request), bench.runs()[:SHOWN])

    def look(chosen_ids: list[str] | None, metric: str, part: str, request: gr.Request) -> list[Any]:
        language = language_of(request)
        runs = [run for run in map(bench.run_or_none, (chosen_ids or [])[:LAID_OVER]) if run]
        one = runs[0] if len(runs) == 1 else None
        about = about_run(one) if one else {"name": "", "note": ""}
        status, report = one.status() if one else None, report_on(one) if one else None
        return [
            laid_over(language, runs, metric if metric in METRICS else "margin", part),
            config_difference(language, runs),
            gr.Textbox(value=about["name"], interactive=bool(one)),
            gr.Textbox(value=about["note"], interactive=bool(one)),
            gr.Button(interactive=bool(one)),
            gr.Button(interactive=bool(one)),
            gr.Button(interactive=bool(status and status.resumable)),
            gr.DownloadButton(value=report, interactive=report is not None),
            gr.Button(interactive=bool(status and not status.active)),
            gr.Code(value=str(one.path.resolve()) if one else "", visible=bool(one)),
            gr.Button(interactive=bool(one)),
            *(gr.Button(interactive=can_export(one)) for _ in EXPORT_FORMATS),
            *exports_of(one, language),
        ]

    def exports_of(run: Run | None, language: str) -> tuple[str, Any]:
        return show_exports(language, run), gr.Timer(active=is_exporting(run))

    def only(chosen_ids: list[str] | None) -> Run:
        return bench.run(chosen_ids[0] if chosen_ids and len(chosen_ids) == 1 else None)

    def describe(chosen_ids: list[str], name: str, note: str, request: gr.Request) -> str:
        try:
            describe_run(only(chosen_ids), name or "", note or "")
        except (WorkbenchError, OSError) as error:
            return html.message(retell(language_of(request), error))
        return html.message(say(language_of(request), "runs.saved"), "fine")

    def go_on(chosen_ids: list[str], request: gr.Request) -> tuple[Any, str]:
        try:
            run = only(chosen_ids)
            resume(run)
        except WorkbenchError as error:
            return gr.skip(), html.message(retell(language_of(request), error))
        return run.id, ""

    def put_away(chosen_ids: list[str], request: gr.Request) -> str:
        try:
            run = only(chosen_ids)
            delete_run(run)
        except (WorkbenchError, OSError) as error:
            return html.message(retell(language_of(request), error))
        return html.message(say(language_of(request), "runs.deleted", run=run.id), "fine")

    def show_in_files(chosen_ids: list[str], request: gr.Request) -> str:
        language = language_of(request)
        try:
            path = only(chosen_ids).path.resolve()  # of the run that goes by this id, wherever the browser says it is
        except WorkbenchError as error:
            return html.message(retell(language, error))
        if at_screen and open_folder(path):
            return ""
        return html.message(say(language, "runs.folder.at", path=path), "info")

    def take_back(request: gr.Request) -> str:
        gone = deleted_runs(bench.workspace)
        try:
            run = restore_run(gone[0] if gone else "", bench.workspace)
        except (WorkbenchError, OSError) as error:
            return html.message(retell(language_of(request), error))
        return html.message(say(language_of(request), "runs.restored", run=run.id), "fine")

    def throw_away(request: gr.Request) -> str:
        count, freed = empty_trash(bench.workspace)
        return html.message(say(language_of(request), "runs.emptied", count=count, freed=freed / 2**20), "fine")

    def report_on(run: Run) -> str | None:
        # Written when the run is chosen: a download button must have its file before it is clicked.
        path = bench.received / "reports" / f"{run.id}.html"
        try:
            text = write_report(run, about_run(run)["name"])
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", errors="replace")
        except (WorkbenchError, OSError):  # a run that can't be read, a full disk
            return None
        return str(path)

    def export_as(form: str) -> Any:
        def begin(chosen_ids: list[str], request: gr.Request) -> tuple[str, str, Any]:
            try:
                run = only(chosen_ids)
                begin_export(run, form)
            except WorkbenchError as error:
                return html.message(retell(language_of(request), error)), gr.skip(), gr.skip()
            return "", *exports_of(run, language_of(request))

        return begin

    def look_at_exports(chosen_ids: list[str] | None, request: gr.Request) -> tuple[str, Any]:
        one = bench.run_or_none(chosen_ids[0]) if chosen_ids and len(chosen_ids) == 1 else None
        return exports_of(one, language_of(request))

    quiet: dict[str, Any] = {"show_progress": "hidden", "queue": False}
    listed = [table, chosen, undo, empty]
    seen = [overlay, difference, name, note, *acting, exported, exporting]
    gr.on(tab.select, show, [chosen], listed, **quiet)
    at_work.tick(history, None, [table], **quiet)  # and nothing that is chosen, which may be in another tab's hands
    gr.on([chosen.change, metric.change, part.change, tab.select], look, [chosen, metric, part], seen, **quiet)
    shown_again = save.click(describe, [chosen, name, note], [told], **quiet).then(show, [chosen], listed, **quiet)
    shown_again.then(look, [chosen, metric, part], seen, **quiet)
    watch.click(lambda chosen_ids: chosen_ids[0] if chosen_ids else gr.skip(), [chosen], [watched], **quiet)
    again.click(go_on, [chosen], [watched, told], **quiet).then(show, [chosen], listed, **quiet)
    for form, button in exports.items():
        button.click(export_as(form), [chosen], [told, exported, exporting], **quiet)
    exporting.tick(look_at_exports, [chosen], [exported, exporting], **quiet)
    show_folder.click(show_in_files, [chosen], [told], **quiet)
    delete.click(put_away, [chosen], [told], **quiet).then(show, [chosen], listed, **quiet)
    empty.click(throw_away, None, [told], **quiet).then(show, [chosen], listed, **quiet)
    undo.click(take_back, None, [told], **quiet).then(show, [chosen], listed, **quiet)


def runs_table(language: str, runs: list[Run]) -> str:
    """The history: state, data, key settings, last metrics."""
    if not runs:
        return f'<p class="kto-empty">{html.esc(say(language, "live.none"))}</p>'
    heads = "".join(f'<th scope="col">{html.symbol(say(language, f"runs.{name}"))}</th>' for name in COLUMNS)
    body = "".join(_line(language, run) for run in runs)
    return (
        f'<div class="kto-scroll kto-tall" {html.region(html.esc(say(language, "tab.runs")))}>'
        f'<table class="kto-table"><thead><tr>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _line(language: str, run: Run) -> str:
    status, about, problems = run.status(), about_run(run), run.problems()
    title = f"<b>{html.esc(about['name'])}</b><br>" if about["name"] else ""
    note = f"<br><small>{html.esc(about['note'])}</small>" if about["note"] else ""
    told = "".join(html.message(retell(language, one), "warning") for one in problems)
    first = f"<tr><td>{title}<code>{html.esc(run.id)}</code>{note}{told}</td>"
    names = [html.esc(say(language, f"runs.{name}")) for name in COLUMNS[1:]]
    pill = html.state_pill(language, status.state)
    try:
        config = run.config()
    except WorkbenchError:
        rest = f'<td colspan="{len(COLUMNS) - 2}"></td>'
        return f'{first}<td data-name="{names[0]}"><div>{pill}</div></td>{rest}</tr>'
    data, last = run.data(), run.last_values(*LAST)
    thumbs = f"{data.get('n_desirable', 0):,} ↑ {data.get('n_undesirable', 0):,} ↓"
    cells = [
        pill,
        f"{html.esc(Path(config.data).name)}<br><small>{thumbs}</small>",
        "–" if "beta" in unused_by(config.objective) else f"{config.beta:g}",
        f"{html.number(config.desirable_weight)} / {html.number(config.undesirable_weight)}",
        f"{config.learning_rate:g}",
        f"{status.step:,} / {status.total_steps:,}",
        *(html.number(last[key]) for key in LAST),
    ]
    named = (f'<td data-name="{name}"><div>{cell}</div></td>' for name, cell in zip(names, cells, strict=True))
    return first + "".join(named) + "</tr>"


def laid_over(language: str, runs: list[Run], metric: str, part: str) -> str:
    """One metric of several runs in one chart."""
    curve, lines, keys = METRICS[metric], [], []
    for run, color in zip(runs, PALETTE, strict=False):
        records = records_of(run)
        columns = records.eval if part == "eval" else records.train
        columns = records.sampled if curve.column in OF_ANSWERS else columns
        smoothing = 0.0 if part == "eval" or curve.column in OF_ANSWERS else 0.6
        steps, values = columns.thinned(curve.column, smoothing, POINTS_EACH)
        keys.append((title_of(run), color, columns.last(curve.column)))  # as logged, as in the table
        if len(steps):
            lines.append(Line(title_of(run), steps, values, color))
    title = say(language, f"curve.{metric}")
    if not lines:
        return ""
    return f'<div class="kto-panel">{html.chart_head(title, keys)}{html.drawing(lines, title)}</div>'


def config_difference(language: str, runs: list[Run]) -> str:
    """The options in which the runs differ, a column a run."""
    if len(runs) < 2:
        return ""
    try:
        configs = [run.config().model_dump() for run in runs]
    except WorkbenchError as error:
        return html.message(retell(language, error))
    told_apart = [name for name in configs[0] if name != "workspace"]
    rows = [(name, values) for name in told_apart if len(set(values := [str(one[name]) for one in configs])) > 1]
    if not rows:
        return f'<p class="kto-empty">{html.esc(say(language, "runs.alike"))}</p>'
    heads = "".join(f'<th scope="col">{html.esc(title_of(run))}</th>' for run in runs)
    body = "".join(
        f'<tr><th scope="row"><code>{html.esc(name)}</code></th>'
        + "".join(f"<td>{html.esc(v)}</td>" for v in values)
        + "</tr>"
        for name, values in rows
    )
    option = html.esc(say(language, "runs.option"))
    return (
        f'<div class="kto-scroll kto-tall" {html.region(option)}><table class="kto-table">'
        f'<thead><tr><th scope="col">{option}</th>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
