"""What the columns of a file mean: recognised from its first rows, shown as a mapping, correctable by the user.

A mapping says which column (or dotted path, "request.messages") plays which part:

    prompt, completion, label                 one answer with a thumb; texts or messages
    prompt, chosen, rejected                  a pair, which becomes a thumb up and a thumb down
    chosen, rejected                          a pair whose prompt is the start that both share
    messages, label                           a conversation whose last answer is judged
    messages, chosen, rejected                a conversation with two answers to go on with
    system, tools, input, history             may stand beside any of these
    threshold, up, down                       how labels are read: a cut for numbers, words for either thumb

`adapt` is the one place where a row's meaning is decided; columns.py is its fast equivalent for plain columns.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kto_workbench.errors import DataError
from kto_workbench.feedback.labels import LABEL_NAMES, LabelRule, UnclearLabel, choose_rule
from kto_workbench.feedback.messages import (
    RowProblem,
    common_messages,
    dump_json,
    is_messages,
    is_transcript,
    parse_json_text,
    parse_transcript,
    read_messages,
    read_text,
    split_answer,
)
from kto_workbench.feedback.rows import Message
from kto_workbench.feedback.wrappers import Wrapper, find_wrapper

PARTS = ("prompt", "completion", "label", "chosen", "rejected", "messages", "system", "tools", "input", "history")
SETTINGS = ("threshold", "up", "down")

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
               "better"),
    "rejected": (
        "rejected", "non_preferred_output", "nonpreferred", "dispreferred", "rejected_response", "response_rejected",
        "lose", "worse",
    ),
    "messages": ("messages", "conversations", "conversation", "dialog", "dialogue", "chat", "turns"),
    "system": ("system", "system_prompt"),
    "tools": ("tools", "functions"),
    "input": ("input",),
    "history": ("history",),
}  # fmt: skip

Example = tuple[str | list[Message], str, bool, str | None]  # prompt, completion, label, tools as JSON
Record = dict[str, Any]


@dataclass(frozen=True)
class Format:
    """What a file was recognised as: its name, which column plays which part, and how labels are read."""

    name: str
    columns: Mapping[str, str]
    rule: LabelRule = field(default_factory=LabelRule)
    wrapper: Wrapper | None = None

    @property
    def mapping(self) -> dict[str, Any]:
        """The mapping as shown to the user, who may pass it back corrected."""
        settings: dict[str, Any] = {}
        if self.rule.threshold is not None:
            settings["threshold"] = self.rule.threshold
        for key in ("up", "down"):
            if words := getattr(self.rule, key):
                settings[key] = sorted(words)
        return {**self.columns, **settings}


def parse_mapping(pairs: Iterable[str]) -> dict[str, Any]:
    """A mapping as a command line has it: ["prompt=question", "threshold=4", "up=accept,fine"]. Raises DataError."""
    mapping: dict[str, Any] = {}
    for pair in pairs:
        part, equals, value = pair.partition("=")
        if not equals or not value:
            raise DataError(f"A mapping is written part=column, such as prompt=question, not `{pair}`.")
        mapping[part.strip()] = value.split(",") if part.strip() in ("up", "down") else value
    return mapping


def column_names(sample: Sequence[Record]) -> list[str]:
    """The names of the sample's columns, in order of appearance."""
    return list(dict.fromkeys(key for record in sample for key in record))


def is_known_name(name: str) -> bool:
    """Whether a column of this name is one that feedback files have."""
    return any(name.strip().lower() in names for names in ALIASES.values())


def pick(record: Record, path: str) -> Any:
    """The value of a column, or of a dotted path into it; None if there is none."""
    if path in record:
        return record[path]
    if "." not in path:
        return None
    value: Any = record
    for part in path.split("."):
        if isinstance(value, list) and part.lstrip("-").isdigit() and -len(value) <= int(part) < len(value):
            value = value[int(part)]
        elif isinstance(value, dict):
            value = value.get(part)
        else:
            return None
    return value


