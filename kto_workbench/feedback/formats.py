"""What the columns of a file mean: recognised from its first rows, shown as a mapping, correctable by the user.

A mapping says which column (or dotted path, "request.messages", "answers.*.text") plays which part:

    prompt, completion, label                 one answer with a thumb; texts or messages
    messages, label                           a conversation whose last answer is judged
    messages, judged, label                   a conversation, and the id or position of the answer that is judged
    prompt, chosen, rejected                  a pair, which becomes a thumb up and a thumb down
    chosen, rejected                          a pair whose prompt is the start that both share
    messages, chosen, rejected                a conversation with two answers to go on with
    answer_a, answer_b, winner                two answers and which won; instead of winner: score_a, score_b
    answers, scores                           several answers and a score for each; instead of scores: ranks, 1 is best
    system, tools, input, history             may stand beside any of these
    rivals                                    beside judged: where true, the other answers there have the other thumb
    threshold, up, down                       how labels are read: a cut for numbers, words for either thumb
    a, b, both_bad                            how winners are read: words or numbers for each
    take                                      of several answers: `threshold`, or `best-worst`
    id, rates, name                           of two files, see joins.py

shapes.py lists what is known by name. adapters.py is the one place where a row's meaning is decided; columns.py is its
fast equivalent for plain columns.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kto_workbench.errors import DataError
from kto_workbench.feedback import shapes
from kto_workbench.feedback.labels import LABEL_NAMES, LabelRule, choose_rule, finite_number, normalise
from kto_workbench.feedback.messages import RowProblem, is_messages, is_transcript, parse_json_text
from kto_workbench.feedback.rows import Message
from kto_workbench.feedback.shapes import LIST, ONE, PAIR, SHAPES, TWO, Shape, primitive_of
from kto_workbench.feedback.winners import WinnerRule, choose_winner_rule
from kto_workbench.feedback.wrappers import Wrapper, find_wrapper

PARTS = (
    "prompt", "completion", "label", "chosen", "rejected", "answer_a", "answer_b", "winner", "score_a", "score_b",
    "answers", "scores", "ranks", "messages", "judged", "rivals", "system", "tools", "input", "history",
)  # fmt: skip
SETTINGS = ("threshold", "up", "down", "a", "b", "both_bad", "take")
OF_TWO_FILES = ("id", "rates", "name")
WORDS = ("up", "down", "a", "b", "both_bad")
TAKES = ("threshold", "best-worst")

# Names that columns have in the wild, in order of preference.
ALIASES: dict[str, tuple[str, ...]] = {
    "prompt": (
        "prompt", "instruction", "question", "query", "user_prompt", "user_message", "user_input", "user", "request",
        "input", "inputs", "context", "message",
    ),
    "completion": (
        "completion", "response", "answer", "output", "reply", "generation", "generated_text", "assistant", "bot",
        "model_output", "model_response", "assistant_message", "assistant_response", "prediction", "text",
    ),
    "label": LABEL_NAMES,
    "chosen": ("chosen", "preferred", "preferred_output", "accepted", "chosen_response", "response_chosen", "win",
               "better", "chosen_messages"),
    "rejected": (
        "rejected", "non_preferred_output", "nonpreferred", "dispreferred", "rejected_response", "response_rejected",
        "lose", "worse", "rejected_messages",
    ),
    "messages": ("messages", "conversations", "conversation", "dialog", "dialogue", "chat", "turns"),
    "system": ("system", "system_prompt"),
    "tools": ("tools", "functions"),
    "input": ("input",),
    "history": ("history",),
}  # fmt: skip

UNREADABLE = ("videos", "audios")
IMAGES = ("images", "image", *UNREADABLE)  # columns whose content decides about an answer, beside its texts

Example = tuple[str | list[Message], str, bool, str | None]  # prompt, completion, label, tools as JSON
Record = dict[str, Any]


class UnknownColumns(DataError):
    """The columns of a file don't say what they mean; a mapping would."""


