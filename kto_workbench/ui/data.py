"""Data: which thumbs, how they balance, what is wrong with them, what they say."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio.components import Component

from kto_workbench.errors import DataError, WorkbenchError
from kto_workbench.feedback import Feedback, suggest_weights
from kto_workbench.feedback.guessing import glimpse
from kto_workbench.feedback.joins import BETWEEN, split_names
from kto_workbench.ui import check, estimate, html, mapping
from kto_workbench.ui.words import label, language_of, retell, say
from kto_workbench.ui.workbench import DEMO_NAMES, THUMBS, Workbench

PAGE_ROWS = 8


@dataclass
class DataTab:
    """What the other tabs need of this one."""

    source: gr.Dropdown
    ratio: gr.Slider
    train: gr.Button
    renewed: gr.State  # counts up when the feedback chosen has grown
    follow: Callable[..., None]  # the widgets of the model, length, template and its arguments, which are elsewhere


def build(bench: Workbench, page: gr.Blocks) -> DataTab:
    """Lay out the tab and wire what happens inside it."""
    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=260):
            source = gr.Dropdown(
                choices=sources(bench),
                value="demo",
                label=label("data.source"),
                info=label("data.source.help"),
                elem_id="data-source",
                allow_custom_value=True,
            )
            upload = gr.File(
                label=label("data.upload"), elem_id="data-upload", type="filepath", height=150, file_count="multiple"
            )
            told = gr.HTML(elem_id="data-message", elem_classes="kto-bare kto-told")
            train = gr.Button(label("data.train"), variant="primary", elem_id="data-train")
        with gr.Column(scale=5, min_width=300):
            renewed = gr.State(0)
            mapping.build(bench, page, source, renewed)
            cards = gr.HTML(elem_id="data-cards", elem_classes="kto-bare")
            lengths = gr.HTML(elem_id="data-lengths", elem_classes="kto-bare")
            balance = gr.HTML(elem_id="data-balance", elem_classes="kto-bare")
            ratio = gr.Slider(
                1.0,
                1.5,
                value=1.0,
                step=0.05,
                label=label("data.ratio"),
                info=label("data.ratio.help"),
                elem_id="data-ratio",
            )
            problems = gr.HTML(elem_id="data-problems", elem_classes="kto-bare")
            refused = gr.HTML(elem_id="data-refused", elem_classes="kto-bare")
            check.build(bench, page, source, renewed, sources)
    with gr.Row(elem_classes="kto-toolbar"):
        side = gr.Radio(
            [(label("rows.all"), "all"), (label("rows.up"), "up"), (label("rows.down"), "down")],
            value="all",
            label=label("rows.title"),
            elem_id="data-side",
            container=False,
            scale=1,
            min_width=240,
        )
        rendered = gr.Checkbox(
            label=label("check.rendered"), elem_id="data-rendered", container=False, scale=0, min_width=220
        )
        where = gr.HTML(elem_id="data-where", elem_classes="kto-bare")
        before = gr.Button(label("rows.before"), size="sm", scale=0, min_width=84, elem_id="data-before")
        after = gr.Button(label("rows.after"), size="sm", scale=0, min_width=84, elem_id="data-after")
    position = gr.State(0)
    seen_by = gr.State({})  # what as_seen makes of the Train tab
    # A reload comes back to the feedback that was chosen; nothing in it is secret.
    chosen = gr.BrowserState("demo", storage_key="kto-workbench-feedback", secret="kto-workbench")
    rows = gr.HTML(elem_id="data-rows", elem_classes="kto-bare")

    def take(paths: list[str] | None, request: gr.Request) -> tuple[Any, ...]:
        language = language_of(request)
        if not paths:
            return gr.skip(), gr.skip(), ""
        before = bench.uploaded()
        kept: list[str] = []
        try:
            bench.sweep()
            for path in paths:
                kept.append(bench.keep_upload(path))
                # Two files are one source: ratings alone need not be feedback.
                if len(paths) == 1 and not glimpse(kept[-1], bench.workspace, ()).columns:
                    bench.feedback(kept[-1])  # says what is wrong with it
                    raise DataError(f"There is no feedback in {Path(path).name}.")
        except (WorkbenchError, OSError) as error:
            for refused in (*paths, *kept):  # not offered as feedback, and takes no room
                if Path(refused) not in before and bench.owns(refused):
                    bench.refuse(refused, error)
            if isinstance(error, OSError):
                return None, gr.skip(), html.message(say(language, "data.not_kept", reason=error.strerror or error))
            if not kept:
                return None, gr.skip(), html.message(retell(language, error))
        # Whether its columns can be used is said where it is shown.
        chosen = BETWEEN.join(kept) if len(kept) == 2 else kept[0]
        return None, gr.Dropdown(choices=sources(bench, chosen), value=chosen), ""

    def show(
        source: str, ratio: float, side: str, rendered: bool, seen_by: dict[str, Any], request: gr.Request
    ) -> tuple[Any, ...]:
        language = language_of(request)
        try:
            feedback = bench.feedback(source)
        except WorkbenchError as error:
            useless = gr.Button(interactive=False)
            return useless, html.message(retell(language, error)), "", "", "", 0, *_no_rows(language)
        counted, weighed = overview(language, feedback, ratio)
        found = html.problems(language, feedback.problems)
        use = gr.Button(interactive=True)
        drawn = show_rows(language, feedback, side, 0, seen_by if rendered else {})
        return use, "", counted, weighed, found, 0, *drawn

    def measure(
        source: str, model: str, max_length: float, template: str, template_kwargs: str, request: gr.Request
    ) -> Iterator[tuple[str, Any]]:
        language, seen_by = language_of(request), as_seen(model, max_length, template, template_kwargs)
        try:
            feedback = bench.feedback(source)
            yield length_cards(language, feedback, say(language, "card.tokens.waiting")), gr.skip()
            found = estimate.look(feedback, **seen_by)
        except (WorkbenchError, OSError, ValueError):  # said elsewhere; there is nothing to measure
            yield "", ""
            return
        lengths = length_cards(language, feedback, say(language, "card.tokens.unknown"), found and found.lengths)
        yield lengths, refused_rows(language, seen_by["model"], found)

    def weigh(source: str, ratio: float, request: gr.Request) -> tuple[Any, ...]:
        try:
            return overview(language_of(request), bench.feedback(source), ratio)
        except WorkbenchError:
            return gr.skip(), gr.skip()

    def turn(by: int) -> Any:
        def turned(
            source: str, side: str, page: int, rendered: bool, seen_by: dict[str, Any], request: gr.Request
        ) -> tuple[Any, ...]:
            language = language_of(request)
            try:
                feedback = bench.feedback(source)
            except WorkbenchError:
                return 0, *_no_rows(language)
            last = max(0, len(_chosen(feedback, side)) - 1) // PAGE_ROWS
            now = min(max(0, (page or 0) + by), last) if by else 0
            return now, *show_rows(language, feedback, side, now, seen_by if rendered else {})

        return turned

    def choose_again(kept: str | None) -> Any:
        offered = sources(bench, kept)
        known = kept in [value for _, value in offered]
        return gr.Dropdown(choices=offered, value=kept if known else "demo")

    everything = [train, told, cards, balance, problems, position, rows, where, before, after]
    quiet: dict[str, Any] = {"show_progress": "hidden", "queue": False}
    page.load(choose_again, [chosen], [source], **quiet)
    source.change(lambda source: source, [source], [chosen], **quiet)
    upload.upload(take, [upload], [upload, source, told], show_progress="minimal")
    shown = [source.change, renewed.change, page.load]
    gr.on(shown, show, [source, ratio, side, rendered, seen_by], everything, **quiet)
    ratio.change(weigh, [source, ratio], [cards, balance], **quiet)
    for event, by in ((side.change, 0), (rendered.change, 0), (before.click, -1), (after.click, 1)):
        event(turn(by), [source, side, position, rendered, seen_by], [position, rows, where, before, after], **quiet)

    def follow(*seen: Component) -> None:
        events = [page.load, *(widget.change for widget in seen)]
        gr.on(events, as_seen, seen, [seen_by], **quiet)
        # Not with the rest: the first look loads the tokenizer.
        measured = [*events, source.change, renewed.change]
        gr.on(measured, measure, [source, *seen], [lengths, refused], show_progress="hidden")

    return DataTab(source, ratio, train, renewed, follow)


def as_seen(model: str, max_length: float, template: str, template_kwargs: str) -> dict[str, Any]:
    """What decides how rows look to a model, as keyword arguments; the template's own as they are typed."""
    return {
        "model": str(model or "demo").strip(),
        "max_length": int(max_length or 1024),
        "template": template,
        "template_kwargs": template_kwargs or "",
    }


