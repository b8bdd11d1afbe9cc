"""What a large file was read as, kept in the workspace: whoever loads it again starts at once.

A file is known by its contents and the mapping that it was read with, and by the code that read it; its rows lie in an
Arrow file that is mapped into memory, what else was found of them beside its schema. The newest few are kept.
"""

import contextlib
import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash

from kto_workbench.feedback.rows import Problems, Rows

KEPT_FROM = 32 * 2**20  # bytes; smaller files are read in a second or two
KEPT_FILES = 4
ROWS_A_BATCH = 512  # what is read for one row that is visited
_FACTS = b"kto"


def key_of(paths: Sequence[Path], mapping: Mapping[str, Any]) -> str:
    """What the rows of files are kept under; empty for what is too small to keep, or can't be read."""
    try:
        if sum(path.stat().st_size for path in paths) < KEPT_FROM:
            return ""
        digest = xxhash.xxh3_128(json.dumps([_code(), mapping], sort_keys=True, default=str).encode())
        for path in paths:
            with path.open("rb") as file:
                while block := file.read(2**24):
                    digest.update(block)
    except OSError:  # reading it says what is wrong
        return ""
    return digest.hexdigest()


@functools.cache
def _code() -> str:
    """What reads files, as a hash: another version may find other rows."""
    sources = sorted(Path(__file__).parent.glob("*.py"))
    return xxhash.xxh3_128_hexdigest(b"".join(path.read_bytes() for path in sources) + pa.__version__.encode())


def keep(folder: Path, key: str, rows: Rows, problems: Mapping[str, Problems], facts: Mapping[str, Any]) -> None:
    """Write rows down, with facts of JSON types; a disk that refuses costs the next one a second reading."""
    path = _path(folder, key)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    said = json.dumps({**facts, "problems": {name: found.to_dict() for name, found in problems.items()}})
    schema = rows.table.schema.with_metadata({_FACTS: said.encode()})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with pa.ipc.new_file(str(part), schema) as writer:
            for batch in rows.batches():
                for start in range(0, batch.num_rows, ROWS_A_BATCH):
                    writer.write_batch(batch.slice(start, ROWS_A_BATCH).cast(schema))
        part.replace(path)
        older = sorted(path.parent.glob("*.arrow"), key=lambda one: one.stat().st_mtime_ns)[:-KEPT_FILES]
        for one in older:
            one.unlink(missing_ok=True)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def find(folder: Path, key: str) -> tuple[Rows, dict[str, Problems], dict[str, Any]] | None:
    """Rows that were kept, what could not be used, and the facts; None where there are none, or they are damaged."""
    path = _path(folder, key)
    if not key or not path.is_file():
        return None
    try:
        with pa.memory_map(str(path)) as file:
            facts = json.loads(pa.ipc.open_file(file).schema.metadata[_FACTS])
        problems = {name: Problems.of_dict(found) for name, found in facts.pop("problems").items()}
        rows = Rows.mapped(str(path), contextlib.ExitStack())
        os.utime(path)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return rows, problems, facts


def _path(folder: Path, key: str) -> Path:
    return folder / "cache" / "rows" / f"{key}.arrow"
