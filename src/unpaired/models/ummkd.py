"""UMMKD's network (Dou et al. 2020): all convolutions shared, every norm private to a modality."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unpaired.backbones.base import Backbone, Decoded
from unpaired.backbones.resenc_stages import PerStage, lay_out, size_step, total_strides
from unpaired.nn.block import Gains
from unpaired.nn.dims import BATCH_NORM, CONV, CONV_TRANSPOSE


class UmmkdNet(Backbone):
    """A compact encoder-decoder of convolution -> batch norm -> ReLU, two to a stage.

    The layers are our reading (docs/comparators.md). What a modality has of its own
    (`take_private`) is the list of its norms: their affine maps and their running statistics. In
    training a sub-batch is normalised by its own statistics, so modalities never mix.

    Args:
        image_size: size per spatial axis that the strides are chosen for.
        in_channels: channels K of the input.
        classes: number of classes Z, background included.
        base_width: width of the finest stage; it doubles with every stage.
        max_width: largest width.
        stages: number of resolutions; None takes as many as `strides` has or the size allows.
        strides: stride per stage, the first 1; None halves as `ResEncUnet` does.
        dropout: share of values dropped after every encoder stage but the finest.

    Raises:
        ValueError: the options contradict each other or do not fit the image size.
    """

    def __init__(
        self,
        image_size: Sequence[int],
        in_channels: int = 3,
        classes: int = 5,
        base_width: int = 16,
        max_width: int = 256,
        stages: int | None = None,
        strides: PerStage | None = None,
        dropout: float = 0.25,
    ) -> None:
        super().__init__()
        self.dims, self.in_channels, self.classes = len(image_size), in_channels, classes
        plan = lay_out(image_size, base_width, max_width, stages, 1, strides, None, False)
        conv, rise = CONV[self.dims], CONV_TRANSPOSE[self.dims]
        widths = [in_channels, *(stage.channels for stage in plan)]
        self.down = nn.ModuleList(
            _convolutions(conv, before, stage.channels, stage.kernel, stage.stride)
            for before, stage in zip(widths, plan, strict=False)
        )
        coarse = plan[::-1]
        self.ups = nn.ModuleList(
            rise(below.channels, stage.channels, below.stride, below.stride)
            for below, stage in pairwise(coarse)
        )
        self.joins = nn.ModuleList(
            _convolutions(conv, 2 * stage.channels, stage.channels, stage.kernel)
            for stage in coarse[1:]
        )
        self.classify = conv(plan[0].channels, classes, 1)
        self.norms: nn.Module = nn.ModuleList(
            BATCH_NORM[self.dims](stage.channels) for stage in [*plan, *coarse[1:]] for _ in (1, 2)
        )
        """In the order of use."""
        self.dropout = nn.Dropout(dropout)
        self.levels, self.multiple = (), total_strides([stage.stride for stage in plan])[-1]
        self.input_layers, self.pads_input = ("down.0.0",), True
        for module in self.modules():
            if isinstance(module, (conv, rise)):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    @classmethod
    def size_step(cls, options: Mapping[str, Any], dims: int) -> tuple[int, ...]:
        """Per axis, the step of image sizes, as of `ResEncUnet`."""
        return size_step(options, dims)

    def take_private(self) -> nn.Module:
        taken, self.norms = self.norms, nn.Identity()
        return taken

    def put_private(self, private: nn.Module) -> None:
        self.norms = private

    def forward(
        self,
        image: Float[Tensor, "B K *space"],
        gains: Gains | None = None,
        private: nn.Module | None = None,
    ) -> Decoded:
        """Segment a batch with the norms of one modality, by default the network's own."""
        self.check_size(image.shape[2:])
        norms = iter(_listed(self.norms if private is None else private))

        def convolve(x: Tensor, stage: Iterable[nn.Module]) -> Tensor:
            for conv in stage:
                x = next(norms)(conv(x)).relu()
            return x

        x, maps = image, []
        for i, stage in enumerate(self.down):
            x = convolve(x, _listed(stage))
            x = self.dropout(x) if i else x
            maps.append(x)
        maps.pop()
        for up, stage in zip(self.ups, self.joins, strict=True):
            x = convolve(torch.cat([up(x), maps.pop()], 1), _listed(stage))
        return Decoded(self.classify(x), ())


def _convolutions(
    conv: type[nn.Module],
    before: int,
    channels: int,
    kernel: tuple[int, ...],
    stride: int | tuple[int, ...] = 1,
) -> nn.ModuleList:
    """Two, the first with the stride; no bias before a norm, which cancels it."""
    padding = tuple(k // 2 for k in kernel)
    return nn.ModuleList(
        conv(n, channels, kernel, s, padding, bias=False)
        for n, s in ((before, stride), (channels, 1))
    )


def _listed(modules: nn.Module) -> nn.ModuleList:
    assert isinstance(modules, nn.ModuleList)
    return modules
