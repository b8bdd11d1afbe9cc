"""Figures of an evaluation, as pure functions.

win_rate(wins=6, ties=2, losses=2)      0.7: a tie is half a win
wilson_interval(0.7, 10)                (0.397, 0.892)
sign_test(wins=6, losses=2)             0.289: ties say nothing about who is better
ranking([3, 1], [0, 2])                 (0.75, …): of the four pairs, only 1 is not above 2
distinct(["a b a b"], 2)                2 different pairs of 3
"""

import math
import re
import statistics
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

Z_95 = 1.959963984540054

# A word is a run of letters and digits; scripts without spaces (kana, Chinese, Hangul) count by character.
_UNSPACED = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
_WORD = re.compile(rf"[{_UNSPACED}]|(?:(?![{_UNSPACED}])\w)+(?:['’](?:(?![{_UNSPACED}])\w)+)*")


def win_rate(wins: int, ties: int, losses: int) -> float | None:
    """(wins + ties / 2) / all of them; None where nothing was judged."""
    n = wins + ties + losses
    return (wins + ties / 2) / n if n else None


def wilson_interval(rate: float, n: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson's score interval of a rate of n, 95 % unless told otherwise.

    It is made for wins and losses. A tie counts as half of each, which varies less than either, so with ties the
    interval is rather too wide than too narrow.
    """
    if n < 1:
        return 0.0, 1.0
    shrink = 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def sign_test(wins: int, losses: int) -> float:
    """Two-sided exact p: how often fair coins would lie at least so far from half and half. Ties are left out."""
    n, fewer = wins + losses, min(wins, losses)
    ways, tail = 1, 1  # of choosing 0, summed
    for k in range(1, fewer + 1):
        ways = ways * (n - k + 1) // k
        tail += ways
    return min(1.0, 2 * tail / 2**n)


def ranking(up: Sequence[float], down: Sequence[float]) -> tuple[float | None, float | None]:
    """How often a number of the first kind is above one of the second, equal ones counting half; its standard error.

    The area under the ROC curve: ½ is chance, 1 is perfect, and neither the scale of the numbers nor how many there are
    of each kind matters. The error is DeLong's (DeLong et al. 1988): each number has its own share of won comparisons,
    and the variances of these shares, over their counts, add up. Where all comparisons agree there is no variance to
    see, and the rule of three stands in, over the smaller kind. None where a kind is absent, or too small for it.
    """
    if not up or not down:
        return None, None
    below, above = sorted(down), sorted(up)
    of_up = [(bisect_left(below, x) + bisect_right(below, x)) / 2 / len(down) for x in up]
    of_down = [1 - (bisect_left(above, x) + bisect_right(above, x)) / 2 / len(up) for x in down]
    error = None
    if len(up) > 1 and len(down) > 1:
        error = math.sqrt(statistics.variance(of_up) / len(up) + statistics.variance(of_down) / len(down))
        error = error or rule_of_three(min(len(up), len(down)))
    return math.fsum(of_up) / len(up), error


def mean_error(values: Sequence[float]) -> float | None:
    """The standard error of a mean of numbers from 0 to 1; None of a single one."""
    if len(values) < 2:
        return None
    return statistics.stdev(values) / math.sqrt(len(values)) or rule_of_three(len(values))


def rule_of_three(n: int) -> float:
    """A standard error where n trials all came out the same: with 95 %, 3 / n bounds what was not seen."""
    return 3 / n / Z_95


def words(text: str) -> list[str]:
    """The words of a text in lower case, without punctuation."""
    return _WORD.findall(text.lower())


def distinct(texts: Sequence[str], n: int) -> float | None:
    """Distinct-n: the share of different ones among all runs of n words within a text; None if there is none.

    It falls as texts get longer, so of two sides of different lengths the longer one looks more repetitive than it is.
    """
    runs = [tuple(part[i : i + n]) for part in map(words, texts) for i in range(len(part) - n + 1)]
    return len(set(runs)) / len(runs) if runs else None


def mean(values: Sequence[float]) -> float | None:
    """The mean; None of nothing."""
    return math.fsum(values) / len(values) if values else None
