"""A U-Net with a residual encoder, for any number of spatial axes.

From the published facts of nnU-Net's "ResEnc" presets (Isensee et al. 2024, "nnU-Net Revisited",
arXiv 2404.09556, and the documentation of its planner): stem, residual stages of 1, 3, 4, 6, 6, 6
blocks, widths 32, 64, 128, 256, 320, 320 (up to 512 in a plane), strided convolutions, one
convolution per decoder stage, transposed convolutions up, heads for deep supervision.

Ours: strides are chosen from the image's size and not from its spacing; sizes are never padded, so
an axis is halved only while its map is even; no bias before a norm, which cancels it; no heads
that nothing trains; an axis of length 1 has kernel 1; the last norm of a residual branch starts at
1 and not at 0 (option `zero_branches`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unpaired.backbones.base import Backbone, Decoded, Level
from unpaired.backbones.resenc_stages import (
    Layout,
    Stage,
    lay_out,
    least_side,
    levels_read,
    size_step,
    total_strides,
)
from unpaired.nn.block import Gains
from unpaired.nn.dims import CONV, CONV_TRANSPOSE
from unpaired.nn.residual import SLOPE, ConvBlock, ConvNorm, ResidualBlock, activation

RESENC: dict[str, dict[int, dict[str, Any]]] = {
    "M": {
        2: {"image_size": (512, 512), "stages": 8},
        3: {"image_size": (128, 128, 128), "stages": 6},
    },
    "L": {
        2: {"image_size": (768, 768), "stages": 8},
        3: {"image_size": (192, 192, 192), "stages": 6},
    },
}
"""The presets M and L by number of axes: `ResEncUnet(classes=14, **RESENC["M"][3])`.