def sources(bench: Workbench, chosen: str | None = None) -> list[tuple[Any, str]]:
    """The feedback that can be chosen: what was dropped here, the demo's files, the collected thumbs.

    Two files that were `chosen` together are among them.
    """
    uploaded = [(path.name, str(path)) for path in bench.uploaded()]
    names = split_names(chosen or "")
    if len(names) == 2 and {Path(name) for name in names} <= set(bench.uploaded()):
        uploaded.insert(0, (f" {BETWEEN} ".join(Path(name).name for name in names), str(chosen)))
    thumbs = [(label("source.thumbs"), THUMBS)] if bench.thumbs_collected() else []
    return [*uploaded, *thumbs, *((label(f"source.{name}"), name) for name in DEMO_NAMES)]


def overview(language: str, feedback: Feedback, ratio: float) -> tuple[str, str]:
    """The cards and the picture of the balance."""
    counts = feedback.balance()
    up, down = counts.n_desirable, counts.n_undesirable
    weight_up, weight_down = suggest_weights(up, down, ratio=float(ratio or 1.0))
    odds = f"1 : {down / up:.2g}" if 0 < up <= down else f"{up / down:.2g} : 1" if down else "–"
    numbers = html.cards(
        [
            (say(language, "card.rows"), f"{len(feedback.rows):,}", say(language, "card.rows.hint")),
            (say(language, "side.up"), f"{up:,}", say(language, "card.up.hint")),
            (say(language, "side.down"), f"{down:,}", say(language, "card.down.hint")),
            (say(language, "card.odds"), odds, say(language, "card.odds.hint")),
            ("λ_D", f"{weight_up:.3g}", say(language, "card.weight_up.hint")),
            ("λ_U", f"{weight_down:.3g}", say(language, "card.weight_down.hint")),
        ]
    )
    return numbers, html.balance(language, up, down, weight_up, weight_down)


