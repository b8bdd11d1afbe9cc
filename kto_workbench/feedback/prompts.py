"""Prompts from a file: what to ask both sides of a comparison."""

import json
from pathlib import Path
from typing import Any

from kto_workbench.errors import DataError


def load_prompts(path: str | Path) -> list[Any]:
    """Read prompts, each a text or a list of chat messages.

    Text files hold one a line; JSON Lines and JSON hold texts, lists of messages, or objects with a `prompt` or
    `messages` (of which a last assistant turn is left out). Raises DataError.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"There is no file {path}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Can't read {path}: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}.") from None
    # Not splitlines(), which also splits at characters that JSON allows inside a text.
    lines = [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if path.suffix == ".json":
        items = _parse(text, path)
    elif path.suffix == ".jsonl":
        items = [_parse(line, path, number) for number, line in lines]
    else:
        items = [line for _, line in lines]
    prompts = [_prompt(item) for item in items] if isinstance(items, list) else []
    if not prompts:
        raise DataError(f"There is no prompt in {path}.")
    for number, prompt in enumerate(prompts, 1):
        if prompt is None:
            raise DataError(f"Prompt {number} of {path} is neither a text nor a list of messages.")
    return prompts


def _parse(text: str, path: Path, number: int | None = None) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON: {error.msg} in line {number or error.lineno}.") from None


def _prompt(item: Any) -> Any:
    if isinstance(item, dict):
        item = item.get("prompt", item.get("messages"))
    if isinstance(item, str):
        return item
    if not isinstance(item, list) or not all(isinstance(m, dict) and {"role", "content"} <= set(m) for m in item):
        return None
    return (item[:-1] if item and item[-1]["role"] == "assistant" else item) or None
