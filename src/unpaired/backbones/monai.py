"""What the declarations of MONAI's networks share."""

from collections.abc import Mapping, Sequence
from math import prod
from types import ModuleType
from typing import Any

from torch import nn

from unpaired.backbones.base import Level
from unpaired.backbones.foreign import Foreign
from unpaired.errors import UsageError
from unpaired.nn.dims import per_axis

_ENDS = {
    "SwinTransformerBlock": ("attn.proj", "mlp.linear2"),
    "TransformerBlock": ("attn.out_proj", "mlp.linear2"),
    "UnetResBlock": ("norm2",),
    "UnetBasicBlock": ("norm2",),
    "ResBlock": ("conv2.conv",),
}
"""Kind of block -> the last layers of its branches."""


def networks() -> ModuleType:
    """MONAI's networks.

    Raises:
        UsageError: MONAI is not installed.
    """
    try:
        from monai.networks import nets
    except ImportError as error:
        raise UsageError(
            'the backbones monai_... need MONAI, which is not there: pip install "unpaired[monai]"'
        ) from error
    return nets


def branches(network: nn.Module) -> tuple[str, ...]:
    """Paths of the ends of all branches that have weights to fold into."""
    return tuple(
        f"{path}.{end}"
        for path, module in network.named_modules()
        for end in _ENDS.get(type(module).__name__, ())
        if module.get_submodule(end)._parameters.get("weight") is not None
    )


def readers(network: nn.Module, block: str) -> tuple[str, ...]:
    """The convolutions that read the input of a residual or plain block."""
    found = network.get_submodule(block)
    return tuple(f"{block}.{name}.conv" for name in ("conv1", "conv3") if hasattr(found, name))


def instance(affine: bool) -> tuple[str, dict[str, bool]]:
    """MONAI's name of an instance norm with or without weights."""
    return ("instance", {"affine": affine})


def check_bottom(image_size: Sequence[int], step: Sequence[int]) -> None:
    """Raise ValueError where the coarsest map would have no two positions to normalise over."""
    if any(n % s for n, s in zip(image_size, step, strict=True)):
        raise ValueError(
            f"image size {tuple(image_size)} must be a multiple of {tuple(step)} along each axis"
        )
    if prod(image_size) < 2 * prod(step):
        raise ValueError(
            f"image size {tuple(image_size)} leaves one position in the coarsest map, which "
            f"cannot be normalised: take {2 * step[0]} or more along one axis"
        )


def check_width(in_channels: int, width: int, option: str) -> None:
    """Raise ValueError where the first residual block adds the image itself to its output."""
    if in_channels == width:
        raise ValueError(
            f"{option}={width} equals the number of input channels: the first block would add the "
            f"image as it is, where no stem can fold. Choose another {option}"
        )


# MONAI's DynUNet, declared.


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


# MONAI's SegResNet, declared.


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


# MONAI's SwinUNETR, declared.


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


# MONAI's UNETR, declared.


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


# MONAI's SwinUNETR, UNETR, DynUNet and SegResNet, declared: `pip install "unpaired[monai]"`.
#
# Options are named as MONAI names them. Importing monai takes seconds, so only a constructor does.
# The scales are the outputs of the coarsest decoder stages, three at most (`eam_scales`); the
# encoder that is private in V1 is everything before the decoder. V3 multiplies both branches of
# every transformer block, the last convolution of SegResNet's pre-activation blocks, and the last
# norm of every other convolutional block; one without a shortcut is scaled as a whole.


__all__ = ["MonaiDynUNet", "MonaiSegResNet", "MonaiSwinUNETR", "MonaiUNETR"]
