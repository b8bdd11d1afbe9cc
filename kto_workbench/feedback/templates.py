"""Chat templates: the text that a model continues, and where in it an answer stands.

The context of an answer is the generation prompt, as answering makes it; what is scored is the text that was rated,
then the template's own end of turn. A template's rendering of a finished answer is never scored: it may delete a
thought, put one in, or strip white space. It is only asked what stands around an answer, by having it render marks.
"""

import functools
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from kto_workbench.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from kto_workbench.feedback.rows import Message, Row

ASKED, ANSWERED = "\u2402\u2402", "\u2403\u2403"  # in nobody's template
# How a thought begins, and how one is closed that a template gives no words for, in the families that think.
THOUGHTS = {
    "<think>": "\n</think>\n\n",
    "[THINK]": "[/THINK]",
    "<seed:think>": "</seed:think>",
    "<|START_THINKING|>": "<|END_THINKING|>",
    "<|channel>thought": "\n<channel|>",
}

Thought = Literal["", "whole", "inside", "closed", "skipped", "doubled"]


@dataclass(frozen=True, slots=True)
class Turn:
    """An answer in its place: prompt + lead + answer + end is the text of the row.

    Attributes:
        prompt: what the model continues, exactly as answering renders it.
        lead: what has to stand between prompt and answer, "" for most templates: the header of a channel, the end of a
            thought that the prompt opens and the answer doesn't have. Context, not scored.
        answer: the text that was rated, without the opening of a thought that the prompt has written already.
        end: the template's own end of turn; "" where it has none.
        thought: how the answer stands to the thought that a reasoning model has before it. `whole`: it brings the whole
            of it; `inside`: it begins inside of the one that the prompt opens; `closed`: it brings none, and the one
            that the prompt opens is closed for it; `skipped`: it brings none where the model would begin one;
            `doubled`: it brings one where the prompt has closed one already; "" where there is none at all.
    """

    prompt: str
    lead: str
    answer: str
    end: str
    thought: Thought = ""


def uses_template(tokenizer: "PreTrainedTokenizerBase", template: str = "auto") -> bool:
    """Whether prompts are rendered with the model's chat template (`auto`: where it has one) or as plain text."""
    return template == "auto" and bool(tokenizer.chat_template)


def prompt_messages(prompt: "str | Sequence[Message]") -> "list[Message]":
    """A prompt as chat messages: text is one user's turn."""
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else list(prompt)


def part_tools(prompt: "str | Sequence[Message]") -> "tuple[str | list[Message], list[Any] | None]":
    """A prompt, and the tools that one of its messages brings."""
    if isinstance(prompt, str):
        return prompt, None
    tools = next((one["tools"] for one in prompt if one.get("tools")), None)
    return [{key: value for key, value in one.items() if key != "tools"} for one in prompt], tools


def render_prompt(
    tokenizer: "PreTrainedTokenizerBase",
    prompt: "str | Sequence[Message]",
    *,
    template: str = "auto",
    template_kwargs: Mapping[str, Any] | None = None,
    tools: Any = None,
) -> str:
    """The text that the model continues: prompt and generation prompt as the chat template writes them.

    The tools that are offered come with a message of the prompt, or by themselves. Without a template, messages are
    joined by blank lines, and tools have no place. Raises ModelError where the template refuses.
    """
    if uses_template(tokenizer, template):
        prompt, brought = part_tools(prompt)
        return _render(tokenizer, prompt_messages(prompt), tools or brought, template_kwargs)
    return prompt if isinstance(prompt, str) else "\n\n".join(message_text(message) for message in prompt)


def render(
    tokenizer: "PreTrainedTokenizerBase",
    row: "Row",
    *,
    template: str = "auto",
    template_kwargs: Mapping[str, Any] | None = None,
) -> Turn:
    """A row's answer in its place. Raises ModelError where the template refuses."""
    prompt = render_prompt(tokenizer, row.prompt, template=template, template_kwargs=template_kwargs, tools=row.tools)
    if not uses_template(tokenizer, template):
        return Turn(prompt, "", row.completion, "")
    manners = _manners(tokenizer, template_kwargs)
    between = manners.between if prompt.endswith(manners.tail) else ""
    answer = _in_own_marks(tokenizer, row.completion)
    lead, answer, thought = _place(prompt, between, manners.parted, answer)
    if not lead.strip() and answer[:1].isspace() or any(token in answer for token in manners.header if token in lead):
        lead = ""  # the answer brings it along
    # Tokenizers write a blank and the word behind it as one: it is the answer's.
    blank = lead[len(lead.rstrip(" ")) :]
    return Turn(prompt, lead.removesuffix(blank), blank + answer, manners.end, thought)


