"""Rows of feedback and the list of what could not be used, both small in memory at a million rows.

The rows lie in an Arrow table (for a large file: in one that is mapped from disk) and become `Row` objects only when
looked at. A conversation is kept as JSON text, so that every check works on plain columns.
"""

import json
import threading
import weakref
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, overload

import numpy as np
import pyarrow as pa

from kto_workbench.feedback.templates import is_image, message_text, prompt_messages

# {"role": …, "content": …}, and tool_calls, name, tool_call_id where there are any. The first message of a prompt that
# is asked brings the tools that are offered, as `tools`. A content is a text, or blocks with images, see images.py.
Message = dict[str, Any]

SCHEMA = pa.schema(
    [
        ("prompt", pa.large_string()),  # the text, or the messages as JSON where `chat` is true
        ("chat", pa.bool_()),
        ("completion", pa.large_string()),
        ("label", pa.bool_()),
        ("line", pa.int64()),
        ("tools", pa.large_string()),  # JSON, or null
    ]
)


@dataclass(frozen=True, slots=True)
class Row:
    """One thumb: a prompt, a completion, and whether it was liked."""

    prompt: str | list[Message]
    completion: str
    label: bool
    line: int = 0
    tools: list[Any] | None = None

    @property
    def system(self) -> str | None:
        """The system prompt: the first message, if its role is system."""
        if isinstance(self.prompt, list) and self.prompt and self.prompt[0]["role"] == "system":
            return message_text(self.prompt[0])
        return None

    @property
    def asked(self) -> str | list[Message]:
        """The prompt as it is answered: with the tools that were offered."""
        if not self.tools:
            return self.prompt
        first, *rest = prompt_messages(self.prompt)
        return [{**first, "tools": self.tools}, *rest]

    @property
    def prompt_text(self) -> str:
        """The prompt as a person reads it: the text itself, or one "role: content" line a message."""
        if isinstance(self.prompt, str):
            return self.prompt
        return "\n".join(f"{message['role']}: {told(message)}" for message in self.prompt)


def told(message: Message) -> str:
    """What a message says, as a person reads it in a line of text."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return " ".join("[image]" if is_image(block) else str(block.get("text") or "").strip() for block in content)


def _row(prompt: str, chat: bool, completion: str, label: bool, line: int, tools: str | None) -> Row:
    return Row(
        json.loads(prompt) if chat else prompt,
        completion,
        label,
        line,
        json.loads(tools) if tools is not None else None,
    )


class Rows(Sequence[Row]):
    """A sequence of rows over an Arrow table with the columns of SCHEMA."""

    def __init__(self, table: pa.Table):
        self.table = table
        self._columns = [table.column(name) for name in SCHEMA.names]
        self._path = ""
        self._file = _Batches(table.column(0).chunks)

    @classmethod
    def mapped(cls, path: str, file: Any) -> "Rows":
        """The rows of an Arrow file at the path, mapped into memory; the open `file` is closed when they go."""
        rows = cls(pa.ipc.open_file(pa.memory_map(path)).read_all())
        rows._path = path
        rows._file.path = path
        weakref.finalize(rows, file.close)
        return rows

    def batches(self, size: int = 4096) -> Iterator[pa.RecordBatch]:
        """All rows in batches. Those of a file are read, not mapped, so that going through them fills no memory."""
        if not self._path:
            yield from (batch for batch in self.table.to_batches(max_chunksize=size) if batch.num_rows)
            return
        with pa.OSFile(self._path) as file:
            reader = pa.ipc.open_file(file)
            for i in range(reader.num_record_batches):
                yield reader.get_batch(i)

    def __len__(self) -> int:
        return self.table.num_rows

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> "Rows": ...
    def __getitem__(self, index: int | slice) -> "Row | Rows":
        if isinstance(index, slice):
            return self.take(range(*index.indices(len(self))))
        position = range(len(self))[index]  # negative indices, and IndexError beyond the end
        if self._path:
            start, batch = self._file.with_row(position)
            return _row(*(batch.column(name)[position - start].as_py() for name in SCHEMA.names))
        return _row(*(column[position].as_py() for column in self._columns))

    def __iter__(self) -> Iterator[Row]:
        for batch in self.batches():
            for values in zip(*(batch.column(name).to_pylist() for name in SCHEMA.names), strict=True):
                yield _row(*values)

    def __repr__(self) -> str:
        return f"<{len(self)} rows>"

    def take(self, indices: Sequence[int]) -> "Rows":
        """The rows at these positions, in this order."""
        if isinstance(indices, range) and indices.step == 1:
            return Rows(self.table.slice(indices.start, len(indices)))
        wanted = np.asarray(indices, dtype=np.int64)
        if len(wanted) and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise IndexError(f"there are {len(self)} rows")
        batches = self._file.with_rows(wanted) if self._path else _placed(self.table.to_batches())
        return Rows(_take(batches, wanted))


class _Batches:
    """The batches of an Arrow file, read one at a time: mapped, rows here and there would pull it into memory."""

    def __init__(self, chunks: Sequence[Any]):
        self.path = ""
        self._ends = np.cumsum([len(chunk) for chunk in chunks], dtype=np.int64)
        self._lock = threading.Lock()
        self._reader: Any = None
        self._last: tuple[int, pa.RecordBatch] | None = None

    def with_row(self, position: int) -> tuple[int, pa.RecordBatch]:
        """The batch that holds a row, and the row that it starts with."""
        number = int(np.searchsorted(self._ends, position, side="right"))
        with self._lock:
            if self._last is None or self._last[0] != number:
                if self._reader is None:
                    self._reader = pa.ipc.open_file(pa.OSFile(self.path))
                self._last = (number, self._reader.get_batch(number))
            return int(self._ends[number]) - self._last[1].num_rows, self._last[1]

    def with_rows(self, positions: np.ndarray) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Those that hold any of these rows, in order."""
        for number in np.unique(np.searchsorted(self._ends, positions, side="right")).tolist():
            yield self.with_row(int(self._ends[number]) - 1)