def recognise(sample: Sequence[Record], mapping: Mapping[str, Any] | None = None, where: str = "The file") -> Format:
    """The format of a file by its first rows; the user's mapping, where given, wins. Raises DataError."""
    mapping = dict(mapping or {})
    for key in mapping:
        if key not in PARTS + SETTINGS:
            raise DataError(f"A mapping has no part `{key}`; its parts are {', '.join(PARTS + SETTINGS)}.")
    wrapper = find_wrapper(sample)
    if wrapper is not None:
        unwrapped = list(_unwrap_all(wrapper, sample))
        # A mapping of columns that are there only in the file as it stands wants it left as it stands.
        if all(_has(unwrapped, path) or not _has(sample, path) for path in _paths(mapping)):
            sample = unwrapped
        else:
            wrapper = None
    names = column_names(sample)
    for part in PARTS:
        if part in mapping and not _has(sample, mapping[part]):
            raise DataError(f"{where} has no column `{mapping[part]}` for {part}; its columns are {_listed(names)}.")
    given = {part: mapping[part] for part in PARTS if part in mapping}
    columns = _complete(given, sample, names)
    if columns is None:
        raise DataError(
            f"{where} is not feedback as it stands: it needs prompt, completion and label, or prompt, chosen and "
            f"rejected, or messages and label, and its columns are {_listed(names)}; say which is which with a mapping."
        )
    rule = LabelRule()
    if "label" in columns:
        rule = choose_rule([unwrap_label(pick(record, columns["label"])) for record in sample], columns["label"])
    if SETTINGS & mapping.keys():
        rule = _corrected(rule, mapping)
    name = _name(columns, sample)
    return Format(f"{wrapper.name}: {name}" if wrapper else name, columns, rule, wrapper)


def _has(sample: Sequence[Record], path: str) -> bool:
    return any(pick(record, path) is not None for record in sample)


def _paths(mapping: Mapping[str, Any]) -> list[str]:
    return [mapping[part] for part in PARTS if part in mapping]


def _unwrap_all(wrapper: Wrapper, sample: Sequence[Record]) -> Iterator[Record]:
    for record in sample:
        try:
            yield from wrapper.unwrap(record)
        except RowProblem:
            continue


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"`{name[:40]}`" for name in names[:12])
    return shown + (f" and {len(names) - 12} more" if len(names) > 12 else "") if names else "none"


def _corrected(rule: LabelRule, mapping: Mapping[str, Any]) -> LabelRule:
    def words(key: str) -> frozenset[str]:
        value = mapping.get(key, ())
        return frozenset(str(word).strip().lower() for word in ([value] if isinstance(value, str) else value))

    threshold = mapping.get("threshold", rule.threshold)
    try:
        threshold = None if threshold is None else float(threshold)
    except (TypeError, ValueError):
        raise DataError(f"The mapping's threshold should be a number, not {threshold!r}.") from None
    return LabelRule(threshold, rule.zero_is_down, words("up"), words("down"))


def _complete(given: dict[str, str], sample: Sequence[Record], names: Sequence[str]) -> dict[str, str] | None:
    """The user's columns completed by recognised ones to one of the known shapes, or None."""
    taken = set(given.values())
    by_lower = {name.strip().lower(): name for name in reversed(names) if name not in taken}

    def find(part: str, accept: Callable[[Any], bool] = lambda value: value is not None) -> str | None:
        if part in given:
            return given[part]
        for alias in ALIASES[part]:
            name = by_lower.get(alias)
            if name is not None and any(accept(record.get(name)) for record in sample):
                return name
        return None

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

    if chosen and rejected and not {"completion", "label"} & given.keys():
        pair = {"chosen": chosen, "rejected": rejected}
        if messages and "prompt" not in given:
            # UltraFeedback keeps the whole chosen conversation once more under `messages`
            if any(_is_conversation(record.get(chosen)) for record in sample):
                return {**pair, **extras}
            return {"messages": messages, **pair, **extras}
        if prompt and not any(_is_conversation(record.get(chosen)) for record in sample):
            return {"prompt": prompt, **pair, **extras}
        return {**pair, **extras}
    explicit = prompt == "prompt" and completion == "completion" and "messages" not in given
    if messages and label and not explicit and not {"prompt", "completion"} & given.keys():
        return {"messages": messages, "label": label, **extras}
    if prompt and completion and label:
        return {"prompt": prompt, "completion": completion, "label": label, **extras}
    return None


def _is_conversation(value: Any) -> bool:
    """Whether this answer carries its prompt along: several messages, or a transcript."""
    value = parse_json_text(value)
    return (isinstance(value, list) and len(value) > 1 and is_messages(value)) or is_transcript(value)


