"""Bias tables of window attention: to another window, and out of the original's collisions."""

from collections.abc import Sequence
from math import prod

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from unpaired.nn.windows import colliding_index, relative_index


def resize_table(
    table: Float[Tensor, "rows N"], old: Sequence[int], new: Sequence[int]
) -> Float[Tensor, "_ N"]:
    """The table of windows `old` for windows `new`, any number of axes.

    Per head, the grid of 2w - 1 offsets an axis is stretched by cubic interpolation, one axis
    after the other: in two axes what Swin's own fine-tuning does (`bicubic`, half-pixel centres).
    An axis of the same window is left exactly as it is; the offset 0 stays in the middle.
    """
    sides = [2 * w - 1 for w in old]
    grid = table.T.reshape(-1, *sides)
    for axis, (before, after) in enumerate(zip(old, new, strict=True), start=1):
        if before != after:
            moved = grid.movedim(axis, -1)
            flat = moved.reshape(1, -1, moved.shape[-1], 1)
            flat = functional.interpolate(flat, (2 * after - 1, 1), mode="bicubic")
            grid = flat.reshape(*moved.shape[:-1], -1).movedim(-1, axis)
    return grid.flatten(1).T.contiguous()


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
