"""Cells of text, as Markdown and as LaTeX."""

from collections.abc import Sequence
from dataclasses import dataclass

_TEX = str.maketrans(
    {mark: f"\\{mark}" for mark in "&%$#_{}"}
    | {"<": "$<$", ">": "$>$", "±": "$\\pm$", "Δ": "$\\Delta$", "τ": "$\\tau$"}
    | {"\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}"}
    | {"|": "\\textbar{}"}
)
"""Marks and how they are written, in one pass: none is escaped twice. Old fonts lack < and >."""


@dataclass(frozen=True)
class Table:
    """Cells of text under a title; the first `names` columns are names, the others numbers."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    names: int = 1


def markdown_table(table: Table) -> list[str]:
    """Its lines, the title in front."""
    rule = ["---"] * table.names + ["---:"] * (len(table.head) - table.names)
    rows: list[Sequence[str]] = [table.head, rule, *table.rows]
    lines = ["| " + " | ".join(map(_plain, row)) + " |" for row in rows]
    return [f"**{table.title}**", "", *lines]


def _plain(text: str) -> str:
    """One line that cannot break the table."""
    return " ".join(text.split()).replace("|", "\\|").replace("*", "\\*")


def latex_table(table: Table, caption: str) -> list[str]:
    """Its lines (booktabs)."""
    columns = "l" * table.names + "r" * (len(table.head) - table.names)
    return [
        "\\begin{table}",
        f"\\caption{{{tex(caption)}}}",
        f"\\begin{{tabular}}{{{columns}}}",
        "\\toprule",
        " & ".join(map(tex, table.head)) + " \\\\",
        "\\midrule",
        *(" & ".join(map(tex, row)) + " \\\\" for row in table.rows),
        "\\bottomrule",
        "\\end{tabular}",
        "\\end{table}",
    ]


def tex(text: str) -> str:
    """Text with LaTeX's marks made harmless."""
    return " ".join(text.split()).translate(_TEX)
