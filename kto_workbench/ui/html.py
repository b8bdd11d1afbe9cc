"""Small pieces of HTML. Every text that comes from outside goes through `esc`: answers and rows may hold anything."""

import base64
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from kto_workbench.feedback.images import ImageProblem, Images, keys_in
from kto_workbench.feedback.rows import told
from kto_workbench.runs import Run, Status
from kto_workbench.ui.markdown import with_markdown
from kto_workbench.ui.words import retell, say
from kto_workbench.views.drawing import Line, line_chart
from kto_workbench.views.notes import Note

LONG_TURN = 240  # characters of a prompt that are shown unfolded above an answer
MOST_PICTURES = 8  # of a prompt that are shown
LONGEST_TEXT = 4000  # characters of one answer or prompt on the page


def esc(value: Any) -> str:
    """A text safe inside an element or a quoted attribute, cut where nobody reads on."""
    text = str(value)
    if len(text) > LONGEST_TEXT:
        text = text[:LONGEST_TEXT] + " …"
    return escape(text, quote=True)


def answer(text: str) -> str:
    """An answer as it is and as Markdown, of which the reader sees one; cut where nobody reads on."""
    return with_markdown(text[:LONGEST_TEXT], esc(text))


def message(text: str, kind: str = "error") -> str:
    """One sentence for the user, read aloud by screen readers; nothing for an empty text."""
    if not text:
        return ""
    role = "alert" if kind == "error" else "status"
    return f'<p class="kto-message kto-{kind}" role="{role}">{esc(text)}</p>'


def symbol(name: str) -> str:
    """A text in which λ_D and λ_U have their index set below."""
    return re.sub("λ_([DU])", r"λ<sub>\1</sub>", esc(name))


def thumb(language: str, up: bool) -> str:
    """A thumb as a picture of ours: not every machine has a font for it."""
    side = "up" if up else "down"
    return (
        f'<svg class="kto-thumb kto-{side}" viewBox="0 0 20 20" role="img" '
        f'aria-label="{esc(say(language, f"side.{side}"))}">'
        '<path d="M2.5 9h3v8.5h-3zM7 9.2l3.6-7.2c1.3 0 2.2 1 2 2.3L12 7.5h4.3c1.2 0 2 1.1 1.7 2.2'
        'l-1.6 6.2c-.2.9-1 1.6-2 1.6H7z"/></svg>'
    )


def number(value: float | None) -> str:
    """A measured value in three digits; a dash for none."""
    if value is None:
        return "–"
    return "0" if abs(value) < 1e-9 else f"{value:.3g}".replace("-", "−")


def chart_head(
    title: str, keys: Iterable[tuple[str, str, float | None]], values: bool = True, when: str = "", more: str = ""
) -> str:
    """A chart's title and its legend, with the values of the moment `when`: (name, colour, value).

    `more` is HTML to stand behind the title, such as a link to where the chart is explained.
    """
    cells = "".join(
        f'<span class="kto-curve" style="--curve:{esc(color)}">{esc(name)}'
        f"{f' <b>{number(value)}</b>' if values else ''}</span>"
        for name, color, value in keys
    )
    at = f" <small>{esc(when)}</small>" if when else ""
    return f'<div class="kto-chart-head"><h3>{esc(title)}{at}{more}</h3><div class="kto-curves">{cells}</div></div>'


def learn_link(language: str, step: str) -> str:
    """A link to the step of Learn that explains something; see glossary.py."""
    what = esc(say(language, "gloss.learn"))
    return f' <a class="kto-learn" href="#learn" data-learn="{esc(step)}" title="{what}" aria-label="{what}">?</a>'


def aside(text: str) -> str:
    """A remark in small letters."""
    return f'<p class="kto-aside">{esc(text)}</p>'


