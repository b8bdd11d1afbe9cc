"""Conversations that branch: a judged answer anywhere in one, and the rankings that a tree of messages holds."""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from kto_workbench.feedback.messages import RowProblem, parse_json_text, read_messages, whole_answer
from kto_workbench.feedback.rows import Message

# What Open WebUI writes into an answer for the thoughts that came before it: its own markup, not the model's text.
_THOUGHTS = re.compile(r"<details type=\"reasoning\".*?</details>\s*", re.DOTALL)
MAX_TURNS = 10_000


def conversation_up_to(messages: Any, judged: Any, field: str) -> tuple[list[Message], str, list[str]]:
    """What came before the judged answer, the answer, and the other answers to the same message.

    Args:
        messages: {id: message}, each with the id of its parent; or a list in the order of the conversation.
        judged: the id of the judged message, or its position in the list.
        field: what to call the messages in a RowProblem.
    """
    messages = parse_json_text(messages)
    if isinstance(messages, dict) and messages:
        nodes = {key: node for key, node in messages.items() if isinstance(node, dict)}
        path = _path(nodes, judged)
        siblings = [node for node in nodes.values() if path and _parent(node) == _parent(path[-1])]
    elif isinstance(messages, list):
        path = messages[: _position(messages, judged) + 1]
        siblings = []
    else:
        raise RowProblem(field, f"{field} is missing")
    if not path:
        raise RowProblem(field, f"{field} holds no message with the id of the judged one")
    *before, answer = read_messages([_tidy(node) for node in path], field)
    if answer["role"] != "assistant":
        raise RowProblem(field, f"{field} has a message of the {answer['role']} where the judged answer should be")
    if not before:
        raise RowProblem(field, f"{field} holds only the answer and no prompt")
    rivals = [
        node
        for node in siblings
        if node is not path[-1] and node.get("role") == "assistant" and not _has_own_rating(node)
    ]
    said = [answer, *_read_all(rivals, field)]
    if not all(isinstance(one["content"], str) for one in said):
        raise RowProblem(field, f"{field} holds an answer with an image; only text can be trained on")
    return before, whole_answer(answer), [whole_answer(one) for one in said[1:]]


def _has_own_rating(node: Mapping[str, Any]) -> bool:
    """Whether Open WebUI notes in the message itself that it was rated: then another row says how."""
    annotation = node.get("annotation")
    return isinstance(annotation, dict) and annotation.get("rating") is not None


def _read_all(nodes: list[Any], field: str) -> list[Message]:
    return read_messages([_tidy(node) for node in nodes], field) if nodes else []


def _parent(node: Mapping[str, Any]) -> Any:
    return node.get("parentId") or node.get("parent_id") or node.get("parent")


def _path(nodes: Mapping[str, Any], last: Any) -> list[Any]:
    path: list[Any] = []
    key = last
    while isinstance(key, (str, int)) and key in nodes and len(path) < MAX_TURNS:
        path.append(nodes[key])
        key = _parent(nodes[key])
    return path[::-1]


def _position(messages: list[Any], judged: Any) -> int:
    for i, message in enumerate(messages):
        if isinstance(message, dict) and judged in (message.get("id") or message, message.get("message_id") or message):
            return i
    if isinstance(judged, int) and not isinstance(judged, bool) and -len(messages) <= judged < len(messages):
        return judged % len(messages)
    return -1


def _tidy(node: Any) -> Any:
    """The message without thoughts that a front end has written into its text."""
    if isinstance(node, dict) and isinstance(node.get("content"), str) and "<details" in node["content"]:
        return {**node, "content": _THOUGHTS.sub("", node["content"])}
    return node


# Trees of messages, as Open Assistant exports them -------------------------------------------------------------------


def rankings_in_tree(root: Any) -> Iterator[dict[str, Any]]:
    """For each message of {text, role, replies [...]} with ranked answers: {messages, answers, ranks}."""
    waiting: list[tuple[Any, tuple[Any, ...]]] = [(root, ())]
    while waiting:
        node, before = waiting.pop()
        if not isinstance(node, dict) or node.get("deleted") or len(before) > MAX_TURNS:
            continue
        path = (*before, {"role": node.get("role"), "content": node.get("text")})
        replies = node.get("replies")
        replies = [reply for reply in replies if isinstance(reply, dict)] if isinstance(replies, list) else []
        ranked = [one for one in replies if one.get("rank") is not None and one.get("role") == "assistant"]
        if ranked:
            yield {
                "messages": list(path),
                "answers": [one.get("text") for one in ranked],
                "ranks": [one["rank"] for one in ranked],
            }
        waiting += [(reply, path) for reply in reversed(replies)]
