"""What the check finds in the feedback, with its one-click fixes; and rows as the model's template renders them."""

import functools
import re
from typing import Any

import gradio as gr

from kto_workbench.config import read_template_kwargs
from kto_workbench.errors import WorkbenchError
from kto_workbench.feedback import CheckReport, Feedback, Row, check
from kto_workbench.feedback.images import Images
from kto_workbench.feedback.rendering import Encoded, check_model_folder, decode, encode_rows, load_tokenizer
from kto_workbench.feedback.rows import Problem
from kto_workbench.feedback.templates import knows_system, uses_template
from kto_workbench.ui import html
from kto_workbench.ui.estimate import model_folder
from kto_workbench.ui.words import finding_words, label, language_of, retell, say
from kto_workbench.ui.workbench import Workbench

LEVELS = {"problem": "error", "warning": "warning", "note": "info"}
LINES_SHOWN = 8


def build(bench: Workbench, page: gr.Blocks, source: gr.Dropdown, renewed: gr.State, offered: Any) -> None:
    """Lay out the findings; `offered` lists the feedback that can be chosen, where a fixed file turns up.

    A change of `renewed` says that the chosen feedback has grown.
    """
    findings = gr.HTML(elem_id="data-findings", elem_classes="kto-bare kto-told")
    fixes = gr.CheckboxGroup([], label=label("check.fixes"), visible=False, elem_id="data-fixes")
    with gr.Row(elem_classes="kto-buttons"):
        fix = gr.Button(label("check.fix"), size="sm", visible=False, elem_id="data-fix", min_width=160)
    told = gr.HTML(elem_id="data-fix-message", elem_classes="kto-bare kto-told")

    def look(source: str, request: gr.Request) -> list[Any]:
        try:
            report = look_over(bench.feedback(source))
        except WorkbenchError:  # said beside the upload already
            return ["", gr.CheckboxGroup(visible=False), gr.Button(visible=False), ""]
        # "1 row has an empty answer → drop them"
        fixable = [finding for finding in report.findings if finding.fix and finding.name != "unusable"]
        language = language_of(request)
        told_fixes = [(one.name, *finding_words(language, one)) for one in fixable]
        offers = [(f"{re.split('[:：]', title)[0].rstrip('.。')} → {fix}", name) for name, title, _, fix in told_fixes]
        return [
            show_findings(language, report),
            gr.CheckboxGroup(choices=offers, value=[], visible=bool(offers)),
            gr.Button(visible=bool(offers)),
            "",
        ]

    def apply(source: str, names: list[str], request: gr.Request) -> tuple[Any, str]:
        try:
            report = look_over(bench.feedback(source))
            path = report.fix([name for name in names or [] if name in report.fixes], workspace=bench.workspace)
        except (WorkbenchError, OSError) as error:
            return gr.skip(), html.message(retell(language_of(request), error))
        return gr.Dropdown(choices=offered(bench), value=str(path)), ""

    events = [source.change, renewed.change, page.load]
    gr.on(events, look, [source], [findings, fixes, fix, told], show_progress="hidden")
    fix.click(apply, [source, fixes], [source, told], show_progress="minimal")


@functools.lru_cache(maxsize=2)
def look_over(feedback: Feedback) -> CheckReport:
    """The check of a feedback, done once."""
    return check(feedback)


def show_findings(language: str, report: CheckReport) -> str:
    """Each finding with where it is and what to do, the worst first."""
    items = []
    for finding in report.findings:
        if finding.name == "unusable":
            continue  # the list of skipped rows says it
        title, advice, _ = finding_words(language, finding)
        lines = ", ".join(f"{line:,}" for line in finding.lines[:LINES_SHOWN])
        where = f" <small>{html.esc(say(language, 'check.lines', lines=lines))}</small>" if lines else ""
        items.append(
            f'<li class="kto-message kto-{LEVELS[finding.severity]}">{html.esc(title)}{where}'
            f"<br><em>{html.esc(advice)}</em></li>"
        )
    return f'<ul class="kto-notes kto-message-list">{"".join(items)}</ul>' if items else ""


@functools.lru_cache(maxsize=2)
def _tokenizer(folder: str, images: Images | None) -> Any:
    return load_tokenizer(folder, images)


def rendered_rows(
    language: str,
    rows: list[Row],
    model: str,
    max_length: int,
    template: str,
    template_kwargs: str = "",
    images: Images | None = None,
) -> str:
    """Rows as the model sees them: the prompt as its template writes it, then, marked, what is trained.

    Looking fetches nothing: rows for a model that is not on this machine are shown as they are, and that is said.
    Raises ModelError for a folder that does not exist, or without a tokenizer; ConfigError for template_kwargs that are
    no JSON object.
    """
    check_model_folder(model)
    how = {"template": template, "template_kwargs": read_template_kwargs(template_kwargs)}
    folder = model_folder(model)
    if folder is None:
        said = html.message(say(language, "check.elsewhere", model=model), "info")
        return f'<div class="kto-stack">{said}{html.rows(language, rows, images)}</div>'
    tokenizer = _tokenizer(str(folder), images)
    merges = uses_template(tokenizer, template) and not knows_system(tokenizer, how["template_kwargs"])
    items = []
    for row, encoded in zip(rows, encode_rows(tokenizer, rows, max_length, **how), strict=True):
        if isinstance(encoded, Problem):
            reason = retell(language, encoded.reason).rstrip("。")
            shown = f'<p class="kto-prompt">{html.esc(say(language, "check.refused", reason=reason))}</p>'
        else:
            prompt, lead, completion = decode(tokenizer, encoded)
            told = _told(language, encoded, merges and bool(row.system))
            shown = (
                f'<p class="kto-rendered">{html.esc(prompt + lead)}<mark>{html.esc(completion)}</mark></p>'
                f"<small>{html.esc(told)}</small>"
            )
        items.append(
            f'<li class="kto-row">{html.thumb(language, row.label)}'
            f"<div>{html.pictures(language, row.prompt, images)}{shown}</div>"
            f'<span class="kto-line">{html.esc(row.line)}</span></li>'
        )
    return f'<ul class="kto-rows">{"".join(items)}</ul>'


def _told(language: str, encoded: Encoded, merged: bool) -> str:
    """How many tokens a row has, and what its template made of it."""
    told = say(language, "check.tokens", prompt=len(encoded.prompt_ids), completion=len(encoded.completion_ids))
    if cut := encoded.prompt_cut + encoded.completion_cut:
        told += say(language, "check.cut", count=cut)
    if encoded.thought:
        told += say(language, f"check.thought.{encoded.thought}")
    return told + (say(language, "check.system") if merged else "")
