"""The shapes in which feedback is published and exported, as mappings onto a few primitives.

A shape is known by the columns that it names; formats.py says what the parts mean. What is not listed here is
recognised by the names of its columns, or described by the user's mapping, in the same parts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ONE, PAIR, TWO, LIST = "one", "pair", "two", "list"

# What each primitive is called, and the parts that belong to it alone.
PRIMITIVES = {
    ONE: "one answer with a thumb",
    PAIR: "a pair",
    TWO: "two answers and which won",
    LIST: "a rated list of answers",
}
OWN_PARTS = {
    TWO: ("answer_a", "answer_b", "winner", "score_a", "score_b"),
    LIST: ("answers", "scores", "ranks"),
    PAIR: ("chosen", "rejected"),
    ONE: ("completion", "label", "judged", "rivals"),
}


def primitive_of(parts: Mapping[str, Any]) -> str | None:
    """Which primitive these parts belong to; None if to any."""
    return next((name for name, own in OWN_PARTS.items() if any(part in parts for part in own)), None)


@dataclass(frozen=True)
class Shape:
    """Where a known source keeps the parts of its feedback.

    Attributes:
        name: what the source is called.
        columns: part → column, all of which are there.
        settings: how its labels are read, where that can't be told from their values.
        beside: further columns that tell it from others. optional: parts that may be there.
        how: the primitive's name, where it is another than PRIMITIVES says.
    """

    name: str
    columns: Mapping[str, str]
    settings: Mapping[str, Any] = field(default_factory=dict)
    beside: tuple[str, ...] = ()
    optional: Mapping[str, str] = field(default_factory=dict)
    how: str = ""

    @property
    def title(self) -> str:
        """Such as: two answers and which won: Chatbot Arena."""
        return f"{self.how or PRIMITIVES[primitive_of(self.columns) or ONE]}: {self.name}"


def _two(a: str, b: str, **others: str) -> dict[str, str]:
    return {"answer_a": a, "answer_b": b, **others}


_FIRST_IS_1: Mapping[str, Any] = {"a": ("1",), "b": ("0",)}
_CHAT = "snapshot.chat.chat"

SHAPES = (
    Shape(
        "Open WebUI feedback",
        {"messages": f"{_CHAT}.history.messages", "judged": "meta.message_id", "label": "data.rating"},
        optional={"rivals": "meta.arena", "system": f"{_CHAT}.params.system"},
        how="ratings joined to conversations by id",
    ),
    Shape("Chatbot Arena", _two("conversation_a", "conversation_b", winner="winner")),
    Shape(
        "Arena with a column for each outcome",
        _two("response_a", "response_b", prompt="prompt", score_a="winner_model_a", score_b="winner_model_b"),
    ),
    Shape("Arena", _two("response_a", "response_b", prompt="prompt", winner="winner")),
    Shape("HelpSteer2 preferences", _two("response_1", "response_2", prompt="prompt", winner="preference_strength")),
    Shape("HelpSteer3", _two("response1", "response2", messages="context", winner="overall_preference")),
    Shape("PKU-SafeRLHF", _two("response_0", "response_1", prompt="prompt", winner="better_response_id")),
    Shape("SHP", _two("human_ref_A", "human_ref_B", prompt="history", winner="labels"), _FIRST_IS_1),
    Shape("HALOs", _two("output_A", "output_B", prompt="prompt", winner="label"), _FIRST_IS_1),
    Shape(
        "WebGPT comparisons",
        _two("answer_0", "answer_1", prompt="question.full_text", score_a="score_0", score_b="score_1"),
    ),
    Shape(
        "summarize from feedback",
        _two("summaries.0.text", "summaries.1.text", prompt="info.post", winner="choice"),
        {"a": ("0",), "b": ("1",)},
    ),
    Shape("stack-exchange-paired", {"prompt": "question", "chosen": "response_j", "rejected": "response_k"}),
    Shape(
        "HelpSteer2",
        {"prompt": "prompt", "completion": "response", "label": "helpfulness"},
        {"threshold": 2.0},  # the middle of 0 to 4
        beside=("correctness", "coherence"),
    ),
)

# Names that several answers in one row, and what is said of them, have in the wild, in order of preference.
LISTS = ("completions", "responses", "generations", "answers", "candidates", "outputs")
SCORE_LISTS = ("ratings", "scores", "rating", "score", "labels", "rewards")
RANK_LISTS = ("ranks", "ranking", "rank")
TEXT_OF_ANSWER = ("response", "completion", "text", "content", "answer", "output", "message")
SCORE_OF_ANSWER = ("overall_score", "score", "rating", "fine-grained_score", "reward", "label", "feedback", "thumb")

# Two answers in columns that differ at their end.
STEMS = ("response", "answer", "output", "completion", "reply", "generation", "conversation", "assistant", "summary")
ENDS = (("a", "b"), ("0", "1"), ("1", "2"), ("left", "right"))
WINNERS = (
    "winner", "preference", "preferred", "better", "choice", "vote", "chosen", "selected", "verdict", "judgement",
    "judgment", "label", "labels", "preference_strength", "overall_preference", "feedback",
)  # fmt: skip
SCORES = ("score", "rating", "votes", "reward", "wins")
