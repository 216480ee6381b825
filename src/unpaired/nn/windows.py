"""Windows over any number of spatial axes: split, join, shift mask, relative position index."""

from collections.abc import Sequence
from itertools import product
from math import prod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional


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


def colliding_index(window: Sequence[int]) -> Int[Tensor, "T T"]:
    """The index of the original nnFormer, for its weights only: it lets offsets collide.

    Its factors are (3w - 1, 2w - 1, 1) with w the second axis' window, where ((2w - 1)^2, 2w - 1,
    1) would give every offset a row: of 343 rows for windows of 4, 115 are used.

    Raises:
        ValueError: there are not three axes, or the index would leave the table.
    """
    if len(window) != 3:
        raise ValueError(
            f"the original index exists for volumes only, not for windows of {tuple(window)}; "
            "set legacy_index = false"
        )
    position = torch.tensor(list(product(*(range(w) for w in window))))
    offset = position[:, None] - position[None, :] + torch.tensor(window) - 1
    factors = 3 * window[1] - 1, 2 * window[1] - 1, 1
    rows = prod(2 * w - 1 for w in window)
    if sum(2 * (w - 1) * f for w, f in zip(window, factors, strict=True)) >= rows:
        raise ValueError(
            f"the original index needs more than the {rows} rows of windows of {tuple(window)}; "
            "set legacy_index = false"
        )
    return (offset * torch.tensor(factors)).sum(-1)


def pad_to(x: Float[Tensor, "B *space C"], size: Sequence[int]) -> Float[Tensor, "B *padded C"]:
    """Zeros behind the end of each axis that is shorter than `size`."""
    missing = [n - m for n, m in zip(size, x.shape[1:-1], strict=True)]
    if not any(missing):
        return x
    return functional.pad(x, [0, 0, *(side for n in reversed(missing) for side in (0, n))])


def crop_to(x: Float[Tensor, "B *padded C"], size: Sequence[int]) -> Float[Tensor, "B *space C"]:
    """The first `size` positions of each axis."""
    if tuple(x.shape[1:-1]) == tuple(size):
        return x
    return x[(slice(None), *(slice(n) for n in size))]
