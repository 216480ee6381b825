"""What one method has more than another: differences case by case, with interval and test."""

import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Generic, Literal, TypeVar

import numpy as np

from unpaired.metrics.bootstrap import bootstrap_interval
from unpaired.metrics.statistics import Key, Spread, holm, smallest_n, spread, why_no_test, wilcoxon

Label = TypeVar("Label", bound=Hashable)
RunCase = tuple[Hashable, str]
"""A run (its seed, or its number) and a case."""


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


@dataclass(frozen=True)
class Effect:
    """What b has more than a, in the unit of the values; made by `effect_of`.

    What it is an effect of (modality, class, metric, names of the methods) is not told here: it is
    the key under which the effect is kept.

    Attributes:
        a, b, difference: over the cases that both define; `difference.n_cases` and
            `difference.n_seeds` are the numbers of cases and of pairs of runs.
        low, high: interval of the mean difference; nan for fewer than two.
        p: Wilcoxon's, over the cases, or over the pairs of runs where the cases are too few.
        adjusted: p after Holm, nan before `adjusted`.
        tested: "cases", "runs", or "" where no test is possible; `why_not` then says why.
        cases: difference of each case, mean over the pairs of runs.
        pairs: the same, before that mean: pair of runs -> case -> difference.
        undefined_a, undefined_b: scores that are nan on that side, such as distances of an empty
            prediction; they are left out of both.
        missing: cases that only one side has scored.
    """

    a: Spread
    b: Spread
    difference: Spread
    low: float
    high: float
    p: float
    adjusted: float
    tested: Literal["cases", "runs", ""]
    why_not: str
    cases: Mapping[str, float]
    pairs: Mapping[Hashable, Mapping[str, float]]
    undefined_a: int
    undefined_b: int
    missing: int

    @property
    def direction(self) -> Literal["higher", "lower", ""]:
        """Of b, where the interval leaves out zero; "" where it does not, or is none."""
        return "higher" if self.low > 0 else "lower" if self.high < 0 else ""


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


def effect_of(
    a: Mapping[RunCase, float | int],
    b: Mapping[RunCase, float | int],
    level: float = 0.95,
    limit: float | int = math.inf,
    or_runs: bool = False,
) -> Effect:
    """Hold b against a, case by case and run by run.

    Args:
        a, b: (run, case) -> value, nan where undefined. Runs of one name are a pair, and so are
            cases of one name; cases of one name in several runs are the same case.
        level: of the interval, and of the test where it asks whether there are enough cases.
        limit: largest difference that there can be, such as 1 for Dice: the interval ends there.
        or_runs: where the cases are too few for a test, test the means of the pairs of runs.

    Returns:
        the effect, not yet adjusted for the others of its family.

    Raises:
        ValueError: a value is infinite.
    """
    found = paired(a, b)
    pairs = _by_run(zip(found.keys, found.values.tolist(), strict=True))
    rows = [(run, case, d) for run, cases in pairs.items() for case, d in cases.items()]
    runs, names, values = zip(*rows, strict=True) if rows else ((), (), ())
    low, high = bootstrap_interval(values, level, groups=runs, cases=names)
    by_case: dict[str, list[float]] = {}
    for _, case, d in sorted(rows, key=lambda row: row[1]):
        by_case.setdefault(case, []).append(d)
    cases = {case: _mean(ds) for case, ds in by_case.items()}
    p, tested = _test(cases, pairs, level, or_runs)
    return Effect(
        a=spread(_by_run((key, a[key]) for key in found.keys)),
        b=spread(_by_run((key, b[key]) for key in found.keys)),
        difference=spread(pairs),
        low=float(min(max(low, -limit), limit)),
        high=float(min(max(high, -limit), limit)),
        p=p,
        adjusted=math.nan,
        tested=tested,
        why_not="" if tested else why_no_test(list(cases.values()), level),
        cases=cases,
        pairs=pairs,
        undefined_a=len(found.undefined_a),
        undefined_b=len(found.undefined_b),
        missing=len(found.only_a) + len(found.only_b),
    )


def adjusted(family: Mapping[Label, Effect]) -> dict[Label, Effect]:
    """The effects of one family with their p-values after Holm."""
    values = holm([effect.p for effect in family.values()])
    pairs = zip(family.items(), values, strict=True)
    return {label: replace(effect, adjusted=p) for (label, effect), p in pairs}


def _by_run(items: Iterable[tuple[RunCase, float | int]]) -> dict[Hashable, dict[str, float]]:
    """Run -> case -> value."""
    found: dict[Hashable, dict[str, float]] = {}
    for (run, case), value in items:
        found.setdefault(run, {})[case] = value
    return found


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _test(
    cases: Mapping[str, float],
    pairs: Mapping[Hashable, Mapping[str, float]],
    level: float,
    or_runs: bool,
) -> tuple[float, Literal["cases", "runs", ""]]:
    """p-value, and over what."""
    p = wilcoxon(list(cases.values()), level)
    if not math.isnan(p):
        return p, "cases"
    runs = [_mean(list(row.values())) for row in pairs.values()]
    if or_runs and len(runs) >= smallest_n(level):
        p = wilcoxon(runs, level)
    return p, "" if math.isnan(p) else "runs"
