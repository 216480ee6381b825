"""Payer et al. 2017: one network that localises the structures and one that segments them.

Here the "encoder" is the pair of networks of one modality and the decoder is nothing, so that
a pair per modality shares no weight. It gives no decoder scales: nothing of
the paper's method can be attached to it. Widths, levels and kernels are our reading
(docs/comparators.md).
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from unpaired.backbones.base import Backbone, Decoded
from unpaired.nn.block import Gains
from unpaired.nn.pooled_unet import STEP, PooledUnet
from unpaired.nn.spatial_configuration import SpatialConfiguration

LEVELS, STRIDE, COARSE_LEVELS = 4, 4, 3
_FIRST = "down.0.0.read.conv"


class Pair(nn.Module):
    """The two networks of one modality."""

    def __init__(self, localise: PooledUnet, segment: SpatialConfiguration) -> None:
        super().__init__()
        self.localise, self.segment = localise, segment

    def forward(self, image: Float[Tensor, "B K *space"], gains: Gains | None = None) -> Tensor:
        """The labels' scores [B Z *space] in crops."""
        score: Tensor = self.segment(image).score
        return score


class LocateThenSegment(Backbone):
    """A U-Net that localises on coarse views, SpatialConfiguration on crops.

    Args:
        image_size: of the crops.
        in_channels: of the images.
        classes: labels, background included.
        width, levels: of the local U-Net; crops are multiples of 2^(levels - 1).
        configuration_width: channels of the spatial-configuration branch.
        configuration_stride: by which the local maps are pooled for it, a power of two.
        configuration_kernel: of its convolutions, odd.
        coarse_width, coarse_levels: of the U-Net that localises.

    Raises:
        ValueError: an option is out of range or does not fit the crop.
    """

    def __init__(
        self,
        image_size: Sequence[int],
        in_channels: int = 1,
        classes: int = 5,
        width: int = 32,
        levels: int = LEVELS,
        configuration_width: int = 32,
        configuration_stride: int = STRIDE,
        configuration_kernel: int = 5,
        coarse_width: int = 16,
        coarse_levels: int = COARSE_LEVELS,
    ) -> None:
        super().__init__()
        self.dims, self.in_channels, self.classes = len(image_size), in_channels, classes
        _positive(
            width=width, levels=levels, configuration_width=configuration_width,
            configuration_kernel=configuration_kernel, coarse_width=coarse_width,
            coarse_levels=coarse_levels,
        )  # fmt: skip
        if configuration_kernel % 2 == 0:
            raise ValueError(f"configuration_kernel={configuration_kernel} must be odd")
        step = _step(levels, configuration_stride)
        if max(image_size) < 2 * STEP ** (levels - 1):
            raise ValueError(f"{levels} levels leave a single voxel of crops of {image_size}")
        self.levels, self.multiple = (), (step,) * self.dims
        self.input_layers = (f"encoder.localise.{_FIRST}", f"encoder.segment.local.{_FIRST}")
        self.pads_input = True
        self.encoder = Pair(
            PooledUnet(in_channels, 1, coarse_width, coarse_levels, self.dims),
            SpatialConfiguration(
                in_channels, classes, width, levels, configuration_width,
                configuration_stride, configuration_kernel, self.dims,
            ),
        )  # fmt: skip
        self.decoder = nn.Identity()
        self.name_branches()

    @classmethod
    def size_step(cls, options: Mapping[str, Any], dims: int) -> tuple[int, ...]:
        """The same for every axis: that of the U-Net's levels, or of the configuration branch."""
        levels = options.get("levels", LEVELS)
        stride = options.get("configuration_stride", STRIDE)
        return (_step(levels, stride),) * dims

    @classmethod
    def coarse_step(cls, options: Mapping[str, Any]) -> int:
        """The step of the sizes of coarse views."""
        levels = options.get("coarse_levels", COARSE_LEVELS)
        _positive(coarse_levels=levels)
        return int(STEP ** (levels - 1))

    def locate(self, view: Float[Tensor, "B K *space"], private: nn.Module | None = None) -> Tensor:
        """The heat map [B 1 *space] of the structures' centre; `private` as in `forward`."""
        pair = private or self.encoder
        assert isinstance(pair, Pair)
        found: Tensor = pair.localise(view)
        return found

    def forward(
        self,
        image: Float[Tensor, "B K *space"],
        gains: Gains | None = None,
        private: nn.Module | None = None,
    ) -> Decoded:
        """The scores of crops; there are no features for modules to read."""
        self.check_size(image.shape[2:])
        return Decoded((private or self.encoder)(image), ())


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
