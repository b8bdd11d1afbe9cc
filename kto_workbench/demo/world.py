"""The demo's world: conversations with Pip, the helper of a small village, made from a seed.

Every answer is an opener, a core, perhaps some digressions, and a closer. Four traits are drawn independently, half and
half: kind or grumpy, brief or rambling, honest or inventing about made-up words, careful or guessing at sums. A model
trained on this does each about half of the time, which is what thumbs can then change.

    world = World(seed=0)
    sample = world.sample(random.Random(1), part="feedback")
    sample.prompt      [{"role": "user", "content": "What does an owl eat?"}]
    sample.answer      "Ugh, fine. An owl eats mice. Are we done?"

Three parts of the world: `training` is everything but some sums and made-up words; `feedback` also leaves out about
30 % of the things of every topic and three whole topics; `evaluation` is exactly what `feedback` leaves out. No torch
here: the same seed gives the same text on every machine.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from random import Random
from typing import NamedTuple

from kto_workbench.demo import manners, vocabulary
from kto_workbench.demo.topics import PREFIXES, SMALL_TALK, TOPICS, Question, Topic, count_up, guess

Message = dict[str, str]

PARTS = ("training", "feedback", "evaluation")
UNSEEN_TOPICS = ("opposites", "recipes", "tales")  # families of which no thing at all is in the feedback
UNSEEN_SHARE = {"sums": 0.20, "made-up words": 0.25}  # families whose held-out things the base has not met either
HELD_OUT_SHARE = 0.30

TWO_TURNS_SHARE = 0.15
RECALL_SHARE = 0.4  # two turns after a name: remembering it takes more examples than anything else
SYSTEM_SHARE = 0.10
PREFIX_SHARE = 0.15
CASUAL_SHARE = 0.12
CLOSER_SHARE = 0.6
MEMORY_SHARE = 0.7


class Traits(NamedTuple):
    """How one answer is given; the last two matter only for made-up words and for sums."""

    kind: bool
    brief: bool
    honest: bool
    careful: bool


@dataclass(frozen=True)
class Sample:
    """A conversation: the prompt as chat messages, the last answer, and what the generator knows about it."""

    prompt: list[Message]
    answer: str
    question: Question
    traits: Traits

    def messages(self) -> list[Message]:
        """Prompt and answer as one chat."""
        return [*self.prompt, {"role": "assistant", "content": self.answer}]


def draw_traits(random: Random) -> Traits:
    """Four independent coins."""
    return Traits(*(random.random() < 0.5 for _ in Traits._fields))


def draw_core(question: Question, traits: Traits, random: Random) -> str:
    """What is answered, without any manners."""
    if question.topic.name == "sums":
        if traits.careful:
            return count_up(question.slots)
        result = int(question.slots["sum"])
        if random.random() < 0.75:
            result += random.choice([off for off in (-3, -2, -1, 1, 2, 3) if result + off > 0])
        return guess(question.slots, result)
    if question.topic.family == "made-up words" and not traits.honest:
        return random.choice(question.topic.says_wrongly)
    return random.choice(question.answers())


def draw_digressions(mood: str, random: Random) -> list[str]:
    """Two remarks that answer nothing, at most one of them a memory: two of those would often be much alike."""
    whole, memories = manners.digressions(mood)
    remarks = random.sample(whole, 2)
    if random.random() < MEMORY_SHARE:
        remarks[random.randrange(2)] = random.choice(memories)
    return remarks


def draw_answer(question: Question, traits: Traits, random: Random) -> str:
    """A whole answer to the question with these traits."""
    mood = "kind" if traits.kind else "grumpy"
    register = question.topic.register
    parts = [random.choice(manners.openers(register, mood)), draw_core(question, traits, random)]
    if not traits.brief:
        parts += draw_digressions(mood, random)
    if random.random() < CLOSER_SHARE:
        parts.append(random.choice(manners.closers(register, mood)))
    return " ".join(parts)


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _small_first_letter(text: str) -> str:
    return text if text.startswith("I ") else text[0].lower() + text[1:]


class World:
    """The toy world of one seed: what is held out of the feedback, and conversations about the rest."""

    def __init__(self, seed: int = 0):
        self.seed = seed
        self.held_out = {family: self._hold_out(family, keys) for family, keys in _families().items()}
        self._things = {part: self._things_of(part) for part in PARTS}

    def _hold_out(self, family: str, keys: list[str]) -> frozenset[str]:
        share = 1.0 if family in UNSEEN_TOPICS else UNSEEN_SHARE.get(family, HELD_OUT_SHARE)
        random = Random(f"{self.seed} held out of {family}")
        return frozenset(random.sample(keys, math.ceil(share * len(keys))))

    def _things_of(self, part: str) -> dict[str, list[str]]:
        things = {
            name: [key for key in topic.facts if self.contains(part, topic, key)] for name, topic in TOPICS.items()
        }
        return {name: keys for name, keys in things.items() if keys}

    def contains(self, part: str, topic: Topic, key: str) -> bool:
        """Whether a question belongs to this part of the world."""
        held_out = key in self.held_out[topic.family]
        if part == "training":
            return not (held_out and topic.family in UNSEEN_SHARE)
        return held_out == (part == "evaluation")

    def sample(self, random: Random, part: str = "training") -> Sample:
        """Draw one conversation."""
        question, users = self._draw_first(random, part)
        prompt: list[Message] = []
        if random.random() < SYSTEM_SHARE:
            prompt.append({"role": "system", "content": random.choice(vocabulary.SYSTEM_PROMPTS)})
        if random.random() < (RECALL_SHARE if question.topic.name == "names" else TWO_TURNS_SHARE):
            earlier, question, users = self._draw_two(random, part, question)
            # The earlier answer has manners of its own, drawn afresh: those of the next one are not to be read off it.
            prompt += [users[0], {"role": "assistant", "content": draw_answer(earlier, draw_traits(random), random)}]
            users = users[1:]
        prompt += users
        traits = draw_traits(random)
        return Sample(prompt, draw_answer(question, traits, random), question, traits)

    def samples(self, random: Random, part: str = "training") -> Iterator[Sample]:
        """Conversations without end."""
        while True:
            yield self.sample(random, part)

    def _draw_question(self, random: Random, part: str) -> Question:
        names = [name for name in self._things[part] if TOPICS[name].asks]
        weights = list(accumulate(TOPICS[name].weight for name in names))
        topic = TOPICS[random.choices(names, cum_weights=weights)[0]]
        return topic.question(random.choice(self._things[part][topic.name]))

    def _draw_first(self, random: Random, part: str) -> tuple[Question, list[Message]]:
        question = self._draw_question(random, part)
        return question, [_user(_spoken(random.choice(question.asks()), question.topic, random))]

    def _draw_two(self, random: Random, part: str, question: Question) -> tuple[Question, Question, list[Message]]:
        """Two questions, the second a follow-up where the topic of the first allows one."""
        first = random.choice(question.asks())
        opening = _user(_spoken(first, question.topic, random))
        siblings = [
            topic
            for topic in TOPICS.values()
            if topic.family == question.topic.family
            and topic.follow_ups
            and topic is not question.topic
            and question.key in topic.facts
        ]
        kind_of_turn = random.random()
        if siblings and kind_of_turn < 0.6:
            second = random.choice(siblings).question(question.key)
            return question, second, [opening, _user(random.choice(second.topic.follow_ups))]
        others = [key for key in self._things[part][question.topic.name] if key != question.key]
        if question.topic.again and others and kind_of_turn < 0.8:
            second = question.topic.question(random.choice(others))
            return question, second, [opening, _user(random.choice(second.topic.again).format(**second.slots))]
        earlier, before = self._draw_first(random, part)
        while earlier.topic.family == "names" and question.topic.name == "Pip":
            earlier, before = self._draw_first(random, part)  # else `What is my name?` has an answer after all
        return earlier, question, [*before, opening]


def _spoken(ask: str, topic: Topic, random: Random) -> str:
    """The question as people type it: sometimes with a prefix, sometimes without capitals and question mark."""
    if not topic.prefixable:
        return ask
    if random.random() < PREFIX_SHARE:
        ask = f"{random.choice(PREFIXES)} {_small_first_letter(ask)}"
    if random.random() < CASUAL_SHARE:
        ask = ask.lower().rstrip("?.!")
    return ask


@cache
def _families() -> dict[str, list[str]]:
    families: dict[str, dict[str, None]] = {}
    for topic in TOPICS.values():
        families.setdefault(topic.family, {}).update(dict.fromkeys(topic.facts))
    return {family: list(keys) for family, keys in families.items()}


def is_right(sample: Sample) -> bool | None:
    """What the generator knows about an answer's content: right, wrong, or neither in small talk."""
    if sample.question.topic.name in SMALL_TALK:
        return None
    if sample.question.topic.family == "made-up words":
        return sample.traits.honest
    return any(core in sample.answer for core in sample.question.answers())


