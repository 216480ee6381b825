"""Each row against the reference row: paired by case, with interval, test and correction."""

import math
from dataclasses import dataclass

import numpy as np

from unpaired.engine.both_grids import PREPARED
from unpaired.experiments.cells import DICE, Result, Results, case_values
from unpaired.metrics.statistics import bootstrap_interval, holm, paired, wilcoxon

SeedCase = tuple[int, str]


@dataclass(frozen=True)
class Effect:
    """Row minus reference, mean Dice over the classes of a case, in points of percent.

    Attributes:
        low, high: 95 % bootstrap interval that resamples seeds and cases.
        p: Wilcoxon's signed-rank test over the cases, seeds averaged; nan where too few.
        p_holm: corrected for all comparisons of the experiment.
        n, seeds: different cases, and seeds, that both rows have.
    """

    row: str
    modality: str
    mean: float
    low: float
    high: float
    p: float
    p_holm: float
    n: int
    seeds: int


def effects(results: Results) -> list[Effect]:
    """All rows but the reference, modality by modality; rows that were not run are left out."""
    reference = next(r for r in results.rows if r.row.name == results.experiment.reference)
    found = [
        effect
        for result in results.rows
        if result is not reference
        for m in results.modalities
        if (effect := _effect(reference, result, m)) is not None
    ]
    corrected = holm([one.p for one in found])
    return [Effect(**{**vars(one), "p_holm": p}) for one, p in zip(found, corrected, strict=True)]


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
    return Effect(
        result.row.name, modality, pair.mean, low, high, p, math.nan, len(by_case), len(set(seeds))
    )


def _values(result: Result, modality: str) -> dict[SeedCase, float]:
    """(seed, case) -> mean Dice over the classes the case has."""
    found: dict[SeedCase, float] = {}
    for seed, scores in result.scores(PREPARED).items():
        classes = dict.fromkeys(one.cls for one in scores)
        tables = [case_values(scores, (modality, cls), DICE) for cls in classes]
        for case in dict.fromkeys(case for table in tables for case in table):
            found[seed, case] = float(np.mean([t[case] for t in tables if case in t]))
    return found
