"""Texts and conversations in the shapes that files have them, as plain text and {"role", "content"} messages."""

import json
import re
from typing import Any

import orjson

from kto_workbench.feedback.rows import Message

ROLES = {
    "user": "user", "human": "user", "prompter": "user", "question": "user", "customer": "user",
    "assistant": "assistant", "gpt": "assistant", "bot": "assistant", "model": "assistant", "ai": "assistant",
    "chatgpt": "assistant", "answer": "assistant", "function_call": "assistant", "tool_call": "assistant",
    "system": "system", "developer": "system",
    "tool": "tool", "observation": "tool", "function": "tool", "tool_response": "tool", "function_response": "tool",
}  # fmt: skip
_EXTRA_KEYS = ("tool_calls", "tool_call_id", "name")
# Where servers and logs put the thought that came before an answer; here it is called by the first of these names.
_THOUGHT_KEYS = ("reasoning_content", "reasoning", "thinking")
PLACE = "<image>"  # where an image stands in a text
_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant|H|A): ?")
_BASE64 = re.compile(r"[A-Za-z0-9+/\s]+={0,2}\s*")
_STEER = "<extra_id_1>"  # before each turn but the first, as in HelpSteer2
_STEER_TURN = re.compile(rf"\n?{_STEER}(User|Assistant)\n")


class RowProblem(Exception):
    """Why a row can't be used: the field to blame and the reason."""

    def __init__(self, field: str, reason: str):
        super().__init__(reason)
        self.field, self.reason = field, reason


def read_text(value: Any, field: str) -> str:
    """A text, a number, or content blocks, as text; raises RowProblem."""
    if isinstance(value, str):
        text = value
    elif value is None:
        raise RowProblem(field, f"{field} is missing")
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        text = str(value)
    elif isinstance(value, list) and value and all(isinstance(block, (dict, str)) for block in value):
        text = "".join(_block_text(block, field) for block in value)
    elif isinstance(value, dict) and ("text" in value or "value" in value or "content" in value):
        text = _block_text(value, field)
    else:
        raise RowProblem(field, f"{field} is not text")
    if not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            damaged = "half an emoji" if text[error.start] < "\udc80" or text[error.start] > "\udcff" else "bytes"
            raise RowProblem(field, f"{field} holds {damaged} that is not valid UTF-8") from None
    return text


def _block_text(block: Any, field: str) -> str:
    if isinstance(block, str):
        return block
    kind = block.get("type") or "text"
    for key in ("text", "value", "content"):
        if isinstance(block.get(key), str) and kind in ("text", "input_text", "output_text"):
            return block[key]
    if "image" in str(kind):
        raise RowProblem(field, f"{field} holds an image where only text can be trained on")
    raise RowProblem(field, f"{field} holds a block of type {kind!r}; only text can be trained on")


def is_messages(value: Any) -> bool:
    """Whether the value looks like a list of messages, or one message."""
    if isinstance(value, dict):
        return ("role" in value or "from" in value) and ("content" in value or "value" in value)
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(m, dict) and ("role" in m or "from" in m) for m in value)
    )


def parse_json_text(value: Any) -> Any:
    """The value that a CSV cell holds as JSON text, if it holds a list or an object; else the value itself."""
    if isinstance(value, str) and value[:1] in "[{" and value.rstrip()[-1:] in ("]", "}"):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def dump_json(value: Any) -> str:
    """The value as compact JSON text, so that equal conversations are equal texts."""
    try:
        return orjson.dumps(value).decode()
    except TypeError:  # an integer above 64 bits, say
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def read_messages(value: Any, field: str) -> list[Message]:
    """A conversation as messages with the roles system, user, assistant and tool; raises RowProblem."""
    value = parse_json_text(value)
    if value is None or value == []:
        raise RowProblem(field, f"{field} is missing")
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        raise RowProblem(field, f"{field} is not a list of messages")
    return [_read_message(message, field) for message in value]


def _read_message(message: Any, field: str) -> Message:
    if not isinstance(message, dict):
        raise RowProblem(field, f"{field} holds a message that is not an object")
    role = message.get("role") or message.get("from")
    if not isinstance(role, str) or role.lower() not in ROLES:
        raise RowProblem(field, f"{field} holds a message with the role {role!r}"[:120])
    extra = _read_extra(message, field) if len(message) > 2 else {}
    content = next((message[key] for key in ("content", "value", "text") if message.get(key) is not None), None)
    if content is None and "tool_calls" in extra:
        return {"role": "assistant", "content": "", **extra}
    said = read_content(content, field)
    if len(message) > 2 and (attached := _attached(message)):
        said = [*attached, *([{"type": "text", "text": said}] if isinstance(said, str) else said)]
    return {"role": ROLES[role.lower()], "content": said, **extra}


