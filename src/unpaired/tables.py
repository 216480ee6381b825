"""Tables of text, and how a metric is printed in them. The level of `files`: every part uses it."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from unpaired.names import printable

UNDEFINED = "–"
MARKS = "|*"
"""What ends a Markdown cell, or makes it bold."""
ALL_MARKS = "\\|`*_<>[]"
"""What Markdown may read as markup anywhere."""


@dataclass(frozen=True)
class Table:
    """Cells under their heads; the report's macro `table` writes it as HTML, `say_table` prints it.

    Attributes:
        rows: as many cells a row as there are heads.
        title: what the table shows; "" for none.
        names: the first so many columns hold words, the others numbers, which stand at the right.
        mean: the last row is the mean of the others.
    """

    head: Sequence[str]
    rows: Sequence[Sequence[object]]
    title: str = ""
    names: int = 1
    mean: bool = False

    def markdown(self, marks: str = MARKS) -> list[str]:
        """Its lines, the title in front.

        Args:
            marks: what is escaped in the cells; heads are escaped by `MARKS`.
        """
        rule = ["---"] * self.names + ["---:"] * (len(self.head) - self.names)
        rows = [[escape(cell, marks) for cell in row] for row in self.rows]
        if self.mean:
            rows[-1][0] = f"**{rows[-1][0]}**"
        lines = [[escape(name, MARKS) for name in self.head], rule, *rows]
        above = [f"**{self.title}**", ""] if self.title else []
        return [*above, *("| " + " | ".join(line) + " |" for line in lines)]

    def csv(self) -> str:
        """Comma-separated text; the title is left out."""
        import csv  # the program starts without it

        text = io.StringIO()
        rows = [[_cell(value) for value in row] for row in (self.head, *self.rows)]
        csv.writer(text, lineterminator="\n").writerows(rows)
        return text.getvalue()


def _cell(value: object) -> object:
    return printable(value) if isinstance(value, str) else value


def escape(text: object, marks: str = ALL_MARKS) -> str:
    """One line of Markdown that cannot break a table, become markup, or steer a terminal."""
    line = printable(" ".join(str(text).split()))
    for mark in marks:
        line = line.replace(mark, "\\" + mark)
    return line


@dataclass(frozen=True)
class Metric:
    """How a metric is printed.

    Attributes:
        title: its name without the unit.
        unit: of print.
        factor: from the stored value (a fraction, mm) to the printed one.
        higher_is_better: None where it is not known.
    """

    title: str
    unit: str = ""
    factor: float = 1.0
    decimals: int = 3
    higher_is_better: bool | None = None

    @property
    def heading(self) -> str:
        """ "Dice (%)"."""
        return f"{self.title} ({self.unit})" if self.unit else self.title

    def number(self, value: float, signed: bool = False) -> str:
        """A stored value as it is printed, without its unit; an en dash where undefined."""
        if not math.isfinite(value):
            return UNDEFINED
        return f"{value * self.factor:{'+' if signed else ''}.{self.decimals}f}"

    def mean_and_deviation(self, mean: float, deviation: float, count: int) -> tuple[str, str]:
        """ "88.1" and " ± 2.0"; one case has no deviation worth printing."""
        return self.number(mean), f" ± {self.number(deviation)}" if count > 1 else ""

    def difference(self, value: float, signed: bool = False) -> str:
        """With its unit: "2.1 points" of percent, "0.35 mm"; an en dash where undefined."""
        text = self.number(value, signed)
        if text == UNDEFINED or not self.unit:
            return text
        if self.unit != "%":
            return f"{text} {self.unit}"
        return f"{text} point{'s' * (text.lstrip('+-') != '1.0')}"


PRINTED = {
    "dice": Metric("Dice", "%", 100.0, 1, True),
    "asd_mm": Metric("ASD", "mm", 1.0, 2, False),
    "asd_voxels": Metric("ASD", "voxels", 1.0, 2, False),
    "hd95_mm": Metric("HD95", "mm", 1.0, 2, False),
    "nsd": Metric("NSD", "%", 100.0, 1, True),
}


def printed(name: str) -> Metric:
    """How the metric is printed; a user's own by its name, with three decimals."""
    return PRINTED.get(name, Metric(name))
