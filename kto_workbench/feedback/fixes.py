"""One-click fixes: each writes a new file of feedback and never touches the old one."""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from kto_workbench.errors import DataError
from kto_workbench.feedback.facts import CONTROL, EMAIL, END_TOKENS, KEYS
from kto_workbench.feedback.findings import conflicting, repeated
from kto_workbench.feedback.loading import Feedback
from kto_workbench.feedback.rows import Row

_TRAILING = re.compile(rf"(?:\s*(?:{END_TOKENS}))+\s*$")
_CONTROL, _KEYS, _EMAIL = re.compile(CONTROL), re.compile(KEYS), re.compile(EMAIL)
_SPECIALS = "€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ"  # what Windows-1252 has where Latin-1 has control characters
_SPOILT_RUN = re.compile(rf"[\u0080-\u00FF{_SPECIALS}]{{2,}}")

_DROPS: dict[str, Callable[[pl.DataFrame], pl.Series]] = {
    "conflicts": conflicting,
    "duplicates": repeated,
    "empty": lambda facts: facts["empty"],
}


def repair_encoding(text: str) -> str:
    """Undo UTF-8 that was read as Windows-1252 (Ã© → é), run by run, and remove control characters."""
    return _CONTROL.sub("", _SPOILT_RUN.sub(lambda run: _reread(run.group()), text))


def _reread(run: str) -> str:
    data = b"".join(letter.encode("cp1252") if letter in _SPECIALS else letter.encode("latin-1") for letter in run)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return run


_REWRITES: dict[str, Callable[[str], str]] = {
    "damage": repair_encoding,
    "keys": lambda text: _KEYS.sub("[key]", text),
    "email": lambda text: _EMAIL.sub("[email]", text),
}
FIXES = ("unusable", *_DROPS, "template", *_REWRITES)


def write_fixed(feedback: Feedback, facts: pl.DataFrame, fixes: Iterable[str], path: Path) -> int:
    """Write the rows as JSON lines (prompt, completion, label, tools), these fixes applied; returns how many.

    Raises DataError if the file exists, or there is no such fix.
    """
    fixes = list(fixes)
    for name in fixes:
        if name not in FIXES:
            raise DataError(f"There is no fix `{name}`; there are {', '.join(FIXES)}.")
    dropped = np.zeros(len(facts), dtype=bool)
    if {"conflicts", "duplicates"} <= set(fixes):
        dropped |= conflicting(facts).to_numpy()
    for name in fixes:
        if name in _DROPS:
            dropped |= _DROPS[name](facts).to_numpy()
    touched = {name: facts[name].to_numpy() for name in fixes if name == "template" or name in _REWRITES}
    written = 0
    try:
        with path.open("x", encoding="utf-8") as file:
            for position, row in enumerate(feedback.rows):
                if dropped[position]:
                    continue
                names = [name for name, flags in touched.items() if flags[position]]
                file.write(_line(_rewritten(row, names) if names else row))
                written += 1
    except FileExistsError:
        raise DataError(f"{path} exists; fixes never write over a file.") from None
    except OSError as error:
        raise DataError(f"Can't write {path}: {error.strerror}.") from None
    return written


def free_path(folder: Path, stem: str) -> Path:
    """A name in the folder that is not taken: stem-fixed.jsonl, stem-fixed-2.jsonl and so on."""
    count = 1
    while (path := folder / f"{stem}-fixed{f'-{count}' if count > 1 else ''}.jsonl").exists():
        count += 1
    return path


def _rewritten(row: Row, names: list[str]) -> Row:
    prompt, completion = row.prompt, row.completion
    if "template" in names:
        completion = _TRAILING.sub("", completion)
    for rewrite in (_REWRITES[name] for name in names if name in _REWRITES):
        completion = rewrite(completion)
        if isinstance(prompt, str):
            prompt = rewrite(prompt)
        else:
            prompt = [{**message, "content": _in_texts(rewrite, message["content"])} for message in prompt]
    return Row(prompt, completion, row.label, row.line, row.tools)


def _in_texts(rewrite: Callable[[str], str], content: Any) -> Any:
    """A content rewritten: a text, or the texts of blocks with images."""
    if isinstance(content, str):
        return rewrite(content)
    return [{**block, "text": rewrite(block["text"])} if "text" in block else block for block in content]


def _line(row: Row) -> str:
    values = {"prompt": row.prompt, "completion": row.completion, "label": row.label}
    if row.tools is not None:
        values["tools"] = row.tools
    return json.dumps(values, ensure_ascii=False) + "\n"