def _placed(batches: Iterable[pa.RecordBatch]) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Batches with the number of the row that each starts with."""
    start = 0
    for batch in batches:
        yield start, batch
        start += batch.num_rows


def _take(batches: Iterable[tuple[int, pa.RecordBatch]], indices: np.ndarray) -> pa.Table:
    """These rows in this order, batch by batch: Arrow's own `take` would first copy all batches into one."""
    if not len(indices):
        return SCHEMA.empty_table()
    order = np.argsort(indices, kind="stable")
    ordered = indices[order]
    parts = []
    for start, batch in batches:
        low, high = np.searchsorted(ordered, (start, start + batch.num_rows))
        if high > low:
            parts.append(batch.take(pa.array(ordered[low:high] - start)))
    back = np.empty(len(indices), dtype=np.int64)
    back[order] = np.arange(len(indices))
    return pa.Table.from_batches(parts).combine_chunks().take(pa.array(back))


@dataclass(frozen=True, slots=True)
class Problem:
    """A row that can't be used: where it stands, which field is to blame, and why."""

    line: int
    field: str
    reason: str


class Problems(Sequence[Problem]):
    """A list of problems that stays small when a million rows share a few reasons."""

    def __init__(self) -> None:
        self._lines = array("q")
        self._causes = array("l")
        self._known: dict[tuple[str, str], int] = {}
        self._texts: list[tuple[str, str]] = []

    def add(self, line: int, field: str, reason: str) -> None:
        """List one more row."""
        cause = self._known.setdefault((field, reason), len(self._texts))
        if cause == len(self._texts):
            self._texts.append((field, reason))
        self._lines.append(line)
        self._causes.append(cause)

    def to_dict(self) -> dict[str, Any]:
        """As JSON types, as small as they are in memory."""
        return {"lines": self._lines.tolist(), "causes": self._causes.tolist(), "texts": self._texts}

    @classmethod
    def of_dict(cls, found: dict[str, Any]) -> "Problems":
        """What `to_dict` gave."""
        problems = cls()
        problems._lines, problems._causes = array("q", found["lines"]), array("l", found["causes"])
        problems._texts = [(field, reason) for field, reason in found["texts"]]
        problems._known = {text: cause for cause, text in enumerate(problems._texts)}
        return problems

    def __len__(self) -> int:
        return len(self._lines)

    @overload
    def __getitem__(self, index: int) -> Problem: ...
    @overload
    def __getitem__(self, index: slice) -> list[Problem]: ...
    def __getitem__(self, index: int | slice) -> Problem | list[Problem]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        return Problem(self._lines[index], *self._texts[self._causes[index]])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    def __repr__(self) -> str:
        return f"<{len(self)} problems>" if len(self) > 5 else repr(list(self))
