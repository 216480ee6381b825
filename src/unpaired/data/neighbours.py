"""Linear interpolation of one axis as integer weights; the sizes and order of axes."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


def checked_sizes(old: Sequence[int], new: Sequence[int]) -> tuple[int, ...]:
    sizes = tuple(int(n) for n in new)
    if len(sizes) != len(old) or min(*sizes, *old, 1) < 1:
        raise ValueError(f"cannot resample {tuple(old)} to {sizes}")
    return sizes


def largest_shrink_first(old: Sequence[int], new: Sequence[int]) -> list[int]:
    """The axes that change, so ordered that the arrays between stay small."""
    changed = [axis for axis in range(len(old)) if old[axis] != new[axis]]
    return sorted(changed, key=lambda axis: new[axis] / old[axis])


@dataclass(frozen=True)
class Neighbours:
    """The two input voxels each output voxel of one axis lies between.

    Attributes:
        below, above: int64 [n_out], indices of the input.
        weight: int64 [n_out], of `above`; `total - weight` is the weight of `below`.
        total: what counts as 1.
    """

    below: np.ndarray
    above: np.ndarray
    weight: np.ndarray
    total: int

    def reached(self, part: slice) -> slice:
        """The output voxels with some weight on the input voxels of `part`."""
        low = (self.below >= part.start) & (self.below < part.stop) & (self.weight < self.total)
        high = (self.above >= part.start) & (self.above < part.stop) & (self.weight > 0)
        touched = np.flatnonzero(low | high)
        return slice(int(touched[0]), int(touched[-1]) + 1) if len(touched) else slice(0, 0)


@lru_cache(maxsize=64)
def neighbours(n_in: int, n_out: int) -> Neighbours:
    """Linear interpolation of one axis in integers.

    The position is x = ((2i + 1) n_in - n_out) / (2 n_out), a fraction: weights over a common
    `total` are integers, so sums of their products are exact, and so are ties.
    """
    common = int(np.gcd(n_in, n_out))
    # x + 1 instead of x, to divide positive numbers.
    whole, rest = np.divmod((2 * np.arange(n_out, dtype=np.int64) + 1) * n_in + n_out, 2 * n_out)
    below = (whole - 1).clip(0, n_in - 1)
    above = whole.clip(0, n_in - 1)
    return Neighbours(below, above, rest // common, 2 * n_out // common)
