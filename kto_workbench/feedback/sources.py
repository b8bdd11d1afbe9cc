"""From what the user names to chunks of raw rows: a name, a file of any kind, dicts or a table in memory."""

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kto_workbench.errors import DataError
from kto_workbench.feedback import named
from kto_workbench.feedback.archives import is_archive, unpack_feedback
from kto_workbench.feedback.containers import (
    CHUNK_ROWS,
    Chunk,
    parse_json_line,
    read_batches,
    read_csv,
    read_json,
    read_json_lines,
    read_records,
)
from kto_workbench.feedback.files import (
    ARROW_FILE,
    ARROW_STREAM,
    PARQUET,
    check_path,
    open_binary,
    open_text,
    read_magic,
    reason_of,
)
from kto_workbench.feedback.formats import is_known_name
from kto_workbench.feedback.images import Beside
from kto_workbench.feedback.store import Thumb, ThumbStore
from kto_workbench.feedback.tables import read_arrow, read_parquet
from kto_workbench.feedback.templates import part_tools

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
FILE_SUFFIXES = frozenset(".jsonl .json .ndjson .csv .tsv .txt .parquet .arrow .gz .zst .zip".split())


@dataclass(frozen=True)
class Source:
    """Something to read feedback from. `read(schema)` starts from the first row each time."""

    name: str
    container: str
    read: Callable[[pa.Schema | None], Iterator[Chunk]]
    path: Path | None = None
    title: str = ""  # how it was put together, if it was
    beside: Beside | None = None  # where the images lie that it names

    @property
    def unit(self) -> str:
        """What a row's `line` counts: lines of a text file, or rows."""
        return "line" if self.container.startswith(("JSON", "CSV")) else "row"


def open_source(source: Any, workspace: str | Path = "workspace", mapping: Mapping[str, Any] | None = None) -> Source:
    """Find out what the source is and how to read it. Raises DataError."""
    if not isinstance(source, (str, Path)):
        return _open_memory(source)
    if source == named.THUMBS:
        return _open_thumbs(Path(workspace))
    if source in named.DEMO_FILES:
        source = named.find_demo_file(str(source))
    path = Path(source).expanduser()
    if is_archive(path):
        return _open_archive(path, mapping or {}, Path(workspace) / "cache")
    opened = _open_file(path, mapping or {})
    return replace(opened, beside=Beside(path if path.is_dir() else path.parent)) if opened.path else opened


def _open_archive(path: Path, mapping: Mapping[str, Any], cache: Path) -> Source:
    """The feedback of a zip archive, with the images in it."""
    unpacked = unpack_feedback(path, cache)

    def named(error: DataError) -> DataError:
        return type(error)(str(error).replace(str(unpacked.path), f"{unpacked.member} in {path}"))

    def read(schema: pa.Schema | None) -> Iterator[Chunk]:
        try:
            yield from opened.read(schema)
        except DataError as error:
            raise named(error) from None

    try:
        opened = _open_file(unpacked.path, mapping)
    except DataError as error:
        raise named(error) from None
    beside = Beside(Path(unpacked.member).parent, path)
    return Source(str(path), f"{opened.container}, in a zip archive", read, path, beside=beside)


def _open_memory(source: Any) -> Source:
    """Dicts, or anything that speaks Arrow: a pyarrow Table, a polars or pandas DataFrame, a datasets.Dataset."""
    if hasattr(source, "with_format") and hasattr(source, "to_list"):  # datasets.Dataset, which may be a shuffled view
        source = source.with_format("arrow")[:]
    if hasattr(source, "__arrow_c_stream__"):
        table = pa.table(source)
        return Source("the table", "table", lambda schema: _said(read_batches(iter(table.to_batches())), "The table"))
    if isinstance(source, Iterable) and not isinstance(source, (bytes, Mapping)):
        records = list(source)
        return Source("the list", "list", lambda schema: read_records(iter(records)))
    raise DataError(f"Feedback is a file, a name, a list of dicts or a table, not a {type(source).__name__}.")


def _open_thumbs(workspace: Path) -> Source:
    """The votes of the workspace's store; a line is a vote's id."""
    store = ThumbStore(workspace)
    if not len(store):
        raise DataError(f"No thumbs have been collected in the workspace {workspace} yet.")

    def read(schema: pa.Schema | None) -> Iterator[Chunk]:
        votes = store.thumbs()
        while some := list(islice(votes, CHUNK_ROWS)):
            yield Chunk(np.array([vote.id for vote in some], dtype=np.int64), [*map(_vote, some)].__getitem__)

    return Source(named.THUMBS, "the workspace's thumbs", read)


def _vote(thumb: Thumb) -> dict[str, Any]:
    prompt, tools = part_tools(thumb.prompt)
    return {"prompt": prompt, "completion": thumb.completion, "label": thumb.label} | (
        {"tools": tools} if tools else {}
    )


