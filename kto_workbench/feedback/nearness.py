"""Rows that say nearly the same: MinHash over runs of five characters, on a sample of rows.

Two texts of which a share s of the runs is common (their Jaccard similarity) agree in each of the 32 minima with
probability s. Eight bands of four minima make candidates; candidates are then compared run by run.
"""

from collections.abc import Sequence

import numpy as np

RUN = 5  # characters
SIMILAR = 0.8  # Jaccard similarity above which two texts are nearly the same
MINIMA, BANDS = 32, 8
LONGEST = 2000  # characters of a text that are looked at
SHORTEST = 40  # a shorter text is too easily like another
MOST_COMPARISONS = 100_000


def find_near(prompts: Sequence[str], completions: Sequence[str], seed: int = 0) -> list[tuple[int, int]]:
    """Pairs (earlier, later) of positions whose prompts and completions are both nearly, not exactly, the same."""
    runs = [_runs(text) for text in completions]
    long_enough = [i for i, text in enumerate(completions) if len(text) >= SHORTEST]
    if len(long_enough) < 2:
        return []
    signatures = _signatures([runs[i] for i in long_enough], seed)
    candidates: set[tuple[int, int]] = set()
    for band in np.split(signatures, BANDS, axis=1):
        # Each row is compared with the first of its bucket only, so that the work stays linear.
        first: dict[bytes, int] = {}
        for place, key in enumerate(map(bytes, np.ascontiguousarray(band))):
            earlier = first.setdefault(key, place)
            if earlier != place:
                candidates.add((long_enough[earlier], long_enough[place]))
    found = []
    for earlier, later in sorted(candidates)[:MOST_COMPARISONS]:
        same = prompts[earlier] == prompts[later] and completions[earlier] == completions[later]
        if not same and _similarity(runs[earlier], runs[later]) >= SIMILAR:
            if (
                prompts[earlier] == prompts[later]
                or _similarity(_runs(prompts[earlier]), _runs(prompts[later])) >= SIMILAR
            ):
                found.append((earlier, later))
    return found


def _runs(text: str) -> np.ndarray:
    """The hashes of the runs of the text, sorted and each once."""
    letters = np.frombuffer(text[:LONGEST].lower().encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
    if len(letters) < RUN:
        return np.array([hash(text) & 0xFFFFFFFF], dtype=np.uint64)
    mixed = np.zeros(len(letters) - RUN + 1, dtype=np.uint64)
    for i in range(RUN):
        mixed = mixed * np.uint64(1_000_003) + letters[i : i + len(mixed)]
    return np.unique(mixed & np.uint64(0xFFFFFFFF))


def _signatures(runs: Sequence[np.ndarray], seed: int) -> np.ndarray:
    chance = np.random.default_rng(seed)
    factors = chance.integers(1, 2**32, MINIMA, dtype=np.uint64) | np.uint64(1)
    offsets = chance.integers(0, 2**32, MINIMA, dtype=np.uint64)
    signatures = np.empty((len(runs), MINIMA), dtype=np.uint32)
    for start in range(0, len(runs), 1000):
        some = runs[start : start + 1000]
        starts = np.cumsum([0, *map(len, some[:-1])])
        together = np.concatenate(some)
        for i in range(MINIMA):
            hashed = ((together * factors[i] + offsets[i]) >> np.uint64(16)) & np.uint64(0xFFFFFFFF)
            signatures[start : start + len(some), i] = np.minimum.reduceat(hashed, starts)
    return signatures


def _similarity(ours: np.ndarray, theirs: np.ndarray) -> float:
    common = len(np.intersect1d(ours, theirs, assume_unique=True))
    return common / (len(ours) + len(theirs) - common)
