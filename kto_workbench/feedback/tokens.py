"""The feedback as a model's tokens: how long rows are, what max_length cuts, and which tokens are trained."""

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from kto_workbench.feedback.findings import LISTED_LINES, Finding
from kto_workbench.feedback.loading import Feedback
from kto_workbench.feedback.rendering import Encoded, decode, encode_rows, load_tokenizer
from kto_workbench.feedback.rows import Problem, Row, Rows
from kto_workbench.feedback.templates import knows_system, uses_template

TOKEN_SAMPLE = 20_000  # rows; above, token lengths are judged on a sample
SEEN_SAMPLE = 500  # of rows with images
AT_ONCE = 512  # rows that the tokenizer takes at once, which it spreads over the cores


@dataclass
class TokenCheck:
    """Token lengths of the rows looked at, how their answers stand in the template, and one row as the model sees it.

    The arrays are of the rows that the template takes; `refused` are the others. `systems` are the rows whose system
    text goes before the first user text, `thoughts` the lines of the rows by Turn's kinds of thought.
    """

    model: str
    max_length: int
    rows: int
    sampled: bool
    prompt_tokens: np.ndarray
    completion_tokens: np.ndarray
    prompt_cut: np.ndarray
    completion_cut: np.ndarray
    lines: np.ndarray
    refused: list[Problem] = field(default_factory=list)
    systems: list[int] = field(default_factory=list)
    thoughts: dict[str, list[int]] = field(default_factory=dict)
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
            "refused": [asdict(one) for one in self.refused],
            "thoughts": {kind: len(lines) for kind, lines in self.thoughts.items()},
            "rendered": self.rendered,
        }


def _quantiles(values: np.ndarray) -> dict[str, int]:
    at = (("median", 0.5), ("p95", 0.95), ("max", 1.0))
    return {name: int(np.quantile(values, part)) if len(values) else 0 for name, part in at}


def check_tokens(
    feedback: Feedback,
    model: str,
    max_length: int,
    *,
    template: str = "auto",
    template_kwargs: Mapping[str, Any] | None = None,
    trust: bool = False,
    sample: int | None = TOKEN_SAMPLE,
    progress: Callable[[str, int], None] | None = None,
) -> TokenCheck:
    """Tokenize the rows (or a sample, for a large file; None takes all) in parallel. Raises ModelError.

    Of rows with images fewer are looked at, since each image is decoded for it. With `trust` the model may run code of
    its own.
    """
    tokenizer = load_tokenizer(model, feedback.images, trust=trust)
    if sample is not None and feedback.n_with_images:
        sample = min(sample, SEEN_SAMPLE)
    # The tokenizer's threads are off in a process that has forked; nothing here forks.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    total = len(feedback.rows)
    sampled = sample is not None and total > sample
    rows = feedback.rows
    if sampled:
        rows = rows.take(np.sort(np.random.default_rng(0).choice(total, sample, replace=False)))
    how: dict[str, Any] = {"template": template, "template_kwargs": template_kwargs}
    merges = uses_template(tokenizer, template) and not knows_system(tokenizer, template_kwargs)
    lengths = np.zeros((5, len(rows)), dtype=np.int64)
    found = TokenCheck(model, max_length, len(rows), sampled, *lengths)
    done = kept = 0
    for some in _in_groups(rows):
        for row, encoded in zip(some, encode_rows(tokenizer, some, max_length, **how), strict=True):
            done += 1
            if isinstance(encoded, Problem):
                found.refused.append(encoded)
                continue
            if not kept:
                found.rendered = render_tokens(tokenizer, row, encoded)
            sizes = len(encoded.prompt_ids), len(encoded.completion_ids), encoded.prompt_cut, encoded.completion_cut
            lengths[:, kept] = *sizes, row.line
            kept += 1
            if encoded.thought:
                found.thoughts.setdefault(encoded.thought, []).append(row.line)
            if merges and row.system:
                found.systems.append(row.line)
        if progress:
            progress("tokenized", done)
    return replace(found, **dict(zip(_COLUMNS, lengths[:, :kept], strict=True)))


_COLUMNS = ("prompt_tokens", "completion_tokens", "prompt_cut", "completion_cut", "lines")


def _in_groups(rows: Rows) -> Iterator[list]:
    group = []
    for row in rows:
        group.append(row)
        if len(group) == AT_ONCE:
            yield group
            group = []
    if group:
        yield group


