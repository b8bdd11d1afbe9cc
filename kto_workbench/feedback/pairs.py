"""Pairs: a liked and a disliked answer to the same prompt, found among rows that have a thumb each.

An answer is in one pair at most. So an epoch of pairs shows each answer once, as an epoch of rows does, and a prompt
with ten answers of either thumb counts as ten pairs, not as a hundred. Answers that came in one row of the file, such
as `chosen` and `rejected`, are paired with each other; what is left of a prompt's answers is paired by lot. An answer
that has both thumbs tells nothing and is left out.
"""

import numpy as np
import xxhash

from kto_workbench.errors import DataError
from kto_workbench.feedback.held_out import prompt_numbers
from kto_workbench.feedback.rows import Rows


def find_pairs(rows: Rows, seed: int = 0, prompts: np.ndarray | None = None) -> np.ndarray:
    """The pairs among rows, in the order of their liked answers; how many there are does not depend on the seed.

    Args:
        rows: thumbs.
        seed: of the lot; the same seed gives the same pairs.
        prompts: [n] a number for each row's prompt, where they are known already.

    Returns:
        [k, 2] row numbers: the liked answer, the disliked one.
    """
    prompts = prompt_numbers(rows) if prompts is None else prompts
    asked = np.unique(np.stack([prompts, _hashes(rows, "tools")], axis=1), axis=0, return_inverse=True)[1].ravel()
    up = rows.table.column("label").to_numpy().astype(bool)
    several = np.flatnonzero(_both_thumbs(asked, up))
    if not len(several):
        return np.empty((0, 2), dtype=np.int64)
    answers = _hashes(rows, "completion")
    answers = np.unique(np.stack([asked, answers], axis=1), axis=0, return_inverse=True)[1].ravel()
    several = several[~_both_thumbs(answers, up)[several]]
    drawn = several[np.random.default_rng(seed).permutation(len(several))]
    lines = rows.table.column("line").to_numpy()
    of_one_row = np.unique(np.stack([asked, lines], axis=1), axis=0, return_inverse=True)[1].ravel()
    together = _match(drawn, of_one_row, up)
    rest = drawn[~np.isin(drawn, together)]
    pairs = np.concatenate([together, _match(rest, asked, up)])
    return pairs[np.argsort(pairs[:, 0])]


def require_pairs(count: int, data: str, objective: str) -> None:
    """Raise DataError where an objective that learns from pairs finds none."""
    if not count:
        raise DataError(
            f"{data} has no prompt with both a thumb up and a thumb down, and so no pairs, from which objective "
            f"`{objective}` learns; `kto` needs none."
        )


def _both_thumbs(groups: np.ndarray, up: np.ndarray) -> np.ndarray:
    """[n] whether a row's group has thumbs of both kinds."""
    counts = np.zeros((groups.max(initial=-1) + 1, 2), dtype=np.int64)
    np.add.at(counts, (groups, up.astype(int)), 1)
    return counts.min(axis=1)[groups] > 0


def _match(rows: np.ndarray, groups: np.ndarray, up: np.ndarray) -> np.ndarray:
    """[k, 2] of each group its first liked row with its first disliked one, its second with its second, and so on."""
    sides = []
    for wanted in (True, False):
        some = rows[up[rows] == wanted]
        some = some[np.argsort(groups[some], kind="stable")]
        group = groups[some]
        place = np.arange(len(some)) - np.searchsorted(group, group)  # within its group
        sides.append((some, group * (len(rows) + 1) + place))
    (liked, keys), (disliked, other_keys) = sides
    _, first, second = np.intersect1d(keys, other_keys, assume_unique=True, return_indices=True)
    return np.stack([liked[first], disliked[second]], axis=1)


def _hashes(rows: Rows, column: str) -> np.ndarray:
    """[n] int64, equal for equal texts of a column; read in batches, so that little memory is taken."""
    found = np.empty(len(rows), dtype=np.uint64)
    done = 0
    for batch in rows.batches():
        for text in batch.column(column).to_pylist():
            found[done] = xxhash.xxh3_64_intdigest((text or "").encode("utf-8", "surrogatepass"))
            done += 1
    return found.view(np.int64)
