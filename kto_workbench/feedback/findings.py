"""The diagnoses: what in the feedback would spoil a training, in how many rows, where, and what to do about it."""

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import polars as pl

from kto_workbench.feedback.facts import loosen
from kto_workbench.feedback.languages import guess_language
from kto_workbench.feedback.loading import Feedback
from kto_workbench.feedback.nearness import find_near
from kto_workbench.feedback.rows import told

LISTED_LINES = 100
NEAR_SAMPLE = 20_000  # rows; above, near duplicates are judged on a sample
LOOSE_CANDIDATES = 100_000
LANGUAGE_SAMPLE = 5_000
TELLING_AUC = 0.7  # of length alone; 0.5 is chance, 1 certainty
BATCH_SIZE = 32  # of the paper and of KTOConfig


@dataclass(frozen=True)
class Finding:
    """One diagnosis.

    Attributes:
        name: what `fix` knows it by.
        severity: "problem" (training would learn something wrong), "warning" (look at it), "note" (good to know).
        title: what was found, with how many rows.
        advice: what to do.
        count: rows concerned. lines: where the first LISTED_LINES of them stand.
        fix: what the one-click fix does, None where none is safe.
        details: figures behind it.
    """

    name: str
    severity: str
    title: str
    advice: str
    count: int
    lines: list[int] = field(default_factory=list)
    fix: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """As JSON types."""
        return asdict(self)


def diagnose(feedback: Feedback, facts: pl.DataFrame) -> list[Finding]:
    """All findings, the worst first."""
    rules = (
        _unusable, _one_class, _conflicts, _duplicates, _near_duplicates, _empty, _one_word, _template, _damage, _keys,
        _emails, _formulas, _length, _language, _one_sided, _parts, _mismatched,
    )  # fmt: skip
    found = [finding for rule in rules if (finding := rule(feedback, facts)) is not None]
    return sorted(found, key=lambda finding: ("problem", "warning", "note").index(finding.severity))


def _rows(count: int) -> str:
    return f"{count:,} row" + ("" if count == 1 else "s")


def _have(count: int) -> str:
    return f"{_rows(count)} {'has' if count == 1 else 'have'}"


def _lines(facts: pl.DataFrame, mask: pl.Series) -> list[int]:
    return facts["line"].filter(mask).head(2 * LISTED_LINES).unique(maintain_order=True).head(LISTED_LINES).to_list()


def conflicting(facts: pl.DataFrame) -> pl.Series:
    """Which rows have the same prompt and completion as another one with the other thumb."""
    return facts.select(pl.col("label").n_unique().over("prompt", "completion") > 1).to_series()


def repeated(facts: pl.DataFrame) -> pl.Series:
    """Which rows say again what an earlier one said: same prompt, completion and thumb."""
    return facts.select(~pl.struct("prompt", "completion", "label").is_first_distinct()).to_series()


def _unusable(feedback: Feedback, facts: pl.DataFrame) -> Finding | None:
    problems = feedback.problems
    if not problems:
        return None
    reasons = Counter(problem.reason for problem in problems[:10_000]).most_common(3)
    return Finding(
        "unusable",
        "problem",
        f"{_rows(len(problems))} can't be used.",
        "They are left out of training: " + "; ".join(f"{reason} ({count:,})" for reason, count in reasons) + ".",
        len(problems),
        [problem.line for problem in problems[:LISTED_LINES]],
        "write a file of the usable rows alone",
    )


def _one_class(feedback: Feedback, facts: pl.DataFrame) -> Finding | None:
    up, down = feedback.n_desirable, feedback.n_undesirable
    if up and down and max(up, down) < 20 * min(up, down):
        return None
    if up and down:
        rarer = "up" if up < down else "down"
        title = f"Thumbs {rarer} are only 1 in {(up + down) / min(up, down):.0f}."
        return Finding("balance", "warning", title, feedback.balance().advice, min(up, down))
    return Finding(
        "balance", "problem", f"All thumbs are {'up' if up else 'down'}.", feedback.balance().advice, up + down
    )


