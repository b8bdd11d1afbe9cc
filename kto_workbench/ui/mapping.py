"""Which column plays which part: what was recognised or guessed, rows as they would be read, fields to correct it."""

from typing import Any

import gradio as gr

from kto_workbench.errors import DataError, WorkbenchError
from kto_workbench.feedback.formats import TAKES, WORDS
from kto_workbench.feedback.guessing import Glimpse, glimpse
from kto_workbench.feedback.messages import dump_json
from kto_workbench.feedback.shapes import LIST, ONE, PAIR, TWO, primitive_of
from kto_workbench.ui import html
from kto_workbench.ui.words import label, language_of, retell, say
from kto_workbench.ui.workbench import DEMO_NAMES, THUMBS, Workbench

# The fields of each primitive, columns first, then how labels are read.
FIELDS = {
    ONE: ("prompt", "completion", "messages", "judged", "label", "system", "threshold", "up", "down"),
    PAIR: ("prompt", "messages", "chosen", "rejected", "system"),
    TWO: ("prompt", "messages", "answer_a", "answer_b", "winner", "score_a", "score_b", "system", "a", "b", "both_bad"),
    LIST: ("prompt", "messages", "answers", "scores", "ranks", "system", "take", "threshold"),
}
NAMES = tuple(dict.fromkeys(name for names in FIELDS.values() for name in names))
TYPED = ("threshold", *WORDS)
LONGEST_EXAMPLE = 90


def build(bench: Workbench, page: gr.Blocks, source: gr.Dropdown, renewed: gr.State) -> None:
    """Lay out the fields; a mapping that is kept counts `renewed` up, so that all else is shown anew."""
    with gr.Accordion(label("mapping.title"), open=False, visible=False, elem_id="data-mapping") as folded:
        told = gr.HTML(elem_id="data-mapping-message", elem_classes="kto-bare kto-told")
        columns = gr.HTML(elem_id="data-mapping-columns", elem_classes="kto-bare")
        shape = gr.Radio(
            [(label(f"mapping.{name}"), name) for name in FIELDS],
            value=ONE,
            label=label("mapping.shape"),
            elem_id="data-mapping-shape",
        )
        with gr.Row(elem_classes="kto-fields"):
            fields = {name: _field(name) for name in NAMES}
        preview = gr.HTML(elem_id="data-mapping-preview", elem_classes="kto-bare kto-told")
        with gr.Row(elem_classes="kto-buttons"):
            keep = gr.Button(label("mapping.keep"), variant="primary", size="sm", elem_id="data-mapping-keep")
            forget = gr.Button(label("mapping.forget"), size="sm", elem_id="data-mapping-forget")

    def offer(source: str, request: gr.Request) -> list[Any]:
        language = language_of(request)
        try:
            seen = glimpse(_names(bench, source), bench.workspace, bench.mapping(source))
        except (WorkbenchError, OSError):  # said beside the upload already
            return [gr.Accordion(visible=False), "", "", gr.skip(), *([gr.skip()] * len(NAMES)), ""]
        chosen = primitive_of(seen.mapping) or ONE
        choices = ["", *seen.columns]
        updates = [_update(name, seen.mapping.get(name), choices, name in FIELDS[chosen]) for name in NAMES]
        said = "" if seen.recognised else html.message(say(language, "mapping.guess"), "info")
        return [
            gr.Accordion(visible=True, open=not seen.recognised or bool(seen.reason)),
            said,
            show_columns(language, seen.columns),
            chosen,
            *updates,
            show_preview(language, seen),
        ]

    def turn(shape: str) -> list[Any]:
        return [_with_visibility(name, name in FIELDS[shape]) for name in NAMES]

    def try_out(source: str, shape: str, *values: Any, request: gr.Request) -> str:
        language = language_of(request)
        try:
            return show_preview(language, _look(bench, source, read_fields(shape, values)))
        except WorkbenchError as error:
            return html.message(retell(language, error))

    def keep_it(source: str, renewed: int, shape: str, *values: Any, request: gr.Request) -> tuple[Any, str]:
        language = language_of(request)
        mapping = read_fields(shape, values)
        try:
            seen = _look(bench, source, mapping)
            if seen.reason:
                return gr.skip(), show_preview(language, seen)
            bench.keep_mapping(source, mapping)
        except (WorkbenchError, OSError) as error:
            return gr.skip(), html.message(retell(language, error))
        return (renewed or 0) + 1, show_preview(language, seen)

    def forget_it(source: str, renewed: int, request: gr.Request) -> tuple[Any, str]:
        try:
            bench.keep_mapping(source, {})
        except (WorkbenchError, OSError) as error:
            return gr.skip(), html.message(retell(language_of(request), error))
        return (renewed or 0) + 1, ""

    everything = [*fields.values()]
    quiet: dict[str, Any] = {"show_progress": "hidden", "queue": False}
    gr.on(
        [source.change, renewed.change, page.load],
        offer,
        [source],
        [folded, told, columns, shape, *everything, preview],
        **quiet,
    )
    asked = [source, shape, *everything]
    shape.input(turn, [shape], everything, **quiet).then(_with_request(try_out), asked, [preview], **quiet)
    # One at a time, and the last of all: an answer to what was typed before must not come after it.
    typed = [field.input for field in everything]
    gr.on(typed, _with_request(try_out), asked, [preview], trigger_mode="always_last", **quiet)
    # Through the queue: gradio tells of a changed state only there.
    keep.click(_with_request(keep_it), [source, renewed, shape, *everything], [renewed, preview])
    forget.click(forget_it, [source, renewed], [renewed, preview])