def _name(columns: Mapping[str, str], sample: Sequence[Record]) -> str:
    """What to call the format: the parts it has, and where it is known from."""
    example = next((record for record in sample if record), {})
    first = pick(example, columns.get("messages") or columns.get("chosen") or columns.get("prompt") or "")
    parts = ", ".join(part for part in PARTS if part in columns)
    if is_transcript(first):
        return f"pairs of transcripts, as in Anthropic-HH ({parts})"
    first = parse_json_text(first)
    shape = "conversational" if is_messages(first) else "text"
    if "messages" in columns:
        message = first[0] if isinstance(first, list) and first else first
        maker = "ShareGPT, as in LLaMA-Factory" if isinstance(message, dict) and "from" in message else "conversations"
        return f"{maker} ({parts})"
    if columns.get("prompt") == "instruction":
        return f"alpaca ({parts})"
    if "chosen" in columns:
        return f"{shape} pairs{'' if 'prompt' in columns else ' with implicit prompt'} ({parts})"
    return f"{shape} with thumbs ({parts})"


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


def make_adapter(known: Format) -> Callable[[Record], tuple[list[Example], list[RowProblem]]]:
    """The function that turns a record of this format into its examples, and the parts of it that are left out.

    It raises RowProblem where no part can be used.
    """
    adapt = _make_flat_adapter(known)
    if known.wrapper is None:
        return lambda record: (adapt(record), [])

    def adapt_wrapped(record: Record) -> tuple[list[Example], list[RowProblem]]:
        examples: list[Example] = []
        left_out: list[RowProblem] = []
        for part in known.wrapper.unwrap(record):
            try:
                examples += adapt(part)
            except RowProblem as problem:
                left_out.append(problem)
        if not examples:
            raise left_out[0] if left_out else RowProblem("", "the row holds no answer")
        return examples, left_out

    return adapt_wrapped


def _make_flat_adapter(known: Format) -> Callable[[Record], list[Example]]:
    columns, rule = known.columns, known.rule

    def value_of(record: Record, part: str) -> Any:
        return pick(record, columns[part])

    def read_label(record: Record) -> bool:
        name = columns["label"]
        try:
            return rule.read(unwrap_label(value_of(record, "label")), name)
        except UnclearLabel as error:
            raise RowProblem(name, str(error)) from None

    def read_extras(record: Record) -> tuple[str | None, str | None]:
        system = value_of(record, "system") if "system" in columns else None
        tools = value_of(record, "tools") if "tools" in columns else None
        tools = parse_json_text(tools)
        if tools is not None and not isinstance(tools, list):
            if tools:
                raise RowProblem(columns["tools"], f"{columns['tools']} is not a list of tools")
            tools = None
        text = read_text(system, columns["system"]) if system else None
        return text, dump_json(tools) if tools else None

    def read_prompt(record: Record) -> str | list[Message]:
        if "messages" in columns:
            return read_messages(value_of(record, "messages"), columns["messages"])
        name = columns["prompt"]
        value = parse_json_text(value_of(record, "prompt"))
        if is_messages(value):
            return read_messages(value, name)
        raw = value_of(record, "prompt")
        if is_transcript(raw):
            return _without_open_answer(parse_transcript(raw, name))
        text = read_text(raw, name)
        if "input" in columns and (more := value_of(record, "input")):
            text = f"{text}\n{read_text(more, columns['input'])}"  # as LLaMA-Factory joins them
        if not text.strip():
            raise RowProblem(name, f"{name} is empty")
        if "history" in columns and (past := parse_json_text(value_of(record, "history"))):
            return [*_read_history(past, columns["history"]), {"role": "user", "content": text}]
        return text

    def read_answer(record: Record, part: str, prompt: str | list[Message]) -> tuple[str | list[Message], str]:
        """The prompt, longer if the answer has turns before its last, and the answer."""
        name = columns[part]
        value = parse_json_text(value_of(record, part))
        if not is_messages(value):
            return prompt, read_text(value_of(record, part), name)
        messages = read_messages(value, name)
        start = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
        if len(messages) > 1 and messages[: len(start)] == start:
            messages = messages[len(start) :]  # the answer repeats its prompt
        if not messages:
            raise RowProblem(name, f"{name} holds no answer after the prompt")
        before, answer = split_answer([*start, *messages], name)
        return (prompt if len(messages) == 1 and isinstance(prompt, str) else before), answer

    def finish(
        prompt: str | list[Message], completion: str, label: bool, extras: tuple[str | None, str | None]
    ) -> Example:
        system, tools = extras
        if system and not (isinstance(prompt, list) and prompt[0]["role"] == "system"):
            turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            prompt = [{"role": "system", "content": system}, *turns]
        return prompt, completion, label, tools

    def adapt_judged(record: Record) -> list[Example]:
        label = read_label(record)
        prompt, completion = read_answer(record, "completion", read_prompt(record))
        return [finish(prompt, completion, label, read_extras(record))]

    def adapt_conversation(record: Record) -> list[Example]:
        label = read_label(record)
        prompt, completion = split_answer(read_prompt(record), columns["messages"])
        return [finish(prompt, completion, label, read_extras(record))]

    def adapt_pair(record: Record) -> list[Example]:
        prompt = read_prompt(record)
        good, bad = (read_answer(record, part, prompt) for part in ("chosen", "rejected"))
        return finish_pair(record, good, bad)

    def adapt_implicit_pair(record: Record) -> list[Example]:
        good, bad = _split_at_shared_start(
            value_of(record, "chosen"), value_of(record, "rejected"), columns["chosen"], columns["rejected"]
        )
        return finish_pair(record, good, bad)

    def finish_pair(record: Record, good: tuple, bad: tuple) -> list[Example]:
        if good == bad:
            raise RowProblem(columns["rejected"], f"{columns['chosen']} and {columns['rejected']} are the same")
        extras = read_extras(record)
        return [finish(*good, True, extras), finish(*bad, False, extras)]

    if "chosen" in columns:
        return adapt_pair if {"prompt", "messages"} & columns.keys() else adapt_implicit_pair
    return adapt_conversation if "messages" in columns else adapt_judged


