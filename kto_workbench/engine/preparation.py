"""From rows of feedback to what a training draws: which are held out, whose partner is whose, in which batches."""

import functools
import itertools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.compute as pc
from transformers import PreTrainedTokenizerBase

from kto_workbench.config import KTOConfig
from kto_workbench.engine.batches import Batch, Batches, Pair, partners
from kto_workbench.engine.examples import Examples
from kto_workbench.errors import DataError
from kto_workbench.feedback import Row
from kto_workbench.feedback.held_out import hold_out, prompt_key, prompt_numbers
from kto_workbench.feedback.images import PREFIX
from kto_workbench.feedback.pairs import find_pairs, require_pairs
from kto_workbench.feedback.rendering import encode_rows
from kto_workbench.feedback.rows import Problem, Rows
from kto_workbench.objectives import OBJECTIVES

log = logging.getLogger(__name__)

WATCHED_PROMPTS = 4
SURVEYED_ROWS = 1000
SURVEYED_LOOKS = 100  # of rows with images, each of which is decoded
LOOKED_AT, TRIED_LOOKS = 24, 3  # of prompts with images, those that are on trial
TOLD_PROBLEMS = 20  # rows left out that the log lists


def prepare(rows: Rows, tokenizer: PreTrainedTokenizerBase, config: KTOConfig, with_images: bool = False) -> "Prepared":
    """Say which rows are trained on, which are held out, and how they are drawn; no row is tokenized but a few.

    `with_images`: whether prompts have some. Raises DataError if too little is left.
    """
    if len(rows) < 2:
        raise DataError(f"{config.data} holds {len(rows)} usable row; KTO needs at least two, for a mismatched pair.")
    encode = functools.partial(
        encode_rows,
        tokenizer,
        max_length=config.max_length,
        template=config.template,
        template_kwargs=config.template_kwargs,
    )
    prompts = prompt_numbers(rows)
    couples = find_pairs(rows, config.seed, prompts) if OBJECTIVES[config.objective].paired else None
    if couples is not None:
        require_pairs(len(couples), config.data, config.objective)
    # Drawn from all rows, so that one more that can't be used holds out no others; and so that every objective holds
    # out the same prompts.
    train, held = hold_out(prompts, config.eval_fraction, config.seed)
    survey = _Survey(rows, encode, config.max_length, couples, with_images)
    train, held = (part[~np.isin(part, survey.refused)] for part in (train, held))
    if len(train) < 2:
        raise DataError(f"{config.data} holds fewer than two rows to train on: {survey.first_refusals}.")
    if config.objective == "sft":
        train = train[rows.table.column("label").to_numpy()[train]]
        if len(train) < 2:
            raise DataError(f"{config.data} has fewer than two thumbs up to imitate.")

    partner = _partners(prompts, train, held, config.seed) if config.uses_mismatched else None
    examples = Examples(rows, partner, encode, config.max_length, _say_a_few(), couples)
    to_watch, longest = held if len(held) else train, survey.longest
    first_of_each = np.sort(np.unique(prompts[held], return_index=True)[1])
    others = [rows[number].asked for number in held[first_of_each].tolist()]
    remark = f"{len(train)} rows to train on, {len(held)} of other prompts held out to evaluate."
    if couples is not None:
        train, held = (np.flatnonzero(np.isin(couples, part).all(axis=1)) for part in (train, held))
        if not len(train):
            raise DataError(
                f"All pairs of {config.data} (there are {len(couples)}) are held out to evaluate; lower "
                "`eval_fraction`."
            )
        prompts = prompts[couples[:, 0]]
        remark = (
            f"{len(couples)} pairs of {len(rows)} rows: {len(train)} to train on, {len(held)} of other prompts held "
            "out to evaluate."
        )
    batches = functools.partial(Batches, seed=config.seed, batch_size=config.batch_size, together=config.group_prompts)
    return Prepared(
        examples,
        batches(train, prompts[train]),
        batches(held, prompts[held]) if len(held) else None,
        examples.batch(longest[: config.batch_size]),
        _worth_watching(rows, to_watch),
        others,
        [remark, *survey.remarks],
        _looking(rows, encode) if with_images else [],
    )


@dataclass(frozen=True)
class Prepared:
    """What a training draws from.

    `examples`: all rows; `train` and `held_out`: batches of them, the latter None without any; `longest`: a batch of
    the longest rows, to measure memory on; `watched`: prompts worth watching; `others`: the held-out ones, each
    once; `remarks` for the log; `looking`: a few of the shortest prompts with images, as pairs without completion.
    """

    examples: Examples
    train: Batches
    held_out: Batches | None
    longest: Batch
    watched: list[Any]
    others: list[Any]
    remarks: list[str]
    looking: list[Pair]


