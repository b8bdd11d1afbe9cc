"""Ratings joined to what they rate by id: of two files, or of one that holds both.

    load_feedback("scores.jsonl+traces.jsonl")

A rating is a row, and its line is where it stands. One whose conversation is in neither file is a problem, as any row
that can't be used. The ratings are kept in memory (an id, a value, a line), and the conversations are read past them,
so that a million of either fit. What traces.py knows by name is found; the rest is described by a mapping:

    rates     in the ratings, the id of what is rated       id     in the conversations, their id
    name      where ratings have names: the one to take     and prompt, completion, messages, label as ever

Messages in rows of their own that name their parent, as Open Assistant's flat files have them, are joined likewise.
"""

import os
import tempfile
from array import array
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa

from kto_workbench.errors import DataError
from kto_workbench.feedback.containers import CHUNK_ROWS, BadRow, Chunk
from kto_workbench.feedback.formats import ALIASES, UnknownColumns, pick, recognise
from kto_workbench.feedback.labels import LABEL_NAMES
from kto_workbench.feedback.sources import Source, open_source
from kto_workbench.feedback.traces import LOGS, Log, Record, name_of_people, what_was_asked, what_was_told
from kto_workbench.feedback.trees import MAX_TURNS

BETWEEN = "+"  # two files are named together
LOOKED_AT = 200  # rows of each file, to tell ratings from conversations
BY_ID = "by id"
_IDS = (
    "message_id", "response_id", "completion_id", "request_id", "conversation_id", "chat_id", "session_id", "trace_id",
    "run_id", "id",
)  # fmt: skip


def open_feedback(source: Any, workspace: str | Path, mapping: Mapping[str, Any]) -> Source:
    """What the user names, joined where it is two files, or one that has to be. Raises DataError."""
    opened = [open_source(name, workspace, mapping) for name in split_names(source)]
    samples = [_sample(one) for one in opened]
    if len(opened) == 1 and samples[0] and all(map(_is_flat_message, samples[0])):
        return _joined_messages(opened[0])
    log = _described(mapping) or _find_log(samples, mapping)
    if log is not None:
        return _Join(log, opened, samples, mapping).source()
    if len(opened) == 1:
        return opened[0]
    raise DataError(
        f"{opened[0].name} and {opened[1].name} can't be joined: one should hold ratings with the id of what they "
        "rate, the other conversations with that id; say with a mapping which columns these are, rates and id."
    )


def split_names(source: Any) -> list[Any]:
    """The two files of "ratings.jsonl+conversations.jsonl"; anything else as it is."""
    if isinstance(source, (str, Path)) and BETWEEN in str(source) and not os.path.exists(Path(source).expanduser()):
        names = [name.strip() for name in str(source).split(BETWEEN)]
        if len(names) == 2 and all(names):
            return names
    return [source]


def _sample(source: Source) -> list[Record]:
    records = (record for chunk in islice(source.read(None), 2) for record in chunk.records)
    return [record for record in islice(records, LOOKED_AT) if isinstance(record, dict)]


def _first(record: Record, paths: Sequence[str]) -> Any:
    for path in paths:  # plainly: this is asked of every row several times
        value = record[path] if path in record else pick(record, path) if "." in path else None
        if value is not None and value != "":
            return value
    return None


def _is_conversation(record: Record, log: Log) -> bool:
    return _first(record, log.id) is not None and _first(record, (*log.prompt, *log.completion)) is not None


def _is_rating(record: Record, log: Log) -> bool:
    rates = _first(record, log.rates) is not None and _first(record, log.label) is not None
    return rates and not _is_conversation(record, log)


def _by_id(rates: str, id: str, mapping: Mapping[str, Any]) -> Log:
    """Ratings and conversations of no known log, whose columns are recognised as ever."""
    labels = (mapping["label"],) if "label" in mapping else LABEL_NAMES
    texts = [path for part in ("messages", "prompt", "completion") for path in (mapping.get(part), *ALIASES[part])]
    return Log(BY_ID, (rates,), labels, ("name",), (id,), tuple(path for path in texts if path and path not in labels))


def _described(mapping: Mapping[str, Any]) -> Log | None:
    """What the user's mapping says of two files."""
    if not {"rates", "id"} & mapping.keys():
        return None
    return _by_id(mapping.get("rates") or mapping["id"], mapping.get("id") or mapping["rates"], mapping)