def _conflicts(feedback: Feedback, facts: pl.DataFrame) -> Finding | None:
    mask = conflicting(facts)
    if not (count := int(mask.sum())):
        return None
    groups = facts.filter(mask).select(pl.struct("prompt", "completion").n_unique()).item()
    return Finding(
        "conflicts",
        "problem",
        f"{_rows(count)} contradict each other: {groups:,} answers have a thumb up and a thumb down.",
        "Their thumbs pull against each other; decide, or drop both sides.",
        count,
        _lines(facts, mask),
        "drop all rows that contradict each other",
        {"answers": groups},
    )


def _duplicates(feedback: Feedback, facts: pl.DataFrame) -> Finding | None:
    mask = repeated(facts)
    if not (count := int(mask.sum())):
        return None
    return Finding(
        "duplicates",
        "warning",
        f"{_rows(count)} {'repeats' if count == 1 else 'repeat'} an earlier row.",
        "They count double, and may be held out and trained on at once; keep one of each.",
        count,
        _lines(facts, mask),
        "keep the first of each",
    )


def _near_duplicates(feedback: Feedback, facts: pl.DataFrame) -> Finding | None:
    # Of all rows: those that differ in case, punctuation or spacing only. Of a sample: those that share most text.
    loosely = _loosely_repeated(feedback, facts)
    sample = _sample(len(facts), NEAR_SAMPLE)
    rows = feedback.rows.take(sample)
    prompts, completions = (rows.table.column(name).to_pylist() for name in ("prompt", "completion"))
    pairs = find_near(prompts, completions)
    near = np.zeros(len(facts), dtype=bool)
    near[sample[[later for _, later in pairs]] if pairs else []] = True
    mask = pl.Series(near) | loosely
    if not (count := int(mask.sum())):
        return None
    labels = facts["label"]
    opposite = sum(labels[int(sample[a])] != labels[int(sample[b])] for a, b in pairs)
    sampled = "" if len(sample) == len(facts) else f" (beyond case and punctuation judged on {len(sample):,} rows)"
    against = f", {opposite:,} of them with the opposite thumb" if opposite else ""
    return Finding(
        "near-duplicates",
        "warning",
        f"{_rows(count)} {'says' if count == 1 else 'say'} nearly the same as an earlier one{against}{sampled}.",
        "Look at a few: copies with small changes make held-out figures too good.",
        count,
        _lines(facts, mask),
        details={"sampled_rows": len(sample), "opposite_thumbs": opposite, "pairs_in_sample": len(pairs)},
    )


def _loosely_repeated(feedback: Feedback, facts: pl.DataFrame) -> pl.Series:
    """Which rows differ from an earlier one in case, punctuation or spacing only."""
    distinct = facts.with_row_index("position").filter(pl.struct("prompt", "completion").is_first_distinct())
    candidates = distinct.filter(pl.col("loose").is_duplicated())["position"].head(LOOSE_CANDIDATES).to_numpy()
    mask = np.zeros(len(facts), dtype=bool)
    if len(candidates):
        texts = pl.from_arrow(feedback.rows.take(candidates).table.select(["prompt", "completion"]))
        loose = texts.select(~pl.struct(loosen(pl.col("prompt")), loosen(pl.col("completion"))).is_first_distinct())
        mask[candidates[loose.to_series().to_numpy()]] = True
    return pl.Series(mask)


def _sample(total: int, size: int) -> np.ndarray:
    """Positions of a sample, in order; the same for the same total."""
    if total <= size:
        return np.arange(total)
    return np.sort(np.random.default_rng(0).choice(total, size, replace=False))


def _flagged(facts: pl.DataFrame, name: str, severity: str, said: str, advice: str, fix: str | None) -> Finding | None:
    mask = facts[name.replace("-", "_")]
    if not (count := int(mask.sum())):
        return None
    details = {"thumbs_up": int((mask & facts["label"]).sum())}
    return Finding(name, severity, f"{_have(count)} {said}.", advice, count, _lines(facts, mask), fix, details)


def _empty(feedback: Feedback, facts: pl.DataFrame) -> Finding | None:
    return _flagged(
        facts, "empty", "warning", "an empty answer",
        "A thumb up on nothing teaches the model to say nothing; a thumb down, to say anything.", "drop them",
    )  # fmt: skip


