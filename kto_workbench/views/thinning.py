"""Curves smoothed, and thinned out so that no peak is lost, as they grow: a point costs the same at any length.

curve = Thinned(smoothing=0.6, limit=150)
curve.extend(steps, values)                 # as often as there is more
steps, values = curve.points()              # at most 150 of them
"""

import math

import numpy as np

Points = tuple[np.ndarray, np.ndarray]

DIGITS = 100  # by which numbers within a stretch may differ


class Smoother:
    """Exponential moving average: 0 leaves the values, towards 1 they follow slower; unbiased from the first value on.

    out_i = Σ_j≤i weight^(i−j) v_j / Σ_j≤i weight^(i−j), so with weight ½ the values 0, 3 become 0, (0 + 2·3)/3 = 2.
    """

    def __init__(self, weight: float) -> None:
        self.weight = weight
        self._before, self._count = 0.0, 0

    def next(self, values: np.ndarray) -> np.ndarray:
        """The average at each of the next values."""
        if not 0 < self.weight < 1 or not len(values):
            return values
        # Within a stretch, out_i = weight^i (out before it + Σ v_j / weight^j), all at once; across all values the
        # powers would leave what a float can hold.
        stretch = max(1, int(-DIGITS / math.log10(self.weight)))
        powers = self.weight ** np.arange(1, stretch + 1)
        totals = np.empty(len(values))
        for start in range(0, len(values), stretch):
            part = values[start : start + stretch]
            power = powers[: len(part)]
            totals[start : start + stretch] = power * (self._before + np.cumsum(part / power))
            self._before = totals[start + len(part) - 1]
        if self._count < stretch:  # later on, a weight to this power is nothing
            early = totals[: stretch - self._count]
            weights = 1 - powers[self._count : self._count + len(early)]
            early /= weights
        self._count += len(values)
        return totals * (1 - self.weight)


class Thinned:
    """The lowest and the highest point of each stretch of a curve, with its first and its last point.

    When there are too many stretches, each two of them become one; points without a value are left out. Points are
    held as arrays of (step, value), [n, 2].
    """

    def __init__(self, smoothing: float, limit: int) -> None:
        self.taken = 0  # points, with or without a value
        self._smoother = Smoother(smoothing)
        self._most = max(1, (limit - 4) // 2)  # stretches
        self._length = 1  # of a stretch, in points
        self._whole = np.empty((0, 2, 2))  # of each stretch its two points
        self._part, self._begun = np.empty((0, 2)), 0  # what is kept of the stretch that has begun, and its length
        self._ends = np.empty((0, 2))

    def extend(self, steps: np.ndarray, values: np.ndarray) -> None:
        """Add points."""
        self.taken += len(steps)
        known = np.isfinite(values) & np.isfinite(steps)
        new = np.stack((steps[known], self._smoother.next(values[known])), axis=1)
        if not len(new):
            return
        self._ends = np.concatenate((self._ends[:1] if len(self._ends) else new[:1], new[-1:]))
        while len(self._whole) + (self._begun + len(new)) // self._length > self._most:
            self._merge()
        missing = self._length - self._begun
        if len(new) >= missing:
            first = np.concatenate((self._part, new[:missing]))
            cut = missing + (len(new) - missing) // self._length * self._length
            more = new[missing:cut].reshape(-1, self._length, 2)
            self._whole = np.concatenate((self._whole, _extremes(first[None]), _extremes(more)))
            self._part, self._begun, new = np.empty((0, 2)), 0, new[cut:]
        self._begun += len(new)
        self._part = np.concatenate((self._part, new))
        if len(self._part) > 2:
            self._part = _extremes(self._part[None])[0]

    def points(self) -> Points:
        """(steps, values) in order."""
        found = np.concatenate((self._ends[:1], self._whole.reshape(-1, 2), self._part, self._ends[1:]))
        found = found[np.argsort(found[:, 0], kind="stable")]
        new = np.ones(len(found), dtype=bool)  # a point may be first, lowest and highest at once
        new[1:] = (found[1:] != found[:-1]).any(axis=1)
        return found[new, 0], found[new, 1]

    def _merge(self) -> None:
        """Make stretches twice as long; one that is left over is the beginning of the next."""
        if len(self._whole) % 2:
            self._part, self._begun = np.concatenate((self._whole[-1], self._part)), self._begun + self._length
        pairs = self._whole[: len(self._whole) // 2 * 2].reshape(-1, 4, 2)
        self._whole, self._length = _extremes(pairs), 2 * self._length


def _extremes(stretches: np.ndarray) -> np.ndarray:
    """The lowest and the highest point of each, in their order: [n, points, 2] → [n, 2, 2]."""
    if not len(stretches):
        return np.empty((0, 2, 2))
    values = stretches[:, :, 1]
    where = np.sort(np.stack((values.argmin(axis=1), values.argmax(axis=1)), axis=1), axis=1)
    return np.take_along_axis(stretches, where[:, :, None], axis=1)
