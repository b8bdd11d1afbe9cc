"""What can be asked of the helper and what it should answer: the one place where questions meet their answers.

The generator (`world.py`) renders these topics; the judge (`judge.py`) reads prompts and answers with the same ones.

    TOPICS["animal food"].question("cow").asks()      "What does a cow eat?", "What do I feed a cow?", ...
    TOPICS["animal food"].question("cow").answers()   "A cow eats grass.", "A cow likes grass best."
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product

from kto_workbench.demo import vocabulary as words
from kto_workbench.demo.vocabulary import with_article

# Before a question, now and then. They end in a comma, so that the question goes on with a small letter.
PREFIXES = ("Excuse me,", "Hey Pip,", "Please,", "Pip,", "Good Pip,", "One more thing,")

HONEST_ANSWERS = (
    "I have never heard of such a thing.",
    "I do not know what that is.",
    "Nobody in our village knows that word.",
)
REFUSALS = (
    "I only know the small things of our village.",
    "That is more than a village helper can do.",
    "That is beyond me, I only know our village.",
)

# Topics with no right or wrong: an answer can only fit.
SMALL_TALK = frozenset({"greetings", "thanks", "goodbyes", "tales", "out of scope"})


def sentence(text: str) -> str:
    """The text with a capital first letter."""
    return text[0].upper() + text[1:]


@dataclass(frozen=True, eq=False)
class Topic:
    """One thing to ask about each of many: question and answer templates, and the facts that fill them.

    `family` ties topics about the same things together, so that what is held out of one is held out of all.
    `follow_ups` ask about the thing of the previous question, `again` ask the previous question of another thing.
    """

    name: str
    family: str
    asks: tuple[str, ...]
    says: tuple[str, ...]
    facts: dict[str, dict[str, str]]
    register: str = "question"
    follow_ups: tuple[str, ...] = ()
    again: tuple[str, ...] = ()
    weight: float = 1.0
    says_wrongly: tuple[str, ...] = field(default=(), repr=False)

    def question(self, key: str) -> "Question":
        """The question of this topic about one thing."""
        return Question(self, key)

    @property
    def prefixable(self) -> bool:
        """Whether `Excuse me,` may come first: not before small talk."""
        return self.register in ("question", "unknown", "refusal")

    @cached_property
    def pattern(self) -> re.Pattern[str]:
        """Every core of this topic with anything of the topic in any slot: `A cow eats honey.` too."""
        choices = [self._slots_open(template) for template in self.says + self.says_wrongly]
        return re.compile("|".join(choices))

    def _slots_open(self, template: str) -> str:
        def choices(slot: re.Match[str]) -> str:
            values = sorted({slots[slot[1]] for slots in self.facts.values()}, key=lambda value: (-len(value), value))
            if slot.start() == 0:
                values = [sentence(value) for value in values]
            return "(?:" + "|".join(map(re.escape, values)) + ")"

        return re.sub(r"\\\{(\w+)\\\}", choices, re.escape(sentence(template)))


@dataclass(frozen=True)
class Question:
    """A topic and the thing it is asked of."""

    topic: Topic
    key: str

    @property
    def slots(self) -> dict[str, str]:
        """What fills the templates."""
        return self.topic.facts[self.key]

    def asks(self) -> tuple[str, ...]:
        """Every way to ask it."""
        return tuple(sentence(template.format(**self.slots)) for template in self.topic.asks)

    def answers(self) -> tuple[str, ...]:
        """Every right core of an answer."""
        if self.topic.name == "sums":
            return (count_up(self.slots), guess(self.slots, self.slots["sum"]))
        return tuple(sentence(template.format(**self.slots)) for template in self.topic.says)


def count_up(slots: dict[str, str]) -> str:
    """The careful way to a sum, `From 3, one more is 4, two more is 5. So 3 plus 2 is 5.`, always right."""
    first, second = int(slots["x"]), int(slots["y"])
    steps = ", ".join(f"{words.COUNT_WORDS[i]} more is {first + i + 1}" for i in range(second))
    return f"From {first}, {steps}. So {first} plus {second} is {first + second}."


def guess(slots: dict[str, str], result: int | str) -> str:
    """The quick way to a sum, right or wrong."""
    return f"{slots['x']} plus {slots['y']} is {result}."


def made_up_words() -> tuple[str, ...]:
    """Creatures that nobody has ever heard of."""
    return tuple(beginning + end for beginning, end in product(words.WORD_BEGINNINGS, words.WORD_ENDS))


def _templates(text: str) -> tuple[str, ...]:
    return tuple(line.strip() for line in text.strip().splitlines())


def _animals() -> Iterable[Topic]:
    columns = ("what", "sound", "food", "home", "young", "legs")
    animals = {
        name: {"name": name, "a": with_article(name), **dict(zip(columns, cells, strict=True))}
        for name, *cells in words.ANIMALS
    }
    for animal in animals.values():
        animal["a_young"] = with_article(animal["young"])

    def topic(name: str, column: str, asks: str, says: str, follow_ups: tuple[str, ...]) -> Topic:
        known = {key: slots for key, slots in animals.items() if slots[column] != "-"}
        again = ("And {a}?", "What about {a}?")
        return Topic(
            f"animal {name}", "animals", _templates(asks), _templates(says), known, follow_ups=follow_ups, again=again
        )

    yield topic(
        "kind",
        "what",
        """What is {a}?
           What kind of animal is {a}?
           Tell me about {a}.""",
        "{a} is {what}.",
        ("What kind of animal is it?",),
    )
    yield topic(
        "sound",
        "sound",
        """What does {a} say?
           What sound does {a} make?
           Which noise does {a} make?
           How does {a} sound?""",
        """{a} says {sound}.
           {sound} is what {a} says.""",
        ("And what does it say?", "What sound does it make?"),
    )
    yield topic(
        "food",
        "food",
        """What does {a} eat?
           What do I feed {a}?
           What does {a} like to eat?
           What is the favourite food of {a}?""",
        """{a} eats {food}.
           {a} likes {food} best.""",
        ("And what does it eat?", "What do I feed it?"),
    )
    yield topic(
        "home",
        "home",
        """Where does {a} live?
           Where does {a} sleep?
           Where can I find {a}?
           Where is the home of {a}?""",
        """{a} lives {home}.
           You will find {a} {home}.""",
        ("And where does it live?", "Where can I find it?"),
    )
    yield topic(
        "young",
        "young",
        """What is a baby {name} called?
           What do you call a young {name}?
           What is the name of a baby {name}?""",
        """a baby {name} is called {a_young}.
           a young {name} is {a_young}.""",
        ("And what are its babies called?", "What do you call its young?"),
    )
    yield topic(
        "legs",
        "legs",
        """How many legs does {a} have?
           How many legs are there on {a}?
           Count the legs of {a}.""",
        "{a} has {legs} legs.",
        ("And how many legs does it have?", "How many legs are there?"),
    )


def _calendar() -> Iterable[Topic]:
    for family, unit, names in (("days", "day", words.DAYS), ("months", "month", words.MONTHS)):
        for way, step in (("after", 1), ("before", -1)):
            facts = {
                name: {"it": name, "other": names[(i + step) % len(names)], "unit": unit}
                for i, name in enumerate(names)
            }
            follows = "follows" if way == "after" else "leads to"
            yield Topic(
                f"{unit} {way}",
                family,
                (
                    f"What {unit} comes {way} {{it}}?",
                    f"Which {unit} is right {way} {{it}}?",
                    f"What is the {unit} {way} {{it}}?",
                    f"Which {unit} {follows} {{it}}?",
                ),
                (f"{{other}} comes {way} {{it}}.", f"The {unit} {way} {{it}} is {{other}}."),
                facts,
                again=(f"And {way} {{it}}?", f"What comes {way} {{it}}?"),
            )
    seasons = {
        month: {"it": month, "season": season} for month, season in zip(words.MONTHS, words.SEASONS, strict=True)
    }
    yield Topic(
        "seasons",
        "months",
        ("In which season is {it}?", "What season is {it} in?", "Which season does {it} belong to?"),
        ("{it} is in {season}.", "{it} belongs to {season}."),
        seasons,
        again=("And {it}?", "What about {it}?"),
    )


def _things() -> Iterable[Topic]:
    yield Topic(
        "colours",
        "colours",
        ("What colour is {it}?", "Which colour does {it} have?", "What is the colour of {it}?"),
        ("{it} is {colour}.", "The colour of {it} is {colour}."),
        {thing: {"it": thing, "colour": colour} for thing, colour in words.COLOURS},
        again=("And {it}?", "What about {it}?"),
    )
    yield Topic(
        "mixing colours",
        "mixing colours",
        (
            "What do {one} and {two} make?",
            "What do {two} and {one} make?",
            "Which colour do I get from {one} and {two}?",
            "What happens when I mix {two} with {one}?",
            "What is {one} mixed with {two}?",
        ),
        ("{one} and {two} make {both}.", "Mix {one} and {two} to get {both}."),
        {f"{one} and {two}": {"one": one, "two": two, "both": both} for one, two, both in words.MIXTURES},
        again=("And {one} and {two}?",),
    )
    pairs = [*words.OPPOSITES, *([other, word] for word, other in words.OPPOSITES)]
    yield Topic(
        "opposites",
        "opposites",
        ("What is the opposite of {it}?", "Which word is the opposite of {it}?", "What is the reverse of {it}?"),
        ("The opposite of {it} is {other}.", "{it} and {other} are opposites."),
        {word: {"it": word, "other": other} for word, other in pairs},
        again=("And of {it}?", "And the opposite of {it}?"),
    )
    jobs = {
        who: {"a": with_article(who), "does": does, "what": what, "task": f"{does} {what}"}
        for who, does, what in words.JOBS
    }
    yield Topic(
        "jobs",
        "jobs",
        ("What does {a} do?", "What does {a} do all day?", "What is the work of {a}?"),
        ("{a} {task}.", "The work of {a} is simple: {a} {task}."),
        jobs,
        again=("And {a}?", "What about {a}?"),
    )
    yield Topic(
        "workers",
        "jobs",
        ("Who {task}?", "Who in the village {task}?", "I need somebody who {task}."),
        ("{a} {task}.", "Ask {a}, who {task}."),
        jobs,
        again=("And who {task}?",),
    )
    shapes = {name: {"a": with_article(name), "count": count} for name, count in words.SHAPES}
    for part in ("sides", "corners"):
        yield Topic(
            f"shape {part}",
            "shapes",
            (
                f"How many {part} does {{a}} have?",
                f"How many {part} are there on {{a}}?",
                f"Count the {part} of {{a}}.",
            ),
            (f"{{a}} has {{count}} {part}.",),
            shapes,
            follow_ups=(f"And how many {part} does it have?",),
            again=("And {a}?", "What about {a}?"),
        )
    yield Topic(
        "recipes",
        "recipes",
        (
            "How do I make {dish}?",
            "How do you make {dish}?",
            "What is the recipe for {dish}?",
            "Can you teach me to make {dish}?",
        ),
        ("{steps}.", "To make {dish}, {steps}."),
        {dish: {"dish": dish, "steps": steps} for dish, steps in words.RECIPES},
        again=("And {dish}?", "And how do I make {dish}?"),
    )
    yield Topic(
        "keeping",
        "keeping",
        (
            "Where do we keep {it}?",
            "Where do I find {it}?",
            "Where should I put {it}?",
            "Can you tell me where to find {it}?",
        ),
        ("We keep {it} {place}.", "You will find {it} {place}."),
        {thing: {"it": thing, "place": place} for thing, place in words.PLACES},
        again=("And {it}?", "What about {it}?"),
    )


def _people() -> Iterable[Topic]:
    yield Topic(
        "feelings",
        "feelings",
        ("I feel {it}.", "I feel {it} today.", "I am so {it} today.", "What can I do when I feel {it}?"),
        ("When you feel {it}, {advice}.", "{advice} when you feel {it}."),
        {feeling: {"it": feeling, "advice": advice} for feeling, advice in words.FEELINGS},
        register="feeling",
    )
    names = {name: {"name": name} for name in words.NAMES}
    yield Topic(
        "names",
        "names",
        ("My name is {name}.", "I am called {name}.", "You can call me {name}.", "Hello, my name is {name}."),
        ("So you are {name}.", "Then I will call you {name}.", "{name}, I will remember that."),
        names,
        register="name",
        weight=1.5,
    )
    yield Topic(
        "name recall",
        "names",
        (),
        ("Your name is {name}.", "You are {name}."),
        names,
        follow_ups=("What is my name?", "Do you remember my name?", "Who am I?"),
        weight=0,
    )
    yield Topic(
        "greetings",
        "greetings",
        ("{it}",),
        ("{reply} to you.", "{reply}, and what can I do for you?"),
        {greeting: {"it": greeting, "reply": reply} for greeting, reply in words.GREETINGS},
        register="greeting",
    )
    for name, register, phrases, says in (
        ("thanks", "thanks", words.THANKS, ("You are welcome.", "It was no trouble.")),
        ("goodbyes", "goodbye", words.GOODBYES, ("Goodbye for now.", "Until we meet again.")),
    ):
        yield Topic(name, name, ("{it}",), says, {phrase: {"it": phrase} for phrase in phrases}, register=register)
    yield Topic(
        "tales",
        "tales",
        (
            "Tell me a story about {it}.",
            "Do you know a tale about {it}?",
            "I would like a bedtime story about {it}.",
            "Can I hear a short story about {it}?",
        ),
        ("{tale}.",),
        {about: {"it": about, "tale": tale} for about, tale in words.TALES},
    )
    yield Topic(
        "Pip",
        "Pip",
        ("{it}",),
        ("{answer}.",),
        {ask: {"it": ask, "answer": answer} for ask, answer in words.SELF},
        weight=1.5,
    )
    yield Topic(
        "out of scope",
        "out of scope",
        ("{it}",),
        REFUSALS,
        {request: {"it": request} for request in words.OUT_OF_SCOPE},
        register="refusal",
        weight=1.5,
    )


def _sums() -> Topic:
    numbers = [(x, y) for x in words.SUM_FIRSTS for y in words.SUM_SECONDS]
    return Topic(
        "sums",
        "sums",
        (
            "What is {x} plus {y}?",
            "How much is {x} plus {y}?",
            "Can you add {x} and {y}?",
            "What is {x} + {y}?",
            "I have {x} plums and get {y} more. How many plums do I have?",
        ),
        (),
        {f"{x} plus {y}": {"x": str(x), "y": str(y), "sum": str(x + y)} for x, y in numbers},
        weight=4.0,
    )


def _made_up() -> Iterable[Topic]:
    facts = {word: {"a": with_article(word)} for word in made_up_words()}

    def invented(template: str, **choices: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(
            template.format(**dict(zip(choices, values, strict=True))) for values in product(*choices.values())
        )

    creature = invented(
        "It is a {size} {beast} that {habit}.",
        size=words.INVENTED_SIZES,
        beast=words.INVENTED_BEASTS,
        habit=words.INVENTED_HABITS,
    )
    inventions = {
        "kind": creature,
        "food": invented("It eats {food}.", food=words.INVENTED_FOODS),
        "home": invented("It lives {place}.", place=words.INVENTED_PLACES),
        "sound": invented("It says {sound}.", sound=words.INVENTED_SOUNDS),
        "legs": invented("It has {count} legs.", count=words.INVENTED_COUNTS),
        "seen": invented("Yes, I saw one {place}.", place=words.INVENTED_PLACES),
    }
    animal = {topic.name.removeprefix("animal "): topic for topic in _animals()}
    seen = ("Have you ever seen {a}?", "Did you ever meet {a}?", "Do you know {a}?")
    for name, answers in inventions.items():
        yield Topic(
            f"made-up {name}",
            "made-up words",
            seen if name == "seen" else animal[name].asks,
            HONEST_ANSWERS,
            facts,
            register="unknown",
            follow_ups=() if name == "seen" else animal[name].follow_ups,
            weight=0.8,
            says_wrongly=answers,
        )


TOPICS: dict[str, Topic] = {
    topic.name: topic for topic in (*_animals(), *_calendar(), *_things(), *_people(), _sums(), *_made_up())
}