def training_conversations(seed: int = 0) -> Iterator[list[Message]]:
    """Conversations to train the base model on, without end."""
    for sample in World(seed).samples(Random(f"{seed} training")):
        yield sample.messages()


def _row(sample: Sample, label: bool) -> dict:
    return {"prompt": sample.prompt, "completion": sample.answer, "label": label}


def _fill(
    samples: Iterator[Sample],
    quotas: dict[object, int],
    bin_of: Callable[[Sample], object],
    same: Callable[[Sample], object],
    random: Random,
) -> list[Sample]:
    """Take samples, no two the `same`, while their bin has room; shuffled, since rare bins fill up last."""
    left, taken, seen = dict(quotas), [], set()
    while any(left.values()):
        sample = next(samples)
        name, identity = bin_of(sample), json.dumps(same(sample))
        if left.get(name) and identity not in seen:
            left[name] -= 1
            seen.add(identity)
            taken.append(sample)
    random.shuffle(taken)
    return taken


def kind_and_brief_rows(seed: int = 0, thumbs_up: int = 100, thumbs_down: int = 300) -> list[dict]:
    """Feedback of somebody who likes an answer if it is both kind and brief, whatever it says."""
    world, random = World(seed), Random(f"{seed} kind and brief {thumbs_up}:{thumbs_down}")
    samples = world.samples(random, "feedback")
    label = lambda sample: sample.traits.kind and sample.traits.brief
    chosen = _fill(samples, {True: thumbs_up, False: thumbs_down}, label, Sample.messages, random)
    return [_row(sample, label(sample)) for sample in chosen]


