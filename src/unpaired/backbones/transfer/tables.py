"""Bias tables of window attention: to another window, and out of the original's collisions."""

from collections.abc import Sequence
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from unpaired.nn.windows import colliding_index, relative_index


def resize_table(
    table: Float[Tensor, "rows N"], old: Sequence[int], new: Sequence[int]
) -> Float[Tensor, "_ N"]:
    """The table of windows `old` for windows `new`, any number of axes.

    Per head, the grid of 2w - 1 offsets an axis is stretched by cubic interpolation, one axis
    after the other, with half-pixel centres and ends repeated, so offset 0 stays in the middle. As
    in Swin's own fine-tuning, but with Keys' kernel at a = -1/2, which keeps a linear table linear;
    at the -3/4 of torch's `bicubic` it does not. An axis of the same window is left exactly as it
    is.
    """
    grid = table.T.reshape(-1, *(2 * w - 1 for w in old))
    for axis, (before, after) in enumerate(zip(old, new, strict=True), start=1):
        if before != after:
            weights = _cubic(2 * before - 1, 2 * after - 1).to(grid)
            grid = (grid.movedim(axis, -1) @ weights.T).movedim(-1, axis)
    return grid.flatten(1).T.contiguous()


def _cubic(old: int, new: int) -> Float[Tensor, "new old"]:
    """What each of `new` points takes of `old` ones."""
    at = (torch.arange(new) + 0.5) * old / new - 0.5
    near = at.floor()[:, None] + torch.arange(-1, 3)
    x = (at[:, None] - near).abs()
    inside = 1.5 * x**3 - 2.5 * x**2 + 1  # |x| < 1
    outside = -0.5 * (x**3 - 5 * x**2 + 8 * x - 4)  # 1 <= |x| < 2
    share = torch.where(x < 1, inside, outside)
    return torch.zeros(new, old).scatter_add_(1, near.long().clamp(0, old - 1), share)


def untangle(table: Float[Tensor, "rows N"], window: Sequence[int]) -> Float[Tensor, "rows N"]:
    """The original nnFormer's table with a row for every offset: the same biases, exactly.

    Its index lets offsets share rows (`colliding_index`); here each gets a copy of its own.
    """
    free = table.new_empty(table.shape)
    free[relative_index(window).flatten()] = table[colliding_index(window).flatten()]
    return free


def window_of(rows: int, like: Sequence[int]) -> tuple[int, ...] | None:
    """The window of a table of `rows`: that of `like`, else one with equal sides, else None.

    Axes along which `like` is 1 may be 1 in the file too.
    """
    if rows == prod(2 * w - 1 for w in like):
        return tuple(like)
    axes = len(like)
    if (side := _side(rows, axes)) is not None:
        return (side,) * axes
    long = [axis for axis, w in enumerate(like) if w > 1]
    if long and (side := _side(rows, len(long))) is not None:
        return tuple(side if axis in long else 1 for axis in range(axes))
    return None


def _side(rows: int, axes: int) -> int | None:
    """w with (2w - 1)^axes = rows."""
    offsets = round(rows ** (1 / axes))
    return (offsets + 1) // 2 if offsets % 2 and offsets**axes == rows else None
