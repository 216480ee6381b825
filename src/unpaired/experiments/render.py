"""An experiment as Markdown, LaTeX and CSV, all from the same cells."""

import csv
import io
import math

from unpaired.evaluation.evaluate import NATIVE
from unpaired.experiments.cells import VIEWS, Number, Result, Results, numbers, paper
from unpaired.experiments.notes import notes
from unpaired.experiments.table import latex_table, markdown_table, tex
from unpaired.experiments.tables import NOT_RUN, Column, all_tables

HEAD = (
    "experiment", "row", "metric", "grid", "modality", "class", "mean", "std", "seed_std", "n",
    "undefined", "seeds", "paper_mean", "paper_std", "gap", "erratum", "status",
)  # fmt: skip


def markdown(results: Results, level: int = 2) -> str:
    """Tables and notes under a heading."""
    parts = [f"{'#' * level} {results.title}", ""]
    for table in all_tables(results):
        parts += [*markdown_table(table), ""]
    parts += [f"- {text}" for text in notes(results)]
    return "\n".join(parts).rstrip() + "\n"


def latex(results: Results) -> str:
    """The same tables for a paper (booktabs)."""
    title = results.title
    parts = [f"% {tex(title)}; needs \\usepackage{{booktabs}}"]
    for table in all_tables(results):
        parts += latex_table(table, f"{title}. {table.title}")
    return "\n".join(parts) + "\n"


def to_csv(results: Results) -> str:
    """One line a cell, in six digits."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEAD)
    for metric, grid in VIEWS:
        for result in results.rows:
            cells = numbers(result, metric, grid, results.columns)
            for column in results.columns:
                writer.writerow(_row(results, result, metric, grid, column, cells[column]))
    return text.getvalue()


def _row(
    results: Results, result: Result, metric: str, grid: str, column: Column, number: Number
) -> list[object]:
    one = None if grid == NATIVE else paper(results, result.row.name, metric, column)
    ours = (number.mean, number.std, number.seed_std)
    plain = ["" if math.isnan(value) else f"{value:.6g}" for value in ours]
    gap = "" if one is None or math.isnan(number.mean) else f"{number.mean - one.mean:.6g}"
    std = "" if one is None or one.std is None else one.std
    theirs = ["", "", "", ""] if one is None else [one.mean, std, gap, one.erratum]
    return [
        results.experiment.name, result.row.name, metric, grid, *column, *plain,
        number.n, number.undefined, len(result.records), *theirs,
        "run" if result.records else result.reason or NOT_RUN,
    ]  # fmt: skip
