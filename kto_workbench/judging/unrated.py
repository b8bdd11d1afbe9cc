"""What nobody rated: what else a training has changed, beside the answers that a judge compares.

A win rate says nothing of sums, if nobody asked for sums. So both sides also answer questions whose answers are known
(a Probe), and their answers to the judged prompts are looked at for language and refusals. Each is a share of good
answers on both sides; where the tuned side is clearly worse, pair by pair, that is an alarm.
"""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kto_workbench.feedback.languages import guess_language
from kto_workbench.feedback.named import asset
from kto_workbench.judging.statistics import sign_test

QUESTIONS = "abilities.jsonl"  # of our own, in assets/
ALARM = 0.1  # p of the sign test, two-sided, from where on a loss is no accident
REFUSAL = re.compile(
    r"\b(i'?m sorry,? but|i (can'?t|cannot|am unable to|won'?t) (help|assist|answer|do that|provide)|as an ai\b"
    r"|i am not able to)|抱歉，?我(不能|无法)|我(无法|不能)(回答|提供|协助)",
    re.IGNORECASE,
)

# (prompt, answer) → which abilities the answer shows (True) or lacks (False); others are not asked about.
Score = Callable[[Any, str], Mapping[str, bool]]


@dataclass(frozen=True)
class Probe:
    """Questions with known answers, and how an answer is looked at."""

    prompts: Sequence[Any]
    score: Score


def general_probe() -> Probe:
    """A few plain questions that come with the workbench, for models of any kind."""
    lines = asset(QUESTIONS).read_text(encoding="utf-8").splitlines()
    known = {one["prompt"]: (one["ability"], one["expected"]) for one in map(json.loads, lines)}

    def score(prompt: Any, answer: str) -> dict[str, bool]:
        ability, expected = known[prompt]
        return {ability: says(answer, expected)}

    return Probe(list(known), score)


def says(answer: str, expected: Sequence[str]) -> bool:
    """Whether one of the expected answers stands in it, as words of its own; capital letters count where asked for."""
    return any(
        re.search(rf"(?<!\w){re.escape(one)}(?!\w)", answer, 0 if one.isupper() else re.IGNORECASE) for one in expected
    )


def compare_abilities(probe: Probe, reference: Sequence[str], tuned: Sequence[str]) -> list[dict[str, Any]]:
    """Both sides' answers to a probe's prompts, ability by ability; see `pairs_of`."""
    found: dict[str, list[tuple[bool, bool]]] = {}
    for prompt, one, other in zip(probe.prompts, reference, tuned, strict=True):
        before, after = probe.score(prompt, one), probe.score(prompt, other)
        for name in before.keys() & after.keys():
            found.setdefault(name, []).append((before[name], after[name]))
    return [pairs_of(name, pairs) for name, pairs in sorted(found.items())]


def compare_manners(prompts: Sequence[str], reference: Sequence[str], tuned: Sequence[str]) -> list[dict[str, Any]]:
    """Of answers to any prompts: are they in the prompt's language, and do they answer at all."""
    language = [
        (guess_language(one) == wanted, guess_language(other) == wanted)
        for prompt, one, other in zip(prompts, reference, tuned, strict=True)
        if (wanted := guess_language(prompt)) and guess_language(one) and guess_language(other)
    ]
    refused = [[bool(REFUSAL.search(answer)) for answer in pair] for pair in zip(reference, tuned, strict=True)]
    answered = [(not one, not other) for one, other in refused]
    return [pairs_of(name, pairs) for name, pairs in (("language", language), ("answered", answered)) if pairs]


def pairs_of(name: str, pairs: Sequence[tuple[bool, bool]]) -> dict[str, Any]:
    """`name`, `n`, the shares of good answers of `reference` and `tuned`, `p` of a sign test, and `alarm`.

    `pairs` are (reference is good, tuned is good), one a prompt.
    """
    lost, gained = (sum(pair == which for pair in pairs) for which in ((True, False), (False, True)))
    p = sign_test(gained, lost) if gained + lost else 1.0
    shares = {side: sum(pair[i] for pair in pairs) / len(pairs) for i, side in enumerate(("reference", "tuned"))}
    return {"name": name, "n": len(pairs), **shares, "p": p, "alarm": lost > gained and p < ALARM}


def in_a_sentence(one: Mapping[str, Any]) -> str:
    """What has become of one of them, in English."""
    return f"{one['name']}: {one['reference']:.0%} → {one['tuned']:.0%} (of {one['n']})"
