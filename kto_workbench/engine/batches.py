"""Which examples are taken together, and who is whose mismatched partner.

A batch's composition is drawn once for a run, so that mismatched pairs stay the same and their reference
log-probabilities can be kept; only the order of the batches changes from epoch to epoch.
"""

import random
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from torch import Tensor

from kto_workbench.feedback.rendering import Encoded


@dataclass(frozen=True, slots=True)
class Pair:
    """A completion after a prompt, as token ids: its own or, for z0, another row's."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


@dataclass(slots=True)
class Batch:
    """The m examples of one optimizer step.

    `pairs` are (x_i, y_i), `mismatched` are (x_i, y_j) with j = (i+1) mod m, `label` [m] is bool, `reference_logps` and
    `reference_kl_logps` [m] are filled in before training where the objective uses them.
    """

    pairs: list[Pair]
    mismatched: list[Pair]
    label: Tensor
    reference_logps: Tensor | None = None
    reference_kl_logps: Tensor | None = None

    def __len__(self) -> int:
        return len(self.pairs)


def compose(prompts: Sequence[Hashable], batch_size: int, seed: int) -> list[list[int]]:
    """Split rows into batches as even as possible, none larger than `batch_size` but for three rows and a size of two.

    Args:
        prompts: one key a row; rows with equal keys are siblings (answers to the same prompt).
        batch_size: at least 2.
        seed: of the shuffle.

    Returns:
        Lists of row numbers. Within a list neighbours, and the last and the first, are siblings only where the batch
        leaves no other way: each row is the mismatched partner of the one before it.

    Raises:
        ValueError: fewer than two rows, which have no mismatched pair.
    """
    n = len(prompts)
    if n < 2:
        raise ValueError("at least two rows are needed: a single one has no mismatched partner")
    order = list(range(n))
    random.Random(seed).shuffle(order)
    # A batch of one would pair a row with its own completion, so there are never more batches than half the rows.
    count = min(-(-n // batch_size), n // 2)
    bounds = [n * b // count for b in range(count + 1)]
    return [_apart(order[a:b], prompts) for a, b in zip(bounds, bounds[1:], strict=False)]


def _apart(rows: list[int], prompts: Sequence[Hashable]) -> list[int]:
    """Order rows on a circle so that siblings are not neighbours, if that can be done.

    Laying the groups of siblings, the largest first, onto the even places and then onto the odd ones keeps two of a
    group apart whenever no group is larger than half of the circle.
    """
    if len({prompts[row] for row in rows}) == len(rows):
        return rows
    size: dict[Hashable, int] = {}
    for row in rows:
        size[prompts[row]] = size.get(prompts[row], 0) + 1
    first = {key: place for place, key in reversed([(p, prompts[row]) for p, row in enumerate(rows)])}
    grouped = sorted(rows, key=lambda row: (-size[prompts[row]], first[prompts[row]]))
    places = [*range(0, len(rows), 2), *range(1, len(rows), 2)]
    circle = [0] * len(rows)
    for place, row in zip(places, grouped, strict=True):
        circle[place] = row
    return circle


def mismatched_pairs(encoded: Sequence[Encoded], max_length: int) -> list[Pair]:
    """(x_i, y_j) with j = (i+1) mod m for the rows of one batch, the completion cut to what max_length leaves."""
    m = len(encoded)
    if m < 2:
        raise ValueError("a batch of one has no mismatched partner")
    partners = [encoded[(i + 1) % m].completion_ids for i in range(m)]
    return [
        Pair(row.prompt_ids, completion[: max(1, max_length - len(row.prompt_ids))])
        for row, completion in zip(encoded, partners, strict=True)
    ]
