"""A trained model: its network, the plan its images follow, and its configuration."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unpaired.artifact.onnx import ONNX, read_onnx
from unpaired.artifact.safetensors import WEIGHTS, read_safetensors, write_safetensors
from unpaired.artifact.unfinished import warn_unfinished
from unpaired.backbones import Backbone
from unpaired.config import Config
from unpaired.data.augment import mirror_axes
from unpaired.data.plan import Plan
from unpaired.errors import DataError, UsageError
from unpaired.files import printable, read_json
from unpaired.methods import input_channels, method_of
from unpaired.models import Segmenter, fold
from unpaired.models.fold import Folded
from unpaired.names import did_you_mean
from unpaired.run import RunFolder

Network = Callable[[Float[Tensor, "B K *space"]], Float[Tensor, "B Z *space"]]
Form = Literal["gains", "folded"]

READERS: dict[str, Callable[[Path], tuple[nn.Module, Plan, Config, str]]] = {
    WEIGHTS: read_safetensors,
    ONNX: read_onnx,
}
"""Name of a model's file -> what reads its folder: network, plan, configuration, fingerprint."""
RECORD, RECORD_FORMAT = "export.json", "unpaired-export"

_PLACES = ("model", "models", "safetensors", "bundle", "onnx")
"""Where a run, or an export of several formats, keeps its model; the first one counts."""
_AGREED = ("classes", "spacing_mm", "slice_axis", "oblique", "patch", "context", "order")


@dataclass(frozen=True)
class Model:
    """One trained model.

    Attributes:
        segmenter: called with images and the modality's name; gives `Decoded`.
        folder: where it was read from.
        digest: a fingerprint of weights, plan and configuration.
    """

    segmenter: nn.Module
    plan: Plan
    config: Config
    folder: Path = Path()
    digest: str = ""

    @classmethod
    def load(cls, folder: Path) -> "Model":
        """Read what a folder holds: safetensors, ONNX, or the folded networks of several
        modalities. The network is on the CPU, in evaluation mode.

        Raises:
            DataError: damaged, or its parts do not belong together.
            UsageError: it is ONNX and onnxruntime is not installed.
        """
        if parts := parts_of(folder):
            return _together(folder, [cls.load(model_folders(part)[0]) for part in parts.values()])
        name = next((name for name in READERS if (folder / name).is_file()), WEIGHTS)
        network, plan, config, digest = READERS[name](folder)
        warn_unfinished(folder)
        return cls(network, plan, config, folder, digest)

    def save(self, folder: Path, extra: dict[str, Any]) -> None:
        """Write `folder`/model.safetensors and `folder`/model.json, each whole or not at all.

        Args:
            extra: further facts for the description, JSON values (training steps, scores).

        Raises:
            ResourceError: the folder cannot be written.
        """
        network = self.segmenter if self.form == "gains" else self.backbone
        write_safetensors(network, self.config, self.plan, folder, extra)

    @property
    def form(self) -> Form:
        """gains: all modalities in one network; folded: a plain network for each."""
        return "folded" if isinstance(self.segmenter, Folded) else "gains"

    @property
    def modalities(self) -> tuple[str, ...]:
        """The names, in the order of their index."""
        return tuple(self.plan.modalities)

    @property
    def channels(self) -> dict[str, int]:
        """K_m of every modality."""
        return input_channels(self.plan)

    @property
    def backbone(self) -> Backbone:
        """The network without stems and gains; of a folded model, that of its one modality."""
        if isinstance(self.segmenter, Segmenter):
            return self.segmenter.backbone
        assert isinstance(self.segmenter, Folded)
        (backbone,) = self.segmenter.networks.values()
        assert isinstance(backbone, Backbone)
        return backbone

    def check_modality(self, name: str) -> None:
        """Raise UsageError where the model does not know the modality."""
        if name not in self.modalities:
            hint, known = did_you_mean(name, self.modalities), ", ".join(self.modalities)
            raise UsageError(
                f"the model does not know the modality {name!r}.{hint} It knows {known}."
            )

    def need_weights(self) -> None:
        """Raise UsageError where the network is not one of torch: no other form can be made."""
        kind: tuple[type[nn.Module], ...] = (Segmenter,)
        parts: list[nn.Module] = [self.segmenter]
        if isinstance(self.segmenter, Folded):
            kind, parts = (Backbone,), list(self.segmenter.networks.values())
        if not all(isinstance(one, kind) for one in parts):
            raise UsageError(
                f"{printable(self.folder)} is ONNX, from which nothing else can be made. Export "
                "from the run, or from its safetensors form."
            )

    def recipe(self, modality: str) -> str:
        """Models with equal recipes see the same prepared image."""
        return self.plan.fingerprint(modality)

    def mirror_axes(self) -> tuple[int, ...]:
        """The spatial axes along which training images were mirrored."""
        if self.config.augment.mirror == "none":
            return ()
        return tuple(axis for axis, used in enumerate(mirror_axes(self.plan)[0]) if used)

    def network(self, modality: str, mirror: bool = False) -> Network:
        """Class probabilities of images of this modality.

        Args:
            mirror: mean over the mirrorings that training used.
        """
        found = probabilities(lambda image: self.segmenter(image, modality).logits)
        if mirror:
            found = mirrored(found, self.mirror_axes())
        return method_of(self.config).looking(found, self.segmenter, modality, self.plan)

    def fold(self, modality: str) -> Backbone:
        """A plain network for one modality: stem and gains multiplied into its weights.

        Returns:
            a copy, from images [B K_m *space] to `Decoded`, whose `logits` are [B Z *space].

        Raises:
            UsageError: the model does not know the modality, or is ONNX.
        """
        self.check_modality(modality)
        self.need_weights()
        assert isinstance(self.segmenter, Segmenter | Folded)
        return fold(self.segmenter, modality).eval()

    def folded(self, modality: str) -> "Model":
        """The model of one modality alone, folded; see `fold`."""
        part = {"modalities": {modality: self.plan.modalities[modality]}}
        network = Folded({modality: self.fold(modality)})
        return replace(self, segmenter=network, plan=self.plan.model_copy(update=part))