def _with_request(handler: Any) -> Any:
    """The handler for gradio, which gives a request to a parameter of that type only before those that vary."""

    def handle(request: gr.Request, *values: Any) -> Any:
        return handler(*values, request=request)

    return handle


def _field(name: str) -> gr.Dropdown | gr.Textbox:
    common: dict[str, Any] = {
        "label": label(f"part.{name}"),
        "elem_id": f"data-mapping-{name.replace('_', '-')}",
        "visible": name in FIELDS[ONE],
        "min_width": 150,
    }
    if name in TYPED:
        return gr.Textbox(max_lines=1, **common)
    if name == "take":
        return gr.Dropdown([(label(f"mapping.{take}"), take) for take in TAKES], filterable=False, **common)
    return gr.Dropdown([""], value="", allow_custom_value=True, **common)


def _update(name: str, value: Any, choices: list[str], visible: bool) -> Any:
    if name in TYPED:
        text = ", ".join(value) if isinstance(value, list) else "" if value is None else f"{value}"
        return gr.Textbox(value=text, visible=visible)
    if name == "take":
        return gr.Dropdown(value=value or TAKES[0], visible=visible)
    return gr.Dropdown(choices=choices, value=value or "", visible=visible)


def _with_visibility(name: str, visible: bool) -> Any:
    return gr.Textbox(visible=visible) if name in TYPED else gr.Dropdown(visible=visible)


def read_fields(shape: str, values: Any) -> dict[str, Any]:
    """The mapping that the fields of this shape say, in the order of NAMES."""
    mapping: dict[str, Any] = {}
    for name, value in zip(NAMES, values, strict=True):
        value = str(value or "").strip()
        if name in FIELDS[shape] and value:
            mapping[name] = [word.strip() for word in value.split(",")] if name in WORDS else value
    if mapping.get("take") == TAKES[1]:
        mapping.pop("threshold", None)
    return mapping


def _names(bench: Workbench, source: str) -> str:
    """The source, if it is a file of this workspace whose columns can be said. Raises DataError."""
    if source in (*DEMO_NAMES, THUMBS):
        raise DataError(f"There is no feedback {source!r} here; drop the file again.")
    bench.files_of(source)
    return source


def _look(bench: Workbench, source: str, mapping: dict[str, Any]) -> Glimpse:
    return glimpse(_names(bench, source), bench.workspace, mapping, guess=False)


def show_columns(language: str, columns: dict[str, Any]) -> str:
    """Each column with a value that it has."""
    body = "".join(
        f"<tr><td><code>{html.esc(name)}</code></td><td>{html.esc(_shown(value))}</td></tr>"
        for name, value in columns.items()
    )
    heads = "".join(f"<th>{html.esc(say(language, f'mapping.{name}'))}</th>" for name in ("column", "example"))
    title = html.esc(say(language, "mapping.columns"))
    return (
        f'<div class="kto-scroll kto-columns" {html.region(title)}><table class="kto-table"><thead><tr>{heads}</tr>'
        f"</thead><tbody>{body}</tbody></table></div>"
    )


def _shown(value: Any) -> str:
    text = "" if value is None else dump_json(value) if isinstance(value, (list, dict)) else str(value)
    return text if len(text) <= LONGEST_EXAMPLE else text[:LONGEST_EXAMPLE] + "…"


def show_preview(language: str, seen: Glimpse) -> str:
    """The first rows as they would be read, or why there are none."""
    if not seen.complete:
        return html.message(say(language, "mapping.incomplete"), "warning")
    if seen.reason:
        return html.message(retell(language, seen.reason), "warning")
    title = html.esc(say(language, "mapping.preview"))
    rows = html.rows(language, seen.rows)
    return f'<div class="kto-message-list"><p class="kto-message kto-plain">{title}</p>{rows}</div>'
