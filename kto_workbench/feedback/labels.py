"""What counts as a thumb up and what as a thumb down: words, emoji, numbers, ratings with a cut."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

UP_WORDS = frozenset(
    "true t yes y good up 1 +1 👍 thumbsup thumbup positive pos like liked upvote upvoted desirable chosen accept "
    "accepted approve approved correct right preferred helpful ✅ ✔ ❤ 赞 好".split()
) | {"thumbs up", "thumb up"}
DOWN_WORDS = frozenset(
    "false f no n bad down 0 -1 −1 👎 thumbsdown thumbdown negative neg dislike disliked downvote downvoted "
    "undesirable rejected reject declined disapprove disapproved incorrect wrong unhelpful ❌ ✖ 踩 坏 差".split()
) | {"thumbs down", "thumb down"}

# What a column of labels is called in the wild, in order of preference.
LABEL_NAMES = (
    "label", "kto_tag", "thumb", "thumbs", "feedback", "rating", "vote", "score", "overall_score", "stars", "liked",
    "like", "thumbs_up", "is_good", "good", "sentiment", "reaction", "preference", "judgement", "judgment", "verdict",
    "quality", "labels", "user_feedback", "grade",
)  # fmt: skip
RATING_NAMES = ("rating", "score", "stars", "star", "grade", "points", "quality")
_SKIN_TONES_AND_VARIANTS = {code: None for code in (0xFE0F, *range(0x1F3FB, 0x1F400))}


class UnclearLabel(ValueError):
    """A value that says neither up nor down; its text is the reason."""


def normalise(word: str) -> str:
    """The word without case, punctuation around it and the like."""
    word = word.strip().lower().translate(_SKIN_TONES_AND_VARIANTS)
    if word[:1] not in "-+":
        word = word.replace("-", " ")
    return word.replace("_", " ").strip(" .!\"'")


def finite_number(value: Any) -> float | None:
    """The value as a finite number, None if it is none; True and False are words, not numbers."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


@dataclass(frozen=True)
class LabelRule:
    """How a file's labels are read; chosen from its first rows, and correctable by the user's mapping.

    With a threshold, a number above it is a thumb up, below it a thumb down, and exactly on it neither.
    Where −1 means down, 0 means "no vote" and is neither.
    """

    threshold: float | None = None
    zero_is_down: bool = True
    up: frozenset[str] = frozenset()
    down: frozenset[str] = frozenset()

    def read(self, value: Any, field: str = "label") -> bool:
        """True for a thumb up, False for a thumb down; raises UnclearLabel with the reason."""
        if value is None or (isinstance(value, str) and not value.strip()):
            raise UnclearLabel(f"{field} is missing")
        number = finite_number(value)
        if isinstance(value, float) and number is None:
            raise UnclearLabel(f"{field} is missing")  # NaN is how pandas writes an absent value
        if isinstance(value, bool):
            return value
        if isinstance(value, (int, float, str)):
            word = normalise(value if isinstance(value, str) and number is None else f"{number:g}")
            if word in self.up:
                return True
            if word in self.down:
                return False
            if self.threshold is not None and number is not None:
                if number == self.threshold:
                    raise UnclearLabel(f"{field} {number:g} lies on the cut {self.threshold:g}: neither up nor down")
                return number > self.threshold
            if number == 0 and not self.zero_is_down:
                raise UnclearLabel(f"{field} 0 among 1 and -1 is neither thumbs up nor thumbs down")
            if word in UP_WORDS:
                return True
            if word in DOWN_WORDS:
                return False
        raise UnclearLabel(f"{field} {shown(value)} is neither thumbs up nor thumbs down")


def shown(value: Any) -> str:
    """The value as a reason quotes it."""
    text = repr(value)
    return text if len(text) <= 40 else text[:37] + "…"


def choose_rule(values: Iterable[Any], name: str = "label") -> LabelRule:
    """The rule that fits a sample of a column's values: words, 1/0, 1/−1, or a rating with a cut in its middle."""
    values = [value for value in values if value is not None and value != ""]
    numbers = [number for number in map(finite_number, values) if number is not None]
    if not numbers or len(numbers) < len(values) / 2:
        return LabelRule()
    outside = [number for number in numbers if number not in (-1, 0, 1)]
    called_rating = any(part in name.lower() for part in RATING_NAMES)
    looks_rating = len(set(numbers)) > 1 and len(outside) * 2 >= len(numbers) and not {0, -1} & set(numbers)
    # One stray 2 among 0s and 1s is a slip, not a scale: it must not turn every label of the file around.
    if outside and (called_rating or looks_rating):
        return LabelRule(threshold=_middle(numbers))
    return LabelRule(zero_is_down=-1 not in numbers)


def _middle(numbers: Sequence[float]) -> float:
    """The middle of the scale that the numbers seem to come from."""
    low, high = min(numbers), max(numbers)
    if low < 0:
        return 0.0
    if high <= 1:
        return 0.5
    if high <= 5:
        return 3.0 if low >= 1 else 2.5
    if high <= 10:
        return 5.5 if low >= 1 else 5.0
    if high <= 100:
        return 50.0
    return sorted(numbers)[len(numbers) // 2]
