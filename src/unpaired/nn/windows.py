"""Windows over any number of spatial axes: split, join, shift mask, relative position index."""

from collections.abc import Sequence
from itertools import product
from math import prod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def split_windows(
    x: Float[Tensor, "B *space C"], window: Sequence[int]
) -> Float[Tensor, "B W T C"]:
    """Cut `x` into non-overlapping windows: W windows of T positions each, both row-major.

    Every spatial size must be a multiple of the window's.
    """
    batch, *space, channels = x.shape
    n = len(space)
    pairs = [size for s, w in zip(space, window, strict=True) for size in (s // w, w)]
    order = [0, *range(1, 2 * n, 2), *range(2, 2 * n + 1, 2), 2 * n + 1]
    split = x.reshape(batch, *pairs, channels).permute(order)
    return split.reshape(batch, -1, prod(window), channels)


def join_windows(
    windows: Float[Tensor, "B W T C"], window: Sequence[int], space: Sequence[int]
) -> Float[Tensor, "B *space C"]:
    """Inverse of `split_windows` for a map of spatial size `space`."""
    n = len(space)
    counts = [s // w for s, w in zip(space, window, strict=True)]
    order = [0, *(axis for i in range(n) for axis in (1 + i, 1 + n + i)), 2 * n + 1]
    split = windows.reshape(windows.shape[0], *counts, *window, windows.shape[-1])
    return split.permute(order).reshape(windows.shape[0], *space, windows.shape[-1])


def shift_mask(
    space: Sequence[int], window: Sequence[int], shift: Sequence[int]
) -> Bool[Tensor, "W T T"]:
    """True where two positions of a window must not attend to each other.

    After a cyclic shift a window can hold pieces from opposite ends of the map; positions
    attend only within their own piece.
    """
    region = torch.zeros(tuple(space), dtype=torch.long)
    for axis, (size, w, s) in enumerate(zip(space, window, shift, strict=True)):
        label = torch.zeros(size, dtype=torch.long)
        if s:
            label[size - w : size - s] = 1
            label[size - s :] = 2
        shape = [1] * len(space)
        shape[axis] = size
        region = region * 3 + label.reshape(shape)
    pieces = split_windows(region[None, ..., None].double(), window)[0, :, :, 0]
    return pieces[:, :, None] != pieces[:, None, :]


def relative_index(window: Sequence[int]) -> Int[Tensor, "T T"]:
    """Row of the bias table for each pair of positions: the offset in mixed radix 2w - 1."""
    position = torch.tensor(list(product(*(range(w) for w in window))))
    offset = position[:, None] - position[None, :] + torch.tensor(window) - 1
    index = torch.zeros(offset.shape[:2], dtype=torch.long)
    for axis, w in enumerate(window):
        index = index * (2 * w - 1) + offset[..., axis]
    return index