@dataclass(frozen=True)
class Format:
    """What a file was recognised as: its name, which column plays which part, and how labels are read.

    Attributes:
        winners: how the winner of two answers is read.
        best_worst: of several rated answers, take the best and the worst instead of cutting at a threshold.
        wrapper: what makes its records flat first. images: the columns that hold images, or the like.
    """

    name: str
    columns: Mapping[str, str]
    rule: LabelRule = field(default_factory=LabelRule)
    wrapper: Wrapper | None = None
    winners: WinnerRule = field(default_factory=WinnerRule)
    best_worst: bool = False
    images: tuple[str, ...] = ()

    @property
    def mapping(self) -> dict[str, Any]:
        """The mapping as shown to the user, who may pass it back corrected."""
        settings: dict[str, Any] = {}
        if {"answers"} & self.columns.keys():
            settings["take"] = TAKES[self.best_worst]
        if self.rule.threshold is not None and not self.best_worst:
            settings["threshold"] = self.rule.threshold
        for key in WORDS:
            if words := getattr(self.rule if key in ("up", "down") else self.winners, key):
                settings[key] = sorted(words)
        return {**self.columns, **settings}


def parse_mapping(pairs: Mapping[str, Any] | Iterable[str] | None) -> dict[str, Any]:
    """A mapping as a command line has it: ["prompt=question", "threshold=4", "up=accept,fine"]. Raises DataError."""
    if pairs is None or isinstance(pairs, Mapping):
        return dict(pairs or {})
    mapping: dict[str, Any] = {}
    for pair in pairs:
        part, equals, value = (piece.strip() for piece in pair.partition("="))
        if not equals or not value:
            raise DataError(f"A mapping is written part=column, such as prompt=question, not `{pair}`.")
        mapping[part] = value.split(",") if part in WORDS else value
    check_parts(mapping)
    return mapping


def check_parts(mapping: Mapping[str, Any]) -> None:
    """Raises DataError for a part that there is not."""
    known = PARTS + SETTINGS + OF_TWO_FILES
    for key in mapping:
        if key not in known:
            raise DataError(f"A mapping has no part `{key}`; its parts are {', '.join(known)}.")


def column_names(sample: Sequence[Record]) -> list[str]:
    """The names of the sample's columns, in order of appearance."""
    return list(dict.fromkeys(key for record in sample for key in record))


def is_known_name(name: str) -> bool:
    """Whether a column of this name is one that feedback files have."""
    name = name.strip().lower()
    return any(name in names for names in ALIASES.values()) or name in _NAMES_OF_SHAPES


_NAMES_OF_SHAPES = {
    path.split(".")[0].lower() for shape in SHAPES for path in (*shape.columns.values(), *shape.beside)
} | {*shapes.LISTS, *shapes.SCORE_LISTS, *shapes.RANK_LISTS}


def pick(record: Record, path: str) -> Any:
    """The value of a column, or of a dotted path into it, `*` being every element; None if there is none."""
    if path in record:
        return record[path]
    if "." not in path:
        return None
    return _pick(record, path.split("."))


def _pick(value: Any, parts: list[str]) -> Any:
    for i, part in enumerate(parts):
        value = parse_json_text(value)
        if isinstance(value, dict):
            value = value.get(part)
        elif isinstance(value, list) and part == "*":
            return [_pick(one, parts[i + 1 :]) for one in value]
        elif isinstance(value, list) and part.lstrip("-").isdigit() and -len(value) <= int(part) < len(value):
            value = value[int(part)]
        else:
            return None
    return value


