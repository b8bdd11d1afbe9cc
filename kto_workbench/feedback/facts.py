"""What is known of every row without understanding it: hashes, lengths, patterns; vectorised, batch by batch.

A million rows of facts take some 60 MB, whatever the rows themselves take.
"""

from collections.abc import Callable

import polars as pl

from kto_workbench.feedback.rows import Rows

# What chat templates write around turns; none of it belongs in a text that a template will wrap once more.
END_TOKENS = (
    r"<\|im_end\|>|<\|eot_id\|>|<\|endoftext\|>|<\|end_of_text\|>|<end_of_turn>|<\|end\|>|</s>|<｜end▁of▁sentence｜>"
)
TEMPLATE_TOKENS = (
    END_TOKENS + r"|<\|im_start\|>|<\|start_header_id\|>|<\|end_header_id\|>|<\|begin_of_text\|>|<start_of_turn>"
    r"|<\|(?:user|assistant|system)\|>" + r"|\[/?INST\]|<</?SYS>>|<s>|(?m:^### (?:Instruction|Response):)"
)
# UTF-8 read as Windows-1252, the replacement character, control characters other than tab and line ends
MOJIBAKE = r"Ã[\u0080-\u00BF€‚ƒ„…†‡ˆ‰Š‹ŒŽ‘’“”•–—˜™š›œžŸ]|â€[™œ˜¦\u009D“”\u0093\u0094]|Â[\u00A0-\u00BF]|ðŸ|ï»¿"
CONTROL = r"[\x00-\x08\x0B\x0C\x0E-\x1F\x7F]"
CONTROL_IN_JSON = r"[^\\]\\u00(?:0[0-8bcef]|1[0-9a-f])"
DAMAGE = rf"\u{{FFFD}}|{CONTROL}|{MOJIBAKE}"
KEYS = (
    r"\bsk-[A-Za-z0-9_-]{20,}|\bgh[pousr]_[A-Za-z0-9]{36}|\bgithub_pat_[A-Za-z0-9_]{22,}|\bAKIA[0-9A-Z]{16}"
    r"|\bAIza[0-9A-Za-z_-]{35}|\bxox[abprs]-[0-9A-Za-z-]{10,}|\bhf_[A-Za-z0-9]{30,}|\bglpat-[0-9A-Za-z_-]{20}"
    r"|-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----(?:[A-Za-z0-9+/=\s]|\\n)*(?:-----END [A-Z ]{0,20}PRIVATE KEY-----)?"
    r"|\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}"
)
EMAIL = r"[A-Za-z0-9._%+-]+@[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)*\.[A-Za-z]{2,}"
# A cell that begins so is run by a spreadsheet; and what a spreadsheet leaves where it could not
FORMULA = r"^(?:=\s*[A-Za-z@+(-]|#(?:NAME\?|REF!|VALUE!|N/A|DIV/0!)\s*$)"
# Spacing and punctuation that changes no meaning; the signs of a sum and the point in 1.5 do
_LOOSE = r"[\s!?'\"’“”…]+|[.,;:]+(?:\s+|$)"
LOOSE_START = 64  # characters of either text that go into the hash `loose`, which only makes candidates
# One word: no white space inside, in a script that puts white space between words
ONE_WORD = r"^\s*[^\s\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Thai}]+\s*$"


def gather_facts(rows: Rows, progress: Callable[[str, int], None] | None = None) -> pl.DataFrame:
    """One line of facts a row, in the rows' order."""
    parts, done = [], 0
    for batch in rows.batches():
        # Copies, since a view of these columns would keep the batch and all its texts in memory.
        line = pl.Series("line", batch.column("line").to_numpy().copy())
        label = pl.Series("label", batch.column("label").to_numpy(zero_copy_only=False))
        parts.append(_facts_of(pl.from_arrow(batch)).insert_column(0, line).insert_column(1, label))
        done += batch.num_rows
        if progress:
            progress("looked at", done)
    return pl.concat(parts) if parts else pl.DataFrame()


def loosen(text: pl.Expr) -> pl.Expr:
    """The text without case, punctuation and spacing."""
    return text.str.to_lowercase().str.replace_all(_LOOSE, "")


def _facts_of(batch: pl.DataFrame) -> pl.DataFrame:
    prompt, completion = pl.col("prompt"), pl.col("completion")
    either = lambda pattern: prompt.str.contains(pattern) | completion.str.contains(pattern)
    facts = batch.select(
        prompt=prompt.hash(),
        completion=completion.hash(seed=1),
        loose=loosen(prompt.str.head(LOOSE_START)).hash(seed=2) ^ loosen(completion.str.head(LOOSE_START)).hash(seed=3),
        chars=completion.str.len_chars().cast(pl.UInt32),
        empty=~completion.str.contains(r"\S"),
        one_word=completion.str.contains(ONE_WORD),
        template=either(TEMPLATE_TOKENS),
        damage=either(DAMAGE) | (pl.col("chat") & prompt.str.contains(CONTROL_IN_JSON)),
        keys=either(KEYS),
        email=prompt.str.contains("@", literal=True) | completion.str.contains("@", literal=True),
        formula=completion.str.contains(FORMULA) | prompt.str.contains(FORMULA),
    )
    if facts["email"].any():  # the pattern is slow, an @ rare
        position = facts["email"].arg_true()
        found = batch[position].select(either(EMAIL)).to_series()
        facts = facts.with_columns(email=pl.lit(False)).with_columns(
            email=pl.Series(facts["email"].to_numpy().copy()).scatter(position, found)
        )
    return facts