def _open_file(path: Path, mapping: Mapping[str, Any]) -> Source:
    if _looks_like_hub_id(path):
        return _open_hub(str(path))
    if os.path.isdir(path) and (folder := _find_split(path)):
        return Source(str(path), "datasets folder", lambda schema: read_batches(_read_folder(folder)), path)
    check_path(path)
    name = str(path)
    magic = read_magic(path)
    if not magic:
        raise DataError(f"{path} is empty.")
    if magic.startswith(PARQUET):
        read = lambda file: read_parquet(file, name, path.stat().st_size)
        return Source(name, "Parquet", lambda schema: _read_table(path, read), path)
    if magic.startswith((ARROW_FILE, ARROW_STREAM)):
        stream = magic.startswith(ARROW_STREAM)
        read = lambda file: read_arrow(file, stream, name, path.stat().st_size)
        return Source(name, "Arrow", lambda schema: _read_table(path, read), path)
    kind, encoding = _recognise_text(path)
    note = "" if encoding == "utf-8" else f" ({encoding.upper()})"
    if kind == "JSON lines":
        return Source(name, kind + note, lambda schema: read_json_lines(open_text(path), schema), path)
    if kind == "JSON":
        return Source(name, kind + note, lambda schema: read_json(open_text(path)), path)
    columns = {value for value in mapping.values() if isinstance(value, str)}
    known = lambda column: column.strip() in columns or is_known_name(column)
    return Source(name, kind + note, lambda schema: read_csv(open_text(path), known), path)


def _looks_like_hub_id(path: Path) -> bool:
    """Whether this is owner/name rather than a file that is missing: that must not wait for a network."""
    is_file = os.path.exists(path) or os.path.isdir(path.parent) or path.suffix.lower() in FILE_SUFFIXES
    return bool(HUB_ID.fullmatch(str(path))) and not is_file


def _open_hub(name: str) -> Source:
    """A dataset of the Hugging Face hub: its train split, from the local cache or the network."""
    import datasets  # slow to import, and rarely needed

    try:
        dataset = datasets.load_dataset(name, split="train")
    except Exception as error:  # a dozen kinds, of several libraries
        raise DataError(
            f"There is no file {name}, and no such dataset can be had from the hub: {reason_of(error)}."
        ) from None
    source = _open_memory(dataset)
    return Source(name, "hub dataset", source.read)


def _find_split(folder: Path) -> Path | None:
    """The folder of a dataset that save_to_disk wrote: this one, its train split, or its only one."""
    if (folder / "state.json").is_file():
        return folder
    splits = [path.parent for path in sorted(folder.glob("*/state.json"))]
    return next((path for path in splits if path.name == "train"), splits[0] if len(splits) == 1 else None)


def _read_folder(folder: Path) -> Iterator[pa.RecordBatch]:
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        for part in state["_data_files"]:
            path = folder / Path(part["filename"]).name  # never a path that leads out of the folder
            with pa.OSFile(str(path)) as file:
                yield from pa.ipc.open_stream(file)
    except (ValueError, KeyError, TypeError, OSError, pa.ArrowException) as error:
        raise DataError(f"The dataset in {folder} is damaged: {reason_of(error)}.") from None


def _read_table(path: Path, read: Callable[[Any], Iterator[pa.RecordBatch]]) -> Iterator[Chunk]:
    file = open_binary(path)
    try:
        yield from _said(read_batches(read(file)), str(path))
    finally:
        file.close()


def _said(chunks: Iterator[Chunk], name: str) -> Iterator[Chunk]:
    """The chunks, with Arrow's complaints in a sentence."""
    try:
        yield from chunks
    except (pa.ArrowException, OSError, EOFError, ValueError, KeyError) as error:
        raise DataError(f"{name} is damaged: {reason_of(error)}.") from None


def _recognise_text(path: Path) -> tuple[str, str]:
    """(container, encoding) of a text file, by its first megabyte."""
    stream = open_text(path)
    head = b""
    while len(head) < 2**20 and (data := stream.read(2**20)):
        head += data
    start = head.lstrip()
    if not start:
        raise DataError(f"{path} is empty: it holds nothing but white space.")
    if start[:1] == b"[":
        return "JSON", stream.encoding
    if start[:1] == b"{":
        return _lines_or_json(head), stream.encoding
    later = [line for line in head.splitlines()[1:50] if line.startswith(b"{")]
    if any(isinstance(parse_json_line(line), dict) for line in later):
        return "JSON lines", stream.encoding  # its first line is damaged
    if _looks_binary(head[:4096]):
        raise DataError(f"{path} is neither text nor Parquet nor Arrow.")
    return "CSV", stream.encoding


def _looks_binary(head: bytes) -> bool:
    """Many NULs, or some among bytes that are not UTF-8; a single NUL in a text is the business of its row."""
    valid = "\ufffd" not in head.decode("utf-8", "replace")[:-1]
    return head.count(0) > len(head) / 10 or (0 in head and not valid)


def _lines_or_json(head: bytes) -> str:
    """An object a line, or objects over several lines, whose inner ones are indented; one that stands alone is JSON."""
    if b"\n" not in head.strip():
        return "JSON"
    lines = [line for line in head.splitlines()[:200] if line.startswith(b"{")]
    if len(lines) > 1 and lines[0].strip() != b"{":
        return "JSON lines"
    return "JSON lines" if any(isinstance(parse_json_line(line), dict) for line in lines) else "JSON"
