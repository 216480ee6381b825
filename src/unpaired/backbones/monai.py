"""MONAI's SwinUNETR, UNETR, DynUNet and SegResNet, declared: `pip install "unpaired[monai]"`.

Options are named as MONAI names them. Importing monai takes seconds, so only a constructor does.
The scales are the outputs of the coarsest decoder stages, three at most (`eam_scales`); the
encoder that is private in V1 is everything before the decoder. V3 multiplies both branches of
every transformer block, the last convolution of SegResNet's pre-activation blocks, and the last
norm of every other convolutional block; one without a shortcut is scaled as a whole.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from types import ModuleType
from typing import Any, ClassVar

from torch import nn

from unpaired.backbones.base import Level
from unpaired.backbones.foreign import Foreign
from unpaired.errors import UsageError
from unpaired.nn.dims import per_axis

Options = Mapping[str, Any]
Size = tuple[int, ...]
_ENDS = {
    "SwinTransformerBlock": ("attn.proj", "mlp.linear2"),
    "TransformerBlock": ("attn.out_proj", "mlp.linear2"),
    "UnetResBlock": ("norm2",),
    "UnetBasicBlock": ("norm2",),
    "ResBlock": ("conv2.conv",),
}
"""Kind of block -> the last layers of its branches."""


@dataclass(frozen=True)
class Declaration:
    """What is said of one of MONAI's networks; functions take its options `o`.

    With the option `affine` instance norms have weights, into which V3 folds. MONAI's own have
    none: False takes their state dict, and V3 then multiplies the transformer blocks only.
    """

    kind: str  # its class in monai.networks.nets
    defaults: Options  # of its options, named as MONAI names them
    reads: tuple[str, ...]  # convolutions, and blocks, that read the image
    encoder: tuple[str, ...]  # what is private in V1
    step: Callable[[Options, int], Size]  # per axis, the step of the image sizes
    arguments: Callable[[Options, Size], Options]  # of MONAI's constructor
    stages: Callable[[Options, nn.Module, int], dict[str, Level]]  # the decoder's, coarse to fine
    check: Callable[[Options], None] = lambda o: None  # raises where options contradict each other
    width: str = ""  # the option that says how wide the first block is
    idle: str = "\0"  # in the names of parameters that MONAI builds and never runs
    normalised: bool = False  # whether the coarsest map is, and so needs two positions
    one_size: bool = False  # whether it takes images of the size it was built for only


class Monai(Foreign):
    """One of MONAI's networks.

    Args:
        eam_scales: number of scales with External Attention Modules, the coarsest first.
        options: of the declaration.

    Raises:
        ValueError: the image size does not fit, or MONAI refuses an option.
        UsageError: MONAI is not installed.
    """

    declared: ClassVar[Declaration]

    def __init__(
        self, image_size: Sequence[int], in_channels: int = 1, classes: int = 5,
        eam_scales: int = 3, **options: Any,
    ) -> None:  # fmt: skip
        said, size = self.declared, tuple(image_size)
        if unknown := sorted(options.keys() - said.defaults.keys()):
            raise TypeError(f"{said.kind} has no option {unknown[0]}")
        o = {**said.defaults, **options}
        step = said.step(o, len(size))
        said.check(o)
        _check_size(size, step, said.normalised)
        network: nn.Module = getattr(_networks(), said.kind)(
            spatial_dims=len(size), in_channels=in_channels, out_channels=classes,
            **said.arguments(o, size),
        )  # fmt: skip
        for name, parameter in network.named_parameters():
            if said.idle in name:
                parameter.requires_grad_(False)
        super().__init__(
            network,
            dict(list(said.stages(o, network, len(size)).items())[:eam_scales]),
            classes=classes,
            input_layers=[path for place in said.reads for path in _readers(network, place, said)],
            multiple=size if said.one_size else step,
            encoder=said.encoder,
            branches=_branches(network),
        )

    @classmethod
    def option_names(cls) -> set[str]:
        return {"eam_scales", *cls.declared.defaults}

    @classmethod
    def size_step(cls, options: Options, dims: int) -> Size:
        return cls.declared.step({**cls.declared.defaults, **options}, dims)


class MonaiSwinUNETR(Monai):
    """SwinUNETR (Hatamizadeh et al. 2022); scales at strides 16, 8, 4."""

    declared = Declaration(
        kind="SwinUNETR",
        defaults={
            "feature_size": 24, "depths": (2, 2, 2, 2), "num_heads": (3, 6, 12, 24),
            "window_size": 7, "drop_rate": 0.0, "dropout_path_rate": 0.0, "use_v2": False,
            "affine": True,
        },
        reads=("swinViT.patch_embed.proj", "encoder1.layer"),
        encoder=("swinViT", "encoder1", "encoder2", "encoder3", "encoder4", "encoder10"),
        step=lambda o, dims: (32,) * dims,
        arguments=lambda o, size: _with_norm(o),
        stages=lambda o, network, dims: {
            f"decoder{i}": Level(o["feature_size"] * 2 ** (i - 2), (2 ** (i - 1),) * dims)
            for i in (5, 4, 3, 2)
        },
        width="feature_size",
        normalised=True,
    )  # fmt: skip


class MonaiUNETR(Monai):
    """UNETR (Hatamizadeh et al. 2021); scales at strides 8, 4, 2. Its image size is fixed."""

    no_decay = ("position_embeddings",)
    declared = Declaration(
        kind="UNETR",
        defaults={
            "feature_size": 16, "hidden_size": 768, "mlp_dim": 3072, "num_heads": 12,
            "dropout_rate": 0.0, "res_block": True, "affine": True,
        },
        reads=("vit.patch_embedding.patch_embeddings", "encoder1.layer"),
        encoder=("vit", "encoder1", "encoder2", "encoder3", "encoder4"),
        step=lambda o, dims: (16,) * dims,
        arguments=lambda o, size: {"img_size": size, **_with_norm(o)},
        stages=lambda o, network, dims: {
            f"decoder{i}": Level(o["feature_size"] * 2 ** (i - 2), (2 ** (i - 2),) * dims)
            for i in (5, 4, 3)
        },
        width="feature_size",
        idle=".norm_cross_attn.",
        one_size=True,
    )  # fmt: skip


class MonaiDynUNet(Monai):
    """DynUNet, MONAI's nnU-Net; the coarsest of its up-sampling stages are the scales.

    `strides`: of each stage, one number or one per axis; the first must be 1. `kernel_size`: one
    number for all or one per stage. `filters`: width of each stage; None is MONAI's rule, 32
    doubling up to 320 or 512. `res_block`: residual blocks in the encoder. `deep_supervision`:
    number of coarser maps that are supervised too; 0 for none.
    """

    declared = Declaration(
        kind="DynUNet",
        defaults={
            "strides": (1, 2, 2, 2, 2, 2), "kernel_size": 3, "filters": None,
            "res_block": False, "deep_supervision": 0,
        },
        reads=("input_block",),
        encoder=("input_block", "downsamples", "bottleneck"),
        step=lambda o, dims: _total(_rows(o, dims)),
        arguments=lambda o, size: _dynunet_arguments(o, _rows(o, len(size))),
        stages=lambda o, network, dims: _dynunet_stages(_rows(o, dims), network),
        width="filters[0]",
        check=lambda o: _check_strides(tuple(o["strides"])),
        normalised=True,
    )  # fmt: skip


class MonaiSegResNet(Monai):
    """SegResNet (Myronenko 2018, without the autoencoder); scales at strides 4, 2, 1.

    `norm_groups`: groups of its group norms; divides `init_filters`. `dropout_prob`: dropout after
    the first convolution; 0 for none.
    """

    declared = Declaration(
        kind="SegResNet",
        defaults={
            "init_filters": 8, "blocks_down": (1, 2, 2, 4), "blocks_up": (1, 1, 1),
            "norm_groups": 8, "dropout_prob": 0.0, "upsample_mode": "nontrainable",
        },
        reads=("convInit.conv",),
        encoder=("convInit", "down_layers"),
        step=lambda o, dims: (2 ** (len(o["blocks_down"]) - 1),) * dims,
        arguments=lambda o, size: {
            **{name: o[name] for name in ("init_filters", "upsample_mode")},
            **{name: tuple(o[name]) for name in ("blocks_down", "blocks_up")},
            "norm": ("group", {"num_groups": o["norm_groups"]}),
            "dropout_prob": o["dropout_prob"] or None,
        },
        stages=lambda o, network, dims: {
            f"up_layers.{i}": Level(o["init_filters"] * stride, (stride,) * dims)
            for i, stride in enumerate([2**i for i in reversed(range(len(o["blocks_up"])))])
        },
        check=lambda o: _check_blocks(tuple(o["blocks_down"]), tuple(o["blocks_up"])),
    )  # fmt: skip


def _networks() -> ModuleType:
    try:
        from monai.networks import nets
    except ImportError as error:
        raise UsageError(
            'the backbones monai_... need MONAI, which is not there: pip install "unpaired[monai]"'
        ) from error
    return nets


def _branches(network: nn.Module) -> tuple[str, ...]:
    """Paths of the ends of all branches that have weights to fold into."""
    return tuple(
        f"{path}.{end}"
        for path, module in network.named_modules()
        for end in _ENDS.get(type(module).__name__, ())
        if module.get_submodule(end)._parameters.get("weight") is not None
    )


def _readers(network: nn.Module, place: str, said: Declaration) -> list[str]:
    """The convolution of this path, or those of this block that read its input."""
    block: Any = network.get_submodule(place)
    if type(block).__name__ == "UnetResBlock" and not hasattr(block, "conv3"):
        raise ValueError(
            f"{said.width}={block.conv1.conv.in_channels} equals the number of input channels: the "
            "first block would add the image as it is, where no stem can fold. Choose another "
            f"{said.width}"
        )
    inside = [f"{place}.{name}.conv" for name in ("conv1", "conv3") if hasattr(block, name)]
    return inside or [place]


def _with_norm(o: Options) -> dict[str, Any]:
    """The options, with MONAI's name of an instance norm with or without weights."""
    rest = {name: value for name, value in o.items() if name != "affine"}
    return {**rest, "norm_name": ("instance", {"affine": o["affine"]})}


