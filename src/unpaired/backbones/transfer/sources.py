"""What each layout gives to a backbone: a weight per name, and what may stay random, and why."""

import re
from collections.abc import Mapping, Sequence
from math import prod
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unpaired.backbones.base import Backbone
from unpaired.backbones.nnformer import NNFormer
from unpaired.backbones.swin_unet import SwinUnet
from unpaired.backbones.transfer.layouts import KNOWN, Source
from unpaired.errors import UsageError
from unpaired.nn.attention import Windows, colliding_index, relative_index

# Bias tables of window attention: to another window, and out of the original's collisions.


def resize_table(
    table: Float[Tensor, "rows N"], old: Sequence[int], new: Sequence[int]
) -> Float[Tensor, "_ N"]:
    """The table of windows `old` for windows `new`, any number of axes.

    Per head, the grid of 2w - 1 offsets an axis is stretched by cubic interpolation, one axis
    after the other, with half-pixel centres and ends repeated, so offset 0 stays in the middle. As
    in Swin's own fine-tuning, but with Keys' kernel at a = -1/2, which keeps a linear table linear;
    at the -3/4 of torch's `bicubic` it does not. An axis of the same window is left exactly as it
    is.
    """
    grid = table.T.reshape(-1, *(2 * w - 1 for w in old))
    for axis, (before, after) in enumerate(zip(old, new, strict=True), start=1):
        if before != after:
            weights = _cubic(2 * before - 1, 2 * after - 1).to(grid)
            grid = (grid.movedim(axis, -1) @ weights.T).movedim(-1, axis)
    return grid.flatten(1).T.contiguous()


def _cubic(old: int, new: int) -> Float[Tensor, "new old"]:
    """What each of `new` points takes of `old` ones."""
    at = (torch.arange(new) + 0.5) * old / new - 0.5
    near = at.floor()[:, None] + torch.arange(-1, 3)
    x = (at[:, None] - near).abs()
    inside = 1.5 * x**3 - 2.5 * x**2 + 1  # |x| < 1
    outside = -0.5 * (x**3 - 5 * x**2 + 8 * x - 4)  # 1 <= |x| < 2
    share = torch.where(x < 1, inside, outside)
    return torch.zeros(new, old).scatter_add_(1, near.long().clamp(0, old - 1), share)


def untangle(table: Float[Tensor, "rows N"], window: Sequence[int]) -> Float[Tensor, "rows N"]:
    """The original nnFormer's table with a row for every offset: the same biases, exactly.

    Its index lets offsets share rows (`colliding_index`); here each gets a copy of its own.
    """
    free = table.new_empty(table.shape)
    free[relative_index(window).flatten()] = table[colliding_index(window).flatten()]
    return free


def window_of(rows: int, like: Sequence[int]) -> tuple[int, ...] | None:
    """The window of a table of `rows`: that of `like`, else one with equal sides, else None.

    Axes along which `like` is 1 may be 1 in the file too.
    """
    if rows == prod(2 * w - 1 for w in like):
        return tuple(like)
    axes = len(like)
    if (side := _side(rows, axes)) is not None:
        return (side,) * axes
    long = [axis for axis, w in enumerate(like) if w > 1]
    if long and (side := _side(rows, len(long))) is not None:
        return tuple(side if axis in long else 1 for axis in range(axes))
    return None


def _side(rows: int, axes: int) -> int | None:
    """w with (2w - 1)^axes = rows."""
    offsets = round(rows ** (1 / axes))
    return (offsets + 1) // 2 if offsets % 2 and offsets**axes == rows else None


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