def is_image(block: Any) -> bool:
    """Whether a block of a message's content is an image."""
    return isinstance(block, dict) and block.get("type") == "image"


def message_text(message: "Message") -> str:
    """What a message says: its text, that of its blocks, or its tool calls as JSON."""
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(block if isinstance(block, str) else block.get("text") or "" for block in content)
    if not content and message.get("tool_calls"):
        return json.dumps(message["tool_calls"], ensure_ascii=False)
    return content or ""


def knows_system(tokenizer: "PreTrainedTokenizerBase", template_kwargs: Mapping[str, Any] | None = None) -> bool:
    """Whether the chat template writes a system message; if not, its text goes before the first user's."""
    return _manners(tokenizer, template_kwargs).system


def turn_end(tokenizer: "PreTrainedTokenizerBase", template_kwargs: Mapping[str, Any] | None = None) -> str:
    """The template's own end of an answer's turn; "" where it has none."""
    return _manners(tokenizer, template_kwargs).end


def header(tokenizer: "PreTrainedTokenizerBase", template_kwargs: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """The special tokens that a model writes before an answer, such as those of a channel; mostly none."""
    return _manners(tokenizer, template_kwargs).header


def opened_thought(prompt: str) -> str:
    """The beginning of a thought that a rendered prompt ends with; "" for most."""
    start = prompt.rstrip()
    return next((prompt[prompt.rindex(opening) :] for opening in THOUGHTS if start.endswith(opening)), "")


def told(template: str, template_kwargs: Mapping[str, Any]) -> str:
    """The template with its arguments written into it, for whoever renders it without them."""
    sets = (
        f"{{%- if {name} is not defined %}}{{%- set {name} = {_literal(value)} %}}{{%- endif %}}"
        for name, value in template_kwargs.items()
    )
    return "".join(sets) + template


def _literal(value: Any) -> str:
    """A JSON value in jinja's words."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)}: {_literal(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_literal, value)) + "]"
    return "none" if value is None else json.dumps(value)


def _in_own_marks(tokenizer: "PreTrainedTokenizerBase", answer: str) -> str:
    """An answer whose thought stands in the marks of most models, with those of a model that knows others alone."""
    (opening, closed), *others = THOUGHTS.items()
    thought, found, text = answer.removeprefix(opening).partition(closed.strip())
    if not answer.startswith(opening) or not found:
        return answer
    written = json.dumps(tokenizer.chat_template, ensure_ascii=False) + " ".join(tokenizer.get_added_vocab())
    if opening in written:
        return answer
    for own, end in others:
        if own in written:
            line = "\n" * end.startswith("\n")
            return f"{own}{line}{thought.strip()}{end}{text.lstrip()}"
    return answer


def _place(prompt: str, between: str, parted: str, answer: str) -> tuple[str, str, Thought]:
    """Lead, answer and thought; `between` and `parted` are the template's, see _Manners."""
    bare, start = answer.lstrip(), prompt.rstrip()
    for opening, closed in THOUGHTS.items():
        brings, closing = bare.startswith(opening), closed.strip()
        if start.endswith(opening):  # the prompt opens one
            opened = opened_thought(prompt)
            if brings:
                return "", bare.removeprefix(opened if bare.startswith(opened) else opening), "whole"
            if closing in answer:
                return "", answer, "inside"
            return parted if closing in parted else closed, answer, "closed"
        if brings and start.endswith(closing) and opening in prompt:  # it closes one
            block = prompt[prompt.rindex(opening) :]
            return ("", bare.removeprefix(block), "") if bare.startswith(block) else ("", answer, "doubled")
        if opening in between:  # the template puts one into every answer
            before, _, thought = between.partition(opening)
            if brings:
                return before, answer, "whole"
            if closing in answer:
                return before + opening + "\n" * thought.startswith("\n"), answer, "inside"
            return before, answer, "skipped"
        if brings:
            return between, answer, "whole"
    return between, answer, ""


def special_tokens(tokenizer: "PreTrainedTokenizerBase") -> dict[str, int]:
    """The tokens that can end a turn, with their ids: special ones, also those that the config gives no role."""
    found = {token.content: number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    found |= dict(zip(tokenizer.all_special_tokens, tokenizer.all_special_ids, strict=True))
    # An unknown character at the end of an answer is no end.
    found.pop(tokenizer.unk_token, None)
    return found | {tokenizer.eos_token: tokenizer.eos_token_id}


# a conversation as a template takes it -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Manners:
    """What a template wants and writes.

    Attributes:
        blocks: whether it wants texts as lists of blocks.
        system: whether it writes system messages.
        tail: the generation prompt, from the end of the user's text on.
        between: what it writes between that and a finished answer; "" where a finished answer has no such prompt.
        parted: what it writes before a finished answer, from where it parts from the generation prompt.
        header: the special tokens in `between`.
        end: its end of an answer's turn.
    """

    blocks: bool = False
    system: bool = True
    tail: str = ""
    between: str = ""
    parted: str = ""
    header: tuple[str, ...] = ()
    end: str = ""


def _manners(tokenizer: "PreTrainedTokenizerBase", template_kwargs: Mapping[str, Any] | None) -> _Manners:
    template, kwargs = json.dumps(tokenizer.chat_template), json.dumps(dict(template_kwargs or {}))
    return _learn_manners(tokenizer, template, kwargs)


@functools.lru_cache(maxsize=16)
def _learn_manners(tokenizer: "PreTrainedTokenizerBase", template: str, kwargs: str) -> _Manners:
    """Found by having the template render marks; `template` is the tokenizer's, as part of the key."""

    def write(*turns: tuple[str, str], blocks: bool = False, ask: bool = False) -> str:
        messages = [{"role": role, "content": text} for role, text in turns]
        try:
            return _apply(tokenizer, _in_blocks(messages) if blocks else messages, None, json.loads(kwargs), ask)
        except Exception:  # jinja's own kinds, raised by the template's author
            return ""

    asked, answered, system = ("user", ASKED), ("assistant", ANSWERED), ("system", ASKED)
    blocks = ASKED not in write(asked, ask=True) and ASKED in write(asked, ask=True, blocks=True)
    prompt = write(asked, ask=True, blocks=blocks)
    head, found, after = write(asked, answered, blocks=blocks).rpartition(ANSWERED)
    parts = len(os.path.commonprefix([prompt, head]))
    between = head[parts:] if found and parts == len(prompt) else ""
    end = _first_end(tokenizer, after)
    if found and not end:
        # What begins the next turn says that this one is over, where it is a token of its own.
        *_, behind = write(asked, answered, asked, blocks=blocks).partition(ANSWERED)
        token = re.match(rf"\s*({_any_special(tokenizer)})", behind)
        end = token[0] if token else ""
    return _Manners(
        blocks,
        system=ASKED in write(system, ("user", "a"), ask=True, blocks=blocks) or ASKED not in prompt,
        tail=prompt.rpartition(ASKED)[2],
        between=between,
        parted=head[parts:],
        header=tuple(token for token in special_tokens(tokenizer) if token in between),
        end=end,
    )


def _first_end(tokenizer: "PreTrainedTokenizerBase", after: str) -> str:
    """The end of a turn in what a template writes behind an answer: up to its special tokens that stand together.

    What comes later ends the conversation. Where there is no special token, it is the text without its white space.
    """
    special = re.compile(_any_special(tokenizer))
    found = special.search(after)
    if found is None:
        return after.rstrip()
    while found[0] != tokenizer.eos_token and (more := special.match(after, found.end())):
        found = more
    return after[: found.end()]


def _any_special(tokenizer: "PreTrainedTokenizerBase") -> str:
    return "|".join(re.escape(token) for token in sorted(special_tokens(tokenizer), key=len, reverse=True))


def _render(
    tokenizer: "PreTrainedTokenizerBase",
    messages: "list[Message]",
    tools: Any,
    template_kwargs: Mapping[str, Any] | None,
) -> str:
    manners = _manners(tokenizer, template_kwargs)
    plain = [{**message, "content": _with_places(message.get("content") or "")} for message in messages]
    if any("reasoning_content" in message for message in plain):
        plain = _with_thoughts(tokenizer, plain)
    if not manners.system:
        plain = _system_before_user(plain)
    if manners.blocks:
        plain = _in_blocks(plain)
    # Templates want the arguments of a call as an object; a few want its JSON text, as logs have it.
    calls = any(message.get("tool_calls") for message in plain)
    forms = [_with_arguments(plain, read) for read in (_as_object, _as_text)] if calls else [plain]
    refusals = []
    for form in forms:
        try:
            offered = json.loads(tools) if isinstance(tools, str) else tools
            return _apply(tokenizer, form, offered or None, template_kwargs, True)
        except Exception as error:  # jinja's own kinds, raised by the template's author
            refusals.append(short_reason(error))
    roles = ", ".join(str(message.get("role")) for message in messages)
    raise ModelError(f"The model's chat template refuses messages of roles {roles}: {refusals[0]}.")


def _apply(
    tokenizer: "PreTrainedTokenizerBase",
    messages: "list[Message]",
    tools: Any,
    template_kwargs: Mapping[str, Any] | None,
    add_generation_prompt: bool,
) -> str:
    return tokenizer.apply_chat_template(
        messages, tools=tools, tokenize=False, add_generation_prompt=add_generation_prompt, **(template_kwargs or {})
    )


def _system_before_user(messages: "list[Message]") -> "list[Message]":
    """System messages at the start, as text before the first user's."""
    systems = 0
    while systems < len(messages) and messages[systems]["role"] == "system":
        systems += 1
    rest = messages[systems:]
    if not systems or not rest or rest[0]["role"] != "user":
        return messages
    texts = list(filter(None, map(message_text, messages[:systems])))
    asked = rest[0]["content"]
    if isinstance(asked, str):
        return [{**rest[0], "content": "\n\n".join(filter(None, [*texts, asked]))}, *rest[1:]]
    before = [{"type": "text", "text": "\n\n".join(texts) + "\n\n"}] if texts else []
    return [{**rest[0], "content": [*before, *asked]}, *rest[1:]]


def _with_places(content: Any) -> Any:
    """A content whose images are places for them: which they are is no business of a template."""
    if isinstance(content, str):
        return content
    return [{"type": "image"} if is_image(block) else block for block in content]


def _in_blocks(messages: "list[Message]") -> "list[Message]":
    return [
        {**message, "content": [{"type": "text", "text": message["content"]}]}
        if isinstance(message["content"], str)
        else message
        for message in messages
    ]


def _with_thoughts(tokenizer: "PreTrainedTokenizerBase", messages: "list[Message]") -> "list[Message]":
    """Messages whose thoughts are called as the template calls them."""
    written = json.dumps(tokenizer.chat_template)
    names = ("reasoning_content", "reasoning", "thinking")
    name = next((name for name in names if re.search(rf"(\.|['\"]){name}\b", written)), names[0])
    return [{name if key == names[0] else key: value for key, value in message.items()} for message in messages]


def _with_arguments(messages: "list[Message]", read: Any) -> "list[Message]":
    def call(given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        if isinstance(given.get("function"), dict):
            return {**given, "function": call(given["function"])}
        return {**given, "arguments": read(given["arguments"])} if "arguments" in given else given

    return [
        {**message, "tool_calls": [call(one) for one in message["tool_calls"]]}
        if message.get("tool_calls")
        else message
        for message in messages
    ]


def _as_object(arguments: Any) -> Any:
    try:
        found = json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError:
        return arguments
    return found if isinstance(found, dict) else arguments


def _as_text(arguments: Any) -> Any:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)


def short_reason(error: Exception) -> str:
    """The first line of an exception's message, fit to stand inside a sentence."""
    line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    if "custom code" in line:  # transformers goes on about an argument that nobody can pass here
        return "it brings code of its own, which is run only if the option `trust` names the model"
    if re.search(r"file named model\.safetensors(?!,)", line):  # it doesn't say that there are others
        return "it has no weights in safetensors; others are read only if the option `trust` names the model"
    return line.strip().rstrip(".")[:200]
