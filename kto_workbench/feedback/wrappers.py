"""Rows that hide their feedback inside: logs, exports of annotation tools, trees of messages.

A wrapper turns a record into flat records with the columns that formats.py knows; one record may hold several answers.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kto_workbench.feedback.labels import LABEL_NAMES
from kto_workbench.feedback.messages import RowProblem, parse_json_text, read_text
from kto_workbench.feedback.traces import LOGS, name_of_people, what_was_asked, what_was_told
from kto_workbench.feedback.trees import rankings_in_tree

Record = dict[str, Any]


@dataclass(frozen=True)
class Wrapper:
    """A kind of record: how it is known, and how it is made flat. `unwrap` raises RowProblem."""

    name: str
    matches: Callable[[Record], bool]
    unwrap: Callable[[Record], list[Record]]


def find_wrapper(sample: Sequence[Record]) -> Wrapper | None:
    """The wrapper that most of the sample's records match."""
    for wrapper in WRAPPERS:
        if sum(map(wrapper.matches, sample)) * 2 > len(sample):
            return wrapper
    return None


def _inside(record: Any, *path: str) -> Any:
    for key in path:
        record = parse_json_text(record)
        if not isinstance(record, dict):
            return None
        record = record.get(key)
    return parse_json_text(record)


def _first(record: Record, *paths: tuple[str, ...]) -> Any:
    return next((found for path in paths if (found := _inside(record, *path)) is not None), None)


def _agreed(values: Iterable[Any], name: str) -> Any:
    """What several annotators said: the mean of numbers, the majority of words; raises RowProblem on a tie."""
    values = [value for value in values if value is not None]
    if not values:
        return None
    if all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values):
        return values[0] if len(set(values)) == 1 else sum(values) / len(values)
    counts = Counter(str(value) for value in values).most_common()
    if len(counts) > 1 and counts[0][1] == counts[1][1]:
        raise RowProblem(name, f"{name}: its annotators disagree ({counts[0][0][:30]}, {counts[1][0][:30]})")
    return next(value for value in values if str(value) == counts[0][0])


def _name_the_label(flat: Record, said: dict[str, Any]) -> None:
    """Where one question was asked, under a name of its own, its answer is the label."""
    if len(said) == 1 and (name := next(iter(said))).lower() not in LABEL_NAMES:
        flat.setdefault("label", flat[name])


# OpenAI --------------------------------------------------------------------------------------------------------------


def _choices(record: Record) -> Any:
    return _first(record, ("response", "choices"), ("response", "body", "choices"), ("choices",), ("output", "choices"))


def _asked(record: Record) -> Any:
    return _first(record, ("request", "messages"), ("request", "body", "messages"), ("body", "messages"),
                  ("input", "messages"), ("messages",), ("request",), ("input",))  # fmt: skip


def _unwrap_log(record: Record) -> list[Record]:
    choices, asked = _choices(record), _asked(record)
    if not isinstance(choices, list) or not choices:
        raise RowProblem("choices", "choices is missing")
    if len(choices) > 1:
        raise RowProblem("choices", f"choices holds {len(choices)} answers, and one thumb can't tell which is meant")
    answer = _inside(choices[0], "message")
    if not isinstance(answer, dict):
        raise RowProblem("choices", "choices holds no message")
    if not isinstance(asked, list):
        raise RowProblem("messages", "messages is missing")
    flat = {
        key: value for key, value in record.items() if key not in ("request", "response", "choices", "input", "output")
    }
    for key, value in (
        (_inside(record, "metadata") or {}).items() if isinstance(_inside(record, "metadata"), dict) else ()
    ):
        flat.setdefault(key, value)
    tools = _first(record, ("request", "tools"), ("body", "tools"), ("tools",))
    return [{**flat, "messages": [*asked, {"role": "assistant", **answer}], "tools": tools}]


def _unwrap_preference(record: Record) -> list[Record]:
    return [
        {
            "messages": _asked(record),
            "chosen": record.get("preferred_output"),
            "rejected": record.get("non_preferred_output"),
            "tools": _inside(record, "input", "tools"),
        }
    ]


# Open Assistant ------------------------------------------------------------------------------------------------------


def _is_tree(record: Record) -> bool:
    root = parse_json_text(record.get("prompt"))
    return isinstance(root, dict) and "replies" in root and "text" in root


def _unwrap_tree(record: Record) -> list[Record]:
    rankings = list(rankings_in_tree(parse_json_text(record.get("prompt"))))
    if not rankings:
        raise RowProblem("replies", "replies holds no ranked answers")
    return rankings


# Argilla -------------------------------------------------------------------------------------------------------------


def _is_response(value: Any) -> bool:
    value = parse_json_text(value)
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(v, dict) and "value" in v and ("user_id" in v or "status" in v) for v in value)
    )


def _is_argilla(record: Record) -> bool:
    if isinstance(record.get("fields"), dict) and ("responses" in record or "suggestions" in record):
        return True
    return any(key.endswith(".responses") for key in record) or any(map(_is_response, record.values()))


def _submitted(answers: Iterable[Any]) -> list[Any]:
    return [
        answer.get("value") if isinstance(answer, dict) else answer
        for answer in answers
        if not isinstance(answer, dict) or answer.get("status") in (None, "submitted")
    ]


