"""A run's metrics as columns of numbers, read as they grow: a page's tick costs what is new, not what there is."""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from kto_workbench.runs import Run
from kto_workbench.views.thinning import Points, Thinned

EVAL = "eval_"

T = TypeVar("T")


class Columns:
    """Records of the same names as arrays of the same length; what a record lacks is NaN."""

    def __init__(self, records: Iterable[dict[str, Any]] = ()) -> None:
        self._columns: dict[str, np.ndarray] = {}  # with room at their end
        self._length = 0
        self._thinned: dict[tuple[str, float, int], Thinned] = {}
        self._thinning = threading.Lock()
        self.extend(list(records))

    def __len__(self) -> int:
        return self._length

    def __contains__(self, key: str) -> bool:
        return key in self._columns

    def append(self, record: dict[str, Any]) -> None:
        """Add one record; only its numbers are kept."""
        self.extend([record])

    def extend(self, records: Sequence[dict[str, Any]]) -> None:
        """Add records of numbers and None; whatever else they hold is not kept."""
        if not records:
            return
        start, end = self._length, self._length + len(records)
        alike: dict[tuple[str, ...], list[int]] = {}
        for i, record in enumerate(records):
            alike.setdefault(tuple(record), []).append(i)
        for names, where in alike.items():
            at: slice | np.ndarray = slice(start, end) if len(alike) == 1 else np.array(where) + start
            for name, values in zip(names, zip(*(records[i].values() for i in where), strict=True), strict=True):
                self._room_for(name, end)[at] = _numbers(values)
        self._length = end

    def _room_for(self, name: str, count: int) -> np.ndarray:
        column = self._columns.get(name)
        if column is None or len(column) < count:
            roomy = np.full(max(count, self._length * 3 // 2), np.nan)
            if column is not None:  # it may have been lacking for a while
                roomy[: min(self._length, len(column))] = column[: self._length]
            column = self._columns[name] = roomy
        return column

    def __getitem__(self, key: str) -> np.ndarray:
        """One column as an array of floats, not to be written to; NaN throughout if no record has it."""
        column = self._columns.get(key)
        if column is None:
            return np.full(self._length, np.nan)
        if len(column) < self._length:  # its last records lack it
            column = np.append(column, np.full(self._length - len(column), np.nan))
        seen = column[: self._length]
        seen.flags.writeable = False
        return seen

    def last(self, key: str) -> float | None:
        """The newest number of a column, None if there is none."""
        column = self._columns.get(key, np.empty(0))[: self._length]
        for end in range(len(column), 0, -1000):
            known = np.flatnonzero(~np.isnan(column[max(0, end - 1000) : end]))
            if len(known):
                return float(column[max(0, end - 1000) + known[-1]])
        return None

    def thinned(self, key: str, smoothing: float, limit: int) -> Points:
        """The points of a column over `step`, smoothed, at most `limit` of them; what was taken in before is kept."""
        with self._thinning:
            thinned = self._thinned.setdefault((key, smoothing, limit), Thinned(smoothing, limit))
            if thinned.taken < self._length:
                new = slice(thinned.taken, self._length)
                thinned.extend(self["step"][new], self[key][new])
            return thinned.points()

    def as_now(self) -> "Columns":
        """These columns as they are now, whatever is added to them."""
        now = Columns()
        now._columns, now._length = dict(self._columns), self._length
        now._thinned, now._thinning = self._thinned, self._thinning
        return now

    @property
    def size(self) -> int:
        """How many numbers are held."""
        return sum(map(len, self._columns.values()))


def _numbers(values: Sequence[Any]) -> np.ndarray:
    if set(map(type, values)) <= {int, float, type(None)}:
        return np.array(values, dtype=float)
    numbers = (isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return np.array([value if number else np.nan for value, number in zip(values, numbers, strict=True)], dtype=float)


class Records:
    """What a run has logged so far: `.train`, `.eval` (whose names have lost their `eval_`), and `.sampled`:
    what was measured on the model's own answers, the KL and a judge's win rate.

    `read()` takes in what was appended since; a run that was resumed has rewritten its file and is read anew. What it
    has shown once does not change under a reader's hands.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._growing = {"train": Columns(), "eval": Columns(), "sampled": Columns()}
        self._offset = 0
        self._file: int | None = None
        self._show()

    def _show(self) -> None:
        self.train, self.eval, self.sampled = (columns.as_now() for columns in self._growing.values())
        self._made: dict[Hashable, Any] = {}

    def read(self) -> "Records":
        """Take in the records that are new."""
        with self._lock:
            try:
                stat = (self.run.path / "metrics.jsonl").lstat()
            except (OSError, ValueError):
                self._forget()
                return self
            if stat.st_ino != self._file or stat.st_size < self._offset:
                self._forget()
                self._file = stat.st_ino
            before = self._offset
            while stat.st_size > self._offset:
                records, offset = self.run.metrics_since(self._offset)
                if offset <= self._offset:  # a line that is being written, or no file to read
                    break
                self._offset = offset
                self._take(records)
            if self._offset != before:
                self._show()
        return self

    def _take(self, records: list[dict[str, Any]]) -> None:
        parts: dict[str, list[dict[str, Any]]] = {name: [] for name in self._growing}
        kinds: dict[tuple[str, ...], Kind] = {}
        for record in records:
            names = tuple(record)
            if names not in kinds:
                kinds[names] = _kind_of(names)
            for part, taken in kinds[names].items():
                parts[part].append(taken(record))
        for name, columns in self._growing.items():
            columns.extend(parts[name])

    def made(self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` returns, which is made once for all pages until there is something new; not to be altered."""
        made = self._made
        if key not in made:
            made[key] = make()
        return made[key]

    @property
    def version(self) -> tuple[int | None, int]:
        """Changes whenever there is something new to show."""
        return self._file, self._offset

    @property
    def size(self) -> int:
        """How many numbers are held."""
        return sum(columns.size for columns in self._growing.values())


# Which columns a record goes into, and what of it does.
Kind = dict[str, Callable[[dict[str, Any]], dict[str, Any]]]


def _kind_of(names: tuple[str, ...]) -> Kind:
    if "kl_sampled" in names or "judged_win_rate" in names:  # records of their own, between the steps
        return {"sampled": _as_it_is}
    held_out = {name for name in names if name.startswith(EVAL)}
    kind: Kind = {"eval": _held_out} if held_out else {}
    if set(names) - held_out - {"step", "epoch", "seconds"}:
        kind["train"] = _trained if held_out else _as_it_is
    return kind


def _as_it_is(record: dict[str, Any]) -> dict[str, Any]:
    return record


def _held_out(record: dict[str, Any]) -> dict[str, Any]:
    shared = {key: record[key] for key in ("step", "epoch") if key in record}
    return shared | {key.removeprefix(EVAL): value for key, value in record.items() if key.startswith(EVAL)}


def _trained(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if not key.startswith(EVAL)}


_open: OrderedDict[str, Records] = OrderedDict()
_KEPT = 12  # runs whose numbers stay in memory: those that are watched or laid over each other
_KEPT_NUMBERS = 16_000_000  # of all of them, 8 bytes each; but always those of the run that was looked at last
_lock = threading.Lock()


def records_of(run: Run) -> Records:
    """The run's records up to now; runs looked at lately are kept in memory and only read on."""
    key = os.path.realpath(run.path)
    with _lock:
        records = _open.setdefault(key, Records(run))
        _open.move_to_end(key)
        while len(_open) > 1 and (len(_open) > _KEPT or sum(one.size for one in _open.values()) > _KEPT_NUMBERS):
            _open.popitem(last=False)
    return records.read()
