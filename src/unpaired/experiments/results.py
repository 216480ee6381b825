"""From records to numbers: means, spread over cases and between seeds, row against row."""

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np

from unpaired.evaluation.evaluate import NATIVE, PREPARED, VOXELS
from unpaired.experiments.paper import ALL, MEAN, Cell, cell, printed_class
from unpaired.experiments.record import Record
from unpaired.experiments.rows import Experiment, Network, Row
from unpaired.metrics.effect import Effect, RunCase, adjusted, effect_of
from unpaired.metrics.statistics import spread
from unpaired.run.scores import Score, value_of
from unpaired.tables import printed

DICE, ASD = "dice", "asd_mm"
PUBLISHED = {DICE: "dice_percent", ASD: "asd_mm"}
"""Metric -> its name in published.csv."""
VIEWS = ((DICE, PREPARED), (ASD, PREPARED), (VOXELS, PREPARED), (DICE, NATIVE), (ASD, NATIVE))
"""Metric and grid of each table, in the order of print."""
LEVEL = 0.05
"""Below it a corrected p agrees with the interval."""
Column = tuple[str, str]
"""Modality and class; `MEAN` for the mean of the classes, `ALL` for that of the modalities."""


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
        reason: what failed; empty otherwise.
    """

    row: Row
    records: Mapping[int, Sequence[Record]]
    wanted: int
    reason: str = ""

    @property
    def all_records(self) -> list[Record]:
        """Of all seeds."""
        return [record for records in self.records.values() for record in records]

    @property
    def network(self) -> Network | None:
        """What was trained; None where nothing was."""
        return next((record.network for record in self.all_records), None)

    def scores(self, grid: str) -> dict[int, list[Score]]:
        """Seed -> scores of all modalities."""
        return {
            seed: [one for record in records for one in record.scores.get(grid, ())]
            for seed, records in self.records.items()
        }


class Comparison(NamedTuple):
    """A row, the row it is compared with, and where."""

    row: str
    against: str
    modality: str


@dataclass(frozen=True)
class Results:
    """An experiment's rows, ready to print.

    Attributes:
        printed: modality -> as the paper names it ("CT"), on the paper's data; else empty.
        notes: what the reader must know, one sentence each.
    """

    experiment: Experiment
    rows: tuple[Result, ...]
    modalities: tuple[str, ...]
    printed: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @cached_property
    def network(self) -> Network | None:
        """That of the rows of the paper's method; None where none was run."""
        records = (record for row in self.rows for record in row.all_records)
        return next((record.network for record in records if record.is_papers_method), None)

    @property
    def other_network(self) -> bool:
        """Whether it ran with another network than that of the paper's table."""
        wanted = self.experiment.network
        return None not in (wanted, self.network) and self.network != wanted

    @property
    def paper(self) -> Mapping[str, str]:
        """`printed`, or empty where the paper's numbers would be those of another network."""
        return {} if self.other_network else self.printed

    @property
    def title(self) -> str:
        """The experiment's, and with the paper's data what they show. With another network it is no
        table of the paper."""
        title = self.experiment.title
        if self.other_network:
            table, _, what = title.partition(": ")
            title = (
                f"Rows of {table} with another network, {self.network} (the paper's: "
                f"{self.experiment.network}): {what}"
            )
        organs = self.experiment.organs if self.printed else ""
        return f"{title}, {organs}" if organs else title

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """Those that were scored, in the order of the data."""
        records = [record for row in self.rows for record in row.all_records]
        return tuple(dict.fromkeys(one.cls for r in records for one in r.scores[PREPARED]))

    @property
    def columns(self) -> list[Column]:
        """(modality, class), the classes' mean last; then the mean of the modalities."""
        own = [(m, c) for m in self.modalities for c in (*self.classes, MEAN)]
        return [*own, (ALL, MEAN)] if len(self.modalities) > 1 else own

    @cached_property
    def effects(self) -> dict[Comparison, Effect]:
        """All comparisons, modality by modality, in points of mean Dice; rows that were not run are
        left out. p is corrected for all of them together."""
        rows = {result.row.name: result for result in self.rows if result.records}
        family = {
            Comparison(name, against, m): effect_of(_dice(rows[against], m), _dice(rows[name], m))
            for name, against in self.experiment.comparisons
            if {name, against} <= rows.keys()
            for m in self.modalities
        }
        return adjusted({label: one for label, one in family.items() if one.cases})

    def published(self, row: str, metric: str, column: Column) -> Cell | None:
        """The paper's cell beside ours, or None."""
        table, (m, cls) = self.experiment.table, column
        if table is None or metric not in PUBLISHED or not self.paper:
            return None
        name = MEAN if cls == MEAN else printed_class(cls)
        where = ALL if m == ALL else self.printed.get(m)
        if name is None or where is None:
            return None
        printed_as = self.experiment.row(row).printed_as or row
        return cell(table, PUBLISHED[metric], printed_as, where, name)


