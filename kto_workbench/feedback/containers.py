"""Files as chunks of raw rows: JSON lines, a JSON list, CSV, Parquet, Arrow.

A chunk holds either a table, when the types of its columns are uniform and vectorised work can be done on it, or
records: dicts as they stood in the file, and a BadRow for what could not be read. `record(i)` gives any row of a chunk
as a record, so that what the vectorised work is not sure of can be looked at one by one.
"""

import csv
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.json

from kto_workbench.errors import DataError
from kto_workbench.feedback.files import MAX_ROW_BYTES, Utf8Stream, iterate_blocks, reason_of
from kto_workbench.feedback.tables import CHUNK_ROWS

Record = dict[str, Any]


@dataclass(frozen=True)
class BadRow:
    """A row of the file that can't be read, or not be used."""

    field: str
    reason: str


@dataclass
class Chunk:
    """Some consecutive rows of a file; `lines` says where each stands."""

    lines: np.ndarray
    record: Callable[[int], Record | BadRow]
    table: pa.Table | None = None

    @property
    def records(self) -> Iterator[Record | BadRow]:
        """All rows, one by one."""
        return (self.record(i) for i in range(len(self.lines)))


def _chunk_of(records: list[Record | BadRow], lines: list[int]) -> Chunk:
    return Chunk(np.array(lines, dtype=np.int64), records.__getitem__)


# JSON lines ----------------------------------------------------------------------------------------------------------


def parse_json_line(line: bytes) -> Record | BadRow:
    """One line of JSON as a dict, or why it is none."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return _parse_json_patiently(line)
    return value if isinstance(value, dict) else BadRow("", f"the line is {_kind(value)}, not a JSON object")


def _parse_json_patiently(line: bytes) -> Record | BadRow:
    """Python's own parser takes NaN and damaged emoji, which orjson refuses; and it words its complaints."""
    try:
        value = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return BadRow("", f"the line is not valid UTF-8 (byte {error.start + 1})")
    except RecursionError:
        return BadRow("", "the JSON is nested too deeply")
    except ValueError as error:
        if b"\0" in line:
            return BadRow("", "the line holds NUL bytes")
        where = f", column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        what = error.msg.removesuffix(" starting at") if where else "a number is too long"
        return BadRow("", f"the line is not valid JSON ({what}{where})")
    return value if isinstance(value, dict) else BadRow("", f"the line is {_kind(value)}, not a JSON object")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def read_json_lines(stream: Utf8Stream, schema: pa.Schema | None = None, block_bytes: int = 2**24) -> Iterator[Chunk]:
    """Chunks of a JSON lines file; with a schema, as tables of these columns wherever a block fits it."""
    for block, first in iterate_blocks(stream, block_bytes):
        if block is None:
            yield _chunk_of([BadRow("", f"the line is longer than {MAX_ROW_BYTES >> 20} MB")], [first])
            continue
        lines = block.split(b"\n")
        if not lines[-1]:
            lines.pop()
        numbers = np.arange(first, first + len(lines), dtype=np.int64)
        if not all(lines) or any(line[0] in b" \t\r\v\f" for line in lines):
            kept = [i for i, line in enumerate(lines) if not line.isspace() and line]
            lines, numbers = [lines[i] for i in kept], numbers[kept]
        if lines:
            table = _parse_block(block, lines, schema) if schema is not None else None
            yield Chunk(numbers, lambda i, lines=lines: parse_json_line(lines[i]), table)