def cards(items: Iterable[tuple[str, str, str]]) -> str:
    """Numbers in a row of cards: (name, value, hint)."""
    cells = "".join(
        f'<div class="kto-card"><dt>{symbol(name)}</dt><dd>{esc(value)}</dd><span>{esc(hint)}</span></div>'
        for name, value, hint in items
    )
    return f'<dl class="kto-cards">{cells}</dl>'


def balance(language: str, n_up: int, n_down: int, weight_up: float, weight_down: float) -> str:
    """Two bars: the thumbs as counted, and as they weigh with λ."""
    rows = [
        (say(language, "balance.counted"), n_up, n_down, f"{n_up:,}", f"{n_down:,}"),
        (
            say(language, "balance.weighted"),
            n_up * weight_up,
            n_down * weight_down,
            f"{weight_up:.3g} × {n_up:,}",
            f"{weight_down:.3g} × {n_down:,}",
        ),
    ]
    bars = "".join(_bar(language, *row) for row in rows)
    return f'<div class="kto-balance">{bars}{_sides_key(language)}</div>'


def days(language: str, counts: Sequence[tuple[str, int, int]], title: str = "feedback.days") -> str:
    """Thumbs by day, or by whatever the title says, as bars on one scale: (day, up, down)."""
    most = max((up + down for _, up, down in counts), default=0)
    if not most:
        return ""
    bars = "".join(
        f'<div class="kto-bar-row"><span class="kto-bar-name">{esc(day)}</span><div class="kto-bar" role="img" '
        f'aria-label="{esc(say(language, "balance.spoken", name=day, up=f"{up:,}", down=f"{down:,}"))}">'
        + "".join(
            f'<i class="kto-{side}" style="width:{100 * count / most:.2f}%"></i>'
            for side, count in (("up", up), ("down", down))
            if count
        )
        + f'</div><span class="kto-bar-numbers"><b>{up:,}</b> · <b>{down:,}</b></span></div>'
        for day, up, down in counts
    )
    head = f"<h3>{esc(say(language, title))}</h3>"
    return f'<div class="kto-balance kto-days" data-of="{esc(title)}">{head}{bars}{_sides_key(language)}</div>'


def _sides_key(language: str) -> str:
    """Which colour is which thumb."""
    keys = (f'<span class="kto-key kto-{side}">{esc(say(language, f"side.{side}"))}</span>' for side in ("up", "down"))
    return f'<div class="kto-keys">{"".join(keys)}</div>'


def _bar(language: str, name: str, up: float, down: float, up_text: str, down_text: str) -> str:
    whole = up + down
    share = 100 * up / whole if whole else 50.0
    spoken = say(language, "balance.spoken", name=name, up=up_text, down=down_text)
    # The numbers stand beside the bar: a side of 2 % could not hold its own.
    return (
        f'<div class="kto-bar-row"><span class="kto-bar-name">{esc(name)}</span>'
        f'<div class="kto-bar" role="img" aria-label="{esc(spoken)}">'
        f'<i class="kto-up" style="width:{share:.2f}%"></i>'
        f'<i class="kto-down" style="width:{100 - share:.2f}%"></i></div>'
        f'<span class="kto-bar-numbers"><b class="kto-up">{esc(up_text)}</b> · '
        f'<b class="kto-down">{esc(down_text)}</b></span></div>'
    )


def problems(language: str, found: Sequence[Any], shown: int = 50) -> str:
    """The rows that were skipped: line, field, reason."""
    if not found:
        return f'<p class="kto-message kto-fine" role="status">{esc(say(language, "problems.none"))}</p>'
    heads = "".join(f"<th>{esc(say(language, f'problems.{name}'))}</th>" for name in ("line", "field", "reason"))
    body = "".join(
        f"<tr><td>{esc(one.line)}</td><td><code>{esc(one.field)}</code></td>"
        f"<td>{esc(retell(language, one.reason))}</td></tr>"
        for one in found[:shown]
    )
    more = f"<p>{esc(say(language, 'problems.more', count=len(found) - shown))}</p>" if len(found) > shown else ""
    title = esc(say(language, "problems.some", count=len(found)))
    return (
        f'<p class="kto-message kto-warning" role="status">{title}</p><div class="kto-scroll" {region(title)}>'
        f'<table class="kto-table"><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>{more}'
    )


