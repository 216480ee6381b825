"""MONAI's SegResNet, declared."""

from collections.abc import Mapping, Sequence
from typing import Any

from unpaired.backbones.base import Level
from unpaired.backbones.foreign import Foreign
from unpaired.backbones.monai.parts import branches, networks


class MonaiSegResNet(Foreign):
    """SegResNet (Myronenko 2018, without the autoencoder); scales at strides 4, 2, 1.

    Args:
        norm_groups: groups of its group norms; divides `init_filters`.
        dropout_prob: dropout after the first convolution; 0 for none.
        eam_scales: number of scales with External Attention Modules, the coarsest first.
        image_size, in_channels, classes: as of every backbone; others as in MONAI.

    Raises:
        ValueError: the image size does not fit, or MONAI refuses an option.
        UsageError: MONAI is not installed.
    """

    def __init__(
        self,
        image_size: Sequence[int],
        in_channels: int = 1,
        classes: int = 5,
        init_filters: int = 8,
        blocks_down: Sequence[int] = (1, 2, 2, 4),
        blocks_up: Sequence[int] = (1, 1, 1),
        norm_groups: int = 8,
        dropout_prob: float = 0.0,
        upsample_mode: str = "nontrainable",
        eam_scales: int = 3,
    ) -> None:
        dims, step = len(image_size), self.size_step({"blocks_down": blocks_down}, len(image_size))
        if any(n % s for n, s in zip(image_size, step, strict=True)):
            raise ValueError(f"image size {tuple(image_size)} must be a multiple of {step}")
        if len(blocks_up) != len(blocks_down) - 1:
            raise ValueError(
                f"blocks_up={tuple(blocks_up)} must have one stage less than "
                f"blocks_down={tuple(blocks_down)}"
            )
        network = networks().SegResNet(
            spatial_dims=dims,
            init_filters=init_filters,
            in_channels=in_channels,
            out_channels=classes,
            dropout_prob=dropout_prob or None,
            norm=("group", {"num_groups": norm_groups}),
            blocks_down=tuple(blocks_down),
            blocks_up=tuple(blocks_up),
            upsample_mode=upsample_mode,
        )
        count = len(blocks_up)
        scales = {
            f"up_layers.{i}": Level(
                init_filters * 2 ** (count - 1 - i), (2 ** (count - 1 - i),) * dims
            )
            for i in range(count)
        }
        super().__init__(
            network,
            dict(list(scales.items())[:eam_scales]),
            classes=classes,
            input_layers=("convInit.conv",),
            multiple=step,
            encoder=("convInit", "down_layers"),
            branches=branches(network),
        )

    @classmethod
    def size_step(cls, options: Mapping[str, Any], dims: int) -> tuple[int, ...]:
        return (2 ** (len(options.get("blocks_down", (1, 2, 2, 4))) - 1),) * dims
