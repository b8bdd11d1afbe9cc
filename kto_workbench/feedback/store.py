"""The thumbs collected in a workspace: a SQLite file that several processes may write to, and that survives a kill.

    store = ThumbStore("workspace")
    thumb = store.add("Hello!", "Good day to you.", True, model="demo", run="r1")
    store.change(thumb, False)          # the same person changes their mind …
    store.retract(thumb)                # … or takes the vote back
    store.annotate(thumb, "Too long.")  # why
    store.edit(thumb, "Good day!")      # what would have been better: a row of its own, thumbs up
    store.by_day()                      # {date: Balance}
    store.export("thumbs.jsonl")        # or .parquet; and `data: thumbs` trains on them

Every call opens the file, does one transaction and closes it, so threads and processes need no care. A call that has
returned is on disk (WAL, synchronous=FULL). A file that turns out to be damaged is put aside, with what can be read of
it taken over into a new one; the call that met it says so, and the next one works.
"""

import contextlib
import json
import os
import sqlite3
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet
from filelock import FileLock
from pydantic import TypeAdapter

from kto_workbench.errors import DataError
from kto_workbench.feedback.balance import Balance
from kto_workbench.feedback.rows import Message
from kto_workbench.feedback.templates import part_tools
from kto_workbench.files import is_plain, is_there

FILE_NAME = "feedback.sqlite"
VERSION = 3
PATIENCE = 30.0  # seconds to wait for another process's write

_TABLE = """
CREATE TABLE IF NOT EXISTS thumbs (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    prompt TEXT NOT NULL,           -- JSON: a text or a list of messages
    completion TEXT NOT NULL,
    label INTEGER,                  -- 1 up, 0 down, NULL taken back
    model TEXT NOT NULL, adapter TEXT NOT NULL, run TEXT NOT NULL,
    sampling TEXT NOT NULL,         -- JSON: temperature, seed, …
    who TEXT NOT NULL,
    created REAL NOT NULL, changed REAL NOT NULL,   -- seconds since 1970
    note TEXT NOT NULL DEFAULT '',  -- why, in the voter's words
    side TEXT NOT NULL DEFAULT ''   -- who wrote the answer, as runs/sides.py names it; a person: nothing
)"""
EDITED_FROM = "edited_from"  # in `sampling` of an answer that a person wrote: the thumb of the answer it replaces
# What turns a file of an older version into the next one. Up to version 2 a run's part stood in `sampling`.
_PART = "CASE WHEN json_valid(sampling) THEN json_extract(sampling, '$.side') END"
_RENEWED = {
    1: ["ALTER TABLE thumbs ADD COLUMN note TEXT NOT NULL DEFAULT ''"],
    2: [
        "ALTER TABLE thumbs ADD COLUMN side TEXT NOT NULL DEFAULT ''",
        f"UPDATE thumbs SET side = CASE ({_PART}) WHEN 'tuned' THEN run ELSE run || '@' || ({_PART}) END "
        f"WHERE run != '' AND ({_PART}) IS NOT NULL",
    ],
}
_EDITED = f"WHERE json_extract(sampling, '$.{EDITED_FROM}') = ?"


@dataclass(frozen=True)
class Thumb:
    """One vote, and what it was given to. `label` is None once it is taken back; times are seconds since 1970.

    `side` says who wrote the answer (a run or one of its checkpoints, a model, an endpoint; "" is a person), `model`
    which model that is or is made of.
    """

    id: int
    prompt: str | list[Message]
    completion: str
    label: bool | None
    model: str = ""
    adapter: str = ""
    run: str = ""
    sampling: dict[str, Any] = field(default_factory=dict)
    who: str = ""
    created: float = 0.0
    changed: float = 0.0
    note: str = ""
    side: str = ""


