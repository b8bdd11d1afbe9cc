"""Feedback in: any source becomes rows, a balance, and a list of what could not be used.

    feedback = load_feedback("thumbs.jsonl")
    feedback.rows[0].prompt, feedback.problems, feedback.balance().advice

Rows in = rows kept + problems, always. A row of a pair file is one row in, and becomes two rows of feedback.
"""

import functools
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kto_workbench.errors import DataError
from kto_workbench.feedback import kept
from kto_workbench.feedback.adapters import make_adapter
from kto_workbench.feedback.balance import Balance
from kto_workbench.feedback.columns import convert, plain_schema
from kto_workbench.feedback.containers import BadRow, Chunk
from kto_workbench.feedback.formats import Example, Format, parse_mapping, recognise
from kto_workbench.feedback.images import Beside, Images, keys_in, resolve
from kto_workbench.feedback.joins import open_feedback, split_names
from kto_workbench.feedback.messages import RowProblem, dump_json
from kto_workbench.feedback.named import NAMES
from kto_workbench.feedback.pairs import find_pairs
from kto_workbench.feedback.rows import SCHEMA, Message, Problems, Rows
from kto_workbench.feedback.sources import Source

SAMPLE_ROWS = 500  # read to recognise the format
SPILL_BYTES = 128 * 2**20  # above this, rows go to a temporary file that is mapped back
KEPT_FACTS = ("rows_in", "container", "unit", "format", "mapping", "n_desirable", "n_with_images")
Progress = Callable[[str, int], None]  # called with what is done ("read", …) and to how many rows so far


class Feedback:
    """The rows of a source and what became of each.

    Attributes:
        rows: the usable thumbs, a Sequence[Row].
        rows_in: rows of the source; rows_in == rows_kept + len(problems).
        problems: the rows that can't be used, each with line, field and reason.
        parts_left_out: single answers of kept rows that carry no thumb, such as one of four rated answers on the cut.
        source, container, format, mapping: what was read and what it was recognised as.
        path: the file, if it is one. unit: what `line` counts, "line" or "row".
        n_with_images: rows whose prompt holds images. images: where these are.
    """

    def __init__(self, rows: Rows, rows_in: int, problems: Problems, parts_left_out: Problems, **facts: Any) -> None:
        self.rows = rows
        self.rows_in = rows_in
        self.problems = problems
        self.parts_left_out = parts_left_out
        self.source: str = facts["source"]
        self.path: Path | None = facts["path"]
        self.container: str = facts["container"]
        self.unit: str = facts["unit"]
        self.format: str = facts["format"]
        self.mapping: dict[str, Any] = facts["mapping"]
        self.an_image: str = facts.get("an_image", "")
        up = facts.get("n_desirable")
        self.n_desirable: int = (pc.sum(rows.table.column("label")).as_py() or 0) if up is None else up
        self.n_undesirable = len(rows) - self.n_desirable
        self.n_with_images: int = facts.get("n_with_images", 0)
        self.images: Images = facts["images"]

    @property
    def rows_kept(self) -> int:
        """Rows of the source that gave at least one row of feedback."""
        return self.rows_in - len(self.problems)

    @functools.cached_property
    def n_pairs(self) -> int:
        """How many pairs there are, a liked and a disliked answer to one prompt, each answer in one at most."""
        return len(find_pairs(self.rows))

    def balance(self) -> Balance:
        """Thumbs up against thumbs down, and the weights λ that follow."""
        return Balance(self.n_desirable, self.n_undesirable)

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return (
            f"<Feedback {self.source}: {self.n_desirable} thumbs up, {self.n_undesirable} thumbs down, "
            f"{len(self.problems)} problems, {self.format}>"
        )