def probabilities(network: Network) -> Network:
    """The softmax of a network's scores; no gradients."""

    @torch.no_grad()
    def found(image: Float[Tensor, "B K *space"]) -> Float[Tensor, "B Z *space"]:
        scores = network(image).float()
        for one in scores:  # in place, while it is still in the cache: half the time
            one.copy_(torch.softmax(one, 0))
        return scores

    return found


def mirrored(network: Network, axes: Sequence[int]) -> Network:
    """The mean of the network's scores over every mirroring along some of these spatial axes."""
    flips = [f for n in range(len(axes) + 1) for f in combinations([2 + a for a in axes], n)]
    if len(flips) == 1:
        return network

    @torch.no_grad()
    def mean(image: Float[Tensor, "B K *space"]) -> Float[Tensor, "B Z *space"]:
        total = network(image)
        for flip in flips[1:]:
            total += network(image.flip(flip)).flip(flip)
        return total.div_(len(flips))

    return mean


# From folders to models.


def model_folders(run: Path) -> list[Path]:
    """The folders of the models that `run` stands for: itself, one in it, or those of its folds.

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
            f"{printable(run)}: {', '.join(missing)} hold no model yet. Finish their training, or "
            "name the folds to use one by one."
        )
    if RunFolder(run).files.log.is_file():
        raise DataError(
            f"{printable(run)} has no model yet: the first is written at the first validation "
            "(train.steps_per_epoch). Go on with its training: the same command resumes."
        )
    what = "does not exist" if not run.exists() else f"holds no {WEIGHTS}, model/ or fold_*/"
    raise DataError(
        f"{printable(run)} {what}. Name the folder of a run whose training has written its model."
    )


def _model_in(folder: Path) -> Path | None:
    """The folder that holds the model: this one, or one of the known places in it."""
    if any((folder / name).is_file() for name in READERS) or parts_of(folder):
        return folder
    found = (_model_in(folder / name) for name in _PLACES if (folder / name).is_dir())
    return next((place for place in found if place is not None), None)


def load_models(runs: Sequence[Path]) -> list[Model]:
    """Load every model; they must segment the same classes on the same grid.

    The intensity scale may differ: each network sees the image as it was trained.

    Raises:
        DataError: none found, damaged, or they do not belong together.
    """
    folders = [folder for run in runs for folder in model_folders(run)]
    if not folders:
        raise UsageError("no run is named; give at least one run folder.")
    models = [Model.load(folder) for folder in folders]
    for other in models[1:]:
        _check_alike(models[0], other)
    return models


def _check_alike(first: Model, other: Model) -> None:
    for name in _AGREED:
        a, b = getattr(first.plan, name), getattr(other.plan, name)
        if a != b:
            raise DataError(
                f"{printable(first.folder)} and {printable(other.folder)} cannot be averaged: "
                f"{name} is {a} in one, {b} in the other. Name runs that were planned alike."
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


def parts_of(folder: Path) -> dict[str, Path]:
    """Modality -> folder, of a folded export that has one a modality; empty for anything else.

    Raises:
        DataError: its record is damaged, or a part is missing.
    """
    path = folder / RECORD
    if not path.is_file():
        return {}
    parts = read_record(folder).get("parts", [])
    if not isinstance(parts, list) or not all(
        isinstance(name, str) and name.isidentifier() for name in parts
    ):
        raise DataError(f"{printable(path)} is not what an export writes. Export again.")
    for name in parts:
        if not (folder / name).is_dir():
            raise DataError(
                f"{printable(folder)} should hold the folder {name}. Export again, or name one of "
                "its folders."
            )
    return {name: folder / name for name in parts}


def read_record(folder: Path) -> dict[str, Any]:
    """The content of export.json.

    Raises:
        DataError: missing, damaged, foreign, or newer.
    """
    content = read_json(folder / RECORD)
    if not isinstance(content, dict) or content.get("format") != RECORD_FORMAT:
        raise DataError(f"{printable(folder / RECORD)} is not what an export writes. Export again.")
    if content.get("schema") != 1:
        raise DataError(f"{printable(folder / RECORD)} is of a newer version. Update unpaired.")
    return content


def _together(folder: Path, parts: Sequence[Model]) -> Model:
    """One model of the folded networks of several modalities."""
    first, modalities = parts[0], {}
    networks: dict[str, nn.Module] = {}
    for part in parts:
        if not isinstance(part.segmenter, Folded):
            raise DataError(f"{printable(part.folder)} is not a folded network. Export again.")
        if any(getattr(part.plan, name) != getattr(first.plan, name) for name in _AGREED):
            raise DataError(
                f"{printable(first.folder)} and {printable(part.folder)} come from different "
                "exports. Export all modalities again."
            )
        networks.update(part.segmenter.networks.items())
        modalities.update(part.plan.modalities)
    plan = first.plan.model_copy(update={"modalities": modalities})
    digest = hashlib.sha256("".join(part.digest for part in parts).encode()).hexdigest()
    return Model(Folded(networks), plan, first.config, folder, digest)
