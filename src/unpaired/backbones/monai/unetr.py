"""MONAI's UNETR, declared."""

from collections.abc import Mapping, Sequence
from typing import Any

from unpaired.backbones.base import Level
from unpaired.backbones.foreign import Foreign
from unpaired.backbones.monai.parts import branches, check_width, instance, networks, readers


class MonaiUNETR(Foreign):
    """UNETR (Hatamizadeh et al. 2021); scales at strides 8, 4, 2. Its image size is fixed.

    Args:
        affine: as of `MonaiSwinUNETR`.
        eam_scales: number of scales with External Attention Modules, the coarsest first.
        image_size, in_channels, classes: as of every backbone; others as in MONAI.

    Raises:
        ValueError: the image size does not fit, or MONAI refuses an option.
        UsageError: MONAI is not installed.
    """

    no_decay = ("position_embeddings",)

    def __init__(
        self,
        image_size: Sequence[int],
        in_channels: int = 1,
        classes: int = 5,
        feature_size: int = 16,
        hidden_size: int = 768,
        mlp_dim: int = 3072,
        num_heads: int = 12,
        dropout_rate: float = 0.0,
        res_block: bool = True,
        affine: bool = True,
        eam_scales: int = 3,
    ) -> None:
        dims, step = len(image_size), self.size_step({}, len(image_size))
        if any(n % s for n, s in zip(image_size, step, strict=True)):
            raise ValueError(f"image size {tuple(image_size)} must be a multiple of {step}")
        if res_block:
            check_width(in_channels, feature_size, "feature_size")
        network = networks().UNETR(
            in_channels=in_channels,
            out_channels=classes,
            img_size=tuple(image_size),
            feature_size=feature_size,
            hidden_size=hidden_size,
            mlp_dim=mlp_dim,
            num_heads=num_heads,
            norm_name=instance(affine),
            res_block=res_block,
            dropout_rate=dropout_rate,
            spatial_dims=dims,
        )
        for name, parameter in network.named_parameters():
            if ".norm_cross_attn." in name:  # built by MONAI, never run
                parameter.requires_grad_(False)
        scales = {
            f"decoder{i}": Level(feature_size * 2 ** (i - 2), (2 ** (i - 2),) * dims)
            for i in (5, 4, 3)
        }
        super().__init__(
            network,
            dict(list(scales.items())[:eam_scales]),
            classes=classes,
            input_layers=(
                "vit.patch_embedding.patch_embeddings",
                *readers(network, "encoder1.layer"),
            ),
            multiple=tuple(image_size),
            encoder=("vit", *(f"encoder{i}" for i in (1, 2, 3, 4))),
            branches=branches(network),
        )

    @classmethod
    def size_step(cls, options: Mapping[str, Any], dims: int) -> tuple[int, ...]:
        return (16,) * dims
