"""Tables as Markdown, CSV and LaTeX, all from the same cells."""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from unpaired.engine.both_grids import NATIVE
from unpaired.experiments.cells import (
    DECIMALS,
    TITLES,
    VIEWS,
    Number,
    Result,
    Results,
    numbers,
    paper,
)
from unpaired.experiments.published import ALL, MEAN

NOT_RUN = "not run"
NONE = "-"


@dataclass(frozen=True)
class Table:
    """Cells of text under a title."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def tables(results: Results) -> list[Table]:
    """One table a metric and grid; a view without any number but on the first is left out."""
    found: list[Table] = []
    for metric, grid in VIEWS:
        cells = {id(r): numbers(r, metric, grid, results.columns) for r in results.rows}
        empty = all(math.isnan(n.mean) for row in cells.values() for n in row.values())
        if empty and found:
            continue
        source = [""] if results.printed else []
        head = ["row", *source, *map(_heading, results.columns)]
        rows = [
            line
            for result in results.rows
            for line in _lines(results, result, metric, grid, cells[id(result)])
        ]
        where = "scan's own grid" if grid == NATIVE else "prepared grid, as the literature"
        found.append(Table(f"{TITLES[metric]}, {where}", tuple(head), tuple(rows)))
    return found


def _heading(column: tuple[str, str]) -> str:
    m, cls = column
    return "all, mean" if m == ALL else f"{m} {cls.lower() if cls == MEAN else cls}"


def _lines(
    results: Results,
    result: Result,
    metric: str,
    grid: str,
    cells: dict[tuple[str, str], Number],
) -> list[tuple[str, ...]]:
    """Ours; with the paper's column ours, paper and gap beneath each other."""
    name = result.row.name
    ours = [shown(cells[column], metric, result) for column in results.columns]
    if not results.printed:
        return [(name, *ours)]
    found = [
        None if grid == NATIVE else paper(results, name, metric, column)
        for column in results.columns
    ]
    digits = DECIMALS[metric]
    theirs, gaps = [], []
    for column, one in zip(results.columns, found, strict=True):
        number = cells[column].mean
        std = "" if one is None or one.std is None else f" ± {one.std:.{digits}f}"
        mark = "*" if one is not None and one.erratum else ""
        theirs.append(NONE if one is None else f"{one.mean:.{digits}f}{std}{mark}")
        gap = one is not None and not math.isnan(number)
        gaps.append(f"{number - one.mean:+.{digits}f}" if gap and one is not None else NONE)
    return [(name, "ours", *ours), (name, "paper", *theirs), (name, "gap", *gaps)]


def shown(number: Number, metric: str, result: Result) -> str:
    """ "88.1 ± 2.0 (0.4)": mean, deviation over the cases, deviation of the seeds' means."""
    if not result.records:
        return result.reason or NOT_RUN
    if math.isnan(number.mean):
        return NONE
    digits = DECIMALS[metric]
    std = "" if math.isnan(number.std) else f" ± {number.std:.{digits}f}"
    between = "" if math.isnan(number.seed_std) else f" ({number.seed_std:.{digits}f})"
    return f"{number.mean:.{digits}f}{std}{between}"


def markdown(results: Results) -> str:
    """The whole experiment as Markdown."""
    parts = [f"## {results.experiment.title}", ""]
    for table in tables(results):
        parts += [f"**{table.title}**", "", *_markdown_table(table), ""]
    parts += [f"- {note}" for note in results.notes]
    return "\n".join(parts).rstrip() + "\n"


def _markdown_table(table: Table) -> list[str]:
    rule = ["---", *("---:" for _ in table.head[1:])]
    rows: list[Sequence[str]] = [table.head, rule, *table.rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]


def latex(results: Results) -> str:
    """The same tables for a paper (booktabs)."""
    parts = [f"% {results.experiment.title}; \\usepackage{{booktabs}}"]
    for table in tables(results):
        columns = "l" * (2 if results.printed else 1)
        parts += [
            "\\begin{table}",
            f"\\caption{{{_tex(results.experiment.title)}. {_tex(table.title)}}}",
            f"\\begin{{tabular}}{{{columns}{'r' * (len(table.head) - len(columns))}}}",
            "\\toprule",
            " & ".join(map(_tex, table.head)) + " \\\\",
            "\\midrule",
            *(" & ".join(map(_tex, row)) + " \\\\" for row in table.rows),
            "\\bottomrule",
            "\\end{tabular}",
            "\\end{table}",
        ]
    return "\n".join(parts) + "\n"


def _tex(text: str) -> str:
    for mark in "&%$#_{}":
        text = text.replace(mark, "\\" + mark)
    return text.replace("±", "$\\pm$")


def to_csv(results: Results) -> str:
    """One line a cell, in full precision."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["experiment", "row", "metric", "grid", "modality", "class", "mean", "std", "seed_std",
         "n", "undefined", "seeds", "paper_mean", "paper_std", "gap", "erratum", "status"]
    )  # fmt: skip
    for metric, grid in VIEWS:
        for result in results.rows:
            cells = numbers(result, metric, grid, results.columns)
            for column in results.columns:
                writer.writerow(_csv_row(results, result, metric, grid, column, cells[column]))
    return text.getvalue()


def _csv_row(
    results: Results,
    result: Result,
    metric: str,
    grid: str,
    column: tuple[str, str],
    number: Number,
) -> list[object]:
    one = None if grid == NATIVE else paper(results, result.row.name, metric, column)
    ours = (number.mean, number.std, number.seed_std)
    plain = ["" if math.isnan(value) else f"{value:.6g}" for value in ours]
    gap = "" if one is None or math.isnan(number.mean) else f"{number.mean - one.mean:.6g}"
    std = "" if one is None or one.std is None else one.std
    theirs = ["", "", "", ""] if one is None else [one.mean, std, gap, one.erratum]
    status = "run" if result.records else NOT_RUN
    return [
        results.experiment.name, result.row.name, metric, grid, *column, *plain,
        number.n, number.undefined, len(result.records), *theirs, status,
    ]  # fmt: skip