def region(name: str) -> str:
    """The attributes of a part that scrolls: reached with the Tab key, and named; `name` is escaped already."""
    return f'tabindex="0" role="region" aria-label="{name}"'


def rows(language: str, page: Sequence[Any], images: Images | None = None) -> str:
    """A page of feedback: thumb, prompt, and the answer that was judged, which is what it is about."""
    if not page:
        return f'<p class="kto-empty">{esc(say(language, "rows.none"))}</p>'
    items = []
    for row in page:
        side = "up" if row.label else "down"
        items.append(
            f'<li class="kto-row kto-{side}">{thumb(language, row.label)}'
            f"<div>{pictures(language, row.prompt, images)}{context(language, row.prompt)}"
            f"<div class='kto-answer'>{answer(row.completion)}</div></div>"
            f'<span class="kto-line">{esc(row.line)}</span></li>'
        )
    return f'<ul class="kto-rows">{"".join(items)}</ul>'


def pictures(language: str, prompt: Any, images: Images | None) -> str:
    """A prompt's images, small: made anew here, so that nothing of their files but what they show is on the page."""
    shown = []
    for number, key in enumerate(keys_in(prompt)[:MOST_PICTURES] if images else (), 1):
        try:
            data = base64.b64encode(images.thumbnail(key)).decode()
        except ImageProblem as problem:
            shown.append(f"<small>{esc(retell(language, str(problem)))}</small>")
        else:
            name = esc(say(language, "rows.image", number=number))
            shown.append(f'<img src="data:image/jpeg;base64,{data}" alt="{name}">')
    return f'<div class="kto-pictures">{"".join(shown)}</div>' if shown else ""


def context(language: str, prompt: Any) -> str:
    """A prompt as what leads to an answer: its last turn; earlier ones, and what is longer than a few lines, fold."""
    if isinstance(prompt, str):
        return _turn(language, "", prompt)
    *earlier, last = prompt or [{}]
    folded = ""
    if earlier:
        count = say(language, "rows.earlier", count=len(earlier))
        folded = f'<details class="kto-context"><summary>{esc(count)}</summary>{conversation(earlier)}</details>'
    role = last.get("role", "")
    return folded + _turn(language, "" if role == "user" else role, told(last))


def _turn(language: str, role: str, text: str) -> str:
    named = f"<small>{esc(role)}</small> " if role else ""
    if len(text) <= LONG_TURN:
        return f'<p class="kto-prompt">{named}{esc(text)}</p>'
    start, more = esc(text[:LONG_TURN].rsplit(" ", 1)[0]), esc(say(language, "rows.whole"))
    summary = f"<summary>{named}{start} … <u>{more}</u></summary>"
    return f'<details class="kto-context">{summary}<p class="kto-prompt">{esc(text)}</p></details>'


def conversation(prompt: Any) -> str:
    """A prompt: a text as it is, several turns each with its role."""
    if isinstance(prompt, str):
        return f'<p class="kto-prompt">{esc(prompt)}</p>'
    if len(prompt) == 1 and prompt[0].get("role") == "user":
        return f'<p class="kto-prompt">{esc(told(prompt[0]))}</p>'
    return "".join(
        f'<p class="kto-prompt"><small>{esc(turn.get("role", ""))}</small> {esc(told(turn))}</p>' for turn in prompt
    )


