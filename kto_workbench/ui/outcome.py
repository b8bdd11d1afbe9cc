"""What came of an evaluation, as HTML: win rate, figures of both sides, the curve over checkpoints, examples."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from kto_workbench import files
from kto_workbench.judging.endpoint import prompt_text
from kto_workbench.judging.records import ACTIVE, Record
from kto_workbench.judging.verdicts import REFERENCE, TUNED, goes_by_length, length_remark
from kto_workbench.ui import html
from kto_workbench.ui.words import retell, say
from kto_workbench.views.curves import PLAIN, UP
from kto_workbench.views.drawing import Line

EXAMPLES = 4
# From here to a half on, replies go by the place of an answer more than by the answer.
BIASED = 0.15


def record_title(language: str, found: dict[str, Any]) -> str:
    """When, by whom, on what, and how it went."""
    about, evaluation = found.get("about", {}), found.get("evaluation") or {}
    when = f"{datetime.fromtimestamp(found.get('created', 0)):%Y-%m-%d %H:%M}"
    judge = about.get("judge") or say(language, "judge.none")
    parts = [when, judge, f"{about.get('prompts', '')} ({about.get('n_prompts', '')})"]
    if found.get("state") == "finished":
        parts += [f"{evaluation['win_rate']:.0%}"] if evaluation.get("win_rate") is not None else []
    else:
        parts.append(say(language, f"evaluate.state.{found.get('state', 'crashed')}"))
    return " · ".join(parts)


def show(language: str, record: Record, found: dict[str, Any]) -> str:
    """How far an evaluation is, why it failed, or what came of it."""
    state = found.get("state", "crashed")
    if state in ACTIVE:
        return progress(language, found)
    if state == "stopped":
        return html.message(say(language, "evaluate.state.stopped"), "plain")
    if state != "finished":
        log = html.log_tail(language, files.read_end(record.log_path, html.LONGEST_TEXT))
        return html.message(retell(language, found.get("error", ""))) + log
    return results(language, found)


def progress(language: str, found: dict[str, Any]) -> str:
    """A bar, and what is being done."""
    at = found.get("progress") or {}
    done, total = at.get("done", 0), at.get("total", 0)
    share = 100 * done / total if total else 0.0
    says = say(language, f"evaluate.stage.{at.get('stage', 'waking')}", done=done, total=total)
    return (
        '<div class="kto-progress"><div class="kto-progress-line">'
        f'<span class="kto-facts">{html.esc(says)}</span></div>'
        f'<div class="kto-track" role="progressbar" aria-valuemin="0" aria-valuemax="{total}" aria-valuenow="{done}" '
        f'aria-label="{html.esc(say(language, "evaluate.progress"))}"><i style="width:{share:.2f}%"></i></div></div>'
    )


def results(language: str, found: dict[str, Any]) -> str:
    """Win rate, figures of both sides, the curve over checkpoints, examples."""
    evaluation, about = found["evaluation"], found.get("about", {})
    parts = []
    if evaluation.get("judge"):
        parts.append(outcome(language, evaluation))
    parts += remarks(language, evaluation)
    parts.append(unrated(language, evaluation.get("unrated") or []))
    parts.append(figures(language, evaluation, about))
    if evaluation.get("checkpoints"):
        parts.append(by_step(language, evaluation["checkpoints"]))
    answers, verdicts = found.get("answers", []), evaluation.get("verdicts")
    if verdicts and len(answers) == len(verdicts):
        parts.append(examples(language, answers, verdicts))
    return f'<div class="kto-evaluation">{"".join(parts)}</div>'


def outcome(language: str, evaluation: dict[str, Any]) -> str:
    """The win rate on a line from 0 to 1, its interval drawn around it, a half marked."""
    if evaluation["win_rate"] is None:
        return html.message(say(language, "evaluate.unread"))
    rate, (low, high) = evaluation["win_rate"], evaluation["interval"]
    spoken = say(language, "evaluate.spoken", rate=rate, low=low, high=high)
    p = evaluation["sign_test_p"]
    counts = say(
        language,
        "evaluate.counts",
        wins=evaluation["wins"],
        ties=evaluation["ties"],
        losses=evaluation["losses"],
    )
    if p is not None:  # somebody won
        counts += " " + say(language, "evaluate.sign_test", p="< 0.001" if p < 0.001 else f"= {p:.2g}")
    return (
        f'<div class="kto-panel kto-won"><div class="kto-won-rate"><b>{rate:.1%}</b> '
        f"<span>{html.esc(won_by(language, evaluation['judge']))}</span></div>"
        f'<div class="kto-won-line" role="img" aria-label="{html.esc(spoken)}">'
        f'<i style="left:{100 * low:.2f}%;width:{100 * (high - low):.2f}%"></i><u></u>'
        f'<b style="left:{100 * rate:.2f}%"></b></div>'
        f'<div class="kto-won-ends"><span>0 %</span><span>50 %</span><span>100 %</span></div>'
        f"<p>{html.esc(spoken)} {html.esc(counts)}</p></div>"
    )


def won_by(language: str, judge: str | None) -> str:
    """Whose win rate it is; `judge` is None where people voted blindly."""
    return say(language, "evaluate.wins_blind") if judge is None else say(language, "evaluate.wins_by", judge=judge)


def remarks(language: str, evaluation: dict[str, Any]) -> list[str]:
    """What makes the win rate less than it seems."""
    found = []
    if remark := length_remark(evaluation):
        found.append(retell(language, remark))
    share = None if goes_by_length(evaluation.get("judge")) else evaluation.get("longer_won")
    if share is not None and abs(share - 0.5) > 0.4:
        found.append(say(language, "evaluate.longer_won", share=share))
    bias = evaluation.get("position_bias")
    if bias is not None and abs(bias - 0.5) > BIASED:
        found.append(say(language, "evaluate.biased", share=bias))
    if evaluation.get("unparsed"):
        found.append(say(language, "evaluate.unparsed", count=evaluation["unparsed"]))
    missing = evaluation["kl"].get("missing")
    told = [html.message(retell(language, missing), "plain")] if missing else []
    return [html.message(text, "warning") for text in found] + told


def unrated(language: str, found: Sequence[dict[str, Any]]) -> str:
    """What nobody rated: an alarm for what got worse, then all of it as a table."""
    if not found:
        return ""
    named = {one["name"]: say(language, f"unrated.{one['name']}") for one in found}
    alarms = [
        html.message(say(language, "unrated.alarm", **{**one, "name": named[one["name"]]}), "warning")
        for one in found
        if one["alarm"]
    ]
    rows = "".join(
        f'<tr{" class=kto-worse" if one["alarm"] else ""}><th scope="row">{html.esc(named[one["name"]])}</th>'
        f'<td class="kto-number">{one["reference"]:.0%}</td><td class="kto-number">{one["tuned"]:.0%}</td>'
        f'<td class="kto-number">{one["n"]:,}</td></tr>'
        for one in found
    )
    heads = "".join(
        f'<th scope="col" class="kto-number">{html.esc(say(language, key))}</th>'
        for key in ("answer.reference", "answer.tuned", "unrated.n")
    )
    title = html.esc(say(language, "unrated.title"))
    return "".join(alarms) + (
        f'<div class="kto-scroll kto-tall kto-unrated" {html.region(title)}><table class="kto-table"><thead><tr>'
        f'<th scope="col">{title}</th>{heads}</tr></thead><tbody>{rows}</tbody></table></div>'
    )


def figures(language: str, evaluation: dict[str, Any], about: dict[str, Any]) -> str:
    """Length, distinct-n and KL of both sides, and what the judge was asked."""
    rows = [
        (say(language, f"evaluate.{key}"), *(html.number(evaluation[side][key]) for side in (REFERENCE, TUNED)))
        for key in ("words", "tokens", "distinct_1", "distinct_2")
    ]
    kl = evaluation["kl"]
    for key in ("per_answer", "per_token"):
        rows.append((say(language, f"evaluate.kl.{key}"), "", html.number(kl[key])))
    if (bias := evaluation.get("position_bias")) is not None:
        asked = say(language, "evaluate.asked", asked=evaluation["requests"], cached=evaluation["cached"])
        rows.append((say(language, "evaluate.bias"), "", f"{bias:.0%}"))
        rows.append((say(language, "evaluate.requests"), "", asked))
    heads = (
        f'<th scope="col" class="kto-number">{html.esc(say(language, f"answer.{side}"))}<br>'
        f"<small>{html.esc(about.get(key, ''))}</small></th>"
        for side, key in ((REFERENCE, "against"), (TUNED, "tuned"))
    )
    body = "".join(
        f'<tr><th scope="row">{html.esc(name)}</th>'
        + "".join(f'<td class="kto-number">{html.esc(cell)}</td>' for cell in cells)
        + "</tr>"
        for name, *cells in rows
    )
    title = html.esc(say(language, "evaluate.figures"))
    return (
        f'<div class="kto-scroll kto-tall" {html.region(title)}><table class="kto-table"><thead><tr>'
        f'<th scope="col">{title}</th>{"".join(heads)}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def by_step(language: str, checkpoints: Sequence[dict[str, Any]]) -> str:
    """The win rate, with its interval, and the KL of a run's checkpoints: when to stop."""
    steps = [one["step"] for one in checkpoints]
    drawn = []
    judged = [one for one in checkpoints if one.get("win_rate") is not None]
    if judged:
        name, at = say(language, "evaluate.rate"), [one["step"] for one in judged]
        rate = Line(name, at, [one["win_rate"] for one in judged], UP)
        ends = [
            Line(say(language, "evaluate.interval"), at, [one["interval"][i] for one in judged], PLAIN, dashed=True)
            for i in (0, 1)
        ]
        keys = [(name, UP, None), (ends[0].name, PLAIN, None)]
        title = say(language, "evaluate.by_step")
        drawn.append(html.chart_head(title, keys, values=False) + html.drawing([*ends, rate], title, y_range=(0, 1)))
    if any(one["kl"]["per_answer"] is None for one in checkpoints):
        return "".join(f'<div class="kto-panel">{one}</div>' for one in drawn)
    kl = Line("KL", steps, [one["kl"]["per_answer"] for one in checkpoints], PLAIN)
    title = say(language, "evaluate.kl_by_step")
    drawn.append(html.chart_head(title, [("KL", PLAIN, kl.y[-1])]) + html.drawing([kl], title))
    return "".join(f'<div class="kto-panel">{one}</div>' for one in drawn)


def examples(language: str, answers: Sequence[dict[str, Any]], verdicts: Sequence[str | None]) -> str:
    """A few answers that won, and a few that lost, folded."""
    blocks = []
    for winner in (TUNED, REFERENCE):
        found = [one for one, who in zip(answers, verdicts, strict=True) if who == winner]
        if found:
            shown = [{**one, "prompt": prompt_text(one["prompt"])} for one in found[:EXAMPLES]]
            title = say(language, f"evaluate.examples.{winner}", count=len(found), shown=len(shown))
            body = "".join(example(language, one) for one in shown)
            blocks.append(f'<details class="kto-log"><summary>{html.esc(title)}</summary>{body}</details>')
    return "".join(blocks)


def example(language: str, one: dict[str, Any]) -> str:
    """A prompt with both answers."""
    sides = "".join(
        f'<div class="kto-side"><h4>{html.esc(say(language, f"answer.{side}"))}</h4>'
        f"<div class='kto-answer'>{html.answer(one[side])}</div></div>"
        for side in (REFERENCE, TUNED)
    )
    return (
        f'<article class="kto-sample"><header><p class="kto-prompt">{html.esc(one["prompt"])}</p></header>'
        f'<div class="kto-sides">{sides}</div></article>'
    )
