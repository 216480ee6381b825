"""Payer et al. 2017: one network that localises the structures and one that segments them.

    heat = localise(coarse view)        its maximum is the centre of the crop
    A = local(crop)                     one map per label, from the appearance around a voxel
    P = up(configuration(pool(A)))      one map per label, from the maps alone, at low resolution
    score = A * P                       softmax over the labels gives the probabilities

The idea is Payer et al.'s; widths, levels, kernels and the start are our reading
(docs/comparators.md). A pair of networks per modality shares no weight with the others'. It gives
no decoder scales: nothing of the paper's method can be attached to it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unpaired.backbones.base import Backbone, Decoded
from unpaired.models import Joint, Output, Segmenter
from unpaired.nn.block import Gains
from unpaired.nn.dims import CONV
from unpaired.nn.residual import ConvBlock

STEP = 2
"""Pooling per level and axis."""
_FIRST = "down.0.0.read.conv"


# Means over cells and linear interpolation, for any number of spatial axes. Both are sums in a
# fixed order, so that they and their gradients repeat bit for bit on a GPU too, which torch's own
# 3D pooling and interpolation do not.


def pool_mean(x: Float[Tensor, "B C *space"], stride: int) -> Float[Tensor, "B C *small"]:
    """The mean of each cell of `stride` positions per axis; sizes are multiples of it."""
    for axis in range(2, x.ndim):
        x = x.unflatten(axis, (-1, stride)).mean(axis + 1)
    return x


def resize_linear(x: Float[Tensor, "B C *space"], size: Sequence[int]) -> Tensor:
    """Linear interpolation to [B C *size]: cells are aligned by their edges, ends repeated."""
    for axis, n in enumerate(size, start=2):
        if x.shape[axis] != n:
            x = torch.movedim(x, axis, -1) @ _weights(x.shape[axis], n, x).T
            x = torch.movedim(x, -1, axis)
    return x


def _weights(coarse: int, fine: int, like: Tensor) -> Float[Tensor, "fine coarse"]:
    """Row i: the shares of the two coarse cells that the centre of fine cell i lies between."""
    index = torch.arange(max(fine, coarse), dtype=torch.float64, device=like.device)
    place = ((index[:fine] + 0.5) * (coarse / fine) - 0.5).clamp(0, coarse - 1)
    distance = (place[:, None] - index[:coarse]).abs()
    return (1 - distance).clamp_min(0).to(like.dtype)


# The two networks.


def conv_blocks(
    in_channels: int, channels: int, dims: int, count: int, kernel: int = 3
) -> nn.Sequential:
    """`count` times convolution, instance norm, LeakyReLU."""
    widths = [in_channels, *[channels] * count]
    sizes = (kernel,) * dims
    return nn.Sequential(*(ConvBlock(a, b, sizes) for a, b in pairwise(widths)))


class PooledUnet(nn.Module):
    """A U-Net of one width: means down, linear interpolation up, skips joined.

    Args:
        in_channels: of the input.
        out_channels: maps that are given.
        width: channels at every level.
        levels: resolutions, the input's counted; sizes are multiples of 2^(levels - 1).
        dims: number of spatial axes.
    """

    def __init__(
        self, in_channels: int, out_channels: int, width: int, levels: int, dims: int
    ) -> None:
        super().__init__()
        firsts = [in_channels, *[width] * (levels - 1)]
        self.down = nn.ModuleList(conv_blocks(first, width, dims, 2) for first in firsts)
        self.up = nn.ModuleList(conv_blocks(2 * width, width, dims, 2) for _ in firsts[1:])
        self.head = CONV[dims](width, out_channels, 1)

    def forward(self, x: Float[Tensor, "B K *space"]) -> Float[Tensor, "B C *space"]:
        skips = []
        for level, blocks in enumerate(self.down):
            x = blocks(pool_mean(x, STEP) if level else x)
            skips.append(x)
        skips.pop()
        for blocks in self.up:
            skip = skips.pop()
            x = blocks(torch.cat([resize_linear(x, skip.shape[2:]), skip], 1))
        return self.head(x)


class Maps(NamedTuple):
    """What the two branches of SpatialConfiguration give."""

    local: Float[Tensor, "B Z *space"]
    configuration: Float[Tensor, "B Z *space"]

    @property
    def score(self) -> Float[Tensor, "B Z *space"]:
        """The product, before the softmax."""
        return self.local * self.configuration


class SpatialConfiguration(nn.Module):
    """How every label looks, times where it may lie.

    Args:
        local: gives a map per label from the image.
        configuration: from these maps, pooled by `stride`; ends in a convolution.
        stride: by which the maps are pooled for the configuration branch.
    """

    def __init__(self, local: PooledUnet, configuration: nn.Sequential, stride: int) -> None:
        super().__init__()
        self.stride, self.local, self.configuration = stride, local, configuration
        # P starts near 1: the product is then the local score, and both branches have a gradient.
        last = configuration[-1]
        nn.init.normal_(last.weight, std=0.01)  # type: ignore[arg-type]
        nn.init.ones_(last.bias)  # type: ignore[arg-type]

    def configure(self, local: Float[Tensor, "B Z *space"]) -> Float[Tensor, "B Z *space"]:
        """Where each label may lie, from the local maps alone."""
        coarse = self.configuration(pool_mean(local, self.stride))
        return resize_linear(coarse, tuple(local.shape[2:]))

    def forward(self, image: Float[Tensor, "B K *space"]) -> Maps:
        local = self.local(image)
        return Maps(local, self.configure(local))


class Pair(nn.Module):
    """The two networks of one modality."""

    def __init__(self, localise: PooledUnet, segment: SpatialConfiguration) -> None:
        super().__init__()
        self.localise, self.segment = localise, segment

    def forward(self, image: Float[Tensor, "B K *space"], gains: Gains | None = None) -> Tensor:
        """The labels' scores [B Z *space] in crops."""
        score: Tensor = self.segment(image).score
        return score