def _find_log(samples: Sequence[Sequence[Record]], mapping: Mapping[str, Any]) -> Log | None:
    """The log of which both ratings and conversations are there, or in one file nothing but ratings."""
    every = [record for sample in samples for record in sample]

    def both(log: Log) -> bool:
        return any(_is_rating(one, log) for one in every) and any(_is_conversation(one, log) for one in every)

    known = next((log for log in LOGS if both(log)), None)
    if known is None and len(samples) > 1:
        pairs = (_by_id(rates, id, mapping) for rates in _IDS for id in (rates, "id"))
        known = next(filter(both, pairs), None)
    if known is None and every and len(samples) == 1:
        known = next((log for log in LOGS if _share(every, log) > 0.5), None)
        if known is not None and _stands_alone(every, mapping):
            known = None
    return known


def _share(sample: Sequence[Record], log: Log) -> float:
    """How much of a sample is ratings of this log."""
    return sum(_is_rating(one, log) and _first(one, log.named) is not None for one in sample) / len(sample)


def _stands_alone(sample: Sequence[Record], mapping: Mapping[str, Any]) -> bool:
    try:
        recognise(sample, mapping)
    except UnknownColumns:
        return False
    except DataError:
        return True  # what is wrong will be said
    return True


class _Join:
    """Reads the ratings, then the conversations past them."""

    def __init__(
        self, log: Log, sources: Sequence[Source], samples: Sequence[Sequence[Record]], mapping: Mapping[str, Any]
    ):
        self._log, self._wanted = log, mapping.get("name")
        pairs = list(zip(sources, samples, strict=True))
        self._rated = [source for source, sample in pairs if any(_is_rating(one, log) for one in sample)]
        self._told = [source for source, sample in pairs if any(_is_conversation(one, log) for one in sample)]
        if not self._told:
            name = sources[0].name
            raise DataError(
                f"{name} holds ratings of {log.name} without the text that they judge; name the file of the "
                f"conversations beside it, as in {Path(name).name}{BETWEEN}CONVERSATIONS."
            )
        if not self._rated:
            raise DataError(f"There are no ratings in {BETWEEN.join(source.name for source in sources)}.")
        self._name = BETWEEN.join(source.name for source in sources)
        self._container = BETWEEN.join(dict.fromkeys(source.container for source in sources))
        ratings = [one for sample in samples for one in sample if _is_rating(one, log)]
        talks = [one for sample in samples for one in sample if _is_conversation(one, log)]
        # A rating of a part is one of the whole where only wholes are there.
        parts = any(_first(one, log.within) for one in talks)
        self._rates = log.rates if parts or not log.within else (*log.within, *log.rates)
        self._link = next(path for path in self._rates if any(pick(one, path) for one in ratings))
        self._label = next(path for path in log.label if any(pick(one, path) is not None for one in ratings))
        self._values: list[Any] = []
        self._lines = array("q")
        self._of: dict[str, tuple[int, ...]] | None = None  # the ratings of each id

    def source(self) -> Source:
        title = f"ratings joined to conversations by id: {self._log.name}".removesuffix(f": {BY_ID}")
        return Source(self._name, self._container, self._read, title=title)

    def _read(self, schema: pa.Schema | None) -> Iterator[Chunk]:
        ratings = self._ratings()
        used: set[str] = set()
        records: list[Record | BadRow] = []
        lines: list[int] = []
        for source in self._told:
            for record in (record for chunk in source.read(None) for record in chunk.records):
                if isinstance(record, BadRow) or not _is_conversation(record, self._log):
                    continue
                for key in self._keys(record):
                    if key in used or key not in ratings:
                        continue
                    used.add(key)
                    for i in ratings[key]:
                        records.append(self._joined(record, self._values[i]))
                        lines.append(self._lines[i])
                if len(records) >= CHUNK_ROWS:
                    yield Chunk(np.array(lines, dtype=np.int64), records.__getitem__)
                    records, lines = [], []
        alone = BadRow(self._link, f"{self._link} is the id of no conversation in these files")
        unused = sorted(self._lines[i] for key, said in ratings.items() if key not in used for i in said)
        yield Chunk(np.array(lines + unused, dtype=np.int64), (records + [alone] * len(unused)).__getitem__)

    def _keys(self, record: Record) -> list[str]:
        """What ratings may call this conversation."""
        keys = [str(_first(record, self._log.id))]
        if self._log.within and (whole := _first(record, self._log.within)) and not _first(record, self._log.part_of):
            keys.append(str(whole))
        return keys

    def _joined(self, record: Record, value: Any) -> Record:
        log = self._log
        if not log.completion:
            return {**record, self._label: value}
        return {
            **record,
            "prompt": what_was_asked(_first(record, log.prompt)),
            "completion": what_was_told(_first(record, log.completion)),
            "rating": value,
        }

    def _ratings(self) -> dict[str, tuple[int, ...]]:
        """Of each rated id, which values were given; of ratings with names, those of one name."""
        if self._of is None:
            of: dict[str, dict[str, tuple[int, ...]]] = {}
            for source in self._rated:
                for chunk in source.read(None):
                    for record, line in zip(chunk.records, chunk.lines.tolist(), strict=True):
                        if isinstance(record, dict) and _is_rating(record, self._log):
                            same = of.setdefault(str(_first(record, self._log.named) or ""), {})
                            key = str(_first(record, self._rates))
                            same[key] = (*same.get(key, ()), len(self._values))
                            self._values.append(_first(record, self._log.label))
                            self._lines.append(line)
            wanted = self._wanted or name_of_people(name for name, same in of.items() for _ in same)
            if wanted not in of:
                names = ", ".join(f"`{name}`" for name in of)
                raise DataError(f"No rating in {self._name} is named `{wanted}`; they are named {names}.")
            self._of = of[wanted]
        return self._of


