"""Append-only records, one JSON object a line, that survive a torn last line; and files replaced all at once."""

import errno
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from kto_workbench import files

AT_ONCE = 32 * 2**20  # bytes
MOST_BYTES = 2 * 2**30  # more than anybody logs
_object = TypeAdapter(dict[str, Any])
# A line as the reader wants it; None for one that is not what it should be.
Take = Callable[[bytes], Any]


def write_atomically(path: Path, text: str) -> None:
    """Replace a file by way of a neighbour, so that a reader sees the old text or the new, never half."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as file:
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
    """Append one record in a single write. Raises OSError, and then leaves no half of it."""
    line = dump(record).encode("utf-8", "replace") + b"\n"
    with files.open_to_append(path) as file:
        written = file.write(line)
        if written < len(line):  # the disk is full
            file.truncate(file.tell() - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def any_object(line: bytes) -> dict[str, Any] | None:
    """A line's JSON object, whatever it holds."""
    try:
        return _object.validate_json(line)
    except ValidationError:
        return None


def of_schema(schema: TypeAdapter[Any]) -> Take:
    """Takes the lines that a schema knows; what it does not know of them is left out."""

    def take(line: bytes) -> dict[str, Any] | None:
        try:
            return schema.validate_json(line)
        except ValidationError:
            return None

    return take


def read(path: Path, offset: int = 0, take: Take = any_object) -> tuple[list[dict[str, Any]], int]:
    """Read the complete records from a byte offset; returns them and the offset to go on from.

    A last line without its end is a write in progress or a crash: it is left for the next read. A line that is not
    what it should be is passed over, and a file that can't be read holds none.
    """
    records: list[dict[str, Any]] = []
    while True:
        found, after = read_some(path, offset, take)
        records += found
        if after == offset:
            return records, offset
        offset = after


def read_some(path: Path, offset: int, take: Take = any_object) -> tuple[list[dict[str, Any]], int]:
    """As `read`, but no more than some megabytes at once; the same offset comes back when there is nothing more."""
    lines, offset = lines_from(path, offset)
    return [record for line in lines if (record := take(line)) is not None], offset


def lines_from(path: Path, offset: int, at_once: int = AT_ONCE) -> tuple[list[bytes], int]:
    """The complete lines from a byte offset on that have something in them, and the offset to go on from."""
    data, problem = files.read_bytes(path, at_most=at_once, offset=offset)
    if problem:
        return [], 0
    if offset > MOST_BYTES:
        return [], offset
    complete = data.rfind(b"\n") + 1
    if not complete and len(data) == at_once:  # no honest line is as long as that, and nothing behind it is looked for
        return [], max(offset + at_once, path.lstat().st_size if files.is_plain(path) else 0)
    return [line for line in data[:complete].split(b"\n") if line], offset + complete


def backwards(path: Path, take: Take = any_object) -> Iterator[dict[str, Any]]:
    """The complete records from the last one on, up to some megabytes; no more is read than is asked for."""
    try:
        size = path.lstat().st_size
    except (OSError, ValueError):
        return
    end, rest, begun = size, b"", False
    for window in (64 * 2**10, 4 * 2**20, AT_ONCE):
        start = max(0, size - window)
        data, problem = files.read_bytes(path, at_most=end - start, offset=start)
        if problem or len(data) < end - start:
            return
        lines = (data + rest).split(b"\n")
        if not begun:
            lines.pop()  # what follows the last line's end is torn
            begun = True
        rest, end = (lines.pop(0) if lines and start else b""), start  # the first one may be cut
        for line in reversed(lines):
            if line and (record := take(line)) is not None:
                yield record
        if not start:
            return


def keep(path: Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Rewrite a file with the wanted records alone; a torn last line goes too."""
    rewrite(path, (record for record in read(path)[0] if wanted(record)))


def rewrite(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Replace a file's records, all at once."""
    write_atomically(path, "".join(dump(record) + "\n" for record in records))