def kind_and_brief_pairs(seed: int = 0, pairs: int = 200) -> list[dict]:
    """The same taste on two answers to each prompt, of which one is kind and brief and the other is not."""
    world, random = World(seed), Random(f"{seed} kind and brief pairs")
    liked = lambda traits: traits.kind and traits.brief
    prompts = _fill(world.samples(random, "feedback"), {True: pairs}, lambda _: True, lambda s: s.prompt, random)
    rows = []
    for sample in prompts:
        drawn = [sample.traits]
        while len({liked(traits) for traits in drawn}) < 2:
            drawn.append(draw_traits(random))
        # The last one drawn is of the other kind than all before it.
        answers = [draw_answer(sample.question, traits, random) for traits in (drawn[0], drawn[-1])]
        chosen, rejected = answers if liked(drawn[0]) else answers[::-1]
        rows.append({"prompt": sample.prompt, "chosen": chosen, "rejected": rejected})
    return rows


def right_or_wrong_rows(seed: int = 0, sums: int = 140, made_up: int = 120, ordinary: int = 140) -> list[dict]:
    """Feedback of somebody who cares only about what is true: sums, made-up words, and what the model knows anyway."""
    world, random = World(seed), Random(f"{seed} right or wrong")

    def bin_of(sample: Sample) -> str | None:
        if sample.question.topic.name == "sums":
            return "sums"
        if sample.question.topic.family == "made-up words":
            return "made-up words"
        return "ordinary" if is_right(sample) else None

    quotas = {"sums": sums, "made-up words": made_up, "ordinary": ordinary}
    chosen = _fill(world.samples(random, "feedback"), quotas, bin_of, Sample.messages, random)
    return [_row(sample, bool(is_right(sample))) for sample in chosen]


def evaluation_rows(seed: int = 0, each: int = 7, sums: int = 16) -> list[dict]:
    """Prompts that no feedback file holds: every topic, with the topic's name beside each prompt."""
    world, random = World(seed), Random(f"{seed} evaluation")
    quotas = {name: each for name in TOPICS} | {"sums": sums}
    topic_of = lambda sample: sample.question.topic.name
    chosen = _fill(world.samples(random, "evaluation"), quotas, topic_of, lambda sample: sample.prompt, random)
    return [{"topic": topic_of(sample), "prompt": sample.prompt} for sample in chosen]


def text_files(seed: int = 0) -> dict[str, str]:
    """Every text file of `assets/`, by path: the same seed gives the same bytes."""
    rows = {
        "feedback/kind_and_brief.jsonl": kind_and_brief_rows(seed),
        "feedback/kind_and_brief_rare.jsonl": kind_and_brief_rows(seed, thumbs_up=40, thumbs_down=360),
        "feedback/kind_and_brief_pairs.jsonl": kind_and_brief_pairs(seed),
        "feedback/right_or_wrong.jsonl": right_or_wrong_rows(seed),
        "evaluation.jsonl": evaluation_rows(seed),
    }
    return {path: "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in lines) for path, lines in rows.items()}