def recognise(sample: Sequence[Record], mapping: Mapping[str, Any] | None = None, where: str = "The file") -> Format:
    """The format of a file by its first rows; the user's mapping, where given, wins. Raises DataError."""
    check_parts(mapping or {})
    mapping = {part: value for part, value in (mapping or {}).items() if part not in OF_TWO_FILES}
    given = {part: mapping[part] for part in PARTS if part in mapping}
    shape = _find_shape(sample, given)
    wrapper = find_wrapper(sample) if shape is None else None
    if wrapper is not None:
        unwrapped = list(_unwrap_all(wrapper, sample))
        # A mapping of columns that are there only in the file as it stands wants it left as it stands.
        if all(_has(unwrapped, path) or not _has(sample, path) for path in given.values()):
            sample = unwrapped
        else:
            wrapper = None
    names = column_names(sample)
    for part, path in given.items():
        if not _has(sample, path):
            raise DataError(f"{where} has no column `{path}` for {part}; its columns are {_listed(names)}.")
    columns = _complete(given, shape, sample, names)
    if columns is None:
        raise UnknownColumns(
            f"{where} is not feedback as it stands: it needs prompt, completion and label, or prompt, chosen and "
            f"rejected, or messages and label, and its columns are {_listed(names)}; say which is which with a mapping."
        )
    settings = {**(shape.settings if shape else {}), **{key: mapping[key] for key in SETTINGS if key in mapping}}
    rule, winners = LabelRule(), WinnerRule()
    if "label" in columns:
        rule = choose_rule([unwrap_label(pick(record, columns["label"])) for record in sample], columns["label"])
    elif "scores" in columns:
        rule = choose_rule(_values_in_lists(sample, columns["scores"]), columns["scores"])
    elif "ranks" in columns:
        rule = _middle_rank(_values_in_lists(sample, columns["ranks"]))
    elif "winner" in columns:
        winners = choose_winner_rule([pick(record, columns["winner"]) for record in sample], columns["answer_a"])
    best_worst = _takes_best_and_worst(settings, columns)
    if {"threshold", "up", "down"} & settings.keys():
        rule = _corrected(rule, settings)
    if {"a", "b", "both_bad"} & settings.keys():
        winners = WinnerRule(*(_words(settings, key) or getattr(winners, key) for key in ("a", "b", "both_bad")))
    name = shape.title if shape else _name(columns, sample, wrapper)
    images = tuple(name for name in names if name.lower() in IMAGES)
    return Format(f"{name} ({_parts(columns)})", columns, rule, wrapper, winners, best_worst, images)


def _find_shape(sample: Sequence[Record], given: Mapping[str, str]) -> Shape | None:
    """The known shape whose columns are all there, unless the mapping wants another primitive."""
    wanted = primitive_of(given)
    for shape in SHAPES:
        if wanted in (None, primitive_of(shape.columns)) and all(
            _has(sample, path) for path in (*shape.columns.values(), *shape.beside)
        ):
            return shape
    return None


def _takes_best_and_worst(settings: Mapping[str, Any], columns: Mapping[str, str]) -> bool:
    take = settings.get("take", "best-worst" if "ranks" in columns and "threshold" not in settings else "threshold")
    if take not in TAKES:
        raise DataError(f"The mapping's take should be {' or '.join(TAKES)}, not {take!r}.")
    return take == "best-worst"


def _middle_rank(values: Sequence[Any]) -> LabelRule:
    ranks = [rank for value in values if (rank := finite_number(value)) is not None]
    return LabelRule(threshold=(min(ranks) + max(ranks)) / 2 if ranks else None)


def _values_in_lists(sample: Sequence[Record], path: str) -> list[Any]:
    lists = (parse_json_text(pick(record, path)) for record in sample)
    return [unwrap_label(value) for values in lists if isinstance(values, list) for value in values]


def _has(sample: Sequence[Record], path: str) -> bool:
    return any(pick(record, path) is not None for record in sample)