def render_tokens(tokenizer: Any, row: Row, encoded: Encoded) -> dict[str, Any]:
    """One row as the model sees it: `prompt` is what answering feeds it, `lead` what stands between it and the answer.

    Of each of the `tokens` it is said whether it is trained, which is to say part of the completion.
    """
    prompt, lead, completion = decode(tokenizer, encoded)
    ids = [(token, False) for token in encoded.prompt_ids] + [(token, True) for token in encoded.completion_ids]
    return {
        "line": row.line,
        "label": row.label,
        "prompt": prompt,
        "lead": lead,
        "completion": completion,
        "thought": encoded.thought,
        "prompt_cut": encoded.prompt_cut,
        "completion_cut": encoded.completion_cut,
        "tokens": [{"text": tokenizer.decode([token]), "trained": trained} for token, trained in ids],
    }


def find_in_tokens(tokens: TokenCheck) -> list[Finding]:
    """What the model's template and max_length make of the rows, the worst first."""
    found = [_find_refused(tokens), _find_cuts(tokens), *_find_thoughts(tokens), _find_systems(tokens)]
    return [finding for finding in found if finding]


def _find_refused(tokens: TokenCheck) -> Finding | None:
    if not tokens.refused:
        return None
    return Finding(
        "refused",
        "problem",
        f"{len(tokens.refused):,} of {tokens.rows:,} rows{_sampled(tokens)} can't be trained on: "
        f"{tokens.refused[0].reason}.",
        "The others are trained on. Give these rows the roles that the template knows, or leave them out.",
        len(tokens.refused),
        [one.line for one in tokens.refused[:LISTED_LINES]],
        details={"rows": tokens.rows, "reason": tokens.refused[0].reason},
    )


def _find_systems(tokens: TokenCheck) -> Finding | None:
    if not tokens.systems:
        return None
    return Finding(
        "no-system-role",
        "note",
        f"{_in_rows(tokens, tokens.systems)} there is a system text; the chat template knows no system role.",
        "It goes before the first user text, in training and in answers.",
        len(tokens.systems),
        tokens.systems[:LISTED_LINES],
    )


# Kind of thought → level, what was found, what to do.
_THOUGHTS = {
    "doubled": (
        "warning",
        "has a thought of its own, behind one that the template has closed already.",
        "Leave `enable_thinking` out of template_kwargs, or the thoughts out of the answers.",
    ),
    "closed": (
        "warning",
        "comes without the thought that the template begins before it; it is closed there, unscored.",
        'With `template_kwargs` {"enable_thinking": false} many models answer without one, as these answers do; '
        "else give the whole output, thought included.",
    ),
    "skipped": (
        "warning",
        "comes without the thought that the model writes before it answers, and is scored in its place.",
        'With `template_kwargs` {"enable_thinking": false} many models answer without one, as these answers do; '
        "else give the whole output, thought included.",
    ),
    "inside": (
        "note",
        "begins inside of a thought, and is scored behind its opening.",
        "",
    ),
    "whole": ("note", "brings its thought along, which is scored with it.", ""),
}


def _find_thoughts(tokens: TokenCheck) -> list[Finding]:
    return [
        Finding(
            f"thought-{kind}",
            level,
            f"{_in_rows(tokens, lines)} the answer {said}",
            advice,
            len(lines),
            lines[:LISTED_LINES],
        )
        for kind, (level, said, advice) in _THOUGHTS.items()
        if (lines := tokens.thoughts.get(kind))
    ]


def _in_rows(tokens: TokenCheck, lines: list[int]) -> str:
    return f"In {len(lines):,} row{'s' * (len(lines) != 1)}{_sampled(tokens)}"


def _sampled(tokens: TokenCheck) -> str:
    return " in a sample" if tokens.sampled else ""


def _find_cuts(tokens: TokenCheck) -> Finding | None:
    """What max_length takes away."""
    cut = (tokens.prompt_cut > 0) | (tokens.completion_cut > 0)
    if not cut.any():
        return None
    answers = int((tokens.completion_cut > 0).sum())
    longest = int((tokens.prompt_tokens + tokens.completion_tokens + tokens.prompt_cut + tokens.completion_cut).max())
    return Finding(
        "truncated",
        "warning" if answers or cut.mean() > 0.05 else "note",
        f"{int(cut.sum()):,} of {tokens.rows:,} rows{_sampled(tokens)} are longer than max_length {tokens.max_length}: "
        f"prompts lose their start, {answers:,} answers their end.",
        f"Raise max_length (the longest row has {longest:,} tokens), or leave long rows out.",
        int(cut.sum()),
        tokens.lines[cut][:LISTED_LINES].tolist(),
        details={"prompts_cut": int((tokens.prompt_cut > 0).sum()), "completions_cut": answers, "longest": longest},
    )
