"""Which examples are taken together, and who is whose mismatched partner.

Each row has one mismatched partner for the whole run, so that its reference log-probabilities can be kept; which rows
are taken together is drawn anew each epoch, so that no row meets the same batch's z0 twice.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.utils.data import Sampler

from kto_workbench.engine.crew import Crew
from kto_workbench.feedback.sight import Look


@dataclass(frozen=True, slots=True)
class Pair:
    """A completion after a prompt, as token ids: its own or, for z0, another row's.

    A prompt with images brings its `look`; two of them may have the same ids, and show different things.
    """

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    look: Look | None = None

    def __len__(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)


@dataclass(slots=True)
class Batch:
    """The examples of one optimizer step, or a process's share of them.

    `pairs` are (x_i, y_i), `mismatched` are (x_i, y_j) with j the partner of i (or empty, where no z0 is estimated from
    them), `label` [n] is bool and lies on the host; `reference_logps` and `reference_kl_logps` [n] are filled in before
    the step where the objective uses them. Where it learns from pairs of answers, the batch is `coupled`: an example is
    a couple of `pairs`, a liked answer and a disliked one behind it. `size` is m, the examples of the whole batch, and
    `imitated` its completion tokens with a thumb up: the denominators of the batch's means.
    """

    pairs: list[Pair]
    mismatched: list[Pair]
    label: Tensor
    reference_logps: Tensor | None = None
    reference_kl_logps: Tensor | None = None
    coupled: bool = False
    size: int = 0
    imitated: int = 0

    def __post_init__(self) -> None:
        if not self.size:
            self.size = len(self.examples)
            up = self.label.tolist()
            self.imitated = sum(len(pair.completion_ids) for pair, good in zip(self.pairs, up, strict=True) if good)

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def examples(self) -> list[list[int]]:
        """The numbers of each example's pairs, which go through the model together: one, or the two of a couple."""
        step = 2 if self.coupled else 1
        return [list(range(i, i + step)) for i in range(0, len(self.pairs), step)]

    def take(self, numbers: Sequence[int]) -> "Batch":
        """A share of the batch: these of its pairs, couples being whole."""
        some = lambda values: [values[i] for i in numbers] if values else []
        part = lambda values: None if values is None else values[list(numbers)]
        return Batch(
            some(self.pairs),
            some(self.mismatched),
            self.label[list(numbers)],
            part(self.reference_logps),
            part(self.reference_kl_logps),
            self.coupled,
            self.size,
            self.imitated,
        )


def partners(prompts: np.ndarray, seed: int) -> np.ndarray:
    """A partner for each row, whose completion is the mismatched one to the row's prompt.

    All rows are laid on a circle, and each one's partner is the next. Laying the groups of siblings (rows that answer
    the same prompt), the largest first, onto the even places and then onto the odd ones keeps two of a group apart
    whenever no group is larger than half of the circle.

    Args:
        prompts: [n] a number for each row's prompt; rows with equal numbers are siblings.
        seed: of the shuffle.

    Returns:
        [n] row numbers, a permutation in one cycle; a row's partner is a sibling only where there is no other way.

    Raises:
        ValueError: fewer than two rows, which have no mismatched pair.
    """
    n = len(prompts)
    if n < 2:
        raise ValueError("at least two rows are needed: a single one has no mismatched partner")
    order = np.random.default_rng(seed).permutation(n)
    _, first, group, size = np.unique(prompts[order], return_index=True, return_inverse=True, return_counts=True)
    # Stable: the rows of a group stay in the order of the shuffle, and so do groups of a size.
    grouped = order[np.lexsort((first[group], -size[group]))]
    circle = np.empty(n, dtype=np.int64)
    circle[[*range(0, n, 2), *range(1, n, 2)]] = grouped
    partner = np.empty(n, dtype=np.int64)
    partner[circle] = np.roll(circle, -1)
    return partner


class Batches(Sampler[list[int]]):
    """Each epoch's batches of example numbers, as even as possible, none larger than `batch_size`.

    Args:
        numbers: [n] the examples to draw: rows, or couples of them.
        prompts: [n] a number for each one's prompt.
        batch_size: examples in a batch at most.
        seed: of the shuffles; each epoch has one of its own, so that any can be drawn without those before it.
        together: examples that answer the same prompt follow each other, so that they are mostly in the same batch.
    """

    def __init__(
        self, numbers: np.ndarray, prompts: np.ndarray, batch_size: int, seed: int, *, together: bool = True
    ) -> None:
        self.numbers, self.prompts = numbers, prompts
        self._group = np.unique(prompts, return_inverse=True)[1] if together else np.arange(len(prompts))
        self._seed, self._epoch = seed, 0
        count = -(-len(numbers) // batch_size)
        self._bounds = [len(numbers) * b // count for b in range(count + 1)]

    def __len__(self) -> int:
        return len(self._bounds) - 1

    def set_epoch(self, epoch: int) -> None:
        """Draw the batches of this epoch from now on."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        draw = np.random.default_rng((self._seed, self._epoch))
        rows = draw.permutation(len(self.numbers))
        place = draw.permutation(len(self.numbers))  # of each group; there are no more of them than rows
        rows = self.numbers[rows[np.argsort(place[self._group[rows]], kind="stable")]]
        for a, b in zip(self._bounds, self._bounds[1:], strict=False):
            yield rows[a:b].tolist()

    def two_of_different_prompts(self, draw: random.Random) -> tuple[int, int]:
        """Two rows at random; a few tries find such that answer different prompts, where there are any."""
        for _ in range(20):
            first, second = draw.sample(range(len(self.numbers)), 2)
            if self.prompts[first] != self.prompts[second]:
                break
        return int(self.numbers[first]), int(self.numbers[second])


def mismatched_pair(
    prompt_ids: tuple[int, ...], completion_ids: Sequence[int], max_length: int, look: Look | None = None
) -> Pair:
    """A prompt, with its images, and another row's completion, which is cut to what max_length leaves."""
    return Pair(prompt_ids, tuple(completion_ids[: max(1, max_length - len(prompt_ids))]), look)


def behind_one_prompt(liked: Pair, disliked: Pair) -> tuple[Pair, Pair]:
    """Two answers behind the same of their prompt: what was cut off its start for one is cut off for the other, too.

    What a template has put between prompt and answer may still differ.
    """
    if liked.look or disliked.look:  # whose prompts are never cut
        return liked, disliked
    shorter, longer = sorted((liked.prompt_ids, disliked.prompt_ids), key=len)
    if longer[len(longer) - len(shorter) + 1 :] != shorter[1:]:  # the first may be a kept beginning of sequence
        return liked, disliked
    return Pair(shorter, liked.completion_ids), Pair(shorter, disliked.completion_ids)


def share_out(batch: Batch, crew: Crew) -> list[list[int]]:
    """Which of a batch's pairs each process takes: about equal tokens, answers to one prompt together."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for example in batch.examples:
        groups.setdefault(batch.pairs[example[0]].prompt_ids, []).extend(example)
    together = list(groups.values())
    costs = [len(prompt) + sum(len(batch.pairs[i].completion_ids) for i in group) for prompt, group in groups.items()]
    return [sorted(i for g in share for i in together[g]) for share in crew.share(costs)]
