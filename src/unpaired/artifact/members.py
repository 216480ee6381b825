"""Models that predict together: loaded, and whether they may be averaged."""

from collections.abc import Sequence
from pathlib import Path

from unpaired.artifact.chosen import choice_path, read_choice
from unpaired.artifact.model import Model
from unpaired.artifact.places import model_folders
from unpaired.errors import DataError, UsageError
from unpaired.files import printable

_AGREED = ("classes", "slice_axis", "oblique")
"""Fields of a plan that averaged models share. Their grids may differ: scores are then averaged on
the image's own, slice by slice, which needs slices along one axis."""


def load_models(runs: Sequence[Path]) -> list[Model]:
    """Load every model of runs, folds and choices; they must segment the same classes.

    Grid and intensities may differ: each network sees the image as it was trained.

    Raises:
        DataError: none found, damaged, changed since it was chosen, or they do not belong together.
    """
    if not runs:
        raise UsageError("no run is named; give at least one run folder.")
    models = [model for run in runs for model in _load(run)]
    for other in models[1:]:
        check_alike(models[0], other)
    return models


def _load(run: Path) -> list[Model]:
    if (path := choice_path(run)) is None:
        return [Model.load(folder) for folder in model_folders(run)]
    choice = read_choice(path)
    parts = [_load(one) for one in choice.runs]
    choice.check([[model.digest for model in part] for part in parts])
    return [model for part in parts for model in part]


def check_alike(first: Model, other: Model) -> None:
    """Raise DataError where two models cannot be averaged."""
    for name in _AGREED:
        a, b = getattr(first.plan, name), getattr(other.plan, name)
        if a != b:
            raise DataError(
                f"{printable(first.folder)} and {printable(other.folder)} cannot be averaged: "
                f"{name} is {a} in one, {b} in the other. Name runs of the same classes, with "
                "slices along one axis."
            )
    ours, theirs = (
        {name: part.channel_names for name, part in model.plan.modalities.items()}
        for model in (first, other)
    )
    if ours != theirs:
        raise DataError(
            f"{printable(first.folder)} and {printable(other.folder)} cannot be averaged: one "
            f"knows the modalities {', '.join(ours)}, the other {', '.join(theirs)}, or their "
            "channels differ. Name runs of the same modalities."
        )
