"""The tables of an experiment as Markdown, LaTeX and CSV, all from the same cells."""

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from unpaired.evaluation.evaluate import NATIVE, PREPARED
from unpaired.experiments.notes import notes
from unpaired.experiments.paper import ALL, MEAN
from unpaired.experiments.results import (
    DICE,
    VIEWS,
    Column,
    Comparison,
    Number,
    Result,
    Results,
    mean_of_known,
    numbers,
    verdict,
)
from unpaired.experiments.rows import AS_PRINTED, EXPERIMENTS, NETWORKS, OURS, Network
from unpaired.metrics.effect import Effect
from unpaired.tables import Table, printed

NOT_RUN, FAILED, NONE = "not run", "failed", "-"
PRIOR = "position alone, no image"
GRIDS = {PREPARED: "prepared grid, as the literature", NATIVE: "the scans' own grid"}
VALIDATION = (
    "Validation cases: mean Dice (%) at the last step, and what the last fifth of the run added"
)
FIFTH = 0.8
"""Where the last fifth of a run begins: one that adds less than a point there has converged."""
COMPARED = ("Δ Dice", "95 % interval", "p", "p, Holm", "cases", "seeds", "shown")
CELL = (
    "experiment", "row", "network", "metric", "grid", "modality", "class", "mean", "std",
    "seed_std", "n", "undefined", "seeds", "paper_mean", "paper_std", "gap", "erratum", "status",
)  # fmt: skip
"""The columns of the CSV."""
_TEX = str.maketrans(
    {mark: f"\\{mark}" for mark in "&%$#_{}"}
    | {"<": "$<$", ">": "$>$", "±": "$\\pm$", "Δ": "$\\Delta$", "τ": "$\\tau$"}
    | {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    | {"|": "\\textbar{}"}
)
"""Marks and how they are written, in one pass: none is escaped twice. Old fonts lack < and >."""
Curve = dict[int, float]
"""Step -> mean Dice of the validation cases in percent."""


def markdown(results: Results, level: int = 2) -> str:
    """Tables and notes under a heading."""
    parts = [f"{'#' * level} {results.title}", ""]
    for table in all_tables(results):
        parts += [*table.markdown(), ""]
    parts += [f"- {text}" for text in notes(results)]
    return "\n".join(parts).rstrip() + "\n"


def latex(results: Results) -> str:
    """The same tables for a paper (booktabs)."""
    title = results.title
    parts = [f"% {tex(title)}; needs \\usepackage{{booktabs}}"]
    for table in all_tables(results):
        parts += [
            "\\begin{table}",
            f"\\caption{{{tex(f'{title}. {table.title}')}}}",
            f"\\begin{{tabular}}{{{'l' * table.names + 'r' * (len(table.head) - table.names)}}}",
            "\\toprule",
            " & ".join(map(tex, table.head)) + " \\\\",
            "\\midrule",
            *(" & ".join(map(tex, row)) + " \\\\" for row in table.rows),
            "\\bottomrule",
            "\\end{tabular}",
            "\\end{table}",
        ]
    return "\n".join(parts) + "\n"


def tex(text: object) -> str:
    """Text with LaTeX's marks made harmless."""
    return " ".join(str(text).split()).translate(_TEX)


def to_csv(results: Results) -> str:
    """One line a cell, in six digits."""
    rows = [
        _cell(results, result, metric, grid, column, number)
        for metric, grid in VIEWS
        for result in results.rows
        for column, number in numbers(result, metric, grid, results.columns).items()
    ]
    return Table(CELL, rows).csv()


def _cell(
    results: Results, result: Result, metric: str, grid: str, column: Column, number: Number
) -> list[object]:
    paper = None if grid == NATIVE else results.published(result.row.name, metric, column)
    ours = (number.mean, number.std, number.seed_std)
    plain = ["" if math.isnan(value) else f"{value:.6g}" for value in ours]
    theirs: list[object] = ["", "", "", ""]
    if paper is not None:
        gap = "" if math.isnan(number.mean) else f"{number.mean - paper.mean:.6g}"
        theirs = [paper.mean, "" if paper.std is None else paper.std, gap, paper.erratum]
    return [
        results.experiment.name, result.row.name, result.network or "", metric, grid, *column,
        *plain, number.n, number.undefined, len(result.records), *theirs,
        "run" if result.records else result.reason or NOT_RUN,
    ]  # fmt: skip


def all_tables(results: Results) -> list[Table]:
    """In the order of print."""
    return [
        *score_tables(results),
        *_effect_table(results),
        *validation_table(results),
        *_parameter_table(results),
    ]


def score_tables(results: Results) -> list[Table]:
    """One a metric and grid; those without any number are left out, but for the first."""
    tables: list[Table] = []
    for metric, grid in VIEWS:
        cells = [numbers(r, metric, grid, results.columns) for r in results.rows]
        if tables and all(math.isnan(n.mean) for row in cells for n in row.values()):
            continue
        source = [""] if results.paper else []
        head = ("row", "network", *source, *map(_heading, results.columns))
        rows = [
            line
            for result, row in zip(results.rows, cells, strict=True)
            for line in _lines(results, result, metric, grid, row)
        ]
        if (metric, grid) == (DICE, PREPARED):
            rows += _prior(results)
        title = f"{printed(metric).heading}, {GRIDS[grid]}"
        tables.append(Table(head, rows, title, 2 + len(source)))
    return tables


def _heading(column: Column) -> str:
    """ "ct liver", "ct mean", "all, mean"."""
    m, cls = column
    return "all, mean" if m == ALL else f"{m} {cls.lower() if cls == MEAN else cls}"


def _lines(
    results: Results, result: Result, metric: str, grid: str, cells: Mapping[Column, Number]
) -> list[tuple[str, ...]]:
    """Ours; with the paper's column ours, paper and gap beneath each other."""
    columns, digits = results.columns, printed(metric).decimals
    names = (result.row.name, str(result.network or NONE))
    ours = [_words(cells[column], digits, "") for column in columns]
    if not result.records:  # the sentence of what failed once
        ours = [NOT_RUN] * len(columns)
        if result.reason:
            ours = [result.reason, *[FAILED] * (len(columns) - 1)]
    if not results.paper:
        return [(*names, *ours)]
    theirs, gaps = [], []
    for column in columns:
        paper = None if grid == NATIVE else results.published(result.row.name, metric, column)
        if paper is None:
            theirs.append(NONE)
            gaps.append(NONE)
            continue
        std = "" if paper.std is None else f" ± {paper.std:.{digits}f}"
        theirs.append(f"{paper.mean:.{digits}f}{std}{'*' if paper.erratum else ''}")
        gaps.append(_words(Number(cells[column].mean - paper.mean), digits, "+"))
    return [(*names, "ours", *ours), (*names, "paper", *theirs), (*names, "gap", *gaps)]


def _words(number: Number, digits: int, sign: str) -> str:
    """ "88.1 ± 2.0 (0.4)": mean, deviation over the cases, deviation of the seeds' means."""
    if math.isnan(number.mean):
        return NONE
    std = "" if math.isnan(number.std) else f" ± {number.std:.{digits}f}"
    between = "" if math.isnan(number.seed_std) else f" ({number.seed_std:.{digits}f})"
    return f"{number.mean:{sign}.{digits}f}{std}{between}"


def _prior(results: Results) -> list[tuple[str, ...]]:
    """The floor: where the organs of the training cases lay."""
    complete = [r for r in results.rows if r.records and r.row.shots is None]
    if not complete:
        return []
    # A comparator may have a grid of its own.
    complete.sort(key=lambda row: not row.all_records[0].is_papers_method)
    values: dict[Column, list[float]] = {}
    for record in complete[0].all_records:
        for m, floor in record.floor.items():
            for cls, value in floor.items():
                values.setdefault((m, cls), []).append(100 * value)
    means = {key: float(np.mean(v)) for key, v in values.items()}
    for m in results.modalities:
        means[m, MEAN] = mean_of_known(means.get((m, cls), math.nan) for cls in results.classes)
    means[ALL, MEAN] = mean_of_known(means[m, MEAN] for m in results.modalities)
    cells = [Number(means.get(column, math.nan)) for column in results.columns]
    source = ["ours"] if results.paper else []
    return [(PRIOR, NONE, *source, *(_words(one, printed(DICE).decimals, "") for one in cells))]


def _effect_table(results: Results) -> Iterator[Table]:
    """Row against row."""
    rows = [(*label, *_difference(one)) for label, one in results.effects.items()]
    if rows:
        title = "Row against row: points of Dice, paired by case"
        names = Comparison._fields
        yield Table((*names, *COMPARED), rows, title, len(names))


def _difference(one: Effect) -> tuple[str, ...]:
    """Mean, interval, p, corrected p, cases, seeds, what it shows."""
    interval = NONE if math.isnan(one.low) else f"{one.low:+.2f} to {one.high:+.2f}"
    tests = (_probability(one.p), _probability(one.adjusted))
    counts = (str(one.difference.n_cases), str(one.difference.n_seeds))
    return (f"{one.difference.mean:+.2f}", interval, *tests, *counts, verdict(one) or NONE)


def _probability(p: float) -> str:
    """ "0.031", "< 0.001", or a dash."""
    return NONE if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def summary(stored: Mapping[tuple[str, str], Results]) -> str:
    """What the consistency gave: every comparison of Ours with another row, and what was not run.

    Args:
        stored: (study, experiment) -> its results.
    """
    ours = (AS_PRINTED.name, OURS.name)
    rows = [
        (study, _labelled(one), *label, *_without_p(_difference(effect)))
        for (study, _), one in stored.items()
        for label, effect in one.effects.items()
        if label.row in ours
    ]
    head = ("study", "experiment", "row", "minus", "modality", *_without_p(COMPARED))
    table = Table(head, rows, "Ours against other rows", 5)
    return "\n".join([*table.markdown(), "", *_not_run(stored)]) + "\n"


def _labelled(results: Results) -> str:
    """Its name, and a network that is not the paper's."""
    name = results.experiment.name
    return f"{name}, {results.network}" if results.other_network else name


def _not_run(stored: Mapping[tuple[str, str], Results]) -> Iterator[str]:
    """What no study has, and per study what it lacks of those with its network."""
    networks: dict[str, set[Network | None]] = {}
    for (study, _), one in stored.items():
        networks.setdefault(study, {None}).add(one.network)
    for study, own in networks.items():
        lacking = [e for e in EXPERIMENTS.values() if (study, e.name) not in stored]
        if names := ", ".join(e.name for e in lacking if e.network in own):
            yield f"- {NOT_RUN} on {study}: {names}."
        others = [one for (s, _), one in stored.items() if s == study and one.other_network]
        for one in others:
            yield (
                f"- on {study} with another network than the paper's ({one.experiment.network}): "
                f"{_labelled(one)}."
            )
    anywhere = set().union(*networks.values())
    for network in NETWORKS.values():
        tables = ", ".join(e.name for e in EXPERIMENTS.values() if e.network == network)
        if network not in anywhere:
            yield f"- {NOT_RUN} on any data with the paper's network, {network}: {tables}."


def _without_p(cells: Sequence[str]) -> list[str]:
    """Without the p that is not corrected."""
    return [cell for cell, name in zip(cells, COMPARED, strict=True) if name != "p"]


def curves(result: Result, modality: str) -> list[Curve]:
    """One of each seed, of the network that learns this modality."""
    steps = (
        [one for one in record.curve if modality in one["mean"]] for record in result.all_records
    )
    return [{one["step"]: 100 * one["mean"][modality] for one in own} for own in steps if own]


def gained(curve: Curve) -> float:
    """The last value minus the one that was known when the last fifth began; nan if none was."""
    last = max(curve)
    before = [step for step in curve if step <= FIFTH * last]
    return curve[last] - curve[max(before)] if before else math.nan


def validation_table(results: Results) -> Iterator[Table]:
    """Where each row ended, and whether it was still rising: mean over the seeds, with the
    deviation between seeds in brackets."""
    rows = []
    for result in results.rows:
        by_modality = [curves(result, m) for m in results.modalities]
        if any(by_modality):
            ends = [_of_seeds([c[max(c)] for c in own], "") for own in by_modality]
            rose = [_of_seeds([gained(c) for c in own], "+") for own in by_modality]
            rows.append((result.row.name, *ends, *rose))
    if rows:
        head = ("row", *results.modalities, *(f"{m}, last fifth" for m in results.modalities))
        yield Table(head, rows, VALIDATION)


def _of_seeds(values: Sequence[float], sign: str) -> str:
    known = [value for value in values if not math.isnan(value)]
    between = float(np.std(known, ddof=1)) if len(known) > 1 else math.nan
    return _words(Number(mean_of_known(known), seed_std=between), 1, sign)


def _parameter_table(results: Results) -> Iterator[Table]:
    """What is trained and what is kept, a network."""
    rows = [
        (
            result.row.name,
            ", ".join(record.modalities),
            *(f"{record.parameters[name]:,}" for name in ("training", "test")),
        )
        for result in results.rows
        for record in next(iter(result.records.values()), ())
    ]
    if rows:
        yield Table(("row", "network of", "in training", "at test"), rows, "Parameters", 2)
