"""Means over cells and linear interpolation, for any number of spatial axes.

Both are sums in a fixed order, so that they and their gradients repeat bit for bit on a GPU too,
which torch's own 3D pooling and interpolation do not.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def pool_mean(x: Float[Tensor, "B C *space"], stride: int) -> Float[Tensor, "B C *small"]:
    """The mean of each cell of `stride` positions per axis; sizes are multiples of it."""
    for axis in range(2, x.ndim):
        x = x.unflatten(axis, (-1, stride)).mean(axis + 1)
    return x


def resize_linear(x: Float[Tensor, "B C *space"], size: Sequence[int]) -> Tensor:
    """Linear interpolation to [B C *size]: cells are aligned by their edges, ends repeated."""
    for axis, n in enumerate(size, start=2):
        if x.shape[axis] != n:
            x = torch.movedim(x, axis, -1) @ _weights(x.shape[axis], n, x).T
            x = torch.movedim(x, -1, axis)
    return x


def _weights(coarse: int, fine: int, like: Tensor) -> Float[Tensor, "fine coarse"]:
    """Row i: the shares of the two coarse cells that the centre of fine cell i lies between."""
    index = torch.arange(max(fine, coarse), dtype=torch.float64, device=like.device)
    place = ((index[:fine] + 0.5) * (coarse / fine) - 0.5).clamp(0, coarse - 1)
    distance = (place[:, None] - index[:coarse]).abs()
    return (1 - distance).clamp_min(0).to(like.dtype)
