"""Wilcoxon's signed-rank test, exact also with ties."""

import math

import numpy as np
from scipy.stats import norm, rankdata

from unpaired.metrics.pairing import Values, finite

EXACT_UP_TO = 200
"""Differences; beyond it the normal approximation is off by less than 1e-3."""


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
    ranks = rankdata(np.abs(values))
    total = float(ranks[values > 0].sum())
    return _exact(ranks, total) if len(values) <= EXACT_UP_TO else _normal(ranks, total)


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
    """Two-sided p-value over all signings of the ranks."""
    doubled = np.rint(2 * ranks).astype(int)  # shared ranks are whole or half numbers
    share = np.zeros(doubled.sum() + 1)
    share[0] = 1.0
    for rank in doubled:
        moved = np.zeros_like(share)
        moved[rank:] = share[: len(share) - rank]
        share = 0.5 * (share + moved)
    sums, middle = np.arange(len(share)), (len(share) - 1) / 2
    return float(min(1.0, share[np.abs(sums - middle) >= abs(2 * total - middle)].sum()))


def _normal(ranks: np.ndarray, total: float) -> float:
    """Two-sided p-value by the normal approximation, without a correction for continuity."""
    deviation = math.sqrt(float((ranks**2).sum()) / 4)
    return float(2 * norm.sf(abs(total - float(ranks.sum()) / 2) / deviation))