def _parse_block(block: bytes, lines: list[bytes], schema: pa.Schema) -> pa.Table | None:
    """The block as a table, or None when it is not one flat object a line with values of these very types."""
    if b"\0" in block or not all(line[0] == 0x7B and line.rstrip()[-1] == 0x7D for line in lines):
        return None  # Arrow stops at a NUL, and would take an object that spans lines
    try:
        table = pa.json.read_json(
            pa.BufferReader(block),
            read_options=pa.json.ReadOptions(block_size=max(2**20, len(block) // 4)),
            parse_options=pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore"),
        )
        table.validate(full=True)  # Arrow's reader takes bytes that are not UTF-8
    except pa.ArrowException:
        return None
    return table if table.num_rows == len(lines) else None


# JSON ----------------------------------------------------------------------------------------------------------------


_BETWEEN_VALUES = re.compile(r"[\s,]*")


def read_json(stream: Utf8Stream) -> Iterator[Chunk]:
    """Chunks of a JSON list, of JSON objects one after the other, or of one object that wraps a list.

    A line is where a row starts; where the list stands on one line, the row's number.
    """
    records: list[Record | BadRow] = []
    lines: list[int] = []
    count, one_line = 0, None
    previous = None
    for line, value in _unwrap(_iterate_json(stream)):
        count += 1
        if one_line is None and previous is not None:
            one_line = previous == line
        previous = line
        if not isinstance(value, (dict, BadRow)):
            value = BadRow("", f"the row is {_kind(value)}, not a JSON object")
        records.append(value)
        lines.append(count if one_line or (one_line is None and count > 1) else line)
        if len(records) >= CHUNK_ROWS:
            yield _chunk_of(records, lines)
            records, lines = [], []
    if records:
        yield _chunk_of(records, lines)


# What an object that wraps lists of rows calls them; it may say other things beside them, such as a page's number.
_LISTS = frozenset(
    "data rows items results records examples feedback feedbacks scores traces observations runs spans annotations "
    "train test validation".split()
)


def _unwrap(values: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    """Take the rows out of `{"data": [rows]}` and its like, which stands alone in its file."""
    first = next(values, None)
    if first is None:
        return
    second = next(values, None)
    if second is None and isinstance(first[1], dict):
        lists = {name: rows for name, rows in first[1].items() if isinstance(rows, list) and _are_rows(rows)}
        if len(first[1]) == 1 or lists.keys() <= _LISTS:
            rows = [row for rows in lists.values() for row in rows]
            if rows:
                yield from ((first[0], row) for row in rows)
                return
    yield first
    if second is not None:
        yield second
        yield from values


def _are_rows(values: list[Any]) -> bool:
    return bool(values) and isinstance(values[0], dict)


def _iterate_json(stream: Utf8Stream) -> Iterator[tuple[int, Any]]:
    """Top-level values, or the elements of a top-level list, with the line where each starts; reads as it goes."""
    decode = json.JSONDecoder().raw_decode
    # surrogateescape lets a stray byte through, for the row that holds it to be listed instead of the file refused
    text, position, line, ended, in_list, started = "", 0, 1, False, False, False
    rest = b""

    def read_more(size: int) -> None:
        nonlocal text, position, ended, rest
        data = stream.read(max(size, 2**20))
        ended = not data
        data = rest + data
        cut = len(data) if ended else _end_of_last_character(data)
        rest = data[cut:]
        text, position = text[position:] + data[:cut].decode("utf-8", "surrogateescape"), 0

    while True:
        skipped = _BETWEEN_VALUES.match(text, position)
        line += text.count("\n", position, skipped.end())
        position = skipped.end()
        if position == len(text):
            if not ended:
                read_more(0)
                continue
            if in_list:
                yield line, BadRow("", "the file ends before its list is closed, so rows may be missing")
            return
        if not started and text[position] == "[":
            in_list = started = True
            position += 1
            continue
        started = True
        if in_list and text[position] == "]":
            in_list = False
            position += 1
            continue
        try:
            value, end = decode(text, position)
        except RecursionError:
            yield line, BadRow("", "the JSON is nested too deeply; nothing after this row was read")
            return
        except ValueError as error:
            held = len(text) - position
            at = getattr(error, "pos", position)
            cut_short = len(text) - at < 64 or "Unterminated" in str(error)
            if cut_short and not ended and held <= MAX_ROW_BYTES:
                read_more(held)
                continue
            if cut_short and ended:
                yield line, BadRow("", "the file ends inside this row")
            elif held > MAX_ROW_BYTES and cut_short:
                yield line, BadRow("", f"the row is longer than {MAX_ROW_BYTES >> 20} MB; nothing after it was read")
            else:
                where = line + text.count("\n", position, at)
                what = getattr(error, "msg", "a number is too long")
                yield line, BadRow("", f"not valid JSON ({what}, line {where}); nothing after this row was read")
            return
        if end == len(text) and not ended and not isinstance(value, (dict, list, str)):
            read_more(0)  # a number may go on in what is not read yet
            continue
        yield line, value
        line += text.count("\n", position, end)
        position = end


def _end_of_last_character(data: bytes) -> int:
    """Where the last complete UTF-8 character of the data ends."""
    for back in range(1, min(4, len(data)) + 1):
        byte = data[-back]
        if byte < 0x80:
            break
        if byte >= 0xC0:
            width = 2 if byte < 0xE0 else 3 if byte < 0xF0 else 4
            return len(data) - back if width > back else len(data)
    return len(data)


# CSV -----------------------------------------------------------------------------------------------------------------


DELIMITERS = ",\t;|"
_TOO_LONG = "\0too long"


def sniff_delimiter(header: str, known: Callable[[str], bool]) -> str:
    """The delimiter that splits the header into the most known names, then into the most names."""

    def score(delimiter: str) -> tuple[int, int]:
        names = _split_header(header, delimiter)
        return sum(map(known, names)), len(names)

    return max(DELIMITERS, key=score)


def _split_header(header: str, delimiter: str) -> list[str]:
    try:
        return [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
    except csv.Error:  # such as a carriage return amid the line
        return [header[:40].strip()]


class _Lines:
    """The lines of a stream for csv.reader, which must tell whether a row ended because the file did."""

    def __init__(self, stream: Utf8Stream):
        self._lines = self._iterate(stream)
        self.ended = False

    @staticmethod
    def _iterate(stream: Utf8Stream) -> Iterator[str]:
        for block, _ in iterate_blocks(stream, 2**20):
            if block is None:
                yield _TOO_LONG + "\n"
            else:
                yield from io.StringIO(block.decode("utf-8", "surrogateescape"), newline="\n")

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        try:
            return next(self._lines)
        except StopIteration:
            self.ended = True
            raise


def read_csv(stream: Utf8Stream, known: Callable[[str], bool]) -> Iterator[Chunk]:
    """Chunks of a CSV or TSV file as tables of text; a line is where a row starts."""
    csv.field_size_limit(MAX_ROW_BYTES)  # of the process; Python's own limit of 128 KB is less than a long document
    lines = _Lines(stream)
    header = next(lines, "")
    delimiter = sniff_delimiter(header, known)
    names = _split_header(header, delimiter)
    if len(set(names)) < len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise DataError(f"The CSV header names the column `{double}` twice.")
    reader = csv.reader(lines, delimiter=delimiter)
    rows: list[list[str] | BadRow] = []
    numbers: list[int] = []
    while True:
        number = reader.line_num + 2  # the header was line 1
        try:
            row: list[str] | BadRow | None = next(reader, None)
        except csv.Error as error:
            row = BadRow("", f"the row can't be read ({reason_of(error)})")
            if "field limit" in str(error):
                # The lines that follow were meant to be inside the quote: each would be listed as a broken row.
                rest = (
                    f"a quote that opens here is not closed within {MAX_ROW_BYTES >> 20} MB; nothing after it was read"
                )
                rows.append(BadRow("", rest))
                numbers.append(number)
                break
        if row is None:
            break
        if row == []:
            continue
        if lines.ended and not isinstance(row, BadRow):  # the reader asks for another line only inside quotes
            row = BadRow("", "a quote that opens here is never closed, so the row takes in the rest of the file")
        elif not isinstance(row, BadRow) and row[0] == _TOO_LONG:
            row = BadRow("", f"the line is longer than {MAX_ROW_BYTES >> 20} MB")
        elif not isinstance(row, BadRow) and len(row) != len(names):
            row = BadRow("", f"the row has {len(row)} columns, the header {len(names)}")
        rows.append(row)
        numbers.append(number)
        if len(rows) >= CHUNK_ROWS:
            yield _csv_chunk(names, rows, numbers)
            rows, numbers = [], []
    if rows:
        yield _csv_chunk(names, rows, numbers)


def _csv_chunk(names: list[str], rows: list[list[str] | BadRow], numbers: list[int]) -> Chunk:
    def record(i: int) -> Record | BadRow:
        row = rows[i]
        return row if isinstance(row, BadRow) else dict(zip(names, row, strict=True))

    table = None
    if not any(isinstance(row, BadRow) for row in rows):
        try:
            columns = zip(*rows, strict=True)
            table = pa.table([pa.array(column, pa.large_string()) for column in columns], names=names)
        except (UnicodeEncodeError, pa.ArrowException):
            table = None  # a row holds bytes that are not UTF-8: it will be found one by one
    return Chunk(np.array(numbers, dtype=np.int64), record, table)


# Tables --------------------------------------------------------------------------------------------------------------


AT_ONCE_BYTES = 2**26


def read_batches(batches: Iterator[pa.RecordBatch]) -> Iterator[Chunk]:
    """Chunks of Arrow record batches; a line is the row's number."""
    first = 1
    for batch in batches:
        batch.validate(full=True)  # raises ArrowInvalid: bytes from outside may be no UTF-8, or lead anywhere
        # Times say nothing of a thumb, and not all of them can be had as Python values.
        batch = batch.select([field.name for field in batch.schema if not pa.types.is_temporal(field.type)])
        for start in range(0, batch.num_rows, CHUNK_ROWS):
            table = pa.Table.from_batches([batch.slice(start, CHUNK_ROWS)])
            numbers = np.arange(first, first + table.num_rows, dtype=np.int64)
            yield Chunk(numbers, _Records(table), table)
            first += table.num_rows


class _Records:
    """The rows of a table as Python values: all at once, for speed, unless they are large or one can't be had."""

    def __init__(self, table: pa.Table):
        self._table = table
        self._all: list[Record] | None = [] if table.nbytes > AT_ONCE_BYTES else None

    def __call__(self, i: int) -> Record | BadRow:
        if self._all is None:
            try:
                self._all = self._table.to_pylist()
            except (ValueError, OverflowError):
                self._all = []
        return self._all[i] if self._all else _record_of(self._table, i)


def _record_of(table: pa.Table, i: int) -> Record | BadRow:
    try:
        return table.slice(i, 1).to_pylist()[0]
    except (ValueError, OverflowError) as error:
        return BadRow("", f"the row can't be read ({reason_of(error)})")


def read_records(records: Iterator[Any]) -> Iterator[Chunk]:
    """Chunks of Python dicts, as a notebook passes them; a line is the row's number."""
    rows: list[Record | BadRow] = []
    first = 1
    for record in records:
        rows.append(record if isinstance(record, dict) else BadRow("", f"the row is {_kind(record)}, not a dict"))
        if len(rows) == CHUNK_ROWS:
            yield _chunk_of(rows, list(range(first, first + len(rows))))
            first, rows = first + len(rows), []
    if rows:
        yield _chunk_of(rows, list(range(first, first + len(rows))))
