"""A run's metrics as columns of numbers, read as they grow: a page's tick costs what is new, not what there is."""

import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import numpy as np

from kto_workbench.runs import Run

EVAL = "eval_"


class Columns:
    """Records of the same names as arrays of the same length; what a record lacks is NaN."""

    def __init__(self, records: Iterable[dict[str, Any]] = ()) -> None:
        self._columns: dict[str, array] = {}
        self._length = 0
        for record in records:
            self.append(record)

    def __len__(self) -> int:
        return self._length

    def __contains__(self, key: str) -> bool:
        return key in self._columns

    def append(self, record: dict[str, Any]) -> None:
        """Add one record; only its numbers are kept."""
        for key, value in record.items():
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if key not in self._columns:
                self._columns[key] = array("d", [np.nan]) * self._length
            self._columns[key].append(value if number else np.nan)
        self._length += 1
        for column in self._columns.values():
            if len(column) < self._length:
                column.append(np.nan)

    def __getitem__(self, key: str) -> np.ndarray:
        """One column as an array of floats; NaN throughout if no record has it."""
        if key not in self._columns:
            return np.full(self._length, np.nan)
        return np.array(self._columns[key], dtype=float)

    def last(self, key: str) -> float | None:
        """The newest number of a column, None if there is none."""
        column = self._columns.get(key, ())
        return next((value for value in reversed(column) if value == value), None)


class Records:
    """What a run has logged so far: `.train`, `.eval` (whose names have lost their `eval_`), and `.sampled`:
    what was measured on the model's own answers, the KL and a judge's win rate.

    `read()` takes in what was appended since; a run that was resumed has rewritten its file and is read anew.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self._lock = threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self.train, self.eval, self.sampled = Columns(), Columns(), Columns()
        self._offset = 0
        self._file: int | None = None

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
            while stat.st_size > self._offset:
                records, offset = self.run.metrics_since(self._offset)
                if offset <= self._offset:  # a line that is being written, or no file to read
                    break
                self._offset = offset
                for record in records:
                    self._take(record)
        return self

    def _take(self, record: dict[str, Any]) -> None:
        if "kl_sampled" in record or "judged_win_rate" in record:  # records of their own, between the steps
            self.sampled.append(record)
            return
        held_out = {key.removeprefix(EVAL): value for key, value in record.items() if key.startswith(EVAL)}
        shared = {key: record[key] for key in ("step", "epoch") if key in record}
        if held_out:
            self.eval.append({**shared, **held_out})
        trained = {key: value for key, value in record.items() if not key.startswith(EVAL)}
        if set(trained) - {"step", "epoch", "seconds"}:
            self.train.append(trained)

    @property
    def version(self) -> tuple[int | None, int]:
        """Changes whenever there is something new to show."""
        return self._file, self._offset


_open: OrderedDict[str, Records] = OrderedDict()
_KEPT = 12  # runs whose numbers stay in memory: those that are watched or laid over each other
_lock = threading.Lock()


def records_of(run: Run) -> Records:
    """The run's records up to now; runs looked at lately are kept in memory and only read on."""
    key = str(run.path.resolve())
    with _lock:
        records = _open.setdefault(key, Records(run))
        _open.move_to_end(key)
        while len(_open) > _KEPT:
            _open.popitem(last=False)
    return records.read()
