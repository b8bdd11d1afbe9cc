"""What a judge is given, what it says of each pair of answers, and what follows from many verdicts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from kto_workbench.judging.statistics import distinct, mean, sign_test, wilson_interval, win_rate, words

TUNED, REFERENCE, TIE = "tuned", "reference", "tie"
# From here on a difference in length is said beside the win rate: one side's answers half as long again.
NOTABLE_LENGTH = 1.5
# Judges that are told to go by length: that they do is no remark.
BY_LENGTH = ("shorter", "longer", "length")

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Case:
    """One prompt, a text or chat messages, with both sides' answers; `expected` are those that are right, if known."""

    prompt: Any
    reference: str
    tuned: str
    expected: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdicts:
    """`winners`: for each case `tuned`, `reference`, `tie`, or None where the judge said nothing that could be read.

    `notes` are the judge's own figures: `position_bias`, `requests`, `cached`, `unparsed`.
    """

    winners: list[str | None]
    notes: dict[str, Any] = field(default_factory=dict)


class Judge(Protocol):
    """Anything that says who wins."""

    name: str
    needs_expected: bool

    def verdicts(self, cases: Sequence[Case], on_progress: Progress) -> Verdicts:
        """Judge all cases; `on_progress` is told (done, total)."""
        ...


def by_score(reference: Sequence[float], tuned: Sequence[float]) -> Verdicts:
    """The higher score wins; equal scores are a tie."""
    return Verdicts([TUNED if b > a else REFERENCE if a > b else TIE for a, b in zip(reference, tuned, strict=True)])


def summarize(verdicts: Verdicts) -> dict[str, Any]:
    """`n` judged, `wins`, `ties`, `losses` of the tuned side, `win_rate`, `interval`, `sign_test_p`, and the notes."""
    wins, ties, losses = (verdicts.winners.count(who) for who in (TUNED, TIE, REFERENCE))
    n, rate = wins + ties + losses, win_rate(wins, ties, losses)
    return {
        "n": n,
        "wins": wins,
        "ties": ties,
        "losses": losses,
        "win_rate": rate,
        "interval": None if rate is None else list(wilson_interval(rate, n)),
        "sign_test_p": sign_test(wins, losses) if wins + losses else None,
        **{"position_bias": None, "requests": 0, "cached": 0, "unparsed": 0, **verdicts.notes},
    }


def about_answers(answers: Sequence[str], tokens: Sequence[int] | None = None) -> dict[str, Any]:
    """A side's mean length in `words` and `tokens` (None if not counted), `distinct_1` and `distinct_2`."""
    return {
        "words": mean([len(words(answer)) for answer in answers]),
        "tokens": mean(tokens) if tokens is not None else None,
        "distinct_1": distinct(answers, 1),
        "distinct_2": distinct(answers, 2),
    }


def length_ratio(reference: dict[str, Any], tuned: dict[str, Any]) -> float | None:
    """How many times as long the tuned side's answers are, in words; None where the reference says nothing."""
    return tuned["words"] / reference["words"] if reference["words"] and tuned["words"] is not None else None


def longer_won(cases: Sequence[Case], verdicts: Verdicts) -> float | None:
    """Of the pairs of different lengths that somebody won, the share won by the longer answer; None if there is none.

    Far from a half, it says that the judge, or what was learned, goes by length.
    """
    won = [
        (len(words(case.tuned)) > len(words(case.reference))) == (winner == TUNED)
        for case, winner in zip(cases, verdicts.winners, strict=True)
        if winner in (TUNED, REFERENCE) and len(words(case.tuned)) != len(words(case.reference))
    ]
    return mean(won)


def goes_by_length(judge: str | None) -> bool:
    """Whether a judge was told to go by length."""
    return str(judge or "").partition(":")[0] in BY_LENGTH


def length_remark(evaluation: dict[str, Any]) -> str:
    """A sentence if the side that wins also gives much longer answers, or much shorter ones; else nothing.

    Nothing either where length is what the judge was asked about.
    """
    if goes_by_length(evaluation.get("judge")):
        return ""
    ratio, rate = evaluation.get("length_ratio"), evaluation.get("win_rate")
    if ratio is None or rate is None or rate == 0.5 or 1 / NOTABLE_LENGTH < ratio < NOTABLE_LENGTH:
        return ""
    times = ratio if rate > 0.5 else 1 / ratio if ratio else float("inf")
    return (
        f"The winning side's answers are {times:.2g} times as long as the other side's: look whether length alone "
        "decided."
    )
