"""Judges that need no model, and how every judge is named.

    regex:PATTERN    the pattern occurs in the answer; regex:!PATTERN: it does not
    length:MIN-MAX   so many words; either end may be left out
    shorter, longer  fewer words win, or more
    json             the whole answer is a JSON object or array
    exact            the answer is the expected one, apart from case and white space
    contains         the expected answer occurs in it, apart from case and white space
    demo             kind and brief, as the demo's own judge sees it
    reward:MODEL     a reward model that transformers loads
    endpoint:NAME    a language model at an endpoint that the workspace has a name for (`kto endpoint`)
    endpoint         one whose address is given beside it, at the shell

`exact` and `contains` read `expected` or `answer` from the file of prompts.
"""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kto_workbench.config import KTOConfig
from kto_workbench.errors import ConfigError
from kto_workbench.judging.statistics import words
from kto_workbench.judging.verdicts import Case, Progress, Verdicts, by_score
from kto_workbench.runs.endpoints import find_endpoint

# Each with an example of what stands behind its colon, "" where nothing does.
KINDS = {
    "regex": "PATTERN",
    "length": "MIN-MAX",
    "shorter": "",
    "longer": "",
    "json": "",
    "exact": "",
    "contains": "",
    "demo": "",
    "reward": "MODEL",
    "endpoint": "NAME",
}

RULES = tuple(kind for kind in KINDS if kind not in ("demo", "reward", "endpoint"))

Score = Callable[[Any, str, tuple[str, ...]], float]


@dataclass(frozen=True)
class Rule:
    """A judge by a score of each answer alone: `score(prompt, answer, expected)`, the higher wins."""

    name: str
    score: Score
    needs_expected: bool = False

    def verdicts(self, cases: Sequence[Case], on_progress: Progress = lambda done, total: None) -> Verdicts:
        """Score both answers of every case."""
        scores = [
            [float(self.score(case.prompt, answer, case.expected)) for answer in (case.reference, case.tuned)]
            for case in cases
        ]
        on_progress(len(cases), len(cases))
        return by_score([a for a, _ in scores], [b for _, b in scores])


def parse_judge(spec: str) -> tuple[str, str]:
    """Read a judge's name into its kind and what stands behind the colon. Raises ConfigError."""
    kind, colon, argument = spec.strip().partition(":")
    if kind not in KINDS:
        raise ConfigError(f"There is no judge {spec!r}; there are {', '.join(map(_usage, KINDS))}.")
    if bool(argument) != bool(KINDS[kind]) and spec.strip() != "endpoint":
        raise ConfigError(f"Judge `{kind}` is written `{_usage(kind)}`, not {spec!r}.")
    if kind in RULES:
        make_rule(kind, argument)
    return kind, argument


def check_judge(config: KTOConfig) -> None:
    """Raise ConfigError if the judge that a training names is none, or could never judge it."""
    if not config.judge:
        return
    kind, argument = parse_judge(config.judge)
    if kind in ("exact", "contains"):
        raise ConfigError(f"Judge `{kind}` goes by expected answers, and feedback has none; take another one.")
    if kind == "endpoint":
        if not argument:
            raise ConfigError("A training knows an endpoint by its name: write `endpoint:NAME`.")
        find_endpoint(argument, config.workspace)


def make_rule(kind: str, argument: str = "") -> Rule:
    """The rule of a kind that `parse_judge` has read. Raises ConfigError."""
    makers: dict[str, Callable[[], Score]] = {
        "regex": lambda: _matches(argument),
        "length": lambda: _within(argument),
        "shorter": lambda: lambda prompt, answer, expected: -len(words(answer)),
        "longer": lambda: lambda prompt, answer, expected: len(words(answer)),
        "json": lambda: lambda prompt, answer, expected: is_json(answer),
        "exact": lambda: lambda prompt, answer, expected: plain(answer) in map(plain, expected),
        "contains": lambda: lambda prompt, answer, expected: any(plain(one) in plain(answer) for one in expected),
    }
    name = f"{kind}:{argument}" if argument else kind
    return Rule(name, makers[kind](), needs_expected=kind in ("exact", "contains"))


def is_json(answer: str) -> bool:
    """Whether the whole answer is a JSON object or array: a bare number or word is JSON, but never what is meant."""

    def refuse(constant: str) -> Any:
        raise ValueError(constant)  # NaN and Infinity, which Python reads and nobody else

    try:
        return isinstance(json.loads(answer, parse_constant=refuse), dict | list)
    except (ValueError, RecursionError):
        return False


def plain(text: str) -> str:
    """A text without what `exact` overlooks: case, and how much white space there is."""
    return " ".join(text.casefold().split())


def _matches(pattern: str) -> Score:
    wanted = not pattern.startswith("!")
    try:
        found = re.compile(pattern if wanted else pattern[1:], re.MULTILINE)
    except (re.error, RecursionError, OverflowError) as error:
        raise ConfigError(f"Judge `regex` can't read its pattern {pattern!r}: {error}.") from None
    return lambda prompt, answer, expected: bool(found.search(answer)) == wanted


def _within(argument: str) -> Score:
    bounds = re.fullmatch(r"\s*(\d{0,9})\s*-\s*(\d{0,9})\s*", argument)
    low, high = (int(bound) if bound else None for bound in (bounds.groups() if bounds else ("", "")))
    if low is high is None or (low is not None and high is not None and low > high):
        raise ConfigError(
            f"Judge `length` is written `length:MIN-MAX`, in words, such as `length:10-50` or `length:-50`, "
            f"not {argument!r}."
        )
    return lambda prompt, answer, expected: (low or 0) <= len(words(answer)) <= (high if high is not None else 10**9)


def _usage(kind: str) -> str:
    return f"{kind}:{KINDS[kind]}" if KINDS[kind] else kind