Published: both are one architecture under another memory target (8 and 24 GB); patch, batch and,
from the patch, the number of stages follow per data set. Ours: the patch here is the largest cube
or square (multiples of 32 and 128) within the planner's limits on feature maps, 680e6 and 2100e6
values in 3D and 135e6 and 380e6 in 2D, by our own count. At these sizes M and L have the same
number of stages.
"""


class Encoder(nn.Module):
    """Stem, then residual stages. Yields the map of every stage, fine to coarse."""

    def __init__(self, stages: Sequence[Stage], in_channels: int, norm: str) -> None:
        super().__init__()
        first = stages[0]
        self.stem = ConvNorm(in_channels, first.channels, first.kernel, first.stride, norm)
        self.act = activation()
        self.stages = nn.ModuleList()
        channels = first.channels
        for stage in stages:
            blocks = nn.ModuleList()
            for i in range(stage.blocks):
                stride = (1,) * len(stage.stride) if i else stage.stride
                blocks.append(ResidualBlock(channels, stage.channels, stage.kernel, stride, norm))
                channels = stage.channels
            self.stages.append(blocks)

    def forward(
        self, image: Float[Tensor, "B K *space"], gains: Gains | None = None
    ) -> list[Tensor]:
        x = self.act(self.stem(image))
        maps = []
        for blocks in self.stages:
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, gains)
            maps.append(x)
        return maps


class Decoder(nn.Module):
    """Up, join the skip, convolve; the finest map is classified, in training coarser ones too.

    Args:
        stages: fine to coarse; the last is the bottleneck, which has no decoder stage.
        classes: number of classes Z.
        norm: "instance" or "group".
        deep: build the heads of deep supervision.
        read: which decoder stages, counted from the coarsest, give the features F.
    """

    def __init__(
        self, stages: Sequence[Stage], classes: int, norm: str, deep: bool, read: Sequence[int]
    ) -> None:
        super().__init__()
        dims, coarse = len(stages[0].stride), stages[::-1]
        self.read = tuple(read)
        self.ups = nn.ModuleList(
            CONV_TRANSPOSE[dims](below.channels, stage.channels, below.stride, below.stride)
            for below, stage in pairwise(coarse)
        )
        self.stages = nn.ModuleList(
            ConvBlock(2 * stage.channels, stage.channels, stage.kernel, norm)
            for stage in coarse[1:]
        )
        self.classify = CONV[dims](stages[0].channels, classes, 1)
        supervised = coarse[2:-1] if deep else []  # neither the coarsest nor the finest
        self.deep = nn.ModuleList(CONV[dims](s.channels, classes, 1) for s in supervised)

    def forward(self, maps: list[Tensor], gains: Gains | None = None) -> Decoded:
        *skips, x = maps
        decoded = []
        for up, block in zip(self.ups, self.stages, strict=True):
            x = block(torch.cat([up(x), skips.pop()], 1), gains)
            decoded.append(x)
        deep: list[Tensor] = []
        if self.training:
            deep = [head(y) for head, y in zip(self.deep, decoded[1:], strict=False)]
        return Decoded(self.classify(x), tuple(decoded[i] for i in self.read), tuple(deep[::-1]))


@dataclass(frozen=True)
class ResEncUnetOptions(Layout):
    """What `model.options` may say of a residual-encoder U-Net: its stages, and these.

    Attributes:
        deep_supervision: in training, logits of every decoder stage but the coarsest.
        norm: "instance", or "group" (8 groups; widths must be multiples of 8).
        zero_branches: start the last norm of each residual branch at 0, as nnU-Net does, so that
            a block starts as its skip.
        scales: number of levels.
    """

    deep_supervision: bool = True
    norm: str = "instance"
    zero_branches: bool = False
    scales: int = 3


class ResEncUnet(Backbone):
    """Residual-encoder U-Net.

    F of a level is the output of a decoder stage's convolution block. The levels are the `scales`
    finest decoder stages of stride 4 or more (along the axis that is strided most) or, where there
    are fewer of these, the `scales` coarsest decoder stages.

    Args:
        image_size: size per spatial axis that the strides are chosen for; other multiples of
            `multiple` run.
        in_channels: channels K of the input.
        classes: number of classes Z, background included.
        options: those of `ResEncUnetOptions`, by name.

    Raises:
        ValueError: the options contradict each other or do not fit the image size.
    """

    Options = ResEncUnetOptions

    def __init__(
        self,
        image_size: Sequence[int],
        in_channels: int = 3,
        classes: int = 5,
        **options: Any,
    ) -> None:
        super().__init__()
        o = ResEncUnetOptions(**options)
        self.dims, self.in_channels, self.classes = len(image_size), in_channels, classes
        plan = lay_out(image_size, o)
        total = total_strides([stage.stride for stage in plan])
        above = list(zip(plan, total, strict=True))[-2::-1]  # the decoder's stages, coarse to fine
        read = levels_read([stride for _, stride in above], o.scales)
        self.encoder = Encoder(plan, in_channels, o.norm)
        self.decoder = Decoder(plan, classes, o.norm, o.deep_supervision, read)
        self.levels = tuple(Level(above[i][0].channels, above[i][1]) for i in read)
        self.multiple = total[-1]
        self.input_layers, self.pads_input = ("encoder.stem.conv",), True
        self._initialise(o.zero_branches)
        self.name_branches()

    @classmethod
    def size_step(cls, options: Mapping[str, Any], dims: int) -> tuple[int, ...]:
        """Per axis, the step of image sizes.

        With `strides` it is their product. Else 2^(stages - 1), or 32 without `stages`, along the
        last two axes, and at most 8 along a stacked one. Images too small for the stages are
        refused by the constructor: a chosen plan keeps maps of 4, and a single voxel cannot be
        normalised.
        """
        return size_step(options, dims)

    @classmethod
    def least_side(cls, options: Mapping[str, Any]) -> int:
        """With chosen strides, a side that can be halved once a stage, at least once."""
        return least_side(options)

    def _initialise(self, zero_branches: bool) -> None:
        """He et al. 2015 for every convolution; norms start at 1 and 0, as built."""
        convolutions = (CONV[self.dims], CONV_TRANSPOSE[self.dims])
        for module in self.modules():
            if isinstance(module, convolutions):
                nn.init.kaiming_normal_(module.weight, SLOPE)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif zero_branches and isinstance(module, ResidualBlock):
                nn.init.zeros_(module.second.norm.weight)  # type: ignore[arg-type]