def load_feedback(
    source: Any,
    *,
    workspace: str | Path = "workspace",
    mapping: Mapping[str, Any] | Iterable[str] | None = None,
    progress: Progress | None = None,
) -> Feedback:
    """Load feedback from a file, a name (`demo`, `thumbs`, …), a list of dicts or a table.

    "ratings.jsonl+conversations.jsonl" is two files, see joins.py. `mapping` says which column plays which part, where
    that was recognised wrongly: {"prompt": "question", …} or ["prompt=question", …]; see formats.py for the parts.
    Raises DataError, in one sentence, if the source can't be read or no row can be used.
    """
    mapping = parse_mapping(mapping)
    opened = open_feedback(source, workspace, mapping)
    paths = _files_of(source)
    key = kept.key_of(paths, mapping) if paths else ""
    feedback = _kept(opened, key, Path(workspace))
    if feedback:
        if progress:
            progress("read", feedback.rows_in)
        return feedback
    feedback = _read(opened, mapping, Path(workspace), progress)
    if key:
        facts = {name: getattr(feedback, name) for name in KEPT_FACTS}
        facts["an_image"] = feedback.an_image
        problems = {"problems": feedback.problems, "parts_left_out": feedback.parts_left_out}
        kept.keep(Path(workspace), key, feedback.rows, problems, facts)
    return feedback


def _kept(opened: Source, key: str, workspace: Path) -> Feedback | None:
    """What was read of the same before."""
    if not (known := kept.find(workspace, key)):
        return None
    rows, problems, facts = known
    images = Images(workspace)
    if (image := facts.pop("an_image", "")) and not images.knows(image):
        return None  # the workspace's images were taken away, or those beside the file
    return Feedback(rows, **problems, **facts, source=opened.name, path=opened.path, images=images)


def _files_of(source: Any) -> list[Path]:
    """The files that a source is read from; none where it is something else."""
    names = split_names(source) if isinstance(source, (str, Path)) and str(source) not in NAMES else []
    paths = [Path(name).expanduser() for name in names]
    try:
        return paths if all(path.is_file() for path in paths) else []
    except (OSError, ValueError):  # a name that no file can have
        return []


def _read(opened: Source, mapping: Mapping[str, Any], workspace: Path, progress: Progress | None) -> Feedback:
    sample = _read_sample(opened)
    if not sample:
        known, schema = Format("unknown", {}), None
    else:
        known = recognise(sample, mapping, opened.name)
        schema = plain_schema(known, sample)
    collected = _Collector(known, workspace, opened.beside)
    for chunk in opened.read(schema):
        collected.add(chunk)
        if progress:
            progress("read", collected.rows_in)
    rows = collected.finish()
    if not len(rows):
        raise DataError(_nothing_usable(opened.name, opened.unit, collected))
    return Feedback(
        rows,
        collected.rows_in,
        collected.problems,
        collected.parts_left_out,
        source=opened.name,
        path=opened.path,
        container=opened.container,
        unit=opened.unit,
        format=f"{opened.title}; {known.name}" if opened.title else known.name,
        mapping=known.mapping,
        n_with_images=collected.n_with_images,
        an_image=collected.an_image,
        images=collected.images,
    )


def _nothing_usable(name: str, unit: str, collected: "_Collector") -> str:
    if not collected.rows_in:
        return f"{name} holds no rows."
    first = collected.problems[0]
    which = "its only row" if collected.rows_in == 1 else f"none of its {collected.rows_in:,} rows"
    can = "can't be used" if collected.rows_in == 1 else "can be used"
    return f"{name}: {which} {can}; {unit} {first.line}: {first.reason}."


def _read_sample(source: Source) -> list[dict[str, Any]]:
    """The first rows that can be read."""
    chunks = source.read(None)
    records = (record for chunk in islice(chunks, 20) for record in chunk.records if isinstance(record, dict))
    return list(islice(records, SAMPLE_ROWS))


