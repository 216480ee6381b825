"""Changing resolution of channels-last maps: patch embedding, merging, expanding."""

from collections.abc import Sequence
from math import prod

from jaxtyping import Float
from torch import Tensor, nn

from unpaired.nn.dims import CONV


def space_to_channels(
    x: Float[Tensor, "B *space C"], stride: Sequence[int]
) -> Float[Tensor, "B *small S"]:
    """Move each cell of size `stride` into the channels; the first spatial axis runs fastest."""
    batch, *space, channels = x.shape
    n = len(space)
    pairs = [size for s, f in zip(space, stride, strict=True) for size in (s // f, f)]
    order = [0, *range(1, 2 * n, 2), *range(2 * n, 1, -2), 2 * n + 1]
    cells = x.reshape(batch, *pairs, channels).permute(order)
    small = [s // f for s, f in zip(space, stride, strict=True)]
    return cells.reshape(batch, *small, prod(stride) * channels)


def cells_to_space(
    cells: Float[Tensor, "B *small S C"], scale: Sequence[int]
) -> Float[Tensor, "B *space C"]:
    """Lay S = prod(scale) values per position (row-major) out as a finer map."""
    batch, *small, _, channels = cells.shape
    n = len(small)
    order = [0, *(axis for i in range(n) for axis in (1 + i, 1 + n + i)), 2 * n + 1]
    split = cells.reshape(batch, *small, *scale, channels).permute(order)
    space = [s * f for s, f in zip(small, scale, strict=True)]
    return split.reshape(batch, *space, channels)


class PatchEmbed(nn.Module):
    """Strided convolution to one token per patch, then LayerNorm. Channels first in, last out."""

    def __init__(self, in_channels: int, channels: int, patch: Sequence[int]) -> None:
        super().__init__()
        self.conv = CONV[len(patch)](in_channels, channels, tuple(patch), tuple(patch))
        self.norm = nn.LayerNorm(channels)

    def forward(self, image: Float[Tensor, "B K *space"]) -> Float[Tensor, "B *small C"]:
        return self.norm(self.conv(image).movedim(1, -1))


class PatchMerge(nn.Module):
    """Cells of `stride` concatenated on channels -> LayerNorm -> Linear to 2C, no bias."""

    def __init__(self, channels: int, stride: Sequence[int]) -> None:
        super().__init__()
        self.stride = tuple(stride)
        self.norm = nn.LayerNorm(prod(stride) * channels)
        self.reduce = nn.Linear(prod(stride) * channels, 2 * channels, bias=False)

    def forward(self, x: Float[Tensor, "B *space C"]) -> Float[Tensor, "B *small D"]:
        return self.reduce(self.norm(space_to_channels(x, self.stride)))


class PatchExpand(nn.Module):
    """Linear -> finer map of `out_channels` -> LayerNorm (before the shuffle: the same, cheaper).

    With `out_channels = C / 2` this is the decoder's up-sampling, with `C` the final one.
    """

    def __init__(self, channels: int, out_channels: int, scale: Sequence[int]) -> None:
        super().__init__()
        self.scale, self.out_channels = tuple(scale), out_channels
        self.expand = nn.Linear(channels, prod(scale) * out_channels, bias=False)
        self.norm = nn.LayerNorm(out_channels)

    def cells(self, x: Float[Tensor, "B *space C"]) -> Float[Tensor, "B *space S D"]:
        """The normalised values before they are laid out in space."""
        return self.norm(self.expand(x).unflatten(-1, (-1, self.out_channels)))

    def forward(self, x: Float[Tensor, "B *space C"]) -> Float[Tensor, "B *fine D"]:
        return cells_to_space(self.cells(x), self.scale)