def _partners(prompts: np.ndarray, train: np.ndarray, held: np.ndarray, seed: int) -> np.ndarray:
    """[n] each row's mismatched partner, among those that it is trained or evaluated with."""
    partner = np.full(len(prompts), -1, dtype=np.int64)
    partner[train] = train[partners(prompts[train], seed)]
    if len(np.unique(prompts[held])) > 1:
        partner[held] = held[partners(prompts[held], seed)]
    else:  # one prompt alone has no other's completion but those that are trained on
        partner[held] = train[np.arange(len(held)) % len(train)]
    return partner


class _Survey:
    """A look at the rows as token ids, at some of them where there are many.

    `refused`: numbers of rows that the template refuses; `longest`: of the examples without them, rows or couples, the
    longest first; `remarks`.
    """

    def __init__(
        self,
        rows: Rows,
        encode: Callable[[Sequence[Row]], Sequence[Any]],
        max_length: int,
        couples: np.ndarray | None,
        with_images: bool = False,
    ) -> None:
        examples = np.arange(len(rows))[:, None] if couples is None else couples
        every = -(-examples.size // (SURVEYED_LOOKS if with_images else SURVEYED_ROWS))
        some = examples[::every].ravel().tolist()
        encoded = dict(zip(some, encode([rows[number] for number in some]), strict=True))
        problems = {number: e for number, e in encoded.items() if isinstance(e, Problem)}
        usable = {number: e for number, e in encoded.items() if number not in problems}
        self.refused = np.array([*problems], dtype=np.int64)
        whole = [n for n in range(0, len(examples), every) if all(row in usable for row in examples[n].tolist())]
        self.longest = sorted(whole, key=lambda n: -sum(len(usable[row]) for row in examples[n].tolist()))
        self.first_refusals = "; ".join(f"line {p.line}: {p.reason}" for p in [*problems.values()][:3])
        self.remarks = []
        of = f"of {len(some)} rows" + (" looked at" if len(some) < len(rows) else "")
        if problems:
            self.remarks.append(f"{len(problems)} {of} can't be used. {self.first_refusals}.")
        cut_prompts = sum(e.prompt_cut > 0 for e in usable.values())
        cut_completions = sum(e.completion_cut > 0 for e in usable.values())
        if cut_prompts or cut_completions:
            self.remarks.append(
                f"max_length {max_length} cuts the start of {cut_prompts} prompts and the end of {cut_completions} "
                f"completions, {of}."
            )


def _looking(rows: Rows, encode: Callable[[Sequence[Row]], Sequence[Any]]) -> list[Pair]:
    """A few of the shortest prompts with different images, of some that lie all over the rows."""
    named = pc.match_substring(rows.table.column("prompt"), f'"{PREFIX}').to_numpy(zero_copy_only=False)
    with_images = np.flatnonzero(named)
    some = with_images[:: -(-len(with_images) // LOOKED_AT) or 1].tolist()
    found = {e.look.digest: e for e in encode([rows[number] for number in some]) if getattr(e, "look", None)}
    shortest = sorted(found.values(), key=lambda e: len(e.prompt_ids))[:TRIED_LOOKS]
    return [Pair(e.prompt_ids, (), e.look) for e in shortest]


def _say_a_few() -> Callable[[Problem], None]:
    """Tell the log of the first rows that are left out."""
    told = itertools.count(1)

    def tell(problem: Problem) -> None:
        number = next(told)
        if number <= TOLD_PROBLEMS:
            log.warning("Row %d is left out: %s.", problem.line, problem.reason)
        if number == TOLD_PROBLEMS:
            log.warning("Further rows that are left out are not listed here.")

    return tell


def _worth_watching(rows: Rows, numbers: np.ndarray) -> list[Any]:
    """A few prompts to watch: each once, of the shorter half."""
    some = [rows[number] for number in numbers[:SURVEYED_ROWS].tolist()]
    once = list({prompt_key(row.prompt): row for row in reversed(some)}.values())[::-1]
    middle = sorted(len(row.prompt_text) for row in once)[(len(once) - 1) // 2]
    return [row.asked for row in once if len(row.prompt_text) <= middle][:WATCHED_PROMPTS]