def _one_word(feedback: Feedback, facts: pl.DataFrame) -> Finding | None:
    return _flagged(
        facts, "one-word", "note", "an answer of one word", "Fine for classification; in a chat, look at a few.", None
    )


def _template(feedback: Feedback, facts: pl.DataFrame) -> Finding | None:
    return _flagged(
        facts, "template", "problem", "tokens of a chat template in the text",
        "The model's own template adds them again; give plain text or messages.",
        "cut the tokens that end an answer, and leave others to you",
    )  # fmt: skip


def _damage(feedback: Feedback, facts: pl.DataFrame) -> Finding | None:
    return _flagged(
        facts, "damage", "warning", "damaged characters (such as Ã© for é, � or control characters)",
        "The model would learn to write them; find where the encoding was lost.",
        "undo UTF-8 read as Windows-1252 and remove control characters",
    )  # fmt: skip


def _keys(feedback: Feedback, facts: pl.DataFrame) -> Finding | None:
    return _flagged(
        facts, "keys", "problem", "what looks like a secret key",
        "A model can repeat what it was trained on: revoke the keys, and train without them.",
        "write [key] in their place",
    )  # fmt: skip


def _emails(feedback: Feedback, facts: pl.DataFrame) -> Finding | None:
    return _flagged(
        facts, "email", "warning", "an e-mail address", "A model can repeat it; make sure that its owner agrees.",
        "write [email] in their place",
    )  # fmt: skip


def _formulas(feedback: Feedback, facts: pl.DataFrame) -> Finding | None:
    return _flagged(
        facts, "formula", "note", "text that a spreadsheet runs, or has run, as a formula (=…, #NAME?)",
        "It is taken as plain text here; if the file went through a spreadsheet, look whether text was lost.", None,
    )  # fmt: skip


def length_auc(chars: pl.Series, label: pl.Series) -> float | None:
    """How well length alone tells the thumbs: the chance that a thumb up is longer than a down; None for one class.

    AUC = (R − n_up (n_up + 1) / 2) / (n_up · n_down), R the sum of the ranks of the thumbs up, ties sharing theirs.
    """
    up = int(label.sum())
    down = len(label) - up
    if not up or not down:
        return None
    ranks = chars.rank("average").filter(label).sum()
    return (ranks - up * (up + 1) / 2) / (up * down)


def _length(feedback: Feedback, facts: pl.DataFrame) -> Finding | None:
    auc = length_auc(facts["chars"], facts["label"])
    if auc is None:
        return None
    medians = {
        name: facts["chars"].filter(mask).median() for name, mask in (("up", facts["label"]), ("down", ~facts["label"]))
    }
    telling = max(auc, 1 - auc)
    # With a handful of rows a high AUC is chance: its standard error is about sqrt((n + 1) / (12 n_up n_down)).
    error = float(np.sqrt((len(facts) + 1) / (12 * feedback.n_desirable * feedback.n_undesirable)))
    high, sure = telling >= TELLING_AUC, telling - 0.5 > 2 * error
    longer = "up" if auc > 0.5 else "down"
    figures = f"thumbs up have {medians['up']:,.0f} characters in the middle, thumbs down {medians['down']:,.0f}"
    said = f"AUC {telling:.2f}, 0.5 is chance"
    title, advice = f"Length does not give the thumbs away ({said}): {figures}.", ""
    if high and sure:
        title = f"Length alone tells the thumbs: {said}; thumbs {longer} are longer: {figures}."
        advice = "The model may learn length instead of quality; add answers of other lengths to either side."
    elif high:
        title = f"Too few rows to tell whether length gives the thumbs away ({said}): {figures}."
    return Finding(
        "length",
        "warning" if high and sure else "note",
        title,
        advice,
        len(facts),
        details={"auc": auc, "median_chars_up": medians["up"], "median_chars_down": medians["down"]},
    )