def _without_open_answer(messages: list[Message]) -> list[Message]:
    """A transcript that ends with an empty "Assistant:" is a prompt; that last turn is what the answer fills."""
    last = messages[-1]
    return messages[:-1] if last["role"] == "assistant" and not last["content"] and len(messages) > 1 else messages


def _read_history(past: Any, name: str) -> list[Message]:
    if is_messages(past):
        return read_messages(past, name)
    if not isinstance(past, list) or not all(isinstance(turn, (list, tuple)) and len(turn) == 2 for turn in past):
        raise RowProblem(name, f"{name} is not a list of [question, answer]")
    return [
        {"role": role, "content": read_text(text, name)}
        for turn in past
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]


def _split_at_shared_start(chosen: Any, rejected: Any, chosen_name: str, rejected_name: str) -> tuple[tuple, tuple]:
    """(prompt, answer) of both sides, the prompt being what they share at their start."""
    conversations = []
    for value, name in ((chosen, chosen_name), (rejected, rejected_name)):
        parsed = parse_json_text(value)
        if is_messages(parsed):
            conversations.append(read_messages(parsed, name))
        elif is_transcript(value):
            conversations.append(parse_transcript(value, name))
        else:
            conversations.append(read_text(value, name))
    good, bad = conversations
    if isinstance(good, str) and isinstance(bad, str):
        return _split_texts(good, bad, chosen_name)
    if isinstance(good, str) or isinstance(bad, str):
        raise RowProblem(rejected_name, f"{chosen_name} and {rejected_name} are not of one kind")
    sides = tuple(split_answer(side, name) for side, name in ((good, chosen_name), (bad, rejected_name)))
    if not common_messages(good, bad):
        raise RowProblem(rejected_name, f"{chosen_name} and {rejected_name} share no prompt at their start")
    return sides


def _split_texts(good: str, bad: str, name: str) -> tuple[tuple, tuple]:
    """Two texts cut where they part, at the start of a word, so that neither answer begins inside one."""
    shared = 0
    for ours, theirs in zip(good, bad, strict=False):
        if ours != theirs:
            break
        shared += 1
    while shared and not good[shared - 1].isspace():
        shared -= 1
    if not good[:shared].strip():
        raise RowProblem(name, "chosen and rejected share no prompt at their start")
    prompt = good[:shared]
    return (prompt, good[shared:]), (prompt, bad[shared:])
