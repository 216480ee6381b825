"""From options and an image size to the stages of a residual-encoder U-Net: numbers only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

from unpaired.nn.dims import per_axis

MAX_WIDTH = {1: 512, 2: 512, 3: 320}
"""Largest width by number of axes."""
BLOCKS = (1, 3, 4, 6)
"""Residual blocks of the first encoder stages; the last number holds for all further ones."""
SMALLEST_MAP = 4
"""No axis is halved below this."""
STEP = {"stacked": 8, "plane": 32}
"""Step of image sizes where the strides are chosen."""
FINE_STRIDE = 4
"""The External Attention Modules read no map finer than this where there are enough coarser."""

PerStage = Sequence[int | Sequence[int]]
"""Per stage one number for all axes, or one per axis."""


class Stage(NamedTuple):
    """What both paths share of one resolution."""

    channels: int
    blocks: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    """Against the stage before."""


@dataclass(frozen=True)
class Layout:
    """What may be said of the stages; None leaves a choice to the image size.

    Attributes:
        base_width: width of the finest stage; it doubles with every stage.
        max_width: largest width; None takes 320 in a volume and 512 otherwise.
        stages: number of resolutions; None takes as many as `blocks`, `strides` or `kernels` have,
            or else as the size allows.
        blocks: residual blocks per encoder stage, one number or one per stage; None takes
            1, 3, 4, 6, 6, ...
        strides: stride per stage, a number or one per axis (in a configuration the same kind for
            all stages); the first is 1. None halves every axis whose map is even and stays at
            least 4, save those shorter than half of the longest such axis, which wait until the
            others have come down to them.
        kernels: kernel per stage, a number or one per axis, odd; None takes 3, and 1 along an axis
            of length 1.
        anisotropic: with chosen kernels, 1 along an axis before the stage whose map is first halved
            along it, as nnU-Net along a coarse axis; always 3 in the coarsest stage.
    """

    base_width: int = 32
    max_width: int | None = None
    stages: int | None = None
    blocks: int | Sequence[int] | None = None
    strides: PerStage | None = None
    kernels: PerStage | None = None
    anisotropic: bool = False


def lay_out(image_size: Sequence[int], wanted: Layout) -> list[Stage]:
    """The stages, fine to coarse.

    Raises:
        ValueError: the options contradict each other or do not fit the image size.
    """
    o, dims = wanted, len(image_size)
    count = stage_count(o.stages, o.blocks, o.strides, o.kernels)
    chosen = choose_strides(image_size, count) if o.strides is None else rows(o.strides, dims)
    check_strides(chosen, image_size)
    count, blocks = len(chosen), o.blocks
    if blocks is None:
        blocks = [BLOCKS[min(i, len(BLOCKS) - 1)] for i in range(count)]
    elif isinstance(blocks, int):
        blocks = [blocks] * count
    if min(blocks) < 1:
        raise ValueError(f"blocks={tuple(blocks)}: every stage needs at least one block")
    sizes = choose_kernels(chosen, image_size, o.anisotropic) if o.kernels is None else o.kernels
    odd = rows(sizes, dims)
    if any(k < 1 or k % 2 == 0 for row in odd for k in row):
        raise ValueError(f"kernels={tuple(odd)}: every kernel must be odd, such as 1 or 3")
    widest = MAX_WIDTH[dims] if o.max_width is None else o.max_width
    return [
        Stage(min(widest, o.base_width * 2**i), blocks[i], odd[i], chosen[i]) for i in range(count)
    ]


def stage_count(
    stages: int | None,
    blocks: int | Sequence[int] | None,
    strides: PerStage | None,
    kernels: PerStage | None,
) -> int | None:
    """The number of stages that the options agree on; None where none of them says it."""
    said = {"stages": stages, "strides": strides, "kernels": kernels}
    if not isinstance(blocks, int):
        said["blocks"] = blocks
    counts = {
        name: value if isinstance(value, int) else len(value)
        for name, value in said.items()
        if value is not None
    }
    if len(set(counts.values())) > 1:
        raise ValueError(f"these options give different numbers of stages: {counts}")
    count = next(iter(counts.values()), None)
    if count is not None and count < 2:
        raise ValueError(f"{counts}: a U-Net has at least 2 stages")
    return count


def rows(values: PerStage, dims: int) -> list[tuple[int, ...]]:
    """A row per stage, a number per axis."""
    return [per_axis(v if isinstance(v, int) else tuple(v), dims) for v in values]


def choose_strides(image_size: Sequence[int], count: int | None) -> list[tuple[int, ...]]:
    """Halve together every axis that can be halved and is not shorter than half of the longest.

    An axis can be halved while its map is even and stays at least `SMALLEST_MAP`. A shorter axis
    waits, as a coarser one does in nnU-Net, whose rule compares spacings.
    """
    maps, chosen = list(image_size), [(1,) * len(image_size)]
    while count is None or len(chosen) < count:
        able = [n % 2 == 0 and n >= 2 * SMALLEST_MAP for n in maps]
        if not any(able):
            break
        longest = max(n for n, can in zip(maps, able, strict=True) if can)
        row = tuple(2 if can and 2 * n >= longest else 1 for n, can in zip(maps, able, strict=True))
        maps = [n // s for n, s in zip(maps, row, strict=True)]
        chosen.append(row)
    if len(chosen) < (count or 2):
        raise ValueError(
            f"an image of {tuple(image_size)} can be halved {len(chosen) - 1} times: an axis while "
            f"its map is even and stays at least {SMALLEST_MAP}. {count or 2} stages need "
            f"{(count or 2) - 1}; choose a larger size, fewer stages, or `strides`"
        )
    return chosen


def check_strides(strides: Sequence[Sequence[int]], image_size: Sequence[int]) -> None:
    """Raise ValueError where the strides are illegal or the image does not fit them."""
    if max(strides[0]) > 1 or min(min(row) for row in strides) < 1:
        raise ValueError(f"strides={tuple(strides)}: the first must be 1, and none less than 1")
    factor = total_strides(strides)[-1]
    if any(n % f for n, f in zip(image_size, factor, strict=True)):
        raise ValueError(
            f"image size {tuple(image_size)} does not fit strides of {factor} in all: "
            "each axis must be a multiple of them"
        )
    if prod(image_size) == prod(factor):
        raise ValueError(
            f"an image of {tuple(image_size)} shrinks to a single voxel under strides of {factor} "
            "in all, which cannot be normalised; choose a larger size or fewer stages"
        )


def choose_kernels(
    strides: Sequence[Sequence[int]], image_size: Sequence[int], anisotropic: bool
) -> list[tuple[int, ...]]:
    """3, but 1 along an axis of length 1 and, if asked, before an axis is first strided."""

    def kernel(stage: int, axis: int) -> int:
        ahead = [row[axis] for row in strides[: stage + 2]]  # up to the stride that leaves it
        coarse = anisotropic and max(ahead) == 1 and stage + 1 < len(strides)
        return 1 if coarse or image_size[axis] == 1 else 3

    axes = range(len(image_size))
    return [tuple(kernel(stage, axis) for axis in axes) for stage in range(len(strides))]


def total_strides(strides: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
    """Stride of every stage against the input."""
    axes = range(len(strides[0]))
    return [
        tuple(prod(row[axis] for row in strides[: stage + 1]) for axis in axes)
        for stage in range(len(strides))
    ]


def levels_read(strides: Sequence[Sequence[int]], scales: int) -> list[int]:
    """Which of the decoder's stages, coarse to fine with these strides, are levels."""
    if scales < 1:
        raise ValueError(f"scales={scales}: at least one decoder stage must be read")
    coarse = [i for i, stride in enumerate(strides) if max(stride) >= FINE_STRIDE]
    if len(coarse) >= scales:
        return coarse[-scales:]
    return list(range(min(scales, len(strides))))


def size_step(options: Mapping[str, Any], dims: int) -> tuple[int, ...]:
    """Per axis, the step of image sizes under these options."""
    count, strides = _said(options)
    if strides is not None:
        return total_strides(rows(strides, dims))[-1]
    plane = STEP["plane"] if count is None else 2 ** (count - 1)
    stacked = min(STEP["stacked"], plane)
    return tuple(stacked if axis < dims - 2 else plane for axis in range(dims))


def least_side(options: Mapping[str, Any]) -> int:
    """The shortest side of an image that can be halved for all the stages."""
    count, strides = _said(options)
    return 1 if strides is not None else SMALLEST_MAP * 2 ** ((count or 2) - 1)


def _said(options: Mapping[str, Any]) -> tuple[int | None, PerStage | None]:
    """The number of stages, and the strides, as far as the options say them."""
    stages, blocks, strides, kernels = (
        options.get(name) for name in ("stages", "blocks", "strides", "kernels")
    )
    return stage_count(stages, blocks, strides, kernels), strides
