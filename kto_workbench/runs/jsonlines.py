"""Append-only records, one JSON object a line, that survive a torn last line; and files replaced all at once."""

import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def write_atomically(path: Path, text: str) -> None:
    """Replace a file by way of a neighbour, so that a reader sees the old text or the new, never half."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def without_nan(value: Any) -> Any:
    """The same value with NaN and infinities, which JSON does not know, as None."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(item) for item in value]
    return value


def dump(record: dict[str, Any]) -> str:
    """One record as one line of JSON, without the line's end."""
    return json.dumps(without_nan(record), ensure_ascii=False, allow_nan=False)


def append(path: Path, record: dict[str, Any]) -> None:
    """Append one record in a single write."""
    with path.open("ab") as file:
        file.write(dump(record).encode() + b"\n")


def read(path: Path, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
    """Read the complete records from a byte offset; returns them and the offset to go on from.

    A last line without its end is a write in progress or a crash: it is left for the next read. A line that is not
    JSON is passed over.
    """
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read()
    except FileNotFoundError:
        return [], 0
    complete = data.rfind(b"\n") + 1
    records = []
    for line in data[:complete].splitlines():
        try:
            records.append(json.loads(line))
        except ValueError:
            continue
    return records, offset + complete


def keep(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Rewrite a file with the wanted records alone; a torn last line goes too."""
    rewrite(path, (record for record in read(path)[0] if wanted(record)))


def rewrite(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Replace a file's records, all at once."""
    write_atomically(path, "".join(dump(record) + "\n" for record in records))