def _unwrap_all(wrapper: Wrapper, sample: Sequence[Record]) -> Iterator[Record]:
    for record in sample:
        try:
            yield from wrapper.unwrap(record)
        except RowProblem:
            continue


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name[:40]}`" for name in names[:12])
    return shown + (f" and {len(names) - 12} more" if len(names) > 12 else "") if names else "none"


def _words(mapping: Mapping[str, Any], key: str) -> frozenset[str]:
    value = mapping.get(key, ())
    return frozenset(normalise(str(word)) for word in ([value] if isinstance(value, str) else value))


def _corrected(rule: LabelRule, mapping: Mapping[str, Any]) -> LabelRule:
    threshold = mapping.get("threshold", rule.threshold)
    try:
        threshold = None if threshold is None else float(threshold)
    except (TypeError, ValueError):
        raise DataError(f"The mapping's threshold should be a number, not {threshold!r}.") from None
    return LabelRule(threshold, rule.zero_is_down, _words(mapping, "up"), _words(mapping, "down"))


def _complete(
    given: dict[str, str], shape: Shape | None, sample: Sequence[Record], names: Sequence[str]
) -> dict[str, str] | None:
    """The user's columns completed, by a known shape or by recognised names, to one of the primitives, or None."""
    if shape is not None:
        optional = {part: path for part, path in shape.optional.items() if _has(sample, path)}
        return {**shape.columns, **optional, **given}
    taken = set(given.values())
    by_lower = {name.strip().lower(): name for name in reversed(names) if name not in taken}

    def there(name: str, accept: Callable[[Any], bool] = lambda value: value is not None) -> str | None:
        found = by_lower.get(name)
        return found if found is not None and any(accept(record.get(found)) for record in sample) else None

    def find(part: str, accept: Callable[[Any], bool] = lambda value: value is not None) -> str | None:
        if part in given:
            return given[part]
        return next((found for alias in ALIASES[part] if (found := there(alias, accept))), None)

    messages = find("messages", lambda value: is_messages(parse_json_text(value)))
    chosen, rejected = find("chosen"), find("rejected")
    label = find("label", lambda value: value is not None and value != "")
    prompt = find("prompt")
    completion = find("completion")
    if completion == prompt:
        completion = None
    extras = {part: find(part) for part in ("system", "tools", "history")}
    if prompt is not None and prompt.strip().lower() == "instruction":
        extras["input"] = find("input")
    extras = {part: name for part, name in extras.items() if name is not None}
    wanted = primitive_of(given)
    explicit = prompt == "prompt" and completion == "completion" and "messages" not in given
    if wanted is None and explicit and label and not (chosen and rejected):
        wanted = ONE  # whatever stands beside it

    def asked(*answers: str | None) -> dict[str, str]:
        """Where the prompt of these answers is; nowhere, if they carry it along."""
        if messages and "prompt" not in given:
            return {"messages": messages}
        carried = any(_is_conversation(pick(record, name)) for record in sample for name in answers if name)
        return {"prompt": prompt} if prompt and not carried else {}

    if chosen and rejected and wanted in (None, PAIR):
        pair = {"chosen": chosen, "rejected": rejected}
        # UltraFeedback keeps the whole chosen conversation once more under `messages`
        carried = messages and any(_is_conversation(record.get(chosen)) for record in sample)
        return {**({} if carried and "prompt" not in given else asked(chosen)), **pair, **extras}
    if wanted in (None, TWO) and (two := _find_two(given, there)):
        return {**asked(two["answer_a"]), **two, **extras}
    if wanted in (None, LIST) and (several := _find_list(given, sample, there)):
        if messages or prompt:
            return {**asked(), **several, **extras}
    if wanted not in (None, ONE):
        return None
    judged = {part: given[part] for part in ("judged", "rivals") if part in given}
    if messages and label and (judged or (not explicit and not {"prompt", "completion"} & given.keys())):
        return {"messages": messages, **judged, "label": label, **extras}
    if prompt and completion and label:
        return {"prompt": prompt, "completion": completion, "label": label, **extras}
    return None


def _find_two(given: Mapping[str, str], there: Callable[..., str | None]) -> dict[str, str] | None:
    """Two answers in columns that differ at their end, and who won or how each was scored."""
    found = {part: given[part] for part in shapes.OWN_PARTS[TWO] if part in given}
    if not {"answer_a", "answer_b"} <= found.keys():
        ends = [(stem + gap + a, stem + gap + b) for a, b in shapes.ENDS for stem in shapes.STEMS for gap in ("_", "")]
        pair = next((pair for pair in ends if all(map(there, pair))), None)
        if pair is None:
            return None
        found = {"answer_a": there(pair[0]), "answer_b": there(pair[1]), **found}
    if "winner" in found or {"score_a", "score_b"} <= found.keys():
        return found
    if winner := next((name for one in shapes.WINNERS if (name := there(one, _is_short))), None):
        return {**found, "winner": winner}
    ends = [(f"{stem}_{a}", f"{stem}_{b}") for a, b in shapes.ENDS for stem in shapes.SCORES]
    pair = next((pair for pair in ends if all(map(there, pair))), None)
    return {**found, "score_a": there(pair[0]), "score_b": there(pair[1])} if pair else None


def _is_short(value: Any) -> bool:
    return isinstance(value, (int, float)) or (isinstance(value, str) and 0 < len(value) <= 40)


def _find_list(
    given: Mapping[str, str], sample: Sequence[Record], there: Callable[..., str | None]
) -> dict[str, str] | None:
    """Several answers in a list, and their scores or ranks in another one or inside of each."""
    found = {part: given[part] for part in shapes.OWN_PARTS[LIST] if part in given}
    if "answers" in found and len(found) > 1:
        return found
    is_list = lambda value: isinstance(parse_json_text(value), list)
    for name in shapes.LISTS if "answers" not in found else (None,):
        column = found["answers"] if name is None else there(name, is_list)
        if column is None:
            continue
        lists = [v for record in sample if isinstance(v := parse_json_text(pick(record, column)), list) and v]
        objects = sum(all(isinstance(one, dict) for one in some) and not is_messages(some) for some in lists)
        texts = sum(all(isinstance(one, str) for one in some) for some in lists)
        if objects * 2 > len(lists):
            inside = {key for record in sample for key in _keys_inside(pick(record, column))}
            text = next((key for key in shapes.TEXT_OF_ANSWER if key in inside), None)
            for part, keys in (("scores", shapes.SCORE_OF_ANSWER), ("ranks", shapes.RANK_LISTS)):
                if text and (key := next((key for key in keys if key in inside), None)):
                    return {"answers": f"{column}.*.{text}", part: f"{column}.*.{key}"}
        elif texts * 2 > len(lists):
            for part, names in (("scores", shapes.SCORE_LISTS), ("ranks", shapes.RANK_LISTS)):
                if values := found.get(part) or next((v for one in names if (v := there(one, is_list))), None):
                    return {"answers": column, part: values}
    return None


def _keys_inside(answers: Any) -> set[str]:
    answers = parse_json_text(answers)
    if not isinstance(answers, list):
        return set()
    return {key for answer in answers if isinstance(answer, dict) for key, value in answer.items() if value is not None}


def _is_conversation(value: Any) -> bool:
    """Whether this answer carries its prompt along: several messages, or a transcript."""
    value = parse_json_text(value)
    return (isinstance(value, list) and len(value) > 1 and is_messages(value)) or is_transcript(value)


def _parts(columns: Mapping[str, str]) -> str:
    return ", ".join(part for part in PARTS if part in columns)


def _name(columns: Mapping[str, str], sample: Sequence[Record], wrapper: Wrapper | None) -> str:
    """What to call the format: the shape of its rows, and where it is known from."""
    shape = _name_of_rows(columns, sample)
    return f"{wrapper.name}: {shape}" if wrapper else shape


def _name_of_rows(columns: Mapping[str, str], sample: Sequence[Record]) -> str:
    if "ranks" in columns:
        return "a ranked list of answers"
    if (primitive := primitive_of(columns)) in (TWO, LIST):
        return shapes.PRIMITIVES[primitive]
    example = next((record for record in sample if record), {})
    first = pick(example, columns.get("messages") or columns.get("chosen") or columns.get("prompt") or "")
    if is_transcript(first):
        return "pairs of transcripts, as in Anthropic-HH"
    first = parse_json_text(first)
    shape = "conversational" if is_messages(first) else "text"
    if "messages" in columns:
        message = first[0] if isinstance(first, list) and first else first
        return "ShareGPT, as in LLaMA-Factory" if isinstance(message, dict) and "from" in message else "conversations"
    if columns.get("prompt") == "instruction":
        return "alpaca"
    if "chosen" in columns:
        return f"{shape} pairs{'' if 'prompt' in columns else ' with implicit prompt'}"
    return f"{shape} with thumbs"


def unwrap_label(value: Any) -> Any:
    """The value inside a label that is an object or a list of one, such as {"rating": 4} or ["Good"]."""
    value = parse_json_text(value)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict):
        for key in ("label", "rating", "value", "thumb", "thumbs", "score", "vote", "type", "feedback"):
            if value.get(key) is not None:
                return value[key]
    return value
