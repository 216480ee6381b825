"""Statistics of scores: Wilcoxon's signed-rank test, Holm's correction, spread over runs."""

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import scipy.stats

Key = TypeVar("Key", bound=Hashable)
Seed = TypeVar("Seed", bound=Hashable)
Values = Sequence[float | int] | np.ndarray

EXACT_UP_TO = 200
"""Differences; beyond it the normal approximation is off by less than 1e-3."""


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


def wilcoxon(differences: Values, level: float = 0.95) -> float:
    """Two-sided p-value of Wilcoxon's signed-rank test that the differences are symmetric about 0.

    One difference per independent case: average the seeds of a case first. Zeros are left out, as
    Wilcoxon did. Ties share their mean rank. Up to 200 differences p is exact: the share of the
    2^n ways to sign these very ranks whose rank sum lies as far from its middle (so ties need no
    correction); beyond, the normal approximation with the variance of the shared ranks.

    Args:
        differences: finite, in any unit.
        level: of the decision, 0.95 for 5 %; it only says when a test is possible.

    Returns:
        nan where no outcome could have p <= 1 - level: fewer than `smallest_n` differences other
        than 0. `why_no_test` gives the reason in words.

    Raises:
        ValueError: a difference is not finite.

    Source: Wilcoxon, Biometrics Bulletin 1 (1945) 80-83; the exact distribution under ties: Pratt
    and Gibbons, Concepts of Nonparametric Theory (1981), section 3.
    """
    values = finite(differences)
    values = values[values != 0]
    if len(values) < smallest_n(level):
        return math.nan
    if len(values) > EXACT_UP_TO:
        return float(scipy.stats.wilcoxon(values, method="approx").pvalue)
    ranks = scipy.stats.rankdata(np.abs(values))
    return _exact(ranks, float(ranks[values > 0].sum()))


def smallest_n(level: float = 0.95) -> int:
    """Fewest differences other than 0 that can be significant: 2 / 2^n <= 1 - level.

    Six at 95 %: with five, even five of one sign have p = 0.0625.
    """
    if not 0 < level < 1:
        raise ValueError(f"level lies between 0 and 1, got {level}")
    return max(1, math.ceil(round(1 - math.log2(1 - level), 9)))


def why_no_test(differences: Values, level: float = 0.95) -> str:
    """Why `wilcoxon` gives nan, as a sentence; "" where it gives a p-value."""
    values = finite(differences)
    count, needed = int(np.count_nonzero(values)), smallest_n(level)
    if count >= needed:
        return ""
    if len(values) and not count:
        return "All differences are 0."
    word = "difference" if count == 1 else "differences"
    return (
        f"With {count} {word} other than 0 no outcome can be significant at {1 - level:.2g}; "
        f"{needed} are needed."
    )


def _exact(ranks: np.ndarray, total: float) -> float:
    """Two-sided p-value over all signings of the ranks.

    SciPy's `exact` takes the ranks 1 to n also where there are ties (off by up to 0.16), and its
    `PermutationMethod` goes through the 2^n signings one by one (0.6 s for 12, 200 s for 20).
    """
    doubled = np.rint(2 * ranks).astype(int)  # shared ranks are whole or half numbers
    share = np.zeros(doubled.sum() + 1)
    share[0] = 1.0
    for rank in doubled:
        moved = np.zeros_like(share)
        moved[rank:] = share[: len(share) - rank]
        share = 0.5 * (share + moved)
    sums, middle = np.arange(len(share)), (len(share) - 1) / 2
    return float(min(1.0, share[np.abs(sums - middle) >= abs(2 * total - middle)].sum()))


def holm(p_values: Values) -> list[float]:
    """Holm's step-down adjustment of the p-values of one family of tests.

    The k-th smallest of m is multiplied by m - k + 1, no adjusted value is below the one before
    it, none above 1. nan stays nan and is no test: m counts the others.

    Args:
        p_values: in [0, 1] or nan.

    Returns:
        adjusted values in the same order.

    Raises:
        ValueError: a value is outside [0, 1].

    Source: Holm, Scandinavian Journal of Statistics 6 (1979) 65-70.
    """
    values = np.asarray(p_values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(values))
    if np.any((values[known] < 0) | (values[known] > 1)):
        raise ValueError("p-values lie between 0 and 1")
    order = known[np.argsort(values[known], kind="stable")]
    scaled = values[order] * np.arange(len(order), 0, -1)
    adjusted = np.full(len(values), math.nan)
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return adjusted.tolist()


@dataclass(frozen=True)
class Spread:
    """Values of several seeds (or draws), summarised; nan where undefined.

    Attributes:
        mean: of all values.
        case_std: population deviation over the cases inside a seed, root mean square over seeds.
        seed_std: sample deviation (n - 1) of the seeds' means; nan for one seed. Where each seed
            draws its own test cases it holds their chance too.
        n_cases: different cases with a value.
        n_seeds: seeds with a value.
        n_undefined: values that are nan, left out.
    """

    mean: float
    case_std: float
    seed_std: float
    n_cases: int
    n_seeds: int
    n_undefined: int


def spread(values_by_seed: Mapping[Seed, Mapping[Key, float | int]]) -> Spread:
    """Mean, spread over the cases and spread between the seeds, kept apart.

    Args:
        values_by_seed: seed or draw -> case -> value; nan is undefined.
    """
    known = {
        seed: {case: float(value) for case, value in cases.items() if not math.isnan(value)}
        for seed, cases in values_by_seed.items()
    }
    rows = [np.array(list(cases.values())) for cases in known.values() if cases]
    undefined = sum(map(len, values_by_seed.values())) - sum(map(len, rows))
    if not rows:
        return Spread(math.nan, math.nan, math.nan, 0, 0, undefined)
    means = np.array([row.mean() for row in rows])
    return Spread(
        mean=float(np.concatenate(rows).mean()),
        case_std=float(np.sqrt(np.mean([row.var() for row in rows]))),
        seed_std=float(means.std(ddof=1)) if len(means) > 1 else math.nan,
        n_cases=len({case for cases in known.values() for case in cases}),
        n_seeds=len(rows),
        n_undefined=undefined,
    )