class ThumbStore:
    """The thumbs of one workspace. Methods raise DataError in one sentence when the file can't be used."""

    def __init__(self, workspace: str | Path = "workspace"):
        self.path = Path(workspace) / FILE_NAME

    def add(
        self,
        prompt: str | Sequence[Message],
        completion: str,
        label: bool,
        *,
        model: str = "",
        adapter: str = "",
        run: str = "",
        sampling: Mapping[str, Any] | None = None,
        who: str = "",
        note: str = "",
        side: str = "",
    ) -> int:
        """Keep a vote and return its id; when this returns, the vote is on disk."""
        now = time.time()
        thumb = Thumb(
            0,
            prompt if isinstance(prompt, str) else list(prompt),
            completion,
            bool(label),
            model=model,
            adapter=adapter,
            run=run,
            sampling=dict(sampling or {}),
            who=who,
            created=now,
            changed=now,
            note=note,
            side=side,
        )
        with self._writing() as database:
            return _insert(database, thumb)

    def change(self, thumb: int, label: bool) -> None:
        """Turn a vote around, or give one again that was taken back."""
        self._set(thumb, int(bool(label)))

    def retract(self, thumb: int) -> None:
        """Take a vote back: it stays in the file, and is no longer trained on."""
        self._set(thumb, None)

    def annotate(self, thumb: int, note: str) -> None:
        """Say why, in words; replaces an older note."""
        with self._writing() as database:
            self._update(database, thumb, note=note)

    def edit(self, thumb: int, better: str) -> int:
        """Keep a better answer to a thumb's prompt and return its id; it is a thumb up, `edited_from` that thumb.

        The answer that was edited keeps its vote; without one (it was taken back) it becomes a thumb down, since who
        writes a better answer finds it worse. Editing the same answer again replaces what was written before.
        Raises DataError if the better answer is empty or the same.
        """
        better = better.strip()
        if not better:
            raise DataError("The better answer is empty.")
        with self._writing() as database:
            original = self._one(database, "WHERE id = ?", thumb)
            if original is None:
                raise self._unknown(thumb)
            if better == original.completion.strip():
                raise DataError("The better answer is the same as the answer.")
            if original.label is None:
                self._update(database, thumb, label=0)
            before = self._one(database, _EDITED, thumb)
            if before is not None:
                self._update(database, before.id, completion=better, label=1)
                return before.id
            now = time.time()
            written = {"completion": better, "label": True, "sampling": {EDITED_FROM: thumb}, "note": "", "side": ""}
            return _insert(database, replace(original, **written, created=now, changed=now))

    def edited(self, thumb: int) -> Thumb | None:
        """The better answer that was written to a thumb's, None if there is none or it was taken back."""
        found = next(self._select(_EDITED, (thumb,)), None)
        return found if found is not None and found.label is not None else None

    def _set(self, thumb: int, label: int | None) -> None:
        with self._writing() as database:
            self._update(database, thumb, label=label)

    def _update(self, database: sqlite3.Connection, thumb: int, **values: Any) -> None:
        values["changed"] = time.time()
        places = ", ".join(f"{name} = ?" for name in values)
        if not database.execute(f"UPDATE thumbs SET {places} WHERE id = ?", (*values.values(), thumb)).rowcount:
            raise self._unknown(thumb)

    def _unknown(self, thumb: int) -> DataError:
        return DataError(f"There is no thumb {thumb} in {self.path}.")

    def get(self, thumb: int) -> Thumb:
        """One vote by its id."""
        for found in self._select("WHERE id = ?", (thumb,)):
            return found
        raise self._unknown(thumb)

    def thumbs(self, *, retracted: bool = False) -> Iterator[Thumb]:
        """All votes as they stand at this moment, oldest first; those taken back only if asked for."""
        return self._select("" if retracted else "WHERE label IS NOT NULL", ())

    def balance(self) -> Balance:
        """Thumbs up against thumbs down."""
        if not self.path.exists():
            return Balance(0, 0)
        with self._reading() as database:
            up, down = database.execute(
                "SELECT COUNT(*) FILTER (WHERE label), COUNT(*) FILTER (WHERE NOT label) FROM thumbs"
            ).fetchone()
        return Balance(up, down)

    def by_day(self) -> dict[date, Balance]:
        """How many thumbs were given on each day of this machine's calendar that has any, oldest first."""
        if not self.path.exists():
            return {}
        with self._reading() as database:
            days = database.execute(
                "SELECT date(created, 'unixepoch', 'localtime') AS day, COUNT(*) FILTER (WHERE label), "
                "COUNT(*) FILTER (WHERE NOT label) FROM thumbs WHERE label IS NOT NULL AND day IS NOT NULL "
                "GROUP BY day ORDER BY day"
            ).fetchall()
        return {date.fromisoformat(day): Balance(up, down) for day, up, down in days}

    def by_side(self) -> dict[str, Balance]:
        """How many thumbs each side's answers were given; the side with the most first, "" for what people wrote."""
        if not self.path.exists():
            return {}
        with self._reading() as database:
            sides = database.execute(
                "SELECT side, COUNT(*) FILTER (WHERE label), COUNT(*) FILTER (WHERE NOT label) FROM thumbs "
                "WHERE label IS NOT NULL GROUP BY side ORDER BY COUNT(*) DESC, side"
            ).fetchall()
        return {side: Balance(up, down) for side, up, down in sides}

    def __len__(self) -> int:
        balance = self.balance()
        return balance.n_desirable + balance.n_undesirable

    def export(self, path: str | Path) -> int:
        """Write all votes to a .jsonl or .parquet file, whole or not at all; returns their number.

        Where one prompt is a conversation all are, and so are the completions, as TRL and `datasets` want it.
        """
        path = Path(path)
        if path.suffix not in (".jsonl", ".parquet"):
            raise DataError(f"Thumbs are exported to a .jsonl or a .parquet file, not to {path.name}.")
        rows = [asdict(thumb) for thumb in self.thumbs()]
        if any(not isinstance(row["prompt"], str) for row in rows):
            for row in rows:
                if isinstance(row["prompt"], str):
                    row["prompt"] = [{"role": "user", "content": row["prompt"]}]
                row["completion"] = [{"role": "assistant", "content": row["completion"]}]
        parted = [part_tools(row["prompt"]) for row in rows]
        offered = any(tools for _, tools in parted)
        for row, (prompt, tools) in zip(rows, parted, strict=True):
            row["prompt"] = prompt
            row |= {"tools": json.dumps(tools, ensure_ascii=False) if tools else None} if offered else {}
            row["sampling"] = json.dumps(row["sampling"], ensure_ascii=False)
        try:
            handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
            try:
                with os.fdopen(handle, "wb") as file:
                    if path.suffix == ".parquet":
                        pa.parquet.write_table(pa.Table.from_pylist(rows, None if rows else _EMPTY), file)
                    else:
                        file.writelines(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, path)
            except BaseException:
                os.unlink(temporary)
                raise
        except OSError as error:
            raise DataError(f"Can't write {path}: {error.strerror}.") from None
        return len(rows)

    # SQLite

    def _select(self, where: str, values: tuple[Any, ...]) -> Iterator[Thumb]:
        if not self.path.exists():
            return
        with self._reading() as database:
            for row in database.execute(f"SELECT * FROM thumbs {where} ORDER BY id", values):
                if (thumb := _thumb(row)) is not None:
                    yield thumb

    def _one(self, database: sqlite3.Connection, where: str, *values: Any) -> Thumb | None:
        row = database.execute(f"SELECT * FROM thumbs {where}", values).fetchone()
        return None if row is None else _thumb(row)

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._errors_said(), closing(self._open_to_read()) as database:
            yield database

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction, alone: others wait for their turn."""
        with self._errors_said():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with closing(self._open()) as database:
                database.execute("BEGIN IMMEDIATE")
                try:
                    yield database
                    database.execute("COMMIT")
                except BaseException:
                    database.execute("ROLLBACK")
                    raise

    def _open_to_read(self) -> sqlite3.Connection:
        """As `_open`, also on a disk that is full or read only, where SQLite can't make the files beside its own."""
        try:
            database = self._open()
            try:
                database.execute("SELECT 1 FROM thumbs LIMIT 1")
                return database
            except BaseException:
                database.close()
                raise
        except sqlite3.OperationalError:
            log = self.path.with_name(f"{FILE_NAME}-wal")
            if is_there(log) and log.stat().st_size:  # it holds votes, which would be passed over
                raise
            database = sqlite3.connect(f"file:{quote(str(self.path))}?immutable=1", isolation_level=None, uri=True)
            database.row_factory = sqlite3.Row
            return database

    def _open(self) -> sqlite3.Connection:
        database = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)
        try:
            database.row_factory = sqlite3.Row
            (version,) = database.execute("PRAGMA user_version").fetchone()
            if version > VERSION:
                raise DataError(f"{self.path} was written by a newer workbench; update this one.")
            database.execute("PRAGMA synchronous = FULL")
            if version < VERSION:
                _renew(database)
            return database
        except BaseException:
            database.close()
            raise

    @contextmanager
    def _errors_said(self) -> Iterator[None]:
        try:
            if is_there(self.path) and not is_plain(self.path):
                self._put_aside("it is no file of thumbs")
            yield
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                self._put_aside(str(error))
            raise DataError(f"Can't use the thumbs in {self.path}: {error}.") from None
        except (sqlite3.Error, OSError) as error:
            raise DataError(f"Can't use the thumbs in {self.path}: {error}.") from None

    def _put_aside(self, why: str) -> None:
        """Give way to a new file, with what can be read of this one. Raises DataError that says so, or OSError."""
        with FileLock(self.path.with_name(f".{FILE_NAME}.lock"), timeout=PATIENCE):
            if _is_sound(self.path):  # another process has been faster
                return
            aside = self.path.with_name(f"feedback-damaged-{datetime.now():%Y%m%d-%H%M%S}.sqlite")
            for ending in ("", "-wal", "-shm"):
                beside = self.path.with_name(FILE_NAME + ending)
                if is_there(beside):
                    beside.rename(aside.with_name(aside.name + ending))
            saved = list(_readable(aside))
            with closing(self._open()) as database:
                for thumb in saved:
                    _insert(database, thumb, keep_id=True)
        raise DataError(
            f"Can't use the thumbs in {self.path}: {why}. The damaged file is {aside.name} now; {len(saved)} thumbs "
            "could be read from it and are kept."
        )