def length_cards(language: str, feedback: Feedback, otherwise: str, lengths: estimate.Lengths | None = None) -> str:
    """How many prompts there are, and how long prompts and answers are for the model; `otherwise` where not known."""
    prompts = estimate.different_prompts(feedback)
    each = say(language, "card.prompts.hint", each=len(feedback.rows) / max(prompts, 1))
    cards = [(say(language, "card.prompts"), f"{prompts:,}", each)]
    for name in ("prompt", "completion"):
        middle, hint = "–", otherwise
        if lengths is not None:
            tokens = getattr(lengths, name)
            middle = f"{np.median(tokens):,.0f}"
            hint = say(language, "card.tokens.hint", most=round(float(np.quantile(tokens, 0.95))))
        cards.append((say(language, f"card.{name}_tokens"), middle, hint))
    return html.cards(cards)


def refused_rows(language: str, model: str, look: estimate.Look | None) -> str:
    """What of the rows the model's template refuses; nothing, if it refuses none."""
    if look is None or not look.refused:
        return ""
    first = look.refused[0]
    told = {"count": len(look.refused), "rows": look.rows, "model": model, "line": first.line}
    reason = retell(language, first.reason).rstrip("。")
    return html.message(say(language, "data.refused", **told, reason=reason), "warning")


def _chosen(feedback: Feedback, side: str) -> np.ndarray:
    labels = np.asarray(feedback.rows.table.column("label"))
    return np.arange(len(labels)) if side not in ("up", "down") else np.flatnonzero(labels == (side == "up"))


def show_rows(language: str, feedback: Feedback, side: str, page: int, seen_by: dict[str, Any]) -> tuple[Any, ...]:
    """One page of rows, where it is, and the two buttons that turn pages; `seen_by`: as this model sees them."""
    chosen = _chosen(feedback, side)
    start = page * PAGE_ROWS
    shown = list(feedback.rows.take(chosen[start : start + PAGE_ROWS]))
    where = (
        say(language, "rows.where", first=start + 1, last=start + len(shown), total=f"{len(chosen):,}") if shown else ""
    )
    try:
        if seen_by and shown:
            drawn = check.rendered_rows(language, shown, **seen_by, images=feedback.images)
        else:
            drawn = html.rows(language, shown, feedback.images)
    except WorkbenchError as error:
        drawn = html.message(retell(language, error))
    return (
        drawn,
        f'<p class="kto-plain">{html.esc(where)}</p>',
        gr.Button(interactive=page > 0),
        gr.Button(interactive=start + PAGE_ROWS < len(chosen)),
    )


def _no_rows(language: str) -> tuple[Any, ...]:
    return html.rows(language, []), "", gr.Button(interactive=False), gr.Button(interactive=False)
