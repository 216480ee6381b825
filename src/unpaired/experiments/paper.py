"""The paper: every number it prints in its tables, how its data are recognised, its protocol."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path

from unpaired.datasets.dataset import canonical_name
from unpaired.errors import DataError, UsageError
from unpaired.experiments.rows import ABDOMEN, HEART, Experiment
from unpaired.files import read_json

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
SOURCES = {HEART: ("mmwhs", "mmwhs"), ABDOMEN: ("btcv", "chaos")}
"""Preset -> what the first and the second modality were imported from."""
DRAWN = 9
"""MR scans of the abdomen in each draw, of the 20 there are."""


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


def in_order(data: Mapping[str, Path]) -> dict[str, Path]:
    """CT first where the names are ct and mr, so that rows mean what the paper means."""
    if [name.casefold() for name in data] == ["mr", "ct"]:
        return dict(reversed(list(data.items())))
    return dict(data)


def is_papers(experiment: Experiment, data: Mapping[str, Path]) -> bool:
    """Whether `unpaired import` made both folders from the paper's data sets."""
    if experiment.preset not in SOURCES or len(data) != 2:
        return False
    return tuple(map(_source, data.values())) == SOURCES[experiment.preset]


def check_papers(experiment: Experiment, data: Mapping[str, Path] | None) -> None:
    """Refuse what cannot be the paper's data though the user says that it is.

    Args:
        data: modality -> folder; None for scans of the phantom.

    Raises:
        UsageError: an experiment of ours, the phantom, or data imported from another data set.
    """
    says = "--paper says that these are the paper's data"
    if experiment.preset is None:
        raise UsageError(f"{says}, and the paper does not have {experiment.name}. Leave it out.")
    if data is None:
        raise UsageError(f"{says}, and those of the phantom are synthetic. Leave it out.")
    for (m, root), wanted in zip(in_order(data).items(), SOURCES[experiment.preset], strict=False):
        if (source := _source(root)) not in ("", wanted):
            raise UsageError(
                f"{says}, but {m} ({root}) was imported from {source}; {experiment.name} is on "
                f"{' and '.join(dict.fromkeys(SOURCES[experiment.preset]))}. Give those, or leave "
                "--paper out."
            )


def _source(root: Path) -> str:
    path = root / "provenance.json"
    try:
        return str(read_json(path)["settings"]["source"]) if path.is_file() else ""
    except (DataError, KeyError, TypeError):
        return ""


def protocol_of(experiment: Experiment, data: Mapping[str, Path]) -> tuple[str, ...]:
    """Overrides: of the abdomen, 9 MR scans in each draw."""
    if experiment.preset != ABDOMEN or len(data) != 2:
        return ()
    return (f"data.cases.{list(data)[1]}={DRAWN}",)


def printed_names(data: Mapping[str, Path]) -> dict[str, str]:
    """Modality -> its name in the paper."""
    return dict(zip(data, ("CT", "MR"), strict=False))
