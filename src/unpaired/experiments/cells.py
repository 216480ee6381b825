"""From records to the numbers of a table: mean, spread over cases, spread between seeds."""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from unpaired.evaluation.evaluate import NATIVE, PREPARED, VOXELS
from unpaired.experiments.published import ALL, MEAN, Cell, cell, printed_class
from unpaired.experiments.record import Record
from unpaired.experiments.rows import Experiment, Row
from unpaired.metrics.statistics import spread
from unpaired.run.scores import Score, value_of

DICE, ASD = "dice", "asd_mm"
PRINTED = {DICE: "dice_percent", ASD: "asd_mm"}
FACTOR = {DICE: 100.0}
DECIMALS = {DICE: 1, ASD: 2, VOXELS: 2}
TITLES = {DICE: "Dice (%)", ASD: "ASD (mm)", VOXELS: "ASD (voxels)"}
VIEWS = ((DICE, PREPARED), (ASD, PREPARED), (VOXELS, PREPARED), (DICE, NATIVE), (ASD, NATIVE))
"""Metric and grid of each table, in the order of print."""


@dataclass(frozen=True)
class Number:
    """One cell of ours, in the unit of print (percent, mm, voxels); nan where undefined.

    Attributes:
        mean, std: over the test cases of all seeds together, `std` the population's; a mean over
            classes has no deviation.
        seed_std: sample deviation of the seeds' means.
        n: values that are defined; `undefined`: left out, since the prediction is empty.
    """

    mean: float
    std: float = math.nan
    seed_std: float = math.nan
    n: int = 0
    undefined: int = 0


@dataclass(frozen=True)
class Result:
    """All records of a row, by seed.

    Attributes:
        wanted: seeds that were asked for.
        reason: why it was not run, or what failed; empty otherwise.
    """

    row: Row
    records: Mapping[int, Sequence[Record]]
    wanted: int
    reason: str = ""

    def scores(self, grid: str) -> dict[int, list[Score]]:
        """Seed -> scores of all modalities."""
        return {
            seed: [one for record in records for one in record.scores.get(grid, ())]
            for seed, records in self.records.items()
        }


@dataclass(frozen=True)
class Results:
    """An experiment's rows, ready to print.

    Attributes:
        printed: modality -> as the paper names it ("CT"); empty without the paper's column.
        notes: what the reader must know, one sentence each.
    """

    experiment: Experiment
    rows: tuple[Result, ...]
    modalities: tuple[str, ...]
    classes: tuple[str, ...]
    printed: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The experiment's, and with the paper's data what they show."""
        organs = self.experiment.organs if self.printed else ""
        return f"{self.experiment.title}, {organs}" if organs else self.experiment.title

    @property
    def columns(self) -> list[tuple[str, str]]:
        """(modality, class), the classes' mean last; then the mean of the modalities."""
        own = [(m, c) for m in self.modalities for c in (*self.classes, MEAN)]
        return [*own, (ALL, MEAN)] if len(self.modalities) > 1 else own


def numbers(
    result: Result, metric: str, grid: str, columns: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], Number]:
    """The cells of a row."""
    by_seed = result.scores(grid)
    classes = [key for key in columns if MEAN not in key]
    found = {key: _class(by_seed, key, metric) for key in classes}
    for m in dict.fromkeys(m for m, _ in columns if m != ALL):
        own = [key for key in classes if key[0] == m]
        found[m, MEAN] = _mean(by_seed, own, [found[key] for key in own], metric)
    if (ALL, MEAN) in columns:
        parts = [found[key] for key in found if key[1] == MEAN]
        found[ALL, MEAN] = _mean(by_seed, classes, parts, metric)
    return found


def _class(by_seed: Mapping[int, Sequence[Score]], key: tuple[str, str], metric: str) -> Number:
    tables: dict[Hashable, Mapping[Hashable, float | int]] = {}
    for seed, scores in by_seed.items():
        tables[seed] = dict(case_values(scores, key, metric).items())
    pooled = np.array([v for values in tables.values() for v in values.values()])
    known = pooled[~np.isnan(pooled)] if pooled.size else pooled
    if not known.size:
        return Number(math.nan, undefined=len(pooled))
    between = spread(tables).seed_std
    return Number(
        float(known.mean()), float(known.std()), between, len(known), len(pooled) - len(known)
    )


def case_values(scores: Iterable[Score], key: tuple[str, str], metric: str) -> dict[str, float]:
    """Case -> value in the unit of print, of the cases whose truth holds the class.

    Args:
        key: modality and class.
    """
    m, cls = key
    return {
        one.case: FACTOR.get(metric, 1.0) * value_of(one, metric)
        for one in scores
        if one.modality == m and one.cls == cls and one.truth_voxels
    }


def _mean(
    by_seed: Mapping[int, Sequence[Score]],
    keys: Sequence[tuple[str, str]],
    parts: Sequence[Number],
    metric: str,
) -> Number:
    """The mean of cells, as the paper's last columns; its spread is that of the seeds' means."""
    known = [part.mean for part in parts if not math.isnan(part.mean)]
    if not known:
        return Number(math.nan)
    seeds = [seed_mean(scores, keys, metric) for scores in by_seed.values()]
    defined = [value for value in seeds if not math.isnan(value)]
    between = float(np.std(defined, ddof=1)) if len(defined) > 1 else math.nan
    undefined = sum(part.undefined for part in parts)
    return Number(float(np.mean(known)), seed_std=between, n=len(defined), undefined=undefined)


def seed_mean(scores: Sequence[Score], keys: Sequence[tuple[str, str]], metric: str) -> float:
    """One seed's mean over classes (and modalities) of the classes' means over cases."""
    means = []
    for m in dict.fromkeys(m for m, _ in keys):
        own = []
        for key in keys:
            values = list(case_values(scores, key, metric).values()) if key[0] == m else []
            known = [v for v in values if not math.isnan(v)]
            own += [float(np.mean(known))] if known else []
        means += [float(np.mean(own))] if own else []
    return float(np.mean(means)) if means else math.nan


def paper(results: Results, row: str, metric: str, column: tuple[str, str]) -> Cell | None:
    """The published cell beside ours, or None."""
    table, (m, cls) = results.experiment.table, column
    if table is None or metric not in PRINTED or not results.printed:
        return None
    printed = MEAN if cls == MEAN else printed_class(cls)
    where = ALL if m == ALL else results.printed.get(m)
    if printed is None or where is None:
        return None
    return cell(table, PRINTED[metric], row, where, printed)
