"""Rows against each other: paired by case, with interval, test and correction."""

import math
from dataclasses import dataclass, replace

import numpy as np

from unpaired.evaluation.evaluate import PREPARED
from unpaired.experiments.cells import DICE, Result, Results, case_values
from unpaired.metrics.bootstrap import bootstrap_interval
from unpaired.metrics.effect import paired
from unpaired.metrics.statistics import holm, wilcoxon

LEVEL = 0.05
SeedCase = tuple[int, str]


@dataclass(frozen=True)
class Effect:
    """Row minus another row, mean Dice over the classes of a case, in points of percent.

    Attributes:
        against: the other row.
        low, high: 95 % bootstrap interval that resamples seeds and cases.
        p: Wilcoxon's signed-rank test over the cases, seeds averaged; nan where too few.
        p_holm: corrected for all comparisons of the experiment.
        n, seeds: different cases, and seeds, that both rows have.
    """

    row: str
    against: str
    modality: str
    mean: float
    low: float
    high: float
    p: float
    p_holm: float
    n: int
    seeds: int

    @property
    def shown(self) -> str:
        """What can be said: "higher" or "lower" where the interval leaves out zero and the
        corrected test agrees, the same with "perhaps" where it does not, else "no difference"."""
        if math.isnan(self.low):
            return ""
        if self.low <= 0 <= self.high:
            return "no difference"
        word = "higher" if self.mean > 0 else "lower"
        return word if self.p_holm < LEVEL else f"perhaps {word}"


def effects(results: Results) -> list[Effect]:
    """All comparisons, modality by modality; rows that were not run are left out."""
    rows = {result.row.name: result for result in results.rows}
    found = [
        effect
        for name, against in results.experiment.comparisons
        if {name, against} <= rows.keys()
        for m in results.modalities
        if (effect := _effect(rows[against], rows[name], m)) is not None
    ]
    corrected = holm([one.p for one in found])
    return [replace(one, p_holm=p) for one, p in zip(found, corrected, strict=True)]


def _effect(reference: Result, result: Result, modality: str) -> Effect | None:
    pair = paired(_values(reference, modality), _values(result, modality))
    if not pair.n:
        return None
    seeds, cases = zip(*pair.keys, strict=True)
    shared = len(set(cases)) < len(cases)
    low, high = bootstrap_interval(pair.values, groups=seeds, cases=cases if shared else None)
    by_case: dict[str, list[float]] = {}
    for case, value in zip(cases, pair.values, strict=True):
        by_case.setdefault(case, []).append(float(value))
    p = wilcoxon([float(np.mean(values)) for values in by_case.values()])
    names = (result.row.name, reference.row.name, modality)
    return Effect(*names, pair.mean, low, high, p, math.nan, len(by_case), len(set(seeds)))


def _values(result: Result, modality: str) -> dict[SeedCase, float]:
    """(seed, case) -> mean Dice over the classes the case has."""
    found: dict[SeedCase, float] = {}
    for seed, scores in result.scores(PREPARED).items():
        classes = dict.fromkeys(one.cls for one in scores)
        tables = [case_values(scores, (modality, cls), DICE) for cls in classes]
        for case in dict.fromkeys(case for table in tables for case in table):
            found[seed, case] = float(np.mean([t[case] for t in tables if case in t]))
    return found
