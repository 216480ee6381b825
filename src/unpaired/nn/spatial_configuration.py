"""SpatialConfiguration (Payer et al. 2017): how it looks, times where it may lie.

    A = local(image)                    one map per label, from the appearance around a voxel
    P = up(configuration(pool(A)))      one map per label, from the maps alone, at low resolution
    score = A * P                       softmax over the labels gives the probabilities

The idea is Payer et al.'s; widths, kernels and the start are our reading (docs/comparators.md).
"""

from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from unpaired.nn.dims import CONV
from unpaired.nn.pooled_unet import PooledUnet, conv_blocks
from unpaired.nn.pooling import pool_mean, resize_linear


class Maps(NamedTuple):
    """What the two branches give."""

    local: Float[Tensor, "B Z *space"]
    configuration: Float[Tensor, "B Z *space"]

    @property
    def score(self) -> Float[Tensor, "B Z *space"]:
        """The product, before the softmax."""
        return self.local * self.configuration


class SpatialConfiguration(nn.Module):
    """Local appearance and spatial configuration of every label.

    Args:
        in_channels: of the image.
        classes: labels Z, background included.
        width, levels: of the local U-Net.
        configuration_width: channels of the configuration branch.
        stride: by which the maps are pooled for the configuration branch.
        kernel: of its convolutions, odd, so that it sees far.
        dims: number of spatial axes.
    """

    def __init__(
        self,
        in_channels: int,
        classes: int,
        width: int,
        levels: int,
        configuration_width: int,
        stride: int,
        kernel: int,
        dims: int,
    ) -> None:
        super().__init__()
        self.stride = stride
        self.local = PooledUnet(in_channels, classes, width, levels, dims)
        self.configuration = nn.Sequential(
            conv_blocks(classes, configuration_width, dims, 3, kernel),
            CONV[dims](configuration_width, classes, 1),
        )
        # P starts near 1: the product is then the local score, and both branches have a gradient.
        last = self.configuration[-1]
        nn.init.normal_(last.weight, std=0.01)  # type: ignore[arg-type]
        nn.init.ones_(last.bias)  # type: ignore[arg-type]

    def configure(self, local: Float[Tensor, "B Z *space"]) -> Float[Tensor, "B Z *space"]:
        """Where each label may lie, from the local maps alone."""
        return resize_linear(
            self.configuration(pool_mean(local, self.stride)), tuple(local.shape[2:])
        )

    def forward(self, image: Float[Tensor, "B K *space"]) -> Maps:
        local = self.local(image)
        return Maps(local, self.configure(local))
