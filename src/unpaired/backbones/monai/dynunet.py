"""MONAI's DynUNet, declared."""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

from unpaired.backbones.base import Level
from unpaired.backbones.foreign import Foreign
from unpaired.backbones.monai.parts import branches, check_bottom, check_width, networks, readers
from unpaired.nn.dims import per_axis

_Rows = Sequence[int | Sequence[int]]


class MonaiDynUNet(Foreign):
    """DynUNet, MONAI's nnU-Net; the coarsest of its up-sampling stages are the scales.

    Args:
        strides: of each stage, one number or one per axis; the first must be 1.
        kernel_size: of each stage, one number for all or one per stage.
        filters: width of each stage; None is MONAI's rule, 32 doubling up to 320 or 512.
        res_block: residual blocks in the encoder.
        deep_supervision: number of coarser maps that are supervised too; 0 for none.
        eam_scales: number of scales with External Attention Modules, the coarsest first.
        image_size, in_channels, classes: as of every backbone.

    Raises:
        ValueError: the image size does not fit, or MONAI refuses an option.
        UsageError: MONAI is not installed.
    """

    def __init__(
        self,
        image_size: Sequence[int],
        in_channels: int = 1,
        classes: int = 5,
        strides: _Rows = (1, 2, 2, 2, 2, 2),
        kernel_size: int | _Rows = 3,
        filters: Sequence[int] | None = None,
        res_block: bool = False,
        deep_supervision: int = 0,
        eam_scales: int = 3,
    ) -> None:
        dims, step = len(image_size), self.size_step({"strides": strides}, len(image_size))
        rows = [per_axis(s if isinstance(s, int) else tuple(s), dims) for s in strides]
        if any(s != 1 for s in rows[0]):
            raise ValueError(f"strides={tuple(strides)}: the first must be 1, for full-size logits")
        check_bottom(image_size, step)
        kernels = [kernel_size] * len(rows) if isinstance(kernel_size, int) else list(kernel_size)
        network = networks().DynUNet(
            spatial_dims=dims,
            in_channels=in_channels,
            out_channels=classes,
            kernel_size=kernels,
            strides=rows,
            upsample_kernel_size=rows[1:],
            filters=filters,
            deep_supervision=deep_supervision > 0,
            deep_supr_num=max(1, deep_supervision),
            res_block=res_block,
        )
        widths = list(network.filters)
        if res_block:
            check_width(in_channels, widths[0], "filters[0]")
        stages = range(len(rows) - 1)  # up-sampling stage i, coarse to fine, is at depth ends - i
        depth = [len(rows) - 2 - i for i in stages]
        scales = {
            f"upsamples.{i}": Level(
                widths[depth[i]], tuple(prod(s) for s in zip(*rows[: depth[i] + 1], strict=True))
            )
            for i in stages
        }
        super().__init__(
            network,
            dict(list(scales.items())[:eam_scales]),
            classes=classes,
            input_layers=readers(network, "input_block"),
            multiple=step,
            encoder=("input_block", "downsamples", "bottleneck"),
            branches=branches(network),
        )

    @classmethod
    def size_step(cls, options: Mapping[str, Any], dims: int) -> tuple[int, ...]:
        strides = options.get("strides", (1, 2, 2, 2, 2, 2))
        rows = [per_axis(s if isinstance(s, int) else tuple(s), dims) for s in strides]
        return tuple(prod(axis) for axis in zip(*rows, strict=True))
