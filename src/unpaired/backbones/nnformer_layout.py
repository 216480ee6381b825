"""Sizes, windows and strides of nnFormer, worked out from its options."""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from torch import nn

from unpaired.backbones.base import Level
from unpaired.nn.attention import Window
from unpaired.nn.block import Block, SkipBlock
from unpaired.nn.dims import per_axis

PATCH = (2, 4, 4)
"""Default size of a token, for the last axes: (2, 4, 4) in a volume, (4, 4) in a picture."""

PerStage = int | Sequence[int] | Sequence[int | Sequence[int]]
"""One number, or per stage a number or one number per axis."""


class Down(NamedTuple):
    """A strided convolution between two encoder stages; the decoder returns by the same stride."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]

    def shrink(self, size: Sequence[int]) -> tuple[int, ...]:
        """Size of the map behind it."""
        parts = zip(size, self.kernel, self.stride, self.padding, strict=True)
        return tuple((n + 2 * p - k) // s + 1 for n, k, s, p in parts)

    def even(self, axis: int) -> bool:
        """Whether a map of m strides always becomes one of m positions."""
        return -self.stride[axis] <= 2 * self.padding[axis] - self.kernel[axis] < 0


class Stage(NamedTuple):
    """What the blocks of one resolution share."""

    channels: int
    heads: int
    window: Window

    def blocks(self, rates: Sequence[float], shifted: Sequence[bool]) -> nn.ModuleList:
        """One block per drop-path rate."""
        still = self.window.still()
        return nn.ModuleList(
            Block(self.channels, self.heads, self.window if s else still, rate)
            for rate, s in zip(rates, shifted, strict=True)
        )

    def join(self, rate: float) -> SkipBlock:
        """The block that attends to the skip."""
        return SkipBlock(self.channels, self.heads, self.window, rate)


def check_options(decoder: str, depths: Sequence[int], deep_outputs: int) -> None:
    """Raise ValueError for what no size could mend."""
    if decoder not in ("skip_attention", "add"):
        raise ValueError(f"decoder is 'skip_attention' or 'add', not {decoder!r}")
    if len(depths) < 2 or min(depths) < 1:
        raise ValueError(f"depths {tuple(depths)}: at least two stages of at least one block each")
    if not 1 <= deep_outputs <= max(1, len(depths) - 2):
        raise ValueError(
            f"deep_outputs={deep_outputs}, but {len(depths)} stages have {len(depths) - 2} decoder "
            "maps coarser than the finest"
        )


def patch_size(patch: int | Sequence[int] | None, dims: int) -> tuple[int, ...]:
    """Size of a token per axis."""
    return per_axis(_plain(PATCH[-dims:] if patch is None else patch), dims)


def plan_downs(
    stride: PerStage, overlap: bool, padding: PerStage | None, steps: int, dims: int
) -> list[Down]:
    """The convolutions between the stages, fine to coarse."""
    strides = per_stage("stride", stride, steps, dims)
    kernels = [tuple(3 if overlap and n > 1 else n for n in s) for s in strides]
    if padding is None:
        around = [tuple(int(overlap and n > 1) for n in s) for s in strides]
    else:
        around = per_stage("down_padding", padding, steps, dims)
    for kernel, padded in zip(kernels, around, strict=True):
        if any(2 * p >= k for k, p in zip(kernel, padded, strict=True)):
            raise ValueError(
                f"down_padding {padded} is too much for a kernel of {kernel}: less than half of it "
                "per axis, so 1 for kernel 3 and 0 otherwise"
            )
    return [Down(*parts) for parts in zip(kernels, strides, around, strict=True)]


class Cut(NamedTuple):
    """The options of `NNFormer` that say how maps are cut into windows."""

    window: PerStage
    cubic: bool
    legacy_index: bool
    mask_shift: bool


def plan_stages(
    sizes: Sequence[Sequence[int]],
    embed_dim: int,
    heads: Sequence[int],
    cut: Cut,
    last: bool = True,
) -> list[Stage]:
    """One stage per map of the encoder, fine to coarse; without `last` those of the decoder."""
    windows = per_stage("window", cut.window, len(sizes), len(sizes[0]))
    count = len(sizes) - (not last)
    if len(heads) != count:
        raise ValueError(f"{count} stages need as many numbers of heads, not {tuple(heads)}")
    stages = []
    for i in range(count):
        fitted, shift = (_cubic if cut.cubic else _fit)(sizes[i], windows[i])
        channels = embed_dim * 2**i
        window = Window(fitted, shift, cut.legacy_index, cut.mask_shift)
        stages.append(Stage(channels, heads[i], window))
    return stages


def plan_levels(
    coarse: Sequence[Stage], patch: Sequence[int], downs: Sequence[Down]
) -> tuple[Level, ...]:
    """The decoder's scales, coarse to fine."""
    levels = []
    stride = list(patch)
    for stage, down in zip(reversed(coarse), downs, strict=True):
        levels.append(Level(stage.channels, tuple(stride)))
        stride = [a * b for a, b in zip(stride, down.stride, strict=True)]
    return tuple(reversed(levels))


