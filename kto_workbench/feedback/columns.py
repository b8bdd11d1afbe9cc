"""The fast way from a table of plain columns to rows: vectorised, and only for what it is sure of.

Whatever is not plainly a text or a known label is left to `adapters.make_adapter`, which decides what a row means; the
tests hold that both ways give the same rows.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from kto_workbench.feedback.formats import Format, unwrap_label
from kto_workbench.feedback.labels import UnclearLabel
from kto_workbench.feedback.rows import SCHEMA

JUDGED, PAIRS = {"prompt", "completion", "label"}, {"prompt", "chosen", "rejected"}
_LABEL_TYPES = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.large_string()}

_SPACE = r"\s\x1c-\x1f"  # what Python strips: more than what Rust's regular expressions call space
_MAYBE_MESSAGES = r"^[\[{]"
_MAYBE_TRANSCRIPT = rf"^[{_SPACE}]*H(?:uman)?:|<extra_id_1>"


def plain_schema(known: Format, sample: Sequence[dict[str, Any]]) -> pa.Schema | None:
    """The columns and types to read a JSON file with, if it has one flat column for each part; else None."""
    if not _is_plain(known) or len(set(known.columns.values())) < 3:
        return None
    fields = []
    for part, name in known.columns.items():
        types = {type(record.get(name)) for record in sample} - {type(None)}
        if types == {int, float}:
            types = {float}
        expected = _LABEL_TYPES if part == "label" else {str: pa.large_string()}
        if len(types) != 1 or not types <= expected.keys():
            return None
        fields.append((name, expected[types.pop()]))
    return pa.schema(fields)


def _is_plain(known: Format) -> bool:
    return known.wrapper is None and not known.images and known.columns.keys() in (JUDGED, PAIRS)


def convert(table: pa.Table, lines: np.ndarray, known: Format) -> tuple[pa.Table | None, np.ndarray]:
    """The rows of a table that are plainly fine, and the positions of all others.

    That is (None, all positions) if the table's columns are not plain. A pair gives two rows, one after the other.
    """
    everything = np.arange(len(lines))
    if not _is_plain(known) or not set(known.columns.values()) <= set(table.column_names):
        return None, everything
    parts = {part: table.column(name) for part, name in known.columns.items()}
    texts = [part for part in parts if part != "label"]
    try:
        for part in texts:
            if not (pa.types.is_string(parts[part].type) or pa.types.is_large_string(parts[part].type)):
                return None, everything
            parts[part] = parts[part].cast(pa.large_string()).combine_chunks()
            parts[part].validate(full=True)
    except pa.ArrowException:
        return None, everything
    frame = pl.DataFrame({part: pl.Series(part, pl.from_arrow(parts[part])) for part in texts})
    sure = [pl.col("prompt").str.contains(rf"[^{_SPACE}]"), ~pl.col("prompt").str.contains(_MAYBE_MESSAGES)]
    sure += [~pl.col("prompt").str.contains(_MAYBE_TRANSCRIPT)]
    sure += [~pl.col(part).str.contains(_MAYBE_MESSAGES) for part in texts[1:]]
    if "label" in parts:
        labels = _read_labels(pl.Series(pl.from_arrow(parts["label"])), known)
        frame = frame.with_columns(label=labels)
        sure.append(pl.col("label").is_not_null())
    else:
        sure.append(pl.col("chosen") != pl.col("rejected"))
        sure += [~pl.col(part).str.contains(_MAYBE_TRANSCRIPT) for part in texts[1:]]
    mask = frame.select(pl.all_horizontal(sure).fill_null(False)).to_series().to_numpy()
    kept = np.flatnonzero(mask)
    rest = np.flatnonzero(~mask)
    if "label" in parts:
        columns = [parts["prompt"], parts["completion"]]
        flags = frame["label"].to_arrow()
        if len(rest):
            columns, flags = [column.filter(pa.array(mask)) for column in columns], flags.filter(pa.array(mask))
        return _rows(*columns, flags, lines[kept]), rest
    # Both answers of a pair, in turn: position 2i is the chosen one of pair i, 2i + 1 the rejected one.
    both = pa.chunked_array([_flat(parts["chosen"]), _flat(parts["rejected"])])
    turns = np.stack([kept, kept + len(lines)], axis=1).ravel()
    twice = np.repeat(kept, 2)
    flags = pa.array(np.tile([True, False], len(kept)))
    return _rows(parts["prompt"].take(pa.array(twice)), both.take(pa.array(turns)), flags, lines[twice]), rest


def _flat(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _rows(prompts: Any, completions: Any, labels: pa.Array, lines: np.ndarray) -> pa.Table:
    count = len(lines)
    chat = pc.fill_null(pa.nulls(count, pa.bool_()), False)
    columns = [prompts, chat, completions, labels, pa.array(lines), pa.nulls(count, pa.large_string())]
    return pa.table(columns, schema=SCHEMA)


def _read_labels(values: pl.Series, known: Format) -> pl.Series:
    """The labels as true, false, or null where the rule is not sure; each distinct value is looked at once."""
    name = known.columns["label"]
    meaning = {}
    for value in values.unique().to_list():
        try:
            meaning[value] = known.rule.read(unwrap_label(value), name)
        except UnclearLabel:
            continue
    if not meaning:
        return pl.Series("label", [None] * len(values), dtype=pl.Boolean)
    old = pl.Series(list(meaning), dtype=values.dtype)
    return values.replace_strict(old, list(meaning.values()), default=None, return_dtype=pl.Boolean)
