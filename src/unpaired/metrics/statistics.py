"""Statistics of paired scores: differences, test, interval, correction, spread."""

import math
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from unpaired.metrics.bootstrap import bootstrap_interval
from unpaired.metrics.pairing import Difference, Key, Values, paired
from unpaired.metrics.signed_rank import smallest_n, why_no_test, wilcoxon

__all__ = [
    "Difference",
    "Spread",
    "bootstrap_interval",
    "holm",
    "paired",
    "smallest_n",
    "spread",
    "why_no_test",
    "wilcoxon",
]


Seed = TypeVar("Seed", bound=Hashable)


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