def map_sizes(
    image_size: Sequence[int], patch: Sequence[int], downs: Sequence[Down]
) -> list[tuple[int, ...]]:
    """Size of the map at each encoder stage.

    Raises:
        ValueError: the image is so small that a map would have no positions.
    """
    sizes = [tuple(n // p for n, p in zip(image_size, patch, strict=True))]
    for down in downs:
        sizes.append(down.shrink(sizes[-1]))
        if min(sizes[-1]) < 1:
            raise ValueError(
                f"an image of {tuple(image_size)} is too small: its maps are {sizes}; "
                "choose a larger one or fewer strides"
            )
    return sizes


def multiple(patch: Sequence[int], downs: Sequence[Down]) -> tuple[int, ...]:
    """Per axis, the step of sizes that every even convolution cuts without a rest.

    Behind one that is not even (the original for ACDC) any size runs: the decoder returns to the
    size of the skip.
    """
    found = []
    for axis, size in enumerate(patch):
        evens = [down.even(axis) for down in downs]
        upto = evens.index(False) if False in evens else len(downs)
        found.append(size * prod(down.stride[axis] for down in downs[:upto]))
    return tuple(found)


def linear_rates(largest: float, depths: Sequence[int]) -> list[list[float]]:
    """Drop-path rates from 0 to `largest` over all blocks, by stage."""
    steps = max(sum(depths) - 1, 1)
    starts = [sum(depths[:i]) for i in range(len(depths))]
    return [
        [largest * (start + i) / steps for i in range(depth)]
        for start, depth in zip(starts, depths, strict=True)
    ]


def per_stage(name: str, value: PerStage, count: int, dims: int) -> list[tuple[int, ...]]:
    """One tuple of `dims` numbers per stage.

    Raises:
        ValueError: there are not `count` values, or not one per axis.
    """
    values = [value] * count if isinstance(value, int) else list(value)
    if len(values) != count:
        raise ValueError(
            f"{name} has {len(values)} values, but {count} are needed, one per stage "
            "(each a number, or one number per axis)"
        )
    return [per_axis(_plain(v), dims) for v in values]


def _plain(value: int | Sequence[int]) -> int | tuple[int, ...]:
    return value if isinstance(value, int) else tuple(value)


def _fit(size: Sequence[int], window: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Window and shift: per axis min(window, size), no shift where one window covers the axis."""
    fitted = tuple(min(n, w) for n, w in zip(size, window, strict=True))
    return fitted, tuple(w // 2 if n > w else 0 for n, w in zip(size, fitted, strict=True))


def _cubic(size: Sequence[int], window: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The original's rule for cubes: the smallest side decides for every axis."""
    if len(set(window)) > 1:
        raise ValueError(f"cubic_windows needs one number per stage, not windows of {window}")
    w, n = window[0], min(size)
    return (
        ((n,) * len(size), (0,) * len(size)) if n <= w else (tuple(window), (w // 2,) * len(size))
    )
