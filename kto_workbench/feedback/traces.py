"""Logs of what models were asked and said: where they keep it, in which of many forms, and where its ratings are."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kto_workbench.feedback.messages import is_messages, parse_json_text

Record = dict[str, Any]


@dataclass(frozen=True)
class Log:
    """Where a kind of log keeps its ratings and what they rate; of several columns the first that is there counts.

    Attributes:
        rates, label: in the ratings, the id of what is rated, and what was said of it.
        named: in the ratings, what each is called, if there are several kinds.
        id: in the conversations. within, part_of: the id of the whole that one is a part of, and what a mere part has.
        prompt, completion: in the conversations; empty, if their columns are to be recognised.
    """

    name: str
    rates: tuple[str, ...]
    label: tuple[str, ...]
    named: tuple[str, ...]
    id: tuple[str, ...]
    prompt: tuple[str, ...] = ()
    completion: tuple[str, ...] = ()
    within: tuple[str, ...] = ()
    part_of: tuple[str, ...] = ()


LOGS = (
    Log(
        "Langfuse",
        rates=("observationId", "observation_id", "traceId", "trace_id"),
        label=("stringValue", "string_value", "value"),
        named=("name",),
        id=("id",),
        prompt=("input",),
        completion=("output",),
        within=("traceId", "trace_id"),
        part_of=("parentObservationId", "parent_observation_id"),
    ),
    Log(
        "LangSmith",
        rates=("run_id",),
        label=("score", "value"),
        named=("key",),
        id=("id",),
        prompt=("inputs",),
        completion=("outputs",),
    ),
    Log(
        "Phoenix",
        rates=("span_id",),
        label=("result.score", "result.label", "score", "label"),
        named=("name", "annotation_name"),
        id=("context.span_id", "span_id"),
        prompt=("attributes.llm.input_messages", "attributes.input.value", "input.value", "input"),
        completion=("attributes.llm.output_messages", "attributes.output.value", "output.value", "output"),
    ),
)

# Of the names that ratings have, those of people; automatic scores stand beside them in the same files.
PEOPLE = (
    "user-feedback", "user_feedback", "userfeedback", "user feedback", "user-score", "user_score", "user-rating",
    "user_rating", "feedback", "thumbs", "thumb", "rating", "like", "liked", "vote",
)  # fmt: skip


def name_of_people(names: Iterable[Any]) -> Any:
    """Which of the ratings' names is that of people's thumbs: a known one, else the most frequent."""
    counts = Counter(names)
    known = [name for name in counts if str(name).lower() in PEOPLE]
    return known[0] if known else counts.most_common(1)[0][0]


# What was asked and what was told ------------------------------------------------------------------------------------

_ASKED = ("input", "question", "query", "prompt", "user_input", "text", "content", "message")
_TOLD = ("output", "answer", "response", "completion", "text", "content", "result", "message")
_ROLES = {"human": "user", "ai": "assistant"}


def what_was_asked(value: Any) -> Any:
    """The prompt in a log's input, as a text or messages; the value itself if it can't be told."""
    value = parse_json_text(value)
    if isinstance(value, dict):
        inner = value.get("messages") or _inner(value, _ASKED)
        return value if inner is None else inner if isinstance(inner, str) else what_was_asked(inner)
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], list):
        value = value[0]  # LangChain asks in batches
    if isinstance(value, list) and value and all(isinstance(one, dict) for one in value):
        return [_plain_message(one) for one in value]
    return value


def what_was_told(value: Any) -> Any:
    """The answer in a log's output, as a text or messages; the value itself if it can't be told."""
    value = parse_json_text(value)
    while not isinstance(value, str):
        if isinstance(value, list) and value:
            inner = value[-1]
        elif isinstance(value, dict) and not is_messages(plain := _plain_message(value)):
            lists = (value.get(key) for key in ("choices", "generations", "messages"))
            inner = next((some for some in lists if isinstance(some, list) and some), None) or _inner(value, _TOLD)
        else:
            return [plain] if isinstance(value, dict) else value
        if inner is None:
            return value
        value = parse_json_text(inner)
    return value


def _inner(value: Mapping[str, Any], names: Sequence[str]) -> Any:
    found = next((value[name] for name in names if value.get(name) not in (None, "")), None)
    return next(iter(value.values())) if found is None and len(value) == 1 else found


def _plain_message(message: Record) -> Record:
    """A message as LangChain or OpenInference writes it, as {role, content}."""
    inner = message.get("message") or message.get("kwargs") or message
    if not isinstance(inner, dict) or "role" in inner:
        return inner if isinstance(inner, dict) else message
    if "message.role" in inner:
        return {"role": inner["message.role"], "content": inner.get("message.content")}
    written_by = message["id"][-1] if isinstance(message.get("id"), list) and message["id"] else None
    kind = inner.get("type") or written_by
    if not isinstance(kind, str) or "content" not in inner:
        return inner
    role = kind.lower().removesuffix("chunk").removesuffix("message")
    return {"role": _ROLES.get(role, role), "content": inner["content"]}
