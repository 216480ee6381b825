"""Where patches lie in an image, and how their scores are weighed: every axis for itself.

Gaussians, the grid of patches and the sum of their weights are all separable, so that the weight
of a patch is a product of one vector per axis, already divided by the sum over its neighbours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import torch
from jaxtyping import Float32
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