def numbers(
    result: Result, metric: str, grid: str, columns: Sequence[Column]
) -> dict[Column, Number]:
    """The cells of a row, in the order of the columns."""
    by_seed = result.scores(grid)
    classes = [key for key in columns if MEAN not in key]
    cells = {key: _of_class(by_seed, key, metric) for key in classes}
    for m in dict.fromkeys(m for m, _ in columns if m != ALL):
        own = [key for key in classes if key[0] == m]
        cells[m, MEAN] = _of_mean(by_seed, own, [cells[key] for key in own], metric)
    if (ALL, MEAN) in columns:
        parts = [cells[key] for key in cells if key[1] == MEAN]
        cells[ALL, MEAN] = _of_mean(by_seed, classes, parts, metric)
    return {column: cells[column] for column in columns}


def _of_class(by_seed: Mapping[int, Sequence[Score]], key: Column, metric: str) -> Number:
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


def _of_mean(
    by_seed: Mapping[int, Sequence[Score]],
    keys: Sequence[Column],
    parts: Sequence[Number],
    metric: str,
) -> Number:
    """The mean of cells, as the paper's last columns; its spread is that of the seeds' means."""
    mean = mean_of_known([part.mean for part in parts])
    if math.isnan(mean):
        return Number(math.nan)
    seeds = [seed_mean(scores, keys, metric) for scores in by_seed.values()]
    defined = [value for value in seeds if not math.isnan(value)]
    between = float(np.std(defined, ddof=1)) if len(defined) > 1 else math.nan
    undefined = sum(part.undefined for part in parts)
    return Number(mean, seed_std=between, n=len(defined), undefined=undefined)


def case_values(scores: Iterable[Score], key: Column, metric: str) -> dict[str, float]:
    """Case -> value in the unit of print, of the cases whose truth holds the class."""
    (m, cls), factor = key, printed(metric).factor
    return {
        one.case: factor * value_of(one, metric)
        for one in scores
        if one.modality == m and one.cls == cls and one.truth_voxels
    }


def case_means(scores: Sequence[Score], modality: str) -> dict[str, float]:
    """Case -> mean Dice in percent over the classes that its truth holds."""
    classes = dict.fromkeys(one.cls for one in scores)
    tables = [case_values(scores, (modality, cls), DICE) for cls in classes]
    cases = dict.fromkeys(case for table in tables for case in table)
    return {case: float(np.mean([t[case] for t in tables if case in t])) for case in cases}


def seed_mean(scores: Sequence[Score], keys: Sequence[Column], metric: str) -> float:
    """One seed's mean over classes (and modalities) of the classes' means over cases."""
    means = [
        mean_of_known(
            [
                mean_of_known(case_values(scores, key, metric).values())
                for key in keys
                if key[0] == m
            ]
        )
        for m in dict.fromkeys(m for m, _ in keys)
    ]
    return mean_of_known(means)


def mean_of_known(values: Iterable[float]) -> float:
    """Over the values that are defined; nan where none is."""
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def _dice(result: Result, modality: str) -> dict[RunCase, float]:
    """(seed, case) -> mean Dice over the classes the case has."""
    return {
        (seed, case): value
        for seed, scores in result.scores(PREPARED).items()
        for case, value in case_means(scores, modality).items()
    }


def verdict(effect: Effect) -> str:
    """What can be said: "higher" or "lower" where the interval leaves out zero and the corrected
    test agrees, the same with "perhaps" where it does not, else "no difference"."""
    if math.isnan(effect.low):
        return ""
    if not effect.direction:
        return "no difference"
    return effect.direction if effect.adjusted < LEVEL else f"perhaps {effect.direction}"