class _Collector:
    """Turns chunks into rows and problems, keeping account of every row."""

    def __init__(self, known: Format, workspace: Path, beside: Beside | None):
        self.rows_in = self.n_with_images = 0
        self.an_image = ""
        self.images, self._beside = Images(workspace), beside
        self.problems = Problems()
        self.parts_left_out = Problems()
        self._known = known
        self._adapt = make_adapter(known) if known.columns else None
        self._sink = _Sink(workspace)

    def add(self, chunk: Chunk) -> None:
        self.rows_in += len(chunk.lines)
        rows, rest = None, np.arange(len(chunk.lines))
        if chunk.table is not None:
            rows, rest = convert(chunk.table, chunk.lines, self._known)
        if len(rest):
            looked_at = self._look_at(chunk, rest)
            rows = looked_at if rows is None else _in_order(rows, looked_at)
        self._sink.write(rows)

    def _look_at(self, chunk: Chunk, positions: np.ndarray) -> pa.Table:
        """These rows of the chunk, one by one."""
        examples: list[Example] = []
        lines: list[int] = []
        for position in positions.tolist():
            record, line = chunk.record(position), int(chunk.lines[position])
            try:
                if isinstance(record, BadRow):
                    raise RowProblem(record.field, record.reason)
                found, left_out = self._adapt(record)
                found = [(self._resolved(prompt), *rest) for prompt, *rest in found]
            except RowProblem as problem:
                self.problems.add(line, problem.field, problem.reason)
                continue
            for part in left_out:
                self.parts_left_out.add(line, part.field, part.reason)
            examples += found
            lines += [line] * len(found)
        return _as_table(examples, lines)

    def _resolved(self, prompt: str | list[Message]) -> str | list[Message]:
        """A prompt with the keys of its images."""
        field = next(iter(self._known.images), None) or self._known.columns.get("messages", "prompt")
        prompt = resolve(prompt, self.images, self._beside, field)
        if keys := keys_in(prompt):
            self.n_with_images, self.an_image = self.n_with_images + 1, keys[0]
        return prompt

    def finish(self) -> Rows:
        return self._sink.finish()


def _as_table(examples: list[Example], lines: list[int]) -> pa.Table:
    prompts, completions, labels, tools = zip(*examples, strict=True) if examples else ((), (), (), ())
    chat = [not isinstance(prompt, str) for prompt in prompts]
    texts = [dump_json(prompt) if is_chat else prompt for prompt, is_chat in zip(prompts, chat, strict=True)]
    columns = [texts, chat, completions, labels, lines, tools]
    return pa.table([pa.array(column, kind) for column, kind in zip(columns, SCHEMA.types, strict=True)], schema=SCHEMA)


def _in_order(ours: pa.Table, theirs: pa.Table) -> pa.Table:
    """Both tables as one, in the order of the file; the two rows of a pair keep theirs."""
    both = pa.concat_tables([ours, theirs])
    order = np.argsort(both.column("line").to_numpy(), kind="stable")
    return both.take(pa.array(order))


class _Sink:
    """Gathers tables in memory, and beyond SPILL_BYTES in a temporary Arrow file."""

    def __init__(self, workspace: Path):
        self._folder = workspace / "cache"
        self._tables: list[pa.Table] = []
        self._bytes = 0
        self._file: Any = None
        self._path = ""
        self._writer: pa.ipc.RecordBatchFileWriter | None = None

    def write(self, table: pa.Table) -> None:
        self._bytes += table.nbytes
        if self._writer is None and self._bytes > SPILL_BYTES:
            self._start_file()
        if self._writer is None:
            self._tables.append(table)
        else:
            self._write_down(table)

    def _start_file(self) -> None:
        self._file, self._path = _open_temporary(self._folder)
        self._writer = pa.ipc.new_file(self._path, SCHEMA)
        for table in self._tables:
            self._write_down(table)
        self._tables.clear()

    def _write_down(self, table: pa.Table) -> None:
        try:
            self._writer.write_table(table.combine_chunks(), max_chunksize=4096)
        except OSError as error:
            raise DataError(f"Can't keep the rows in {self._folder}: {error.strerror or error}.") from None

    def finish(self) -> Rows:
        if self._writer is None:
            return Rows(pa.concat_tables([SCHEMA.empty_table(), *self._tables]))
        self._writer.close()
        return Rows.mapped(self._path, self._file)


def _open_temporary(folder: Path) -> tuple[Any, str]:
    """A temporary file and a path to it, beside the workspace's caches: the system's folder may lie in memory.

    Where the system allows it, the file has no name, so that even a kill leaves nothing behind.
    """
    nameless = os.path.isdir("/dev/fd")
    create = tempfile.TemporaryFile if nameless else tempfile.NamedTemporaryFile
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = create(prefix="rows-", dir=folder)
    except OSError:
        file = create(prefix="rows-")
    return file, f"/dev/fd/{file.fileno()}" if nameless else file.name
