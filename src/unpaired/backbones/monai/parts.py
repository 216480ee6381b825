"""What the declarations of MONAI's networks share."""

from collections.abc import Sequence
from math import prod
from types import ModuleType

from torch import nn

from unpaired.errors import UsageError

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
