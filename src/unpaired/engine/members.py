"""From folders to the networks that predict together."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from unpaired.config import Config
from unpaired.data.augment import mirror_axes
from unpaired.data.paths import shown
from unpaired.data.plan import Plan
from unpaired.engine.export.layout import ONNX, parts_of
from unpaired.engine.model_file import WEIGHTS, load_model, model_digest
from unpaired.errors import DataError, UsageError
from unpaired.inference.inferer import Network, mean_probabilities, mirrored
from unpaired.inference.located import Located
from unpaired.models.folded import Folded

_PLACES = ("model", "models", "safetensors", "bundle", "onnx")
"""Where a run, or an export of several formats, keeps its model; the first one counts."""
_AGREED = ("classes", "spacing_mm", "slice_axis", "patch", "context", "order")


@dataclass(frozen=True)
class Member:
    """One exported model, loaded."""

    folder: Path
    segmenter: nn.Module
    """Called with images and the modality's name; gives `Decoded`."""
    plan: Plan
    config: Config
    digest: str

    def recipe(self, modality: str) -> str:
        """Members with equal recipes see the same prepared image."""
        return self.plan.fingerprint(modality)

    def network(self, modality: str, mirror: bool = False) -> Network:
        """Class probabilities of images of this modality.

        Args:
            mirror: mean over the mirrorings that training used.
        """
        found = mean_probabilities([lambda image: self.segmenter(image, modality).logits])
        if mirror:
            found = mirrored(found, self.mirror_axes())
        if self.plan.coarse is None:
            return found
        return Located(found, lambda view: self.segmenter.locate(view, modality), self.plan.coarse)  # type: ignore[operator]

    def mirror_axes(self) -> tuple[int, ...]:
        """The spatial axes along which training images were mirrored."""
        if self.config.augment.mirror == "none":
            return ()
        return tuple(axis for axis, used in enumerate(mirror_axes(self.plan)[0]) if used)


def model_folders(run: Path) -> list[Path]:
    """The exported models that `run` stands for: itself, one inside it, or those of its folds.

    Raises:
        DataError: there is none.
    """
    if (found := _model_in(run)) is not None:
        return [found]
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


def _model_in(folder: Path) -> Path | None:
    """The folder that holds the model: this one, or one of the known places in it."""
    if any((folder / name).is_file() for name in (WEIGHTS, ONNX)) or parts_of(folder):
        return folder
    found = (_model_in(folder / name) for name in _PLACES if (folder / name).is_dir())
    return next((place for place in found if place is not None), None)


def load_member(folder: Path) -> Member:
    """Load one model: safetensors, ONNX, or the folded networks of several modalities.

    Raises:
        DataError: damaged, or its parts do not belong together.
        UsageError: it is ONNX and onnxruntime is not installed.
    """
    if parts := parts_of(folder):
        return _together(folder, [load_member(model_folders(part)[0]) for part in parts.values()])
    if (folder / WEIGHTS).is_file():
        return Member(folder, *load_model(folder), model_digest(folder))
    from unpaired.engine.export.onnx_file import load_onnx

    return Member(folder, *load_onnx(folder))


def _together(folder: Path, parts: Sequence[Member]) -> Member:
    """One member of the folded networks of several modalities."""
    first, modalities = parts[0], {}
    networks: dict[str, nn.Module] = {}
    for part in parts:
        if not isinstance(part.segmenter, Folded):
            raise DataError(f"{shown(part.folder)} is not a folded network. Export again.")
        if any(getattr(part.plan, name) != getattr(first.plan, name) for name in _AGREED):
            raise DataError(
                f"{shown(first.folder)} and {shown(part.folder)} come from different exports. "
                "Export all modalities again."
            )
        networks.update(part.segmenter.networks.items())
        modalities.update(part.plan.modalities)
    plan = first.plan.model_copy(update={"modalities": modalities})
    digest = hashlib.sha256("".join(part.digest for part in parts).encode()).hexdigest()
    return Member(folder, Folded(networks), plan, first.config, digest)


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
    members = [load_member(folder) for folder in folders]
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
