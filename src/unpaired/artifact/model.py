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
from unpaired.artifact.places import model_folders, parts_of
from unpaired.artifact.safetensors import WEIGHTS, read_safetensors, write_safetensors
from unpaired.artifact.unfinished import warn_unfinished
from unpaired.backbones import Backbone
from unpaired.config import Config
from unpaired.data.augment import mirror_axes
from unpaired.data.plan import Plan
from unpaired.errors import DataError, UsageError
from unpaired.files import printable
from unpaired.methods import input_channels, method_of
from unpaired.models import Segmenter, fold
from unpaired.models.fold import Folded
from unpaired.names import did_you_mean

Network = Callable[[Float[Tensor, "B K *space"]], Float[Tensor, "B Z *space"]]
Form = Literal["gains", "folded"]

READERS: dict[str, Callable[[Path], tuple[nn.Module, Plan, Config, str]]] = {
    WEIGHTS: read_safetensors,
    ONNX: read_onnx,
}
"""Name of a model's file -> what reads its folder: network, plan, configuration, fingerprint."""
GRID = ("classes", "spacing_mm", "slice_axis", "oblique", "patch", "context", "order")
"""Fields of a plan; models that agree in all see one grid in one way."""


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


def _together(folder: Path, parts: Sequence[Model]) -> Model:
    """One model of the folded networks of several modalities."""
    first, modalities = parts[0], {}
    networks: dict[str, nn.Module] = {}
    for part in parts:
        if not isinstance(part.segmenter, Folded):
            raise DataError(f"{printable(part.folder)} is not a folded network. Export again.")
        if any(getattr(part.plan, name) != getattr(first.plan, name) for name in GRID):
            raise DataError(
                f"{printable(first.folder)} and {printable(part.folder)} come from different "
                "exports. Export all modalities again."
            )
        networks.update(part.segmenter.networks.items())
        modalities.update(part.plan.modalities)
    plan = first.plan.model_copy(update={"modalities": modalities})
    digest = hashlib.sha256("".join(part.digest for part in parts).encode()).hexdigest()
    return Model(Folded(networks), plan, first.config, folder, digest)