def _read_extra(message: dict[str, Any], field: str) -> Message:
    extra = {key: message[key] for key in _EXTRA_KEYS if message.get(key)}
    thought = next((found for key in _THOUGHT_KEYS if isinstance(found := message.get(key), str) and found.strip()), "")
    return {**extra, _THOUGHT_KEYS[0]: read_text(thought, field)} if thought else extra


def whole_answer(message: Message) -> str:
    """What a model wrote: its thought, if a server has put that aside, and its text.

    The thought stands in the marks that most models write; templates.py knows of others.
    """
    thought = message.get(_THOUGHT_KEYS[0])
    return f"<think>\n{thought.strip()}\n</think>\n\n{message['content']}" if thought else message["content"]


def _attached(message: dict[str, Any]) -> list[dict[str, Any]]:
    """The images that come with a message, as Ollama and Open WebUI attach them."""
    images = message.get("images")
    found = [_in_base64(one) for one in (images if isinstance(images, list) else [images] if images else [])]
    files = message.get("files")
    for file in files if isinstance(files, list) else ():
        if isinstance(file, dict) and str(file.get("type")).startswith("image"):
            found.append(file.get("url") or file.get("data"))
    return [{"type": "image", "image": one} for one in found]


def _in_base64(image: Any) -> Any:
    """An image as Ollama has it, bare base64, as a data URL; all else as it is."""
    bare = isinstance(image, str) and len(image) > 100 and _BASE64.fullmatch(image)
    return f"data:image/*;base64,{image}" if bare else image


def holds_image(value: Any) -> bool:
    """Whether this is a list of blocks with an image among them."""
    return isinstance(value, list) and any(isinstance(one, dict) and _is_image(one) for one in value)


def read_content(value: Any, field: str) -> str | list[dict[str, Any]]:
    """What a message says, as text; with images, as a list of blocks that hold them as the file does.

    A block without one is a place for an image that stands elsewhere. Raises RowProblem.
    """
    if not holds_image(value):
        return read_text(value, field)
    return [
        {"type": "image", "image": _source_of(block)}
        if isinstance(block, dict) and _is_image(block)
        else {"type": "text", "text": read_text([block], field)}
        for block in value
    ]


def _is_image(block: dict[str, Any]) -> bool:
    return block.get("type") in ("image", "image_url", "input_image")


def _source_of(block: dict[str, Any]) -> Any:
    """Where the image of a block is, in the words of transformers, OpenAI, Anthropic and others."""
    for key in ("image", "image_url", "url", "path", "data", "base64", "source"):
        if (found := block.get(key)) is None:
            continue
        if isinstance(found, dict) and key in ("image_url", "source"):
            found = found.get("url") or found.get("data")
        return _in_base64(found) if key in ("data", "base64", "source") else found
    return None


def is_transcript(value: Any) -> bool:
    r"""Whether the text is written as "\n\nHuman: … \n\nAssistant: …", as Anthropic-HH is, or as HelpSteer2 is."""
    if not isinstance(value, str):
        return False
    return (value.lstrip().startswith(("Human:", "H:")) and "\n\nA" in value) or _STEER in value


def parse_transcript(text: str, field: str) -> list[Message]:
    """The messages of a transcript; raises RowProblem."""
    parts = ["", "H", *_STEER_TURN.split(text)] if _STEER in text else _TURN.split(text.lstrip())
    messages = [
        {"role": "user" if who[0] in "HU" else "assistant", "content": read_text(said.strip(), field)}
        for who, said in zip(parts[1::2], parts[2::2], strict=True)
    ]
    if not messages or parts[0].strip():
        raise RowProblem(field, f"{field} is not a transcript of Human and Assistant")
    return messages


def split_answer(messages: list[Message], field: str) -> tuple[list[Message], str]:
    """A conversation as what came before its last answer, and that answer; raises RowProblem."""
    last = messages[-1]
    if last["role"] != "assistant":
        raise RowProblem(field, f"{field} ends with a message of the {last['role']}, not with the answer to judge")
    if last.get("tool_calls") and not last["content"]:
        raise RowProblem(field, f"{field} ends with a tool call without text, which can't be trained on")
    if not isinstance(last["content"], str):
        raise RowProblem(field, f"{field} ends with an answer that holds an image; only text can be trained on")
    if len(messages) == 1:
        raise RowProblem(field, f"{field} holds only the answer and no prompt")
    return messages[:-1], whole_answer(last)


def common_messages(chosen: list[Message], rejected: list[Message]) -> int:
    """How many messages two conversations share at their start."""
    count = 0
    for ours, theirs in zip(chosen, rejected, strict=False):
        if ours != theirs:
            break
        count += 1
    return count