def _is_sound(path: Path) -> bool:
    if not is_plain(path):  # a pipe would be waited for
        return False
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", timeout=PATIENCE, uri=True)) as database:
            return database.execute("PRAGMA quick_check").fetchone() == ("ok",)
    except sqlite3.Error:
        return False


def _readable(path: Path) -> Iterator[Thumb]:
    """The thumbs of a damaged file, up to where it can't be read."""
    if not is_plain(path):
        return
    with contextlib.suppress(sqlite3.Error):
        with closing(sqlite3.connect(path, timeout=PATIENCE)) as database:
            database.row_factory = sqlite3.Row
            for row in database.execute("SELECT * FROM thumbs"):
                if (thumb := _thumb(row)) is not None:
                    yield thumb


def _thumb(row: sqlite3.Row) -> Thumb | None:
    """A row as it was kept; None for one that is spoiled."""
    kept = dict(row)
    try:
        kept["prompt"], kept["sampling"] = json.loads(kept["prompt"]), json.loads(kept["sampling"])
        kept["label"] = None if kept["label"] is None else bool(kept["label"])
        return _THUMB.validate_python(kept)
    except (KeyError, TypeError, ValueError, RecursionError):  # a ValidationError is a ValueError
        return None


_THUMB = TypeAdapter(Thumb)


