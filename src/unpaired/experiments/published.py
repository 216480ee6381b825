"""Every number that the paper prints in its tables, as printed, with its errata marked."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from unpaired.names import canonical_name

SOURCE = (
    "Yang et al., Toward Unpaired Multi-modal Medical Image Segmentation via Learning Structured "
    "Semantic Consistency, MIDL 2023, PMLR 227"
)
CLASSES: Mapping[str, tuple[str, ...]] = {
    "LVM": ("myocardium", "lvm"),
    "LAC": ("left atrium", "lac"),
    "LVC": ("left ventricle", "lvc"),
    "AA": ("ascending aorta", "aa"),
    "Liver": ("liver",),
    "Spleen": ("spleen",),
    "R-kdy": ("right kidney", "kidney right"),
    "L-kdy": ("left kidney", "kidney left"),
}
"""Class as the paper prints it -> names that data sets give it."""
MEAN, ALL = "Mean", "all"


@dataclass(frozen=True)
class Cell:
    """One printed number, or a pair of mean and deviation.

    Attributes:
        metric: "dice_percent" or "asd_mm".
        modality: "CT", "MR", or "all" for the mean of both.
        cls: a class, or "Mean".
        difference: as printed beside it, such as "+1.5"; empty where there is none.
        erratum: what is wrong with what was printed; empty where nothing is.
    """

    table: str
    metric: str
    printed_row: str
    row: str
    modality: str
    cls: str
    mean: float
    std: float | None
    difference: str
    erratum: str


@cache
def published() -> tuple[Cell, ...]:
    """All cells of Tables 1, 2, 4, 5, 6 and 7."""
    file = resources.files("unpaired").joinpath("experiments", "published.csv")
    lines = file.read_text(encoding="utf-8").splitlines()
    return tuple(
        Cell(
            line["table"],
            line["metric"],
            line["row_as_printed"],
            line["row"],
            line["modality"],
            line["class"],
            float(line["mean"]),
            float(line["std"]) if line["std"] else None,
            line["printed_difference"],
            line["erratum"],
        )
        for line in csv.DictReader(line for line in lines if not line.startswith("#"))
    )


def cell(table: str, metric: str, row: str, modality: str, cls: str) -> Cell | None:
    """One printed cell, or None where the paper has none."""
    return _index().get((table, metric, row, modality, cls))


@cache
def _index() -> dict[tuple[str, ...], Cell]:
    return {(c.table, c.metric, c.row, c.modality, c.cls): c for c in published()}


def printed_class(name: str) -> str | None:
    """The paper's name of a class, or None where it has none."""
    plain = canonical_name(name)
    return next((printed for printed, names in CLASSES.items() if plain in names), None)
