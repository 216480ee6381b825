"""Differences of two sets of values, key by key."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

Key = TypeVar("Key", bound=Hashable)
Values = Sequence[float | int] | np.ndarray


@dataclass(frozen=True)
class Difference(Generic[Key]):
    """What b has more than a, per key that both define.

    Attributes:
        keys: in the order of a.
        values: b - a, one per key, in the unit of the two.
        only_a, only_b: keys the other side lacks.
        undefined_a, undefined_b: keys of both sides where that side's value is nan.
    """

    keys: tuple[Key, ...]
    values: np.ndarray
    only_a: tuple[Key, ...] = ()
    only_b: tuple[Key, ...] = ()
    undefined_a: tuple[Key, ...] = ()
    undefined_b: tuple[Key, ...] = ()

    @property
    def n(self) -> int:
        """Number of differences."""
        return len(self.keys)

    @property
    def left_out(self) -> int:
        """Keys of either side without a difference."""
        undefined = {*self.undefined_a, *self.undefined_b}
        return len(self.only_a) + len(self.only_b) + len(undefined)

    @property
    def mean(self) -> float:
        """Mean difference; nan where there is none."""
        return float(self.values.mean()) if self.n else math.nan


def paired(a: Mapping[Key, float | int], b: Mapping[Key, float | int]) -> Difference[Key]:
    """b - a per key; keys that one side lacks, or whose value is nan, are listed, not dropped.

    Keys are whatever makes a pair: a case, or (seed, case), or (seed, case, class).

    Raises:
        ValueError: a value is infinite.
    """
    for side in (a, b):
        wrong = [key for key, value in side.items() if math.isinf(value)]
        if wrong:
            raise ValueError(f"values must be finite or nan; {wrong[0]!r} is {side[wrong[0]]}")
    both = [key for key in a if key in b]
    defined = [key for key in both if not (math.isnan(a[key]) or math.isnan(b[key]))]
    return Difference(
        keys=tuple(defined),
        values=np.array([float(b[key]) - float(a[key]) for key in defined]),
        only_a=tuple(key for key in a if key not in b),
        only_b=tuple(key for key in b if key not in a),
        undefined_a=tuple(key for key in both if math.isnan(a[key])),
        undefined_b=tuple(key for key in both if math.isnan(b[key])),
    )


def finite(values: Values) -> np.ndarray:
    """As an array [n] of float64.

    Raises:
        ValueError: not one axis, or a value is not finite.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"values have one axis, got {array.ndim}")
    if not np.isfinite(array).all():
        raise ValueError("values must be finite; leave undefined ones out with `paired`")
    return array