def _unwrap_argilla(record: Record) -> list[Record]:
    flat: Record = dict(record["fields"]) if isinstance(record.get("fields"), dict) else {}
    said: dict[str, list[Any]] = {}
    responses = record.get("responses")
    if isinstance(responses, dict):  # version 2: question → answers
        for question, answers in responses.items():
            said[question] = _submitted(answers or [])
    elif isinstance(responses, list):  # version 1: one dict of values an annotator
        for response in responses:
            if isinstance(response, dict) and response.get("status") in (None, "submitted"):
                for question, answer in (response.get("values") or {}).items():
                    said.setdefault(question, []).append(answer.get("value") if isinstance(answer, dict) else answer)
    if not flat:  # pushed to the hub: fields and questions are columns
        for key, value in record.items():
            if key.endswith(".responses"):
                status = record.get(f"{key}.status") or ["submitted"] * len(value or [])
                said[key.removesuffix(".responses")] = [
                    answer for answer, state in zip(value or [], status, strict=False) if state in (None, "submitted")
                ]
            elif _is_response(value):
                said[key] = _submitted(parse_json_text(value))
            elif "." not in key and not key.endswith("-suggestion"):
                flat[key] = value
    for question, answers in said.items():
        flat[question] = _agreed(answers, question)
    _name_the_label(flat, said)
    return [flat]


# Label Studio --------------------------------------------------------------------------------------------------------


def _is_label_studio(record: Record) -> bool:
    return isinstance(record.get("data"), dict) and isinstance(
        record.get("annotations", record.get("completions")), list
    )


def _unwrap_label_studio(record: Record) -> list[Record]:
    flat: Record = dict(record["data"]) if isinstance(record.get("data"), dict) else {}
    said: dict[str, list[Any]] = {}
    for annotation in record.get("annotations") or record.get("completions") or []:
        if not isinstance(annotation, dict) or annotation.get("was_cancelled"):
            continue
        for result in annotation.get("result") or []:
            value = result.get("value") if isinstance(result, dict) else None
            if not isinstance(value, dict):
                continue
            kind = result.get("type") or next(iter(value), "")
            answer = value.get("selected", value.get(kind))
            if isinstance(answer, list):
                answer = answer[0] if len(answer) == 1 else None
            said.setdefault("selected" if "selected" in value else str(result.get("from_name", kind)), []).append(
                answer
            )
    if not said:
        raise RowProblem("annotations", "annotations is empty: nobody has judged this task")
    for name, answers in said.items():
        flat[name] = _agreed(answers, name)
    if flat.get("selected") in ("left", "right") and "selected" in said:
        return [_unwrap_pairwise(flat)]
    _name_the_label(flat, said)
    return [flat]


def _unwrap_pairwise(flat: Record) -> Record:
    """A choice between two answers, whose names differ in their last part: answer1 and answer2, response_a and _b."""
    names = sorted(name for name in flat if name[-1:] in "12ab" or name.endswith(("left", "right")))
    names = [name for name in names if isinstance(flat[name], str)]
    if len(names) != 2:
        raise RowProblem("selected", "selected names the left or right answer, and which these are can't be told")
    left, right = names if not names[0].endswith("right") else names[::-1]
    chosen, rejected = (left, right) if flat["selected"] == "left" else (right, left)
    return {**flat, "chosen": read_text(flat[chosen], chosen), "rejected": read_text(flat[rejected], rejected)}


# Logs that carry their ratings --------------------------------------------------------------------------------------


def _ratings_inside(record: Record) -> list[tuple[Any, Any]]:
    """(name, value) of each rating in a trace of Langfuse, a run of LangSmith, or a span of Phoenix."""
    stats = parse_json_text(record.get("feedback_stats"))
    if isinstance(stats, dict):
        return [(name, _inside(said, "avg")) for name, said in stats.items()]
    lists = (parse_json_text(record.get(name)) for name in ("scores", "annotations", "feedback"))
    found = next((some for some in lists if isinstance(some, list) and some), [])
    labels = [path for log in LOGS for path in log.label]
    return [
        (
            str(rating.get("name") or rating.get("key") or ""),
            _first(rating, *(tuple(path.split(".")) for path in labels)),
        )
        for rating in found
        if isinstance(rating, dict)
    ]


_LOGGED = tuple((log.prompt, log.completion) for log in LOGS)


def _logged(record: Record) -> tuple[Any, Any]:
    return next(
        (
            (record[asked], record[told])
            for prompts, completions in _LOGGED
            for asked in prompts
            for told in completions
            if record.get(asked) not in (None, "") and record.get(told) not in (None, "")
        ),
        (None, None),
    )


def _is_rated_log(record: Record) -> bool:
    names = {"scores", "annotations", "feedback", "feedback_stats"} & record.keys()
    return bool(names) and _logged(record)[0] is not None and bool(_ratings_inside(record))


def _unwrap_rated_log(record: Record) -> list[Record]:
    ratings = _ratings_inside(record)
    if not ratings:
        raise RowProblem("scores", "scores is missing")
    asked, told = _logged(record)
    wanted = name_of_people(name for name, _ in ratings)
    flat = {**record, "prompt": what_was_asked(asked), "completion": what_was_told(told)}
    return [{**flat, "rating": value} for name, value in ratings if name == wanted]


WRAPPERS = (
    Wrapper(
        "OpenAI preferences", lambda r: "preferred_output" in r and "non_preferred_output" in r, _unwrap_preference
    ),
    Wrapper("OpenAI chat log", lambda r: isinstance(_choices(r), list) and isinstance(_asked(r), list), _unwrap_log),
    Wrapper("Label Studio", _is_label_studio, _unwrap_label_studio),
    Wrapper("Argilla", _is_argilla, _unwrap_argilla),
    Wrapper("OASST trees", _is_tree, _unwrap_tree),
    Wrapper("logs with their ratings", _is_rated_log, _unwrap_rated_log),
)
