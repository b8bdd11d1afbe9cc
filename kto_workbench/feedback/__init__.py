"""Thumbs in: any file becomes rows of prompt, completion and label; checked, balanced, and collected.

    rows.py        Row, Rows over Arrow, Problem
    balance.py     thumbs up against thumbs down, the weights λ
    labels.py      which values are a thumb up, which a thumb down
    messages.py    texts and conversations in the shapes that files have them
    winners.py     which of two answers won: words, numbers, scores
    trees.py       conversations that branch: the judged answer in one, the rankings in another
    shapes.py      how known sources publish and export feedback, as mappings
    wrappers.py    rows that hide their feedback inside: logs, exports of annotation tools
    formats.py     what the columns of a file mean: recognised, or as a mapping says
    adapters.py    how a record becomes examples
    columns.py     the same for plain columns, vectorised
    files.py       opening a file safely: packed, UTF-16, a pipe, a bomb
    tables.py      Parquet and Arrow, a bounded number of bytes at a time
    containers.py  JSON lines, JSON, CSV, Parquet, Arrow as chunks of raw rows
    sources.py     from a name, a file or a table to these chunks
    traces.py      logs of what models were asked and said, in their many forms
    joins.py       ratings joined to conversations by id, of two files or of one
    guessing.py    what a file that is not recognised may mean
    named.py       feedback known by name
    store.py       the thumbs collected in a workspace
    held_out.py    which prompts are held out to evaluate on
    loading.py     load_feedback
    facts.py       what is known of every row: hashes, lengths, patterns
    findings.py    the diagnoses: how many rows, where, what to do
    nearness.py    rows that say nearly the same
    languages.py   which language a text is probably in
    tokens.py      lengths under a model's tokenizer, what max_length cuts, what its template makes of the answers
    fixes.py       one-click fixes, each into a new file
    reports.py     check, and what it says
    templates.py   chat templates: what a model continues, and where an answer stands in it
    rendering.py   rows as a model's tokens

Nothing here imports torch.
"""

from kto_workbench.feedback.balance import Balance, suggest_weights, weight_range
from kto_workbench.feedback.findings import Finding
from kto_workbench.feedback.formats import parse_mapping
from kto_workbench.feedback.loading import Feedback, load_feedback
from kto_workbench.feedback.reports import CheckReport, check
from kto_workbench.feedback.rows import Problem, Row, Rows
from kto_workbench.feedback.store import Thumb, ThumbStore

__all__ = [
    "Balance",
    "CheckReport",
    "Feedback",
    "Finding",
    "Problem",
    "Row",
    "Rows",
    "Thumb",
    "ThumbStore",
    "check",
    "load_feedback",
    "parse_mapping",
    "suggest_weights",
    "weight_range",
]
