"""Prompts from a file: what to ask both sides of a comparison."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from kto_workbench.errors import DataError
from kto_workbench.feedback.files import MAX_ROW_BYTES
from kto_workbench.feedback.images import keys_in
from kto_workbench.feedback.messages import RowProblem, parse_json_text, read_messages
from kto_workbench.feedback.rows import Row

DELIMITERS = {".csv": ",", ".tsv": "\t"}
PROMPT_COLUMNS = ("prompt", "question", "instruction", "input")


def load_prompts(path: str | Path) -> list[Any]:
    """Read prompts, each a text or a list of chat messages.

    Text files hold one a line; CSV and TSV a column `prompt`, or a single column; JSON Lines and JSON hold texts, lists
    of messages, or objects with a `prompt` or `messages` (of which a last assistant turn is left out) and perhaps the
    `tools` that are offered. Raises DataError.
    """
    return [prompt for prompt, _ in load_questions(path)]


def load_questions(path: str | Path) -> list[tuple[Any, tuple[str, ...]]]:
    """Read prompts as `load_prompts` does, each with the answers that are expected of it.

    These are an object's `expected` or `answer`: a text, a number, or a list of them, any of which is right; () where
    there is none. Raises DataError.
    """
    path = Path(path)
    questions = []
    for number, item in enumerate(_items(path), 1):
        if not _can_be_written(item):
            raise DataError(f"Prompt {number} of {path} holds half a character: a surrogate without its other half.")
        prompt = _prompt(item)
        if not isinstance(prompt, str) and keys_in(prompt or []):
            raise DataError(f"Prompt {number} of {path} holds an image; prompts of a file can only be text.")
        if prompt is None:
            raise DataError(f"Prompt {number} of {path} is neither a text nor a list of messages.")
        questions.append((prompt, _expected(item)))
    if not questions:
        raise DataError(f"There is no prompt in {path}.")
    return questions


def _items(path: Path) -> list[Any]:
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
        return items if isinstance(items, list) else []
    if path.suffix == ".jsonl":
        return [_parse(line, path, number) for number, line in lines]
    if path.suffix.lower() in DELIMITERS:
        return _of_table(text, path)
    return [line for _, line in lines]


def _of_table(text: str, path: Path) -> list[Any]:
    """The rows of a table as objects; those of a single column without a head as texts."""
    csv.field_size_limit(MAX_ROW_BYTES)  # of the process: what one reads must not depend on what was read before
    try:
        read = csv.reader(io.StringIO(text, newline=""), delimiter=DELIMITERS[path.suffix.lower()])
        rows = [row for row in read if any(cell.strip() for cell in row)]
    except csv.Error as error:
        raise DataError(f"{path} can't be read as a table: {error}.") from None
    head = [cell.strip().casefold() for cell in rows[0]] if rows else []
    column = next((head.index(name) for name in PROMPT_COLUMNS if name in head), None)
    if column is None and len(head) == 1:
        return [row[0] for row in rows]
    if column is None and rows:
        raise DataError(f"{path} has no column `prompt`; it has {', '.join(rows[0])[:200]}.")
    expected = next((head.index(name) for name in ("expected", "answer") if name in head), len(head))
    found = [(row[column : column + 1], row[expected : expected + 1]) for row in rows[1:]]
    return [
        {"prompt": prompt[0], "expected": [one for one in answer if one]} for prompt, answer in found if any(prompt)
    ]


def _parse(text: str, path: Path, number: int | None = None) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON: {error.msg} in line {number or error.lineno}.") from None
    except RecursionError:
        raise DataError(f"{path} can't be read: its JSON is nested too deeply.") from None
    except ValueError:  # Python reads no number of more than 4,300 digits
        where = f" in line {number}" if number else ""
        raise DataError(f"{path} can't be read: a number{where} is too long.") from None


def _prompt(item: Any) -> Any:
    tools = None
    if isinstance(item, dict):
        tools, item = item.get("tools"), item.get("prompt", item.get("messages"))
    if isinstance(item, list):
        try:
            item = read_messages(item, "prompt")
        except RowProblem:
            return None
        item = item[:-1] if item[-1]["role"] == "assistant" else item
    if not isinstance(item, str | list) or item == []:
        return None
    return Row(item, "", True, tools=parse_json_text(tools)).asked


def _can_be_written(item: Any) -> bool:
    try:
        json.dumps(item, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _expected(item: Any) -> tuple[str, ...]:
    found = item.get("expected", item.get("answer")) if isinstance(item, dict) else None
    several = found if isinstance(found, list) else [found]
    return tuple(str(one) for one in several if isinstance(one, str | int | float) and not isinstance(one, bool))
