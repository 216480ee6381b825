"""The paper's own data: how they are recognised, and what its protocol adds to a recipe."""

from collections.abc import Mapping
from pathlib import Path

from unpaired.errors import DataError
from unpaired.experiments.rows import Experiment
from unpaired.files import read_json

HEART, ABDOMEN = "cardiac-2d", "abdomen-2d"
SOURCES = {HEART: ("mmwhs", "mmwhs"), ABDOMEN: ("btcv", "chaos")}
"""Preset -> what the first and the second modality were imported from."""
DRAWN = 9
"""MR scans of the abdomen in each draw, of the 20 there are."""


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


def _source(root: Path) -> str:
    path = root / "provenance.json"
    try:
        found = read_json(path)["settings"]["source"] if path.is_file() else ""
    except (DataError, KeyError, TypeError):
        return ""
    return str(found)


def protocol(experiment: Experiment, data: Mapping[str, Path]) -> tuple[str, ...]:
    """Overrides: of the abdomen, 9 MR scans in each draw."""
    if experiment.preset != ABDOMEN or len(data) != 2:
        return ()
    return (f"data.cases.{list(data)[1]}={DRAWN}",)


def printed_names(data: Mapping[str, Path]) -> dict[str, str]:
    """Modality -> its name in the paper."""
    return dict(zip(data, ("CT", "MR"), strict=False))
