"""An evaluation as a short table for the shell."""

from typing import Any

from kto_workbench.judging.unrated import in_a_sentence
from kto_workbench.judging.verdicts import length_remark

ROWS = (
    ("words an answer", "words", "{:.1f}"),
    ("tokens an answer", "tokens", "{:.1f}"),
    ("distinct-1", "distinct_1", "{:.3f}"),
    ("distinct-2", "distinct_2", "{:.3f}"),
)


def in_words(evaluation: dict[str, Any]) -> str:
    """The win rate with its interval, both sides' figures, KL, checkpoints, and what should be looked at."""
    lines = []
    if evaluation.get("judge"):
        lines += [*_outcome(evaluation), ""]
    lines.append(f"{'':<18}{'reference':>12}{'tuned':>12}")
    for name, key, form in ROWS:
        cells = (_cell(evaluation[side][key], form) for side in ("reference", "tuned"))
        lines.append(f"{name:<18}" + "".join(f"{cell:>12}" for cell in cells))
    kl = evaluation["kl"]
    lines.append(f"{'KL, in nats':<18}{'':>12}{_cell(kl['per_answer'], '{:.2f}'):>12}  an answer")
    lines.append(f"{'':<18}{'':>12}{_cell(kl['per_token'], '{:.3f}'):>12}  a token")
    if missing := kl.get("missing"):
        lines.append(missing)
    if evaluation.get("checkpoints"):
        lines += ["", *_by_step(evaluation["checkpoints"])]
    if unrated := evaluation.get("unrated"):
        lines += ["", "What nobody rated, reference → tuned:"]
        lines += [f"{'WORSE  ' if one['alarm'] else '       '}{in_a_sentence(one)}" for one in unrated]
    if remark := length_remark(evaluation):
        lines += ["", remark]
    return "\n".join(lines)


def _outcome(evaluation: dict[str, Any]) -> list[str]:
    if evaluation["win_rate"] is None:
        lines = [f"Judge {evaluation['judge']} said nothing that could be read."]
    else:
        low, high = evaluation["interval"]
        lines = [
            f"The tuned side wins {evaluation['win_rate']:.1%} by judge {evaluation['judge']} "
            f"(95 %: {low:.1%} to {high:.1%}; ties count half).",
            f"Wins: {evaluation['wins']}, ties: {evaluation['ties']}, losses: {evaluation['losses']}; "
            f"sign test p = {_cell(evaluation['sign_test_p'], '{:.2g}')}.",
        ]
    if evaluation["position_bias"] is not None:
        lines.append(
            f"Position bias {evaluation['position_bias']:.0%} (a half is none); {evaluation['requests']} requests, "
            f"{evaluation['cached']} replies known from before."
        )
    if evaluation["unparsed"]:
        lines.append(
            f"{evaluation['unparsed']} replies could not be read, and their pairs are left out; a judge that thinks "
            "first needs a larger --judge-max-tokens."
        )
    return lines


def _by_step(checkpoints: list[dict[str, Any]]) -> list[str]:
    lines = [f"{'step':>8}{'win rate':>10}{'95 %':>16}{'words':>8}{'KL':>8}"]
    for one in checkpoints:
        span = "" if not one.get("interval") else "{:.1%}–{:.1%}".format(*one["interval"])
        rate = _cell(one.get("win_rate"), "{:.1%}")
        words, kl = _cell(one["tuned"]["words"], "{:.1f}"), _cell(one["kl"]["per_answer"], "{:.2f}")
        lines.append(f"{one['step']:>8}{rate:>10}{span:>16}{words:>8}{kl:>8}")
    return lines


def _cell(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)
