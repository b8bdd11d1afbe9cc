"""Which of two answers won: words, numbers, or a score for each."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from kto_workbench.feedback.labels import UnclearLabel, finite_number, normalise, shown

A_WORDS = frozenset(
    {"a", "model a", "response a", "answer a", "output a", "assistant a", "left", "first", "a is better"}
)
B_WORDS = frozenset(
    {"b", "model b", "response b", "answer b", "output b", "assistant b", "right", "second", "b is better"}
)
TIE_WORDS = frozenset({"tie", "draw", "equal", "same", "both good", "tie (bothgood)", "neutral", "no preference"})
BAD_WORDS = frozenset({"both bad", "bothbad", "tie (bothbad)", "tie (both bad)", "neither is good"})


@dataclass(frozen=True)
class WinnerRule:
    """How a file names the winner; chosen from its first rows, and correctable by the user's mapping.

    Where `signed`, a number below 0 prefers the first answer, one above 0 the second, and 0 is a tie.
    """

    a: frozenset[str] = frozenset()
    b: frozenset[str] = frozenset()
    both_bad: frozenset[str] = frozenset()
    signed: bool = False

    def read(self, value: Any, field: str) -> tuple[bool, bool]:
        """The thumbs of both answers; raises UnclearLabel where there are none."""
        number = finite_number(value)
        if value is None or value == "" or (isinstance(value, float) and number is None):
            raise UnclearLabel(f"{field} is missing")
        word = normalise(str(value)) if number is None else f"{number:g}"
        if word in self.both_bad or word in BAD_WORDS:
            return False, False
        if word in self.a:
            return True, False
        if word in self.b:
            return False, True
        if self.signed and number is not None:
            return compare_scores(-number, number, field)
        if word in A_WORDS:
            return True, False
        if word in B_WORDS:
            return False, True
        if word in TIE_WORDS or number == 0:
            raise _tie(field)
        raise UnclearLabel(f"{field} {shown(value)} names neither answer")


def _tie(field: str) -> UnclearLabel:
    return UnclearLabel(f"{field} is a tie, which makes no thumb")


def compare_scores(a: float, b: float, field: str) -> tuple[bool, bool]:
    """The thumbs of two answers by their scores; raises UnclearLabel where these are equal."""
    if a == b:
        raise _tie(field)
    return a > b, b > a


def choose_winner_rule(values: Iterable[Any], answer_a: str) -> WinnerRule:
    """The rule that fits a sample of winners: words; −3 to 3; or numbers that count the answers as `answer_a` does."""
    numbers = {number for value in values if (number := finite_number(value)) is not None}
    if not numbers:
        return WinnerRule()
    if min(numbers) < 0:
        return WinnerRule(signed=True)
    first = 0 if answer_a.endswith("0") else 1 if answer_a.endswith("1") or 2 in numbers else 0
    return WinnerRule(frozenset({f"{first}"}), frozenset({f"{first + 1}"}))