# Messages that name their parents ------------------------------------------------------------------------------------


def _is_flat_message(record: Record) -> bool:
    return {"message_id", "parent_id", "role", "text", "rank"} <= record.keys()


def _joined_messages(source: Source) -> Source:
    """For each message with ranked answers: {messages, answers, ranks}, at the line of the first of these."""

    def read(schema: pa.Schema | None) -> Iterator[Chunk]:
        with tempfile.TemporaryFile() as texts:
            yield from _read_messages(source, _Messages(texts))

    return Source(source.name, source.container, read, source.path, "messages joined to their answers by id")


class _Messages:
    """Messages by position, their texts in a file: a million of them would fill the memory."""

    def __init__(self, file: IO[bytes]):
        self._file, self._ends = file, array("q", [0])
        self._user = bytearray()
        self.positions: dict[str, int] = {}
        self._parent_ids: list[str | None] = []

    def add(self, record: Record) -> int:
        """Keep a message; returns its position."""
        data = str(record.get("text") or "").encode("utf-8", "surrogatepass")
        self._file.write(data)
        self._ends.append(self._ends[-1] + len(data))
        position = len(self._parent_ids)
        self.positions[str(record.get("message_id"))] = position
        parent = record.get("parent_id")
        self._parent_ids.append(parent if parent is None else str(parent))
        self._user.append(record.get("role") != "assistant")
        return position

    def seal(self) -> None:
        """No message comes any more, and all can be read."""
        self._file.flush()

    def text(self, position: int) -> str:
        """What a message says."""
        start, end = self._ends[position], self._ends[position + 1]
        return os.pread(self._file.fileno(), end - start, start).decode("utf-8", "surrogatepass")

    def parent(self, position: int) -> int | None:
        """The position of the message that this one answers."""
        parent = self._parent_ids[position]
        return None if parent is None else self.positions.get(parent)

    def conversation(self, position: int) -> list[Record]:
        """The message and all before it."""
        path: list[int] = []
        at: int | None = position
        while at is not None and len(path) < MAX_TURNS:
            path.append(at)
            at = self.parent(at)
        return [{"role": "user" if self._user[i] else "assistant", "content": self.text(i)} for i in reversed(path)]


def _read_messages(source: Source, messages: _Messages) -> Iterator[Chunk]:
    ranked: list[tuple[int, float, int]] = []  # position, rank, line
    for chunk in source.read(None):
        for record, line in zip(chunk.records, chunk.lines.tolist(), strict=True):
            if not isinstance(record, dict) or record.get("deleted"):
                continue
            position = messages.add(record)
            if record.get("rank") not in (None, "") and record.get("role") == "assistant":
                ranked.append((position, record["rank"], line))
    messages.seal()
    answers: dict[int, list[tuple[int, float, int]]] = {}
    for one in ranked:
        if (parent := messages.parent(one[0])) is not None:
            answers.setdefault(parent, []).append(one)
    groups = list(answers.items())
    for start in range(0, len(groups), CHUNK_ROWS):
        some = groups[start : start + CHUNK_ROWS]

        def record_of(i: int, some: list[Any] = some) -> Record:
            parent, replies = some[i]
            return {
                "messages": messages.conversation(parent),
                "answers": [messages.text(position) for position, _, _ in replies],
                "ranks": [rank for _, rank, _ in replies],
            }

        yield Chunk(np.array([replies[0][2] for _, replies in some], dtype=np.int64), record_of)
