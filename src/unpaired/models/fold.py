"""From training's network to what is exported: gains as a table, or folded into the weights."""

from collections.abc import Mapping
from copy import deepcopy

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unpaired.backbones.base import Backbone, Decoded
from unpaired.models.joint import Joint
from unpaired.models.segmenter import Segmenter
from unpaired.nn.block import Gains

# The folded form: a plain network of its own per modality, without stem and without gains.


class Folded(nn.Module):
    """Plain networks, chosen by the modality's name; called like a `Segmenter`.

    Args:
        networks: modality -> a network from image [B K_m *space] to `Decoded`.
    """

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(dict(networks))

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities it knows."""
        return tuple(self.networks)

    def forward(self, image: Float[Tensor, "B K *space"], modality: str) -> Decoded:
        """Segment images of one modality.

        Raises:
            KeyError: the modality is not one of this network's.
        """
        if modality not in self.networks:
            raise KeyError(
                f"{modality!r} is not one of this network's modalities {self.modalities}"
            )
        decoded: Decoded = self.networks[modality](image)
        return decoded


def gains_form(joint: Joint, scaling_at_test: bool = True) -> Segmenter:
    """One network with a small table of gains per modality; the semantics are gone.

    Args:
        scaling_at_test: False drops the gains, the paper's "optional" form.
    """
    segmenter = deepcopy(joint.segmenter)
    if scaling_at_test and joint.scaling is not None:
        gains = {m: joint.gains(m) for m in segmenter.modalities}
        segmenter.store_gains({m: g for m, g in gains.items() if g is not None})
    return segmenter.requires_grad_(False)


@torch.no_grad()
def fold(segmenter: Segmenter | Folded, modality: str) -> Backbone:
    """A plain backbone for one modality: stem and gains multiplied into its weights.

    Exact: private norms take the place of the shared ones; Phi scales the rows and bias of each
    branch's last layer; the stem's two 1x1 convolutions go into every layer that reads the input.

    Args:
        segmenter: as `gains_form` returns it; gains that are not stored cannot be folded. What
            is folded already is copied.

    Raises:
        KeyError: the modality is not one of the network's.
    """
    if modality not in segmenter.modalities:
        raise KeyError(f"{modality!r} is not one of this network's {segmenter.modalities}")
    if isinstance(segmenter, Folded):
        plain = deepcopy(segmenter.networks[modality])
        assert isinstance(plain, Backbone)
        return plain
    backbone = deepcopy(segmenter.backbone)
    if modality in segmenter.encoders:
        backbone.put_private(deepcopy(segmenter.encoders[modality]))
    if modality in segmenter.norms:
        segmenter.norms[modality].copy_to(backbone)  # type: ignore[operator]
    gains = segmenter.stored_gains(modality)
    if gains is not None:
        _fold_gains(backbone, gains)
    for path in backbone.input_layers:
        _fold_stem(backbone, path, segmenter.stems[modality])
    return backbone


def _fold_gains(backbone: Backbone, gains: Gains) -> None:
    for path, phi in gains.items():
        layer = backbone.get_submodule(path)
        assert isinstance(layer.weight, Tensor)
        layer.weight.mul_(phi.view(-1, *[1] * (layer.weight.ndim - 1)))
        if isinstance(layer.bias, Tensor):
            layer.bias.mul_(phi)


def _fold_stem(backbone: Backbone, path: str, stem: nn.Module) -> None:
    """Replace the convolution at `path` by itself after the stem's affine map of channels."""
    first, second = stem.children()
    assert isinstance(first.weight, Tensor) and isinstance(second.weight, Tensor)
    mix = second.weight.flatten(1) @ first.weight.flatten(1)  # [K K_m]
    conv = backbone.get_submodule(path)
    assert isinstance(conv.weight, Tensor)
    weight = conv.weight
    folded = torch.einsum("ok...,km->om...", weight, mix)
    plain = folded.clone(memory_format=torch.contiguous_format)  # other strides, other kernels
    conv.weight = nn.Parameter(plain, requires_grad=False)
    conv.in_channels = backbone.in_channels = mix.shape[1]  # type: ignore[assignment]
    if isinstance(first.bias, Tensor) and isinstance(second.bias, Tensor):
        offset = second.weight.flatten(1) @ first.bias + second.bias  # [K]
        constant = torch.einsum("ok...,k->o", weight, offset)
        old = conv.bias if isinstance(conv.bias, Tensor) else torch.zeros_like(constant)
        conv.bias = nn.Parameter(old + constant, requires_grad=False)
