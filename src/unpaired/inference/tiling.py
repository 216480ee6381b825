"""Where patches lie in an image, and how their scores are weighed: every axis for itself.

Gaussians, the grid of patches and the sum of their weights are all separable, so that the weight
of a patch is a product of one vector per axis, already divided by the sum over its neighbours.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from jaxtyping import Float, Float32
from torch import Tensor

Corner = tuple[int, int, int]
"""Number of a patch along each axis."""


@dataclass(frozen=True)
class Tiling:
    """A grid of patches over an image [d h w], which is padded where it is smaller than a patch."""

    size: tuple[int, int, int]
    patch: tuple[int, int, int]
    starts: tuple[tuple[int, ...], ...]
    """Per axis the first positions, in the padded image."""
    weights: tuple[tuple[Float32[Tensor, " _"], ...], ...]
    """Per axis and patch; along an axis the weights at a position add up to 1."""

    @property
    def padded(self) -> tuple[int, ...]:
        """The image's size with its padding."""
        return tuple(max(n, p) for n, p in zip(self.size, self.patch, strict=True))

    @property
    def before(self) -> tuple[int, ...]:
        """Padding before the image."""
        return tuple((full - n) // 2 for full, n in zip(self.padded, self.size, strict=True))

    @property
    def lonely(self) -> bool:
        """Whether no two patches overlap anywhere."""
        return self.patch[0] == 1 and all(len(starts) == 1 for starts in self.starts[1:])

    def corners(self) -> list[Corner]:
        """All patches, the first axis slowest."""
        d, h, w = (range(len(starts)) for starts in self.starts)
        return [(a, b, c) for a in d for b in h for c in w]

    def origin(self, corner: Corner) -> tuple[int, ...]:
        """First position of a patch in the padded image."""
        return tuple(starts[i] for starts, i in zip(self.starts, corner, strict=True))

    def weight(self, corner: Corner) -> Float32[Tensor, "D h w"]:
        """What the patch's scores are multiplied by before they are added."""
        per_axis = [weights[i] for weights, i in zip(self.weights, corner, strict=True)]
        return reduce(lambda a, b: a[..., None] * b, per_axis)


def make_tiling(size: Sequence[int], patch: Sequence[int], overlap: float) -> Tiling:
    """Evenly spread patches.

    Args:
        size: of the image (d, h, w).
        patch: (D, h, w); (h, w) takes slice by slice.
        overlap: share of a patch that its neighbour covers at least, in [0, 1).
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"an overlap of {overlap} is not in [0, 1)")
    window = (*[1] * (3 - len(patch)), *patch)
    axes = list(zip(size, window, strict=True))
    starts = tuple(tuple(_starts(max(n, p), p, overlap)) for n, p in axes)
    weights = tuple(
        _weights(max(n, p), p, first) for (n, p), first in zip(axes, starts, strict=True)
    )
    d, h, w = (n for n, _ in axes)
    return Tiling((d, h, w), (window[0], window[1], window[2]), starts, weights)


def _starts(size: int, patch: int, overlap: float) -> list[int]:
    count = math.ceil((size - patch) / max(1, int(patch * (1 - overlap)))) + 1
    return [round(i * (size - patch) / max(count - 1, 1)) for i in range(count)]


def _weights(size: int, patch: int, starts: Sequence[int]) -> tuple[Float32[Tensor, " _"], ...]:
    gauss = _gaussian(patch)
    total = torch.zeros(size)
    for start in starts:
        total[start : start + patch] += gauss
    return tuple(gauss / total[start : start + patch] for start in starts)


def _gaussian(size: int) -> Float32[Tensor, " _"]:
    """Standard deviation an eighth of the patch, at least 1e-3 of the peak."""
    position = (torch.arange(size) - (size - 1) / 2) / (size / 8)
    return torch.exp(-0.5 * position**2).clamp_min(1e-3)


# A ring of slices: the only scores a sliding window holds, however long the scan is.


EXACT_BYTES = 512 << 20
"""A ring that would be larger in float32 is kept in float16 (decision D66)."""


class Ring:
    """Sums of weighted patches for the slices that a patch can still reach.

    Patches come slab by slab along the first axis; a slice is whole once no further slab reaches
    it, and its place is used again.
    """

    def __init__(self, tiling: Tiling, classes: int, device: torch.device) -> None:
        self.tiling = tiling
        depth, (_, h, w) = tiling.patch[0], tiling.padded
        exact = 4 * depth * classes * h * w <= EXACT_BYTES
        kind = torch.float32 if exact else torch.float16
        self._sums = torch.zeros(depth, classes, h, w, dtype=kind, device=device)

    def add(self, corner: Corner, scores: Float[Tensor, "Z D h w"]) -> None:
        """Add one patch's scores."""
        z, y, x = self.tiling.origin(corner)
        _, h, w = self.tiling.patch
        weight = self.tiling.weight(corner).to(scores)
        for i, share in enumerate(weight):  # slice by slice: no second patch in memory
            sums = self._sums[(z + i) % len(self._sums), :, y : y + h, x : x + w]
            sums += scores[:, i] * share

    def whole(self, slab: int) -> Iterator[tuple[int, Float[Tensor, "1 Z h w"]]]:
        """After the last patch of a slab: the slices that are whole, with their index."""
        starts = self.tiling.starts[0]
        following = starts[slab + 1] if slab + 1 < len(starts) else self.tiling.padded[0]
        before, top, left = self.tiling.before
        d, h, w = self.tiling.size
        for z in range(starts[slab], following):
            sums = self._sums[z % len(self._sums)]
            if before <= z < before + d:
                inside = sums[None, :, top : top + h, left : left + w]
                yield z - before, inside.float() if sums.dtype == torch.half else inside.clone()
            sums.zero_()
