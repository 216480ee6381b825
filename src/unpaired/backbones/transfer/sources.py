"""What each layout gives to a backbone: a weight per name, and what may stay random, and why."""

import re
from collections.abc import Mapping
from typing import NamedTuple

from torch import Tensor, nn

from unpaired.backbones.base import Backbone
from unpaired.backbones.nnformer import NNFormer
from unpaired.backbones.swin_unet import SwinUnet
from unpaired.backbones.transfer.layouts import KNOWN, Source
from unpaired.backbones.transfer.tables import untangle, window_of
from unpaired.errors import UsageError
from unpaired.nn.attention import Windows
from unpaired.nn.windows import relative_index

HEADS = ("decoder.classify.", "decoder.heads.", "decoder.deep.")
"""Beginnings of the names of layers that yield logits."""

OTHER_CLASSES = "a head of other classes, or none, in the file"
_NO_POSITION = "the file has no position embedding"
_SPATIAL = "of a picture in the file, not used for a volume"
_NOT_COPIED = "not copied by the original"


class Offer(NamedTuple):
    """What the file gives, under the backbone's names."""

    weights: Mapping[str, Tensor]
    may_stay: Mapping[str, str]
    """Name -> why it may stay as it was drawn."""
    whole: bool
    """Whether the file's network is this one: then nothing of it may be left over."""


def offer(source: Source, backbone: Backbone, modality: str | None) -> Offer:
    """What the file gives this backbone.

    Raises:
        UsageError: its network fills another kind of backbone.
    """
    weights, names = source.of(modality), list(backbone.state_dict())
    if source.layout == "own":
        return Offer(weights, _heads_and_position(names), True)
    if source.layout == "swin_unet" and isinstance(backbone, SwinUnet):
        return Offer(weights, _heads_and_position(names), True)
    if source.layout == "nnformer" and isinstance(backbone, NNFormer):
        return Offer(_untangled(weights, backbone), _heads_and_position(names), True)
    if source.layout == "swin" and isinstance(backbone, SwinUnet):
        return _swin_to_swin_unet(weights, names, backbone)
    if source.layout == "swin" and isinstance(backbone, NNFormer):
        return _swin_to_nnformer(weights, names)
    raise UsageError(
        f"the file holds the weights of {KNOWN[source.layout].split(' (')[0]}; they do not serve "
        f"{type(backbone).__name__}. Choose another model.backbone or another file."
    )


def windows_in(backbone: nn.Module) -> dict[str, Windows]:
    """Module path -> every attention in windows."""
    return {path: m for path, m in backbone.named_modules() if isinstance(m, Windows)}


def has_legacy_index(attention: Windows) -> bool:
    """Whether offsets collide in its table, as in the original nnFormer."""
    return not attention.relative.equal(relative_index(attention.window).to(attention.relative))


def _heads_and_position(names: list[str]) -> dict[str, str]:
    may_stay = {name: OTHER_CLASSES for name in names if name.startswith(HEADS)}
    may_stay.update({name: _NO_POSITION for name in names if name == "encoder.position"})
    return may_stay


def _swin_to_swin_unet(
    weights: Mapping[str, Tensor], names: list[str], backbone: Backbone
) -> Offer:
    """The encoder by name; each decoder stage from the encoder stage of its width (Cao et al.).

    In a volume only what has no spatial extent: norms, qkv, projections, MLPs.
    """
    given, may_stay = dict(weights), _heads_and_position(names)
    stages = _stages(names)
    for name in names:
        if match := re.match(r"decoder\.stages\.(\d+)\.(.+)", name):
            from_encoder = f"encoder.stages.{stages - 2 - int(match[1])}.{match[2]}"
            if from_encoder in weights:
                given[name] = weights[from_encoder]
        elif name.startswith("decoder."):
            may_stay[name] = _NOT_COPIED
    if backbone.dims != 2:
        spatial = re.compile(r"encoder\.embed\.conv\..+|encoder\.merges\..+|.+\.bias_table")
        for name in filter(spatial.fullmatch, names):
            given.pop(name, None)
            may_stay[name] = _SPATIAL
    return Offer(given, may_stay, False)


def _swin_to_nnformer(weights: Mapping[str, Tensor], names: list[str]) -> Offer:
    """Norms, qkv, projections and MLPs of every stage's first blocks, and the norm of the patches.

    As the authors of nnFormer prepared Swin-L: to the encoder, and to the decoder's stages of the
    same width; tables, convolutions, the final norms and the heads stay random. A block that
    attends to the skip is the first of its stage; its keys and values have another layer.
    """
    given, may_stay = {}, {}
    stages = _stages(names)
    attends = any(name.startswith("decoder.joins.") for name in names)
    for name in names:
        side, _, rest = name.partition(".")
        kind, _, rest = rest.partition(".")
        here = re.match(r"(\d+)\.(.+)", rest)
        wanted = None
        if name.startswith("encoder.embed.norms.3."):
            wanted = name.replace("norms.3", "norm")
        elif here and kind == "stages" and side == "encoder":
            wanted = name
        elif here and kind == "joins":
            wanted = f"encoder.stages.{stages - 2 - int(here[1])}.0.{here[2]}"
        elif here and kind == "stages":
            block, _, layer = here[2].partition(".")
            first = int(block) + attends
            wanted = f"encoder.stages.{stages - 2 - int(here[1])}.{first}.{layer}"
        if wanted is None or ".bias_table" in name or ".kv." in name:
            may_stay[name] = _NOT_COPIED
        elif wanted in weights:
            given[name] = weights[wanted]
    return Offer(given, may_stay, False)


def _stages(names: list[str]) -> int:
    """Stages of the encoder."""
    found = (re.match(r"encoder\.stages\.(\d+)\.", name) for name in names)
    return 1 + max(int(match[1]) for match in found if match)


def _untangled(weights: Mapping[str, Tensor], backbone: Backbone) -> dict[str, Tensor]:
    """The original's tables made free of collisions where ours are."""
    found = dict(weights)
    for path, attention in windows_in(backbone).items():
        table = found.get(f"{path}.bias_table")
        if table is None or table.ndim != 2 or has_legacy_index(attention):
            continue
        window = window_of(len(table), attention.window)
        if window is not None and len(window) == 3:
            found[f"{path}.bias_table"] = untangle(table, window)
    return found