@dataclass(frozen=True)
class LocateThenSegmentOptions:
    """What `model.options` may say of the pair of networks.

    Attributes:
        width, levels: of the local U-Net; crops are multiples of 2^(levels - 1).
        configuration_width: channels of the spatial-configuration branch.
        configuration_stride: by which the local maps are pooled for it, a power of two.
        configuration_kernel: of its convolutions, odd.
        coarse_width, coarse_levels: of the U-Net that localises.
    """

    width: int = 32
    levels: int = 4
    configuration_width: int = 32
    configuration_stride: int = 4
    configuration_kernel: int = 5
    coarse_width: int = 16
    coarse_levels: int = 3


class LocateThenSegment(Backbone):
    """A U-Net that localises on coarse views, SpatialConfiguration on crops.

    Args:
        image_size: of the crops.
        in_channels: of the images.
        classes: labels, background included.
        options: those of `LocateThenSegmentOptions`, by name.

    Raises:
        ValueError: an option is out of range or does not fit the crop.
    """

    Options = LocateThenSegmentOptions

    def __init__(
        self,
        image_size: Sequence[int],
        in_channels: int = 1,
        classes: int = 5,
        **options: Any,
    ) -> None:
        super().__init__()
        o = LocateThenSegmentOptions(**options)
        self.dims, self.in_channels, self.classes = len(image_size), in_channels, classes
        _positive(**vars(o))
        if o.configuration_kernel % 2 == 0:
            raise ValueError(f"configuration_kernel={o.configuration_kernel} must be odd")
        step = _step(o.levels, o.configuration_stride)
        if max(image_size) < 2 * STEP ** (o.levels - 1):
            raise ValueError(f"{o.levels} levels leave a single voxel of crops of {image_size}")
        self.levels, self.multiple = (), (step,) * self.dims
        self.input_layers = (f"encoder.localise.{_FIRST}", f"encoder.segment.local.{_FIRST}")
        self.pads_input = True
        localise = PooledUnet(in_channels, 1, o.coarse_width, o.coarse_levels, self.dims)
        local = PooledUnet(in_channels, classes, o.width, o.levels, self.dims)
        configuration = nn.Sequential(
            conv_blocks(classes, o.configuration_width, self.dims, 3, o.configuration_kernel),
            CONV[self.dims](o.configuration_width, classes, 1),
        )
        segment = SpatialConfiguration(local, configuration, o.configuration_stride)
        self.encoder = Pair(localise, segment)
        self.decoder = nn.Identity()
        self.name_branches()

    @classmethod
    def size_step(cls, options: Mapping[str, Any], dims: int) -> tuple[int, ...]:
        """The same for every axis: that of the U-Net's levels, or of the configuration branch."""
        o = LocateThenSegmentOptions(**options)
        return (_step(o.levels, o.configuration_stride),) * dims

    @classmethod
    def coarse_step(cls, options: Mapping[str, Any]) -> int:
        """The step of the sizes of coarse views."""
        levels = LocateThenSegmentOptions(**options).coarse_levels
        _positive(coarse_levels=levels)
        return int(STEP ** (levels - 1))

    def locate(self, view: Float[Tensor, "B K *space"], private: nn.Module | None = None) -> Tensor:
        """The heat map [B 1 *space] of the structures' centre; `private` as in `forward`."""
        pair = private or self.encoder
        assert isinstance(pair, Pair)
        heat: Tensor = pair.localise(view)
        return heat

    def forward(
        self,
        image: Float[Tensor, "B K *space"],
        gains: Gains | None = None,
        private: nn.Module | None = None,
    ) -> Decoded:
        """The scores of crops; there are no features for modules to read."""
        self.check_size(image.shape[2:])
        return Decoded((private or self.encoder)(image), ())


class LocatingSegmenter(Segmenter):
    """What is kept: a pair of networks per modality, nothing shared.

    Each modality's networks read its image themselves: the stems stay the identity.
    """

    def __init__(self, backbone: LocateThenSegment, channels: Mapping[str, int]) -> None:
        super().__init__(backbone, channels, private_encoders=True, fixed_stems=True)

    def locate(self, view: Float[Tensor, "B K *space"], modality: str) -> Tensor:
        """The heat map [B 1 *space] of the structures' centre in coarse views of one modality."""
        assert isinstance(self.backbone, LocateThenSegment)
        return self.backbone.locate(self.stems[modality](view), self.encoders[modality])


def view_of(modality: str) -> str:
    """The name of a modality's batches of coarse views; its own name is that of its crops."""
    return f"{modality}/whole"


class LocatingJoint(Joint):
    """Training's network: scores of crops, heat maps of coarse views."""

    def __init__(self, segmenter: LocatingSegmenter) -> None:
        super().__init__(segmenter, {})
        self.views = {view_of(m): m for m in segmenter.modalities}

    def _one(self, modality: str, image: Tensor) -> Output:
        if modality not in self.views:
            return super()._one(modality, image)
        assert isinstance(self.segmenter, LocatingSegmenter)
        return Output(self.segmenter.locate(image, self.views[modality]))


def _step(levels: Any, stride: Any) -> int:
    _positive(levels=levels, configuration_stride=stride)
    if stride & (stride - 1):
        raise ValueError(f"configuration_stride={stride} must be a power of two")
    return int(max(STEP ** (levels - 1), stride))


def _positive(**numbers: Any) -> None:
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={value!r} must be a whole number above 0")
        if name.endswith("levels") and value > 10:
            raise ValueError(f"{name}={value} is too many: no image is that large")