def _language(feedback: Feedback, facts: pl.DataFrame) -> Finding | None:
    sample = _sample(len(facts), LANGUAGE_SAMPLE)
    rows = feedback.rows.take(sample)
    differing, languages = [], Counter()
    for position, row in zip(sample.tolist(), rows, strict=True):
        prompt = row.prompt if isinstance(row.prompt, str) else told(row.prompt[-1])
        asked, answered = guess_language(prompt), guess_language(row.completion)
        if answered:
            languages[answered] += 1
        if asked and answered and asked != answered:
            differing.append(position)
    if not differing and len(languages) < 2:
        return None
    shares = ", ".join(
        f"{language} {count / languages.total():.0%}"
        for language, count in languages.most_common(4)
        if count >= 0.005 * languages.total()
    )
    sampled = "" if len(sample) == len(facts) else f" of {len(sample):,} sampled"
    many = len(differing) > 0.01 * len(sample)
    return Finding(
        "language",
        "warning" if many else "note",
        f"{_rows(len(differing))}{sampled} {'is' if len(differing) == 1 else 'are'} answered in another language than "
        f"asked in; answers are in {shares}.",
        "A guess by script and small words. Translation tasks look so too; otherwise look at a few.",
        len(differing),
        [facts["line"][position] for position in differing[:LISTED_LINES]],
        details={"sampled_rows": len(sample), "languages": dict(languages.most_common())},
    )


def _one_sided(feedback: Feedback, facts: pl.DataFrame) -> Finding | None:
    prompts = facts.group_by("prompt").agg(rows=pl.len(), up=pl.col("label").sum())
    several = prompts.filter(pl.col("rows") > 1)
    one_sided = several.filter((pl.col("up") == 0) | (pl.col("up") == pl.col("rows")))
    if not len(one_sided):
        return None
    mask = facts["prompt"].is_in(one_sided["prompt"].implode())
    return Finding(
        "one-sided",
        "note",
        f"{len(one_sided):,} of {len(several):,} prompts with several answers have thumbs of one kind only.",
        "KTO needs no pairs; but prompts with both thumbs teach the difference rather than the subject.",
        int(one_sided["rows"].sum()),
        _lines(facts, mask),
        details={"prompts": len(prompts), "with_several": len(several), "one_sided": len(one_sided)},
    )


def _parts(feedback: Feedback, facts: pl.DataFrame) -> Finding | None:
    parts = feedback.parts_left_out
    if not parts:
        return None
    (reason, count), *_ = Counter(part.reason for part in parts[:10_000]).most_common(1)
    return Finding(
        "parts",
        "note",
        f"{len(parts):,} answers in rows with several are left out, most often because {reason} ({count:,}).",
        "The mapping decides: threshold=NUMBER moves the cut, take=best-worst compares a row's answers.",
        len(parts),
        [part.line for part in parts[:LISTED_LINES]],
    )


def mismatched_share(prompts: np.ndarray, batch_size: int = BATCH_SIZE, batches: int = 200, seed: int = 0) -> float:
    """Of the mismatched pairs in a batch, the share whose completion comes from another prompt; a mean over batches.

    In a circle of m rows of which c have the same prompt, that prompt's rows can all be kept apart while c ≤ m/2;
    beyond, 2c − m of them must stand beside a sibling.
    """
    chance = np.random.default_rng(seed)
    m = min(batch_size, len(prompts))
    if m < 2:
        return 0.0
    shares = []
    for _ in range(batches):
        drawn = prompts[chance.choice(len(prompts), m, replace=False, shuffle=False)] if len(prompts) > m else prompts
        most = int(np.unique(drawn, return_counts=True)[1].max())
        shares.append(1 - max(0, 2 * most - m) / m)
    return float(np.mean(shares))


def _mismatched(feedback: Feedback, facts: pl.DataFrame) -> Finding | None:
    prompts = facts["prompt"].to_numpy()
    share = mismatched_share(prompts)
    m = min(BATCH_SIZE, len(prompts))
    bad = share < 0.9
    return Finding(
        "mismatched",
        "warning" if bad else "note",
        f"A batch of {m} gets {share * m:.1f} of {m} mismatched pairs for z0 "
        f"({facts['prompt'].n_unique():,} different prompts).",
        "z0 is estimated from answers to other prompts: collect thumbs on more prompts." if bad else "",
        0,
        details={"batch_size": m, "mismatched_pairs": share * m},
    )
