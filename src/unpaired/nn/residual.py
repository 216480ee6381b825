"""Convolutional blocks of channels-first maps with modality-aware channel scaling (Eq. 13-15)."""

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from unpaired.nn.block import Gains, ScaledBlock
from unpaired.nn.dims import AVERAGE_POOL, CONV, INSTANCE_NORM

SLOPE = 0.01
"""Negative slope of every LeakyReLU."""
_GROUPS = 8


def norm_layer(kind: str, channels: int, dims: int) -> nn.Module:
    """A norm with an affine map; neither kind keeps running statistics, which modalities mix.

    Raises:
        ValueError: the kind is unknown, or the channels cannot be grouped.
    """
    if kind == "instance":
        layer: nn.Module = INSTANCE_NORM[dims](channels, affine=True)
        return layer
    if kind == "group":
        return nn.GroupNorm(_GROUPS, channels)
    raise ValueError(f"norm={kind!r} is unknown; choose 'instance' or 'group'")


def activation() -> nn.LeakyReLU:
    """In place: no layer before it needs its own output for the gradient."""
    return nn.LeakyReLU(SLOPE, inplace=True)


class ConvNorm(nn.Module):
    """Convolution padded with zeros -> norm. No bias: the norm would take it away."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel: Sequence[int],
        stride: Sequence[int],
        norm: str = "instance",
    ) -> None:
        super().__init__()
        dims, padding = len(kernel), tuple(k // 2 for k in kernel)
        self.conv = CONV[dims](
            in_channels, channels, tuple(kernel), tuple(stride), padding, bias=False
        )
        self.norm = norm_layer(norm, channels, dims)

    def forward(self, x: Float[Tensor, "B _ *space"]) -> Float[Tensor, "B C *small"]:
        return self.norm(self.conv(x))


def scaled(y: Float[Tensor, "B C *space"], name: str, gains: Gains | None) -> Tensor:
    """Phi * y, with Phi the gain of that name per channel; without gains Phi = 1."""
    if gains is None:
        return y
    return y * gains[name].to(y.dtype).view(-1, *[1] * (y.ndim - 2))


class ConvBlock(ScaledBlock):
    """X = act(Phi * Norm(Conv X)).

    Its gain is `<path>.read.norm`: after the affine map of the norm, which would undo a scaling
    before it, and before the nonlinearity, so that it folds into that affine map.
    """

    def __init__(
        self, in_channels: int, channels: int, kernel: Sequence[int], norm: str = "instance"
    ) -> None:
        super().__init__()
        self.channels = channels
        self.read = ConvNorm(in_channels, channels, kernel, [1] * len(kernel), norm)
        self.act = activation()

    def forward(
        self, x: Float[Tensor, "B _ *space"], gains: Gains | None = None
    ) -> Float[Tensor, "B C *space"]:
        return self.act(scaled(self.read(x), f"{self.path}.read.norm", gains))

    def branch_ends(self) -> dict[str, int]:
        return {f"{self.path}.read.norm": self.channels}


class ResidualBlock(ScaledBlock):
    """X = act(skip(X) + Phi * Norm(Conv act(Norm(Conv X)))), the basic block of ResNet-D.

    The first convolution has the stride. The skip is averaged over the stride and, where the width
    changes, brought to it by a 1x1 convolution and a norm (He et al. 2019, "Bag of Tricks").
    Its gain is `<path>.second.norm`.

    Args:
        in_channels: width of the input.
        channels: width C of the output.
        kernel: kernel of both convolutions per axis, odd.
        stride: stride per axis; every spatial size must be a multiple of it.
        norm: "instance" or "group".
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel: Sequence[int],
        stride: Sequence[int],
        norm: str = "instance",
    ) -> None:
        super().__init__()
        one = (1,) * len(kernel)
        self.channels = channels
        self.first = ConvNorm(in_channels, channels, kernel, stride, norm)
        self.second = ConvNorm(channels, channels, kernel, one, norm)
        self.skip = nn.Sequential()
        if max(stride) > 1:
            self.skip.append(AVERAGE_POOL[len(kernel)](tuple(stride)))
        if in_channels != channels:
            self.skip.append(ConvNorm(in_channels, channels, one, one, norm))
        self.act = activation()

    def forward(
        self, x: Float[Tensor, "B _ *space"], gains: Gains | None = None
    ) -> Float[Tensor, "B C *small"]:
        y = self.second(self.act(self.first(x)))
        return self.act(self.skip(x) + scaled(y, f"{self.path}.second.norm", gains))

    def branch_ends(self) -> dict[str, int]:
        return {f"{self.path}.second.norm": self.channels}
