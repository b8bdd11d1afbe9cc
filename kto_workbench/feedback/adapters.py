"""From a record to its examples: the one place where a row's meaning is decided.

columns.py does the same for plain columns, vectorised; the tests hold that both ways give the same rows.
"""

from collections.abc import Callable
from typing import Any

from kto_workbench.feedback.formats import UNREADABLE, Example, Format, Record, pick, unwrap_label
from kto_workbench.feedback.images import attach, in_column
from kto_workbench.feedback.labels import UnclearLabel, finite_number
from kto_workbench.feedback.messages import (
    RowProblem,
    common_messages,
    dump_json,
    holds_image,
    is_messages,
    is_transcript,
    parse_json_text,
    parse_transcript,
    read_content,
    read_messages,
    read_text,
    split_answer,
    whole_answer,
)
from kto_workbench.feedback.rows import Message
from kto_workbench.feedback.trees import conversation_up_to
from kto_workbench.feedback.winners import compare_scores

Extras = tuple[str | None, str | None]  # the system prompt, the tools as JSON
Adapted = tuple[list[Example], list[RowProblem]]


def make_adapter(known: Format) -> Callable[[Record], Adapted]:
    """The function that turns a record of this format into its examples, and the parts of it that are left out.

    It raises RowProblem where no part can be used.
    """
    adapt = _make_flat_adapter(known)
    if known.wrapper is not None:
        adapt = _unwrapping(adapt, known.wrapper.unwrap)
    if not known.images:
        return adapt

    def adapt_with_images(record: Record) -> Adapted:
        for name in known.images:
            if name.lower() in UNREADABLE and parse_json_text(record.get(name)):
                raise RowProblem(name, f"{name} holds a video or sound, which can't be read")
        examples, left_out = adapt(record)
        for name in known.images:
            if name.lower() not in UNREADABLE and (sources := in_column(record.get(name))):
                examples = [(attach(prompt, sources, name), *rest) for prompt, *rest in examples]
        return examples, left_out

    return adapt_with_images


def _unwrapping(adapt: Callable[[Record], Adapted], unwrap: Callable[[Record], list[Record]]) -> Any:
    def adapt_wrapped(record: Record) -> Adapted:
        examples: list[Example] = []
        left_out: list[RowProblem] = []
        for part in unwrap(record):
            try:
                found, others = adapt(part)
            except RowProblem as problem:
                left_out.append(problem)
            else:
                examples += found
                left_out += others
        if not examples:
            raise left_out[0] if left_out else RowProblem("", "the row holds no answer")
        return examples, left_out

    return adapt_wrapped


