"""Differences case by case: of each class and of their mean, with interval and test."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np

from unpaired.engine.evaluation_files import METRICS, value_of
from unpaired.errors import UsageError
from unpaired.metrics.bootstrap import bootstrap_interval
from unpaired.metrics.effect import paired
from unpaired.metrics.statistics import (
    Spread,
    smallest_n,
    spread,
    why_no_test,
    wilcoxon,
)
from unpaired.report.compare_sides import Pair, mean_of, scores_of
from unpaired.report.run import Run

MEAN = ""
"""Stands for the mean over the classes, case by case."""
WITHIN_ONE = ("dice", "nsd")
"""Scores in [0, 1]: their differences end at -1 and 1, and so do intervals."""
Table = dict[int, dict[str, float]]
"""Number of the pair of runs -> case -> value."""


@dataclass(frozen=True)
class Effect:
    """What b has more than a, of one class (or the mean over them) and one metric.

    Attributes:
        cls: the class; `MEAN` is the mean over the classes of a case.
        a, b, difference: over the cases that both define; stored units (fractions, mm).
        low, high: interval of the mean difference; nan for fewer than two.
        p: Wilcoxon's, over the test cases, or over the pairs of runs where the cases are too few.
        adjusted: p after Holm, among the classes (or the means) of all modalities and comparisons.
        tested: "cases", "runs", or "" where no test is possible; `why_not` then says why.
        cases: difference of each case, mean over the pairs of runs.
        pairs: the same, before that mean.
        undefined_a, undefined_b: scores that are nan on that side, such as distances of an empty
            prediction; they are left out of both.
        missing: cases that only one side has scored.
    """

    modality: str
    cls: str
    metric: str
    a: Spread
    b: Spread
    difference: Spread
    low: float
    high: float
    p: float
    adjusted: float
    tested: str
    why_not: str
    cases: Mapping[str, float]
    pairs: Mapping[int, Mapping[str, float]]
    undefined_a: int
    undefined_b: int
    missing: int


class _Class(NamedTuple):
    """Values of one class of both sides, where both define them; and what is left out."""

    a: Table
    b: Table
    undefined_a: int
    undefined_b: int
    missing: int


def effects_of(pairs: Sequence[Pair], modality: str, metric: str, level: float) -> list[Effect]:
    """One effect for each class, then that of their mean; not yet adjusted.

    Raises:
        UsageError: the metric was not scored.
    """
    left = {k: _values(pair.a, modality, metric) for k, pair in enumerate(pairs)}
    right = {k: _values(pair.b, modality, metric) for k, pair in enumerate(pairs)}
    classes = dict.fromkeys(cls for table in left.values() for _, cls in table)
    by_class = {cls: _class(left, right, cls) for cls in classes}
    parts = list(by_class.values())
    over = _Class(
        _mean_table([part.a for part in parts]),
        _mean_table([part.b for part in parts]),
        sum(part.undefined_a for part in parts),
        sum(part.undefined_b for part in parts),
        sum(part.missing for part in parts),
    )
    return [
        _effect(part, modality, cls, metric, level)
        for cls, part in {**by_class, MEAN: over}.items()
    ]


def _values(runs: Sequence[Run], modality: str, metric: str) -> dict[tuple[str, str], float]:
    """(case, class) -> value, mean over the runs; classes that the truth lacks are no pairs."""
    tables = [scores_of(run, modality) for run in runs]
    if metric not in METRICS and not any(metric in s.extra for t in tables for s in t.values()):
        known = [*METRICS, *sorted({n for t in tables for s in t.values() for n in s.extra})]
        raise UsageError(f"{runs[0].root} has no metric {metric}; it has {', '.join(known)}.")
    keys = [k for k, one in tables[0].items() if one.truth_voxels and all(k in t for t in tables)]
    return {key: mean_of([value_of(table[key], metric) for table in tables]) for key in keys}


def _class(
    a: Mapping[int, Mapping[tuple[str, str], float]],
    b: Mapping[int, Mapping[tuple[str, str], float]],
    cls: str,
) -> _Class:
    left, right = (
        {(k, case): v for k, table in side.items() for (case, c), v in table.items() if c == cls}
        for side in (a, b)
    )
    found = paired(left, right)
    tables: tuple[Table, Table] = ({}, {})
    for k, case in found.keys:
        for table, values in zip(tables, (left, right), strict=True):
            table.setdefault(k, {})[case] = values[k, case]
    missing = len(found.only_a) + len(found.only_b)
    return _Class(*tables, len(found.undefined_a), len(found.undefined_b), missing)


def _mean_table(tables: Sequence[Table]) -> Table:
    """Mean over the classes, case by case."""
    keys = dict.fromkeys((k, c) for table in tables for k, cases in table.items() for c in cases)
    found: Table = {}
    for k, case in keys:
        values = [table[k][case] for table in tables if case in table.get(k, {})]
        found.setdefault(k, {})[case] = mean_of(values)
    return found


def _effect(part: _Class, modality: str, cls: str, metric: str, level: float) -> Effect:
    difference = {
        k: {case: part.b[k][case] - value for case, value in cases.items()}
        for k, cases in part.a.items()
    }
    rows = [(k, case, d) for k, cases in difference.items() for case, d in cases.items()]
    low, high = bootstrap_interval(
        [d for _, _, d in rows],
        level,
        groups=[k for k, _, _ in rows],
        cases=[c for _, c, _ in rows],
    )
    if metric in WITHIN_ONE:
        low, high = np.clip([low, high], -1, 1).tolist()
    by_case = sorted(rows, key=lambda row: row[1])
    cases = {
        case: mean_of([d for _, _, d in group])
        for case, group in groupby(by_case, key=lambda row: row[1])
    }
    p, tested, why = _test(cases, difference, level)
    return Effect(
        modality, cls, metric, spread(part.a), spread(part.b), spread(difference), low, high,
        p, math.nan, tested, why, cases, difference,
        part.undefined_a, part.undefined_b, part.missing,
    )  # fmt: skip


def _test(cases: Mapping[str, float], table: Table, level: float) -> tuple[float, str, str]:
    """p-value over the cases; over the runs where only these suffice."""
    values = list(cases.values())
    p = wilcoxon(values, level)
    if not math.isnan(p):
        return p, "cases", ""
    runs = [mean_of(list(row.values())) for row in table.values() if row]
    if len(runs) >= smallest_n(level) and not math.isnan(p := wilcoxon(runs, level)):
        return p, "runs", ""
    return math.nan, "", why_no_test(values, level)