def time_left(language: str, seconds: float | None) -> str:
    """A duration as people say it."""
    if seconds is None:
        return ""
    if seconds < 90:
        return say(language, "time.seconds", count=round(seconds))
    if seconds < 5400:
        return say(language, "time.minutes", count=round(seconds / 60))
    return say(language, "time.hours", hours=int(seconds // 3600), minutes=int(seconds % 3600 // 60))


def drawing(
    lines: Sequence[Line], title: str, sizes: Sequence[tuple[int, int]] = ((1180, 280), (340, 240)), **options: Any
) -> str:
    """A chart that stands still, once for wide and once for narrow windows: letters must not shrink with it."""
    return "".join(
        f'<div class="{name}">{line_chart(lines, title=title, width=width, height=height, **options)}</div>'
        for name, (width, height) in zip(("kto-wide", "kto-narrow"), sizes, strict=True)
    )


def notes(language: str, found: Sequence[Note]) -> str:
    """What looks wrong, each with what to try."""
    items = "".join(
        f'<li class="kto-message kto-{"warning" if note.level == "warning" else "info"}">'
        f"{esc(say(language, f'note.{note.kind}.what', **note.values))} "
        f"<em>{esc(say(language, f'note.{note.kind}.hint'))}</em></li>"
        for note in found
    )
    return f'<ul class="kto-notes" role="status">{items}</ul>' if items else ""


def state_pill(language: str, state: str) -> str:
    """A run's state as a coloured word."""
    return (
        f'<span class="kto-pill kto-state-{esc(state.replace(" ", "-"))}">{esc(say(language, f"state.{state}"))}</span>'
    )


def progress(language: str, run: Run, status: Status) -> str:
    """Where a run is: state, step, epoch, time left, and what it says about itself."""
    total = status.total_steps
    share = 100 * status.step / total if total else 0.0
    facts = []
    if total:
        facts.append(say(language, "progress.step", step=status.step, total=total))
        facts.append(say(language, "progress.epoch", epoch=f"{status.epoch:.2g}"))
    if left := time_left(language, status.seconds_left):
        facts.append(say(language, "progress.left", time=left))
    elif status.state == "finished" and status.training_started and status.ended:
        took = time_left(language, status.ended - status.training_started)
        facts.append(say(language, "progress.took", time=took))
    spoken = f"{share:.0f} %"
    says = retell(language, status.error or status.message)
    if not says and status.state in ("queued", "starting"):
        says = say(language, "progress.waking")
    kind = "error" if status.state in ("failed", "crashed", "not answering") else "plain"
    return (
        f'<div class="kto-progress" data-run="{esc(run.id)}"><div class="kto-progress-line">'
        f'{state_pill(language, status.state)}<span class="kto-facts">{" · ".join(map(esc, facts))}</span></div>'
        f'<div class="kto-track" role="progressbar" aria-valuemin="0" aria-valuemax="{total}" '
        f'aria-valuenow="{status.step}" aria-label="{esc(say(language, "progress.label"))}" aria-valuetext="{spoken}">'
        f'<i class="kto-state-{esc(status.state)}" style="width:{share:.2f}%"></i></div>{message(says, kind)}</div>'
    )


def log_tail(language: str, text: str) -> str:
    """The end of a run's log, folded away."""
    if not text.strip():
        return ""
    title = esc(say(language, "progress.log"))
    return f'<details class="kto-log"><summary>{title}</summary><pre>{esc(text)}</pre></details>'


def samples(language: str, found: Sequence[dict[str, Any]]) -> str:
    """The watched prompts, each with the reference's and the tuned model's newest answer."""
    newest = {str(sample.get("prompt")): sample for sample in found}
    if not newest:
        return f'<p class="kto-empty">{esc(say(language, "samples.none"))}</p>'
    blocks = []
    for sample in newest.values():
        step = say(language, "samples.step", step=sample.get("step", 0))
        sides = "".join(
            f'<div class="kto-side"><h4>{esc(say(language, f"answer.{side}"))}</h4>'
            f"<div class='kto-answer'>{answer(sample.get(side) or '')}</div></div>"
            for side in ("reference", "tuned")
        )
        blocks.append(
            f'<article class="kto-sample"><header><div>{conversation(sample.get("prompt") or "")}</div>'
            f'<small>{esc(step)}</small></header><div class="kto-sides">{sides}</div></article>'
        )
    return "".join(blocks)