def _check_size(size: Size, step: Size, normalised: bool) -> None:
    """Raise ValueError where the network cannot be built for images of this size."""
    if any(n % s for n, s in zip(size, step, strict=True)):
        where = " along each axis" if normalised else ""
        raise ValueError(f"image size {size} must be a multiple of {step}{where}")
    if normalised and prod(size) < 2 * prod(step):
        raise ValueError(
            f"image size {size} leaves one position in the coarsest map, which "
            f"cannot be normalised: take {2 * step[0]} or more along one axis"
        )


def _check_blocks(down: Size, up: Size) -> None:
    if len(up) != len(down) - 1:
        raise ValueError(f"blocks_up={up} must have one stage less than blocks_down={down}")


def _check_strides(strides: tuple[int | Sequence[int], ...]) -> None:
    first = strides[0]
    if any(s != 1 for s in ((first,) if isinstance(first, int) else first)):
        raise ValueError(f"strides={strides}: the first must be 1, for full-size logits")


def _rows(o: Options, dims: int) -> list[Size]:
    """DynUNet's strides, per stage and axis."""
    return [per_axis(s if isinstance(s, int) else tuple(s), dims) for s in o["strides"]]


def _total(rows: Sequence[Size]) -> Size:
    return tuple(prod(axis) for axis in zip(*rows, strict=True))


def _dynunet_arguments(o: Options, rows: Sequence[Size]) -> Options:
    kernel, deep = o["kernel_size"], o["deep_supervision"]
    return {
        "kernel_size": [kernel] * len(rows) if isinstance(kernel, int) else list(kernel),
        "strides": rows, "upsample_kernel_size": rows[1:],
        "filters": o["filters"], "res_block": o["res_block"],
        "deep_supervision": deep > 0, "deep_supr_num": max(1, deep),
    }  # fmt: skip


def _dynunet_stages(rows: Sequence[Size], network: Any) -> dict[str, Level]:
    depths = range(len(rows) - 2, -1, -1)  # of the up-sampling stages, coarse to fine
    return {
        f"upsamples.{i}": Level(network.filters[depth], _total(rows[: depth + 1]))
        for i, depth in enumerate(depths)
    }
