"""Changing resolution of channels-last maps: patches merged and expanded, strided convolutions."""

from collections.abc import Sequence
from math import prod

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from unpaired.nn.attention import crop_to, pad_to
from unpaired.nn.dims import CONV, CONV_TRANSPOSE


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


class ConvEmbed(nn.Module):
    """Four convolutions k3 to one token per patch (nnFormer). Channels first in, last out.

    The first and the third are strided and together make the patch. After each but the last GELU,
    then LayerNorm; after the last LayerNorm alone. Widths C/2, C/2, C, C.
    """

    def __init__(self, in_channels: int, channels: int, patch: Sequence[int]) -> None:
        super().__init__()
        second = [max(b for b in range(1, p + 1) if p % b == 0 and b * b <= p) for p in patch]
        first = [p // b for p, b in zip(patch, second, strict=True)]
        one, half = [1] * len(patch), channels // 2
        strides = (tuple(s) for s in (first, one, second, one))
        widths = [in_channels, half, half, channels, channels]
        self.convs = nn.ModuleList(
            CONV[len(patch)](i, o, 3, stride, padding=1)
            for i, o, stride in zip(widths[:-1], widths[1:], strides, strict=True)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(width) for width in widths[1:])

    def forward(self, image: Float[Tensor, "B K *space"]) -> Float[Tensor, "B *small C"]:
        x = image
        for conv, norm in zip(self.convs[:-1], self.norms[:-1], strict=True):
            x = norm(functional.gelu(conv(x)).movedim(1, -1)).movedim(-1, 1)
        return self.norms[-1](self.convs[-1](x).movedim(1, -1))


class StridedConv(nn.Module):
    """GELU -> LayerNorm -> strided convolution to 2C (nnFormer); bias, kernel as given."""

    def __init__(
        self, channels: int, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.conv = CONV[len(stride)](
            channels, 2 * channels, tuple(kernel), tuple(stride), tuple(padding)
        )

    def forward(self, x: Float[Tensor, "B *space C"]) -> Float[Tensor, "B *small D"]:
        return self.conv(self.norm(functional.gelu(x)).movedim(-1, 1)).movedim(1, -1)


class TransposedConv(nn.Module):
    """LayerNorm -> transposed convolution to C/2, kernel = stride (nnFormer).

    The result has the size that is asked for: what lies beyond the cells of the coarse map holds
    the bias alone (so does the original's output padding), what is too much is cut off.
    """

    def __init__(self, channels: int, stride: Sequence[int]) -> None:
        super().__init__()
        self.stride = tuple(stride)
        self.norm = nn.LayerNorm(channels)
        self.conv = CONV_TRANSPOSE[len(stride)](channels, channels // 2, self.stride, self.stride)

    def forward(
        self, x: Float[Tensor, "B *space C"], size: Sequence[int]
    ) -> Float[Tensor, "B *fine D"]:
        cells = [-(-n // s) for n, s in zip(size, self.stride, strict=True)]
        x = crop_to(self.norm(x), cells)
        return crop_to(self.conv(pad_to(x, cells).movedim(-1, 1)).movedim(1, -1), size)
