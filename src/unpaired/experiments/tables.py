"""The tables of an experiment: scores on both grids, effects, validation, parameters."""

import math
from collections.abc import Mapping

import numpy as np

from unpaired.evaluation.evaluate import NATIVE, PREPARED
from unpaired.experiments.cells import (
    DECIMALS,
    DICE,
    TITLES,
    VIEWS,
    Number,
    Result,
    Results,
    numbers,
    paper,
)
from unpaired.experiments.curves import validation_tables
from unpaired.experiments.effects import Effect, effects
from unpaired.experiments.published import ALL, MEAN
from unpaired.experiments.table import Table

NOT_RUN, FAILED, NONE = "not run", "failed", "-"
PRIOR = "position alone, no image"
GRIDS = {PREPARED: "prepared grid, as the literature", NATIVE: "the scans' own grid"}
Column = tuple[str, str]


def all_tables(results: Results) -> list[Table]:
    """In the order of print."""
    return [
        *score_tables(results),
        *effect_tables(results),
        *validation_tables(results),
        *parameter_tables(results),
    ]


def score_tables(results: Results) -> list[Table]:
    """One a metric and grid; those without any number are left out, but for the first."""
    found: list[Table] = []
    for metric, grid in VIEWS:
        cells = [numbers(r, metric, grid, results.columns) for r in results.rows]
        if found and all(math.isnan(n.mean) for row in cells for n in row.values()):
            continue
        source = [""] if results.printed else []
        head = ("row", *source, *map(heading, results.columns))
        rows = [
            line
            for result, row in zip(results.rows, cells, strict=True)
            for line in _lines(results, result, metric, grid, row)
        ]
        if (metric, grid) == (DICE, PREPARED):
            rows += _prior(results)
        title = f"{TITLES[metric]}, {GRIDS[grid]}"
        found.append(Table(title, head, tuple(rows), 1 + len(source)))
    return found


def heading(column: Column) -> str:
    """ "ct liver", "ct mean", "all, mean"."""
    m, cls = column
    return "all, mean" if m == ALL else f"{m} {cls.lower() if cls == MEAN else cls}"


def _lines(
    results: Results, result: Result, metric: str, grid: str, cells: Mapping[Column, Number]
) -> list[tuple[str, ...]]:
    """Ours; with the paper's column ours, paper and gap beneath each other."""
    name, columns = result.row.name, results.columns
    ours = [shown(cells[column], metric, result) for column in columns]
    if not result.records and result.reason:  # the sentence once
        ours = [result.reason, *[FAILED] * (len(columns) - 1)]
    if not results.printed:
        return [(name, *ours)]
    theirs, gaps, digits = [], [], DECIMALS[metric]
    for column in columns:
        one = None if grid == NATIVE else paper(results, name, metric, column)
        number = cells[column].mean
        if one is None:
            theirs.append(NONE)
            gaps.append(NONE)
            continue
        std = "" if one.std is None else f" ± {one.std:.{digits}f}"
        theirs.append(f"{one.mean:.{digits}f}{std}{'*' if one.erratum else ''}")
        gaps.append(NONE if math.isnan(number) else f"{number - one.mean:+.{digits}f}")
    return [(name, "ours", *ours), (name, "paper", *theirs), (name, "gap", *gaps)]


def shown(number: Number, metric: str, result: Result) -> str:
    """ "88.1 ± 2.0 (0.4)": mean, deviation over the cases, deviation of the seeds' means."""
    if not result.records:
        return NOT_RUN
    if math.isnan(number.mean):
        return NONE
    digits = DECIMALS[metric]
    std = "" if math.isnan(number.std) else f" ± {number.std:.{digits}f}"
    between = "" if math.isnan(number.seed_std) else f" ({number.seed_std:.{digits}f})"
    return f"{number.mean:.{digits}f}{std}{between}"


def _prior(results: Results) -> list[tuple[str, ...]]:
    """The floor: where the organs of the training cases lay."""
    whole = [r for r in results.rows if r.records and r.row.shots is None]
    if not whole:
        return []
    values: dict[Column, list[float]] = {}
    for records in whole[0].records.values():
        for record in records:
            for m, part in record.floor.items():
                for cls, value in part.items():
                    values.setdefault((m, cls), []).append(100 * value)
    means = {key: float(np.mean(v)) for key, v in values.items()}
    for m in results.modalities:
        means[m, MEAN] = _average([means.get((m, cls), math.nan) for cls in results.classes])
    means[ALL, MEAN] = _average([means[m, MEAN] for m in results.modalities])
    cells = [means.get(column, math.nan) for column in results.columns]
    source = ["ours"] if results.printed else []
    return [(PRIOR, *source, *(NONE if math.isnan(v) else f"{v:.1f}" for v in cells))]


def _average(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def effect_tables(results: Results) -> list[Table]:
    """Row against row."""
    found = effects(results)
    if not found:
        return []
    rows = [(one.row, one.against, one.modality, *difference(one)) for one in found]
    names = ("row", "against", "modality")
    numbers = ("Δ Dice", "95 % interval", "p", "p, Holm", "cases", "seeds", "shown")
    title = "Row against row: points of Dice, paired by case"
    return [Table(title, (*names, *numbers), tuple(rows), len(names))]


def difference(one: Effect) -> tuple[str, ...]:
    """Mean, interval, p, corrected p, cases, seeds, what it shows."""
    interval = NONE if math.isnan(one.low) else f"{one.low:+.2f} to {one.high:+.2f}"
    tests = (probability(one.p), probability(one.p_holm))
    return (f"{one.mean:+.2f}", interval, *tests, str(one.n), str(one.seeds), one.shown or NONE)


def probability(p: float) -> str:
    """ "0.031", "< 0.001", or a dash."""
    return NONE if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def parameter_tables(results: Results) -> list[Table]:
    """What is trained and what is kept, a network."""
    rows = []
    for result in results.rows:
        records = next(iter(result.records.values()), ())
        for record in records:
            name = ", ".join(record.modalities)
            counts = (f"{record.parameters[k]:,}" for k in ("training", "test"))
            rows.append((result.row.name, name, *counts))
    head = ("row", "network of", "in training", "at test")
    return [Table("Parameters", head, tuple(rows), 2)] if rows else []
