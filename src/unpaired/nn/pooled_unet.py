"""A U-Net of one width: mean pooling down, linear interpolation up, skips concatenated.

Our reading of "a U-Net" (docs/comparators.md).
"""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unpaired.nn.dims import CONV
from unpaired.nn.pooling import pool_mean, resize_linear
from unpaired.nn.residual import ConvBlock

STEP = 2
"""Pooling per level and axis."""


def conv_blocks(
    in_channels: int, channels: int, dims: int, count: int, kernel: int = 3
) -> nn.Sequential:
    """`count` times convolution, instance norm, LeakyReLU."""
    widths = [in_channels, *[channels] * count]
    sizes = (kernel,) * dims
    return nn.Sequential(*(ConvBlock(a, b, sizes) for a, b in pairwise(widths)))


class PooledUnet(nn.Module):
    """Maps of the input's size.

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
