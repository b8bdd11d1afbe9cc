"""What a file that is not recognised may mean: its columns, a guess at their parts, some rows as they would be read."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from kto_workbench.errors import DataError
from kto_workbench.feedback.adapters import make_adapter
from kto_workbench.feedback.formats import (
    ALIASES,
    UnknownColumns,
    column_names,
    parse_mapping,
    pick,
    recognise,
    unwrap_label,
)
from kto_workbench.feedback.joins import open_feedback
from kto_workbench.feedback.labels import UnclearLabel, choose_rule
from kto_workbench.feedback.messages import RowProblem, is_messages, parse_json_text
from kto_workbench.feedback.rows import Row

LOOKED_AT = 200  # rows
DEPTH = 5  # of dotted paths
MOST_COLUMNS = 60
FEW = 12  # different values at most in a column of labels


@dataclass(frozen=True)
class Glimpse:
    """The start of a file.

    Attributes:
        columns: each column or dotted path into one, with a value that it has.
        mapping: what was recognised, or a guess. recognised: whether that is more than a guess.
        rows: the first rows as they would be read. reason: why there are none, or None.
        complete: whether all parts that are needed are there.
    """

    columns: dict[str, Any]
    mapping: dict[str, Any]
    recognised: bool
    rows: list[Row]
    reason: str | None
    complete: bool = True


def glimpse(
    source: Any, workspace: str | Path, mapping: Mapping[str, Any] | None = None, rows: int = 3, guess: bool = True
) -> Glimpse:
    """Look at the start of a source, under a mapping, where one is given. Raises DataError if it can't be read."""
    mapping = parse_mapping(mapping)
    opened = open_feedback(source, workspace, mapping)
    chunks = (record for chunk in islice(opened.read(None), 2) for record in chunk.records)
    sample = [record for record in islice(chunks, LOOKED_AT) if isinstance(record, dict)]
    columns = columns_of(sample)
    reason, complete, known, found = None, True, None, []
    try:
        known = recognise(sample, mapping, opened.name)
    except DataError as error:
        reason, complete = str(error), not isinstance(error, UnknownColumns)
    recognised = known is not None
    if not recognised and guess and not mapping and (mapping := guess_parts(sample, columns)):
        with contextlib.suppress(DataError):
            known, reason, complete = recognise(sample, mapping, opened.name), None, True
    if known is not None:
        mapping = known.mapping
        adapt = make_adapter(known)
        for position, record in enumerate(sample, 1):
            try:
                examples, _ = adapt(record)
            except RowProblem as problem:
                reason = reason or problem.reason
                continue
            found += [Row(prompt, said, label, position) for prompt, said, label, _ in examples]
            if len(found) >= rows:
                break
    return Glimpse(columns, dict(mapping), recognised, found[:rows], None if found else reason, complete)


def columns_of(sample: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The columns of a sample, and dotted paths to what lies inside of them, each with a value that it has."""
    found: dict[str, Any] = {}
    for name in column_names(sample):
        value = next((record[name] for record in sample if record.get(name) not in (None, "", [], {})), None)
        _add_paths(name, parse_json_text(value), DEPTH, found)
    return dict(islice(found.items(), MOST_COLUMNS))


def _add_paths(path: str, value: Any, depth: int, found: dict[str, Any]) -> None:
    found[path] = value
    inside, step = value, ""
    if isinstance(value, list) and value and isinstance(value[0], dict) and not is_messages(value):
        inside, step = value[0], ".*"
    if isinstance(inside, dict) and depth > 1:
        for key, one in list(inside.items())[:20]:
            if "." not in key:
                _add_paths(f"{path}{step}.{key}", parse_json_text(one), depth - 1, found)


def guess_parts(sample: Sequence[Any], columns: Mapping[str, Any]) -> dict[str, str]:
    """Prompt, completion and label by their names, else by what they hold: the long texts, and a few short values."""
    parts: dict[str, str] = {}
    last = {path: path.rsplit(".", 1)[-1].lower() for path in columns if "*" not in path}
    for part in ("messages", "prompt", "completion", "label"):
        fits = [path for alias in ALIASES[part] for path in last if last[path] == alias and path not in parts.values()]
        fits = [path for path in fits if part != "messages" or is_messages(columns[path])]
        if part == "label":
            fits = [path for path in fits if _are_labels([pick(record, path) for record in sample])]
        if fits and not (part in ("prompt", "completion") and "messages" in parts):
            parts[part] = fits[0]
    free = [path for path in last if path not in parts.values()]
    if "label" not in parts:
        values = {path: [pick(record, path) for record in sample] for path in free}
        fits = [path for path in free if _are_labels(values[path])]
        fits = fits or [path for path in free if _are_few(values[path])]  # in words that are not known
        label = min(fits, key=lambda path: len(set(map(str, values[path]))), default=None)
        parts |= {"label": label} if label else {}
    texts = sorted(
        (path for path in free if path != parts.get("label") and isinstance(columns[path], str)),
        key=lambda path: -sum(len(v) for record in sample if isinstance(v := pick(record, path), str)),
    )
    for part in () if "messages" in parts else ("completion", "prompt"):
        if part not in parts and texts:
            parts[part] = texts.pop(0)
    return parts


def _are_few(values: Sequence[Any]) -> bool:
    """Whether these are a few different words."""
    values = [value for value in values if value not in (None, "")]
    different = {value for value in values if isinstance(value, str) and len(value) <= 20}
    return 2 <= len(different) <= len(values) / 2 and all(isinstance(value, str) for value in values)


def _are_labels(values: Sequence[Any]) -> bool:
    """Whether these are a few different values that are thumbs, both up and down."""
    values = [unwrap_label(value) for value in values if value not in (None, "")]
    if not values or any(isinstance(value, (list, dict)) for value in values) or len(set(map(str, values))) > FEW:
        return False
    rule, thumbs = choose_rule(values), set()
    for value in values:
        try:
            thumbs.add(rule.read(value))
        except UnclearLabel:
            continue
    return len(thumbs) == 2