def _insert(database: sqlite3.Connection, thumb: Thumb, *, keep_id: bool = False) -> int:
    """Add a thumb under a new id, or its own, which is returned."""
    values = {name: getattr(thumb, name) for name in Thumb.__dataclass_fields__ if keep_id or name != "id"}
    for name in ("prompt", "sampling"):
        values[name] = json.dumps(values[name], ensure_ascii=False)
    columns, places = ", ".join(values), ", ".join("?" * len(values))
    added = database.execute(f"INSERT INTO thumbs ({columns}) VALUES ({places})", tuple(values.values()))
    return int(added.lastrowid)


def _renew(database: sqlite3.Connection) -> None:
    """Make the table, or bring one of an older version to this one, whole or not at all."""
    _keep_a_log(database)
    database.execute("BEGIN IMMEDIATE")
    try:
        (version,) = database.execute("PRAGMA user_version").fetchone()  # again: another process may have been faster
        if version == 0:
            database.execute(_TABLE)
        else:
            for statement in (one for older in range(version, VERSION) for one in _RENEWED[older]):
                database.execute(statement)
        database.execute(f"PRAGMA user_version = {VERSION}")
        database.execute("COMMIT")
    except BaseException:
        database.execute("ROLLBACK")
        raise


def _keep_a_log(database: sqlite3.Connection) -> None:
    """Switch to write-ahead logging. The one statement that does not wait by itself while another switches too."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            database.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
            time.sleep(0.01)


_EMPTY = pa.schema(
    [("id", pa.int64()), ("prompt", pa.string()), ("completion", pa.string()), ("label", pa.bool_())]
    + [(name, pa.string()) for name in ("model", "adapter", "run", "sampling", "who")]
    + [("created", pa.float64()), ("changed", pa.float64()), ("note", pa.string()), ("side", pa.string())]
)
