"""The feedback as a model's tokens: how long rows are, what max_length cuts, and which tokens are trained."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kto_workbench.feedback.findings import LISTED_LINES, Finding
from kto_workbench.feedback.loading import Feedback
from kto_workbench.feedback.rendering import encode_rows, load_tokenizer
from kto_workbench.feedback.rows import Rows

TOKEN_SAMPLE = 20_000  # rows; above, token lengths are judged on a sample
AT_ONCE = 512  # rows that the tokenizer takes at once, which it spreads over the cores


@dataclass
class TokenCheck:
    """Token lengths of the rows looked at, and one row as the model sees it."""

    model: str
    max_length: int
    rows: int
    sampled: bool
    prompt_tokens: np.ndarray
    completion_tokens: np.ndarray
    prompt_cut: np.ndarray
    completion_cut: np.ndarray
    lines: np.ndarray
    rendered: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON types, lengths as quantiles."""
        total = self.prompt_tokens + self.completion_tokens
        return {
            "model": self.model,
            "max_length": self.max_length,
            "rows": self.rows,
            "sampled": self.sampled,
            "prompt_tokens": _quantiles(self.prompt_tokens + self.prompt_cut),
            "completion_tokens": _quantiles(self.completion_tokens + self.completion_cut),
            "tokens": _quantiles(total + self.prompt_cut + self.completion_cut),
            "prompts_cut": int((self.prompt_cut > 0).sum()),
            "completions_cut": int((self.completion_cut > 0).sum()),
            "rendered": self.rendered,
        }


def _quantiles(values: np.ndarray) -> dict[str, int]:
    return {name: int(np.quantile(values, at)) for name, at in (("median", 0.5), ("p95", 0.95), ("max", 1.0))}


def check_tokens(
    feedback: Feedback,
    model: str,
    max_length: int,
    *,
    sample: int | None = TOKEN_SAMPLE,
    progress: Callable[[str, int], None] | None = None,
) -> TokenCheck:
    """Tokenize the rows (or a sample, for a large file; None takes all) in parallel. Raises ModelError."""
    tokenizer = load_tokenizer(model)
    # The tokenizer's threads are off in a process that has forked; nothing here forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    total = len(feedback.rows)
    sampled = sample is not None and total > sample
    rows = feedback.rows
    if sampled:
        rows = rows.take(np.sort(np.random.default_rng(0).choice(total, sample, replace=False)))
    lengths = np.zeros((4, len(rows)), dtype=np.int32)
    done = 0
    for some in _in_groups(rows):
        for encoded in encode_rows(tokenizer, some, max_length):
            lengths[:, done] = (
                len(encoded.prompt_ids),
                len(encoded.completion_ids),
                encoded.prompt_cut,
                encoded.completion_cut,
            )
            done += 1
        if progress:
            progress("tokenized", done)
    lines = rows.table.column("line").to_numpy()
    return TokenCheck(
        model, max_length, len(rows), sampled, *lengths, lines, render_tokens(tokenizer, rows, max_length)
    )


def _in_groups(rows: Rows) -> Iterator[list]:
    group = []
    for row in rows:
        group.append(row)
        if len(group) == AT_ONCE:
            yield group
            group = []
    if group:
        yield group


def render_tokens(tokenizer: Any, rows: Rows, max_length: int, position: int = 0) -> dict[str, Any]:
    """One row as the template renders it; `tokens` says of each whether it is trained (part of the completion)."""
    row = rows[position]
    (encoded,) = encode_rows(tokenizer, [row], max_length)
    ids = [(token, False) for token in encoded.prompt_ids] + [(token, True) for token in encoded.completion_ids]
    return {
        "line": row.line,
        "label": row.label,
        "prompt": tokenizer.decode(list(encoded.prompt_ids)),
        "completion": tokenizer.decode(list(encoded.completion_ids)),
        "prompt_cut": encoded.prompt_cut,
        "completion_cut": encoded.completion_cut,
        "tokens": [{"text": tokenizer.decode([token]), "trained": trained} for token, trained in ids],
    }


def find_cuts(tokens: TokenCheck) -> Finding | None:
    """What max_length takes away."""
    cut = (tokens.prompt_cut > 0) | (tokens.completion_cut > 0)
    if not cut.any():
        return None
    answers = int((tokens.completion_cut > 0).sum())
    longest = int((tokens.prompt_tokens + tokens.completion_tokens + tokens.prompt_cut + tokens.completion_cut).max())
    sampled = " in a sample" if tokens.sampled else ""
    return Finding(
        "truncated",
        "warning" if answers or cut.mean() > 0.05 else "note",
        f"{int(cut.sum()):,} of {tokens.rows:,} rows{sampled} are longer than max_length {tokens.max_length}: "
        f"prompts lose their start, {answers:,} answers their end.",
        f"Raise max_length (the longest row has {longest:,} tokens), or leave long rows out.",
        int(cut.sum()),
        tokens.lines[cut][:LISTED_LINES].tolist(),
        details={"prompts_cut": int((tokens.prompt_cut > 0).sum()), "completions_cut": answers, "longest": longest},
    )
