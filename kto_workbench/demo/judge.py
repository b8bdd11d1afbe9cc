"""A judge that reads a prompt and an answer, nothing else: is it kind, brief, right, honest, well formed?

    judge([{"role": "user", "content": "What does an owl eat?"}], "Ugh, fine. An owl eats mice. Are we done?")
    Verdict(kind=False, brief=True, fact="right", honest=None, well_formed=True)

It takes the known openers, closers and digressions off the answer and compares what is left, the core, with what the
question asks for. It sees neither labels nor what the generator intended, and it is strict: a core that is not word for
word a right answer is wrong.
"""

import re
from functools import cache
from typing import Any, Literal, NamedTuple

from kto_workbench.demo import manners
from kto_workbench.demo.topics import HONEST_ANSWERS, PREFIXES, SMALL_TALK, TOPICS, Question
from kto_workbench.feedback.templates import prompt_messages

# The longest core, a sum of seven steps, has 33 words; brief answers add an opener and a closer of at most 8 each.
BRIEF_WORDS = 50

_SENTENCE_END = re.compile(r"(?<=[.!?]) +")
_ORDER = re.compile(r"opener( core)+( digression){0,2}( closer)?")
_COUNTING = re.compile(r"From \d+(?:, (?:one|two|three|four|five|six) more is \d+)+\. So \d+ plus \d+ is \d+\.")
_GUESSING = re.compile(r"\d+ plus \d+ is \d+\.")


class Verdict(NamedTuple):
    """What the judge says of one answer; `fact` and `honest` are None where the question has neither."""

    kind: bool
    brief: bool
    fact: Literal["right", "wrong"] | None
    honest: bool | None
    well_formed: bool


@cache
def _style() -> dict[str, tuple[str, str]]:
    """Every sentence of manners: its part of the answer and its mood."""
    sentences = {}
    for mood in manners.MOODS:
        for register in manners.REGISTERS:
            sentences.update(dict.fromkeys(manners.openers(register, mood), ("opener", mood)))
            sentences.update(dict.fromkeys(manners.closers(register, mood), ("closer", mood)))
        for remarks in manners.digressions(mood):
            sentences.update(dict.fromkeys(remarks, ("digression", mood)))
    return sentences


def _plain(text: str) -> str:
    """A user's message without what people add or leave out: prefix, capitals, punctuation at the end."""
    text = " ".join(text.lower().split())
    for prefix in PREFIXES:
        text = text.removeprefix(prefix.lower() + " ")
    return text.rstrip(" ?!.")


@cache
def _questions() -> dict[str, Question]:
    """Every question that stands by itself, by its plain text."""
    return {
        _plain(ask): question
        for topic in TOPICS.values()
        for question in map(topic.question, topic.facts)
        for ask in question.asks()
    }


@cache
def _follow_ups() -> dict[tuple[str, str], str]:
    """Topics by the family of the earlier question and the plain text of the follow-up."""
    return {
        (topic.family, _plain(follow_up)): topic.name for topic in TOPICS.values() for follow_up in topic.follow_ups
    }


@cache
def _again(topic: str) -> dict[str, str]:
    """Things by the plain text that asks the earlier question of them."""
    return {
        _plain(template.format(**slots)): key
        for key, slots in TOPICS[topic].facts.items()
        for template in TOPICS[topic].again
    }


def understand(prompt: list[dict[str, str]]) -> Question | None:
    """What a chat asks last, `it` resolved by the message before; None if the world has no such question."""
    users = [_plain(message["content"]) for message in prompt if message["role"] == "user"]
    earlier = None
    for text in users:
        question = _questions().get(text)
        if earlier is not None:
            name = _follow_ups().get((earlier.topic.family, text))
            if name is not None and earlier.key in TOPICS[name].facts:
                question = TOPICS[name].question(earlier.key)
            elif text in _again(earlier.topic.name):
                question = earlier.topic.question(_again(earlier.topic.name)[text])
        earlier = question
    return earlier


def _fits(question: Question, core: str) -> bool:
    """Whether the core is a whole sentence of the kind that the question asks for, true or not."""
    if question.topic.name == "sums":
        return bool(_COUNTING.fullmatch(core) or _GUESSING.fullmatch(core))
    if question.topic.name in SMALL_TALK:
        return core in question.answers()
    return bool(question.topic.pattern.fullmatch(core))


def judge(prompt: list[dict[str, str]], answer: str) -> Verdict:
    """Judge one answer to a chat by its text alone."""
    sentences = _SENTENCE_END.split(answer.strip())
    parts = [_style().get(text, ("core", "")) for text in sentences]
    order = " ".join(part for part, _ in parts)
    moods = {mood for _, mood in parts if mood}
    core = " ".join(text for text, (part, _) in zip(sentences, parts, strict=True) if part == "core")
    question = understand(prompt)

    fact, honest = None, None
    if question is not None and question.topic.family == "made-up words":
        honest = core in HONEST_ANSWERS
        fact = "right" if honest else "wrong"
    elif question is not None and question.topic.name not in SMALL_TALK:
        fact = "right" if core in question.answers() else "wrong"

    return Verdict(
        kind=moods == {"kind"},
        brief="digression" not in {part for part, _ in parts} and len(answer.split()) <= BRIEF_WORDS,
        fact=fact,
        honest=honest,
        well_formed=bool(_ORDER.fullmatch(order)) and (question is None or _fits(question, core)),
    )


def kind_and_brief(prompt: Any, answer: str, expected: Any = ()) -> bool:
    """Whether an answer is both, as a judge that compares two answers asks it."""
    verdict = judge(prompt_messages(prompt), answer)
    return verdict.kind and verdict.brief
