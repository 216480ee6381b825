"""From folders to the networks that predict together."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from unpaired.config import Config
from unpaired.data.paths import shown
from unpaired.data.plan import Plan
from unpaired.engine.infer import Network, mean_probabilities
from unpaired.engine.model_file import WEIGHTS, load_model, model_digest
from unpaired.errors import DataError, UsageError
from unpaired.models import Segmenter

_AGREED = ("classes", "spacing_mm", "slice_axis", "patch", "context", "order")


@dataclass(frozen=True)
class Member:
    """One exported model, loaded."""

    folder: Path
    segmenter: Segmenter
    plan: Plan
    config: Config
    digest: str

    def recipe(self, modality: str) -> str:
        """Members with equal recipes see the same prepared image."""
        return self.plan.fingerprint(modality)

    def network(self, modality: str) -> Network:
        """Class probabilities of images of this modality."""
        return mean_probabilities([lambda image: self.segmenter(image, modality).logits])


def model_folders(run: Path) -> list[Path]:
    """The exported models that `run` stands for: itself, its `model`, or those of its folds.

    Raises:
        DataError: there is none.
    """
    for folder in (run, run / "model"):
        if (folder / WEIGHTS).is_file():
            return [folder]
    folds = sorted(path for path in run.glob("fold_*") if path.is_dir())
    missing = [fold.name for fold in folds if not (fold / "model" / WEIGHTS).is_file()]
    if folds and not missing:
        return [fold / "model" for fold in folds]
    if missing:
        raise DataError(
            f"{shown(run)}: {', '.join(missing)} hold no model yet. Finish their training, or name "
            "the folds to use one by one."
        )
    what = "does not exist" if not run.exists() else f"holds no {WEIGHTS}, model/ or fold_*/"
    raise DataError(
        f"{shown(run)} {what}. Name the folder of a run whose training has written its model."
    )


def load_members(runs: Path | Sequence[Path]) -> list[Member]:
    """Load every model; they must segment the same classes on the same grid.

    The intensity scale may differ: each network sees the image as it was trained.

    Raises:
        DataError: none found, damaged, or they do not belong together.
    """
    named = [runs] if isinstance(runs, Path) else list(runs)
    folders = [folder for run in named for folder in model_folders(Path(run))]
    if not folders:
        raise UsageError("no run is named; give at least one run folder.")
    members = [Member(folder, *load_model(folder), model_digest(folder)) for folder in folders]
    for other in members[1:]:
        _check_alike(members[0], other)
    return members


def _check_alike(first: Member, other: Member) -> None:
    for name in _AGREED:
        a, b = getattr(first.plan, name), getattr(other.plan, name)
        if a != b:
            raise DataError(
                f"{shown(first.folder)} and {shown(other.folder)} cannot be averaged: {name} is "
                f"{a} in one, {b} in the other. Name runs that were planned alike."
            )
    ours, theirs = (
        {name: part.channel_names for name, part in member.plan.modalities.items()}
        for member in (first, other)
    )
    if ours != theirs:
        raise DataError(
            f"{shown(first.folder)} and {shown(other.folder)} cannot be averaged: one knows the "
            f"modalities {', '.join(ours)}, the other {', '.join(theirs)}, or their channels "
            "differ. Name runs of the same modalities."
        )
