"""MONAI's SwinUNETR, declared."""

from collections.abc import Mapping, Sequence
from typing import Any

from unpaired.backbones.base import Level
from unpaired.backbones.foreign import Foreign
from unpaired.backbones.monai.parts import (
    branches,
    check_bottom,
    check_width,
    instance,
    networks,
    readers,
)


class MonaiSwinUNETR(Foreign):
    """SwinUNETR (Hatamizadeh et al. 2022); scales at strides 16, 8, 4.

    Args:
        affine: the instance norms have weights, into which V3 folds. MONAI's own have none: False
            takes their state dict, and V3 then multiplies the transformer blocks only.
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
        feature_size: int = 24,
        depths: Sequence[int] = (2, 2, 2, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: int | Sequence[int] = 7,
        drop_rate: float = 0.0,
        dropout_path_rate: float = 0.0,
        use_v2: bool = False,
        affine: bool = True,
        eam_scales: int = 3,
    ) -> None:
        dims, step = len(image_size), self.size_step({}, len(image_size))
        check_bottom(image_size, step)
        check_width(in_channels, feature_size, "feature_size")
        network = networks().SwinUNETR(
            in_channels=in_channels,
            out_channels=classes,
            depths=depths,
            num_heads=num_heads,
            window_size=window_size,
            feature_size=feature_size,
            norm_name=instance(affine),
            drop_rate=drop_rate,
            dropout_path_rate=dropout_path_rate,
            spatial_dims=dims,
            use_v2=use_v2,
        )
        scales = {
            f"decoder{i}": Level(feature_size * 2 ** (i - 2), (2 ** (i - 1),) * dims)
            for i in (5, 4, 3, 2)
        }
        super().__init__(
            network,
            dict(list(scales.items())[:eam_scales]),
            classes=classes,
            input_layers=("swinViT.patch_embed.proj", *readers(network, "encoder1.layer")),
            multiple=step,
            encoder=("swinViT", *(f"encoder{i}" for i in (1, 2, 3, 4, 10))),
            branches=branches(network),
        )

    @classmethod
    def size_step(cls, options: Mapping[str, Any], dims: int) -> tuple[int, ...]:
        return (32,) * dims