def _make_flat_adapter(known: Format) -> Callable[[Record], Adapted]:
    columns, rule = known.columns, known.rule

    def value_of(record: Record, part: str) -> Any:
        return pick(record, columns[part])

    def read_label(record: Record) -> bool:
        name = columns["label"]
        try:
            return rule.read(unwrap_label(value_of(record, "label")), name)
        except UnclearLabel as error:
            raise RowProblem(name, str(error)) from None

    def read_extras(record: Record) -> Extras:
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
        if holds_image(value):
            return [{"role": "user", "content": read_content(value, name)}]
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

    def finish(prompt: str | list[Message], completion: str, label: bool, extras: Extras) -> Example:
        system, tools = extras
        if system and not (isinstance(prompt, list) and prompt[0]["role"] == "system"):
            turns = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
            prompt = [{"role": "system", "content": system}, *turns]
        return prompt, completion, label, tools

    def adapt_judged(record: Record) -> Adapted:
        label = read_label(record)
        prompt, completion = read_answer(record, "completion", read_prompt(record))
        return [finish(prompt, completion, label, read_extras(record))], []

    def adapt_conversation(record: Record) -> Adapted:
        label = read_label(record)
        prompt, completion = split_answer(read_prompt(record), columns["messages"])
        return [finish(prompt, completion, label, read_extras(record))], []

    def adapt_judged_within(record: Record) -> Adapted:
        label = read_label(record)
        prompt, completion, rivals = conversation_up_to(
            value_of(record, "messages"), value_of(record, "judged"), columns["messages"]
        )
        extras = read_extras(record)
        examples = [finish(prompt, completion, label, extras)]
        if "rivals" in columns and value_of(record, "rivals"):
            examples += [finish(prompt, rival, not label, extras) for rival in rivals]
        return examples, []

    def adapt_pair(record: Record) -> Adapted:
        prompt = read_prompt(record)
        good, bad = (read_answer(record, part, prompt) for part in ("chosen", "rejected"))
        return finish_two(record, good, bad, (True, False))

    def adapt_implicit_pair(record: Record) -> Adapted:
        return finish_two(record, *split_both(record, "chosen", "rejected"), (True, False))

    def split_both(record: Record, one: str, other: str) -> tuple[tuple, tuple]:
        return _split_at_shared_start(value_of(record, one), value_of(record, other), columns[one], columns[other])

    def finish_two(record: Record, one: tuple, other: tuple, thumbs: tuple[bool, bool]) -> Adapted:
        if one == other:
            names = [columns[part] for part in ("chosen", "rejected", "answer_a", "answer_b") if part in columns]
            raise RowProblem(names[-1], f"{names[0]} and {names[-1]} are the same")
        extras = read_extras(record)
        return [finish(*side, thumb, extras) for side, thumb in zip((one, other), thumbs, strict=True)], []

    def read_winner(record: Record) -> tuple[bool, bool]:
        name = columns.get("winner") or f"{columns['score_a']} against {columns['score_b']}"
        try:
            if "winner" in columns:
                winner = value_of(record, "winner")
                return _named(winner, record) or known.winners.read(winner, name)
            scores = [_score(value_of(record, part)) for part in ("score_a", "score_b")]
            if None in scores:
                raise UnclearLabel(f"{name} is missing")
            return compare_scores(*scores, name)
        except UnclearLabel as error:
            raise RowProblem(columns.get("winner") or columns["score_a"], str(error)) from None

    asking = "messages" if "messages" in columns else "prompt"

    def adapt_two(record: Record) -> Adapted:
        thumbs = read_winner(record)
        if not {"prompt", "messages"} & columns.keys():
            return finish_two(record, *split_both(record, "answer_a", "answer_b"), thumbs)
        asked, *told = (parse_json_text(value_of(record, part)) for part in (asking, *BOTH))
        if _is_turns(asked) and all(map(_is_turns, told)):
            sides = [_interleave(asked, turns, columns[part]) for part, turns in zip(BOTH, told, strict=True)]
        else:
            prompt = read_prompt(record)
            sides = [read_answer(record, part, prompt) for part in BOTH]
        return finish_two(record, *sides, thumbs)

    def adapt_list(record: Record) -> Adapted:
        name = columns["answers"]
        said = columns.get("scores") or columns["ranks"]
        answers, values = (parse_json_text(pick(record, path)) for path in (name, said))
        if not isinstance(answers, list) or not answers:
            raise RowProblem(name, f"{name} is missing")
        if not isinstance(values, list) or len(values) != len(answers):
            raise RowProblem(said, f"{said} does not hold one value for each of {len(answers)} answers")
        prompt, extras = read_prompt(record), read_extras(record)
        thumbs = read_best_and_worst(values, said) if known.best_worst else [read_thumb(one, said) for one in values]
        examples: list[Example] = []
        left_out: list[RowProblem] = []
        for answer, thumb in zip(answers, thumbs, strict=True):
            try:
                if isinstance(thumb, RowProblem):
                    raise thumb
                examples.append(finish(prompt, _read_listed(answer, name), thumb, extras))
            except RowProblem as problem:
                left_out.append(problem)
        if not examples:
            raise left_out[0]
        return examples, left_out

    def read_thumb(value: Any, name: str) -> bool | RowProblem:
        value = unwrap_label(value)
        try:
            if "ranks" not in columns:
                return rule.read(value, name)
            return not rule.read(finite_number(value), name)
        except UnclearLabel as error:
            return RowProblem(name, str(error))

    def read_best_and_worst(values: list[Any], name: str) -> list[bool | RowProblem]:
        scores = [_score(unwrap_label(value)) for value in values]
        known_scores = [score for score in scores if score is not None]
        if not known_scores:
            raise RowProblem(name, f"{name} is missing")
        worst, best = min(known_scores), max(known_scores)
        if worst == best:
            raise RowProblem(name, f"{name} rates all answers alike")
        if "ranks" in columns:
            worst, best = best, worst
        between = RowProblem(name, f"{name} lies between the best and the worst")
        meaning: dict[float | None, bool | RowProblem] = {best: True, worst: False}
        meaning[None] = RowProblem(name, f"{name} is missing")
        return [meaning.get(score, between) for score in scores]

    if "chosen" in columns:
        return adapt_pair if {"prompt", "messages"} & columns.keys() else adapt_implicit_pair
    if "answer_a" in columns:
        return adapt_two
    if "answers" in columns:
        return adapt_list
    if "judged" in columns:
        return adapt_judged_within
    return adapt_conversation if "messages" in columns else adapt_judged


BOTH = ("answer_a", "answer_b")


def _named(winner: Any, record: Record) -> tuple[bool, bool] | None:
    """The thumbs of both answers, if the winner is the name of one of two models."""
    models = record.get("model_a"), record.get("model_b")
    if not isinstance(winner, str) or winner not in models or models[0] == models[1]:
        return None
    return winner == models[0], winner == models[1]


def _score(value: Any) -> float | None:
    return float(value) if isinstance(value, bool) else finite_number(value)


def _read_listed(answer: Any, name: str) -> str:
    """The text of one of several answers, which may be a message, or a list of one."""
    if isinstance(answer, list) and len(answer) == 1 and is_messages(answer):
        answer = answer[0]
    if isinstance(answer, dict) and "role" in answer:
        return whole_answer(read_messages(answer, name)[0])
    return read_text(answer, name)


def _is_turns(value: Any) -> bool:
    """Whether this is one side of a conversation, as a list of what it said."""
    return isinstance(value, list) and bool(value) and all(one is None or isinstance(one, str) for one in value)


def _interleave(asked: list[Any], told: list[Any], name: str) -> tuple[str | list[Message], str]:
    """The prompt and the last answer of a conversation whose questions and answers stand in two lists."""
    if len(asked) != len(told):
        raise RowProblem(name, f"{name} does not hold one answer for each of {len(asked)} prompts")
    asked, told = ([read_text(text, name) for text in side] for side in (asked, told))
    if len(asked) == 1:
        return asked[0], told[0]
    turns = [
        {"role": role, "content": text}
        for pair in zip(asked, told, strict=True)
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    return turns[:-1], told[-1]


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
