"""Attention in windows with a relative position bias (Liu et al. 2021), any number of axes."""

from collections.abc import Sequence
from itertools import product
from math import prod
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

# Windows over any number of spatial axes: split, join, shift mask, relative position index.


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


def attend(
    q: Float[Tensor, "B W N T D"],
    k: Float[Tensor, "B W N T D"],
    v: Float[Tensor, "B W N T D"],
    bias: Float[Tensor, "#W N T T"],
) -> Float[Tensor, "B W N T D"]:
    """softmax(q k' / sqrt(D) + bias) v.

    By hand on the CPU, where the fused kernel with an additive bias is slower
    (docs/decisions.md, D31); fused on a GPU.
    """
    if q.is_cuda:
        mask = bias.to(q.dtype).expand(q.shape[1], -1, -1, -1)
        out = functional.scaled_dot_product_attention(
            q.flatten(0, 1), k.flatten(0, 1), v.flatten(0, 1), mask.repeat(q.shape[0], 1, 1, 1)
        )
        return out.unflatten(0, q.shape[:2])
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2) + bias.to(q.dtype)
    return logits.softmax(-1) @ v


class Window(NamedTuple):
    """How a map is cut.

    Attributes:
        size: of a window, per axis.
        shift: cyclic shift per axis, 0 for none.
        legacy_index: look the bias up as the original nnFormer does (`colliding_index`).
        mask_shift: keep apart what only the cyclic shift brings together; the original nnFormer
            of one data set does not.
    """

    size: tuple[int, ...]
    shift: tuple[int, ...]
    legacy_index: bool = False
    mask_shift: bool = True

    def still(self) -> "Window":
        """The same window, not shifted."""
        return self._replace(shift=(0,) * len(self.size))


class Windows(nn.Module):
    """What attention in windows of a channels-last map shares: the cut, the bias, the way back.

    Args:
        channels: width C of the map.
        heads: number of heads; C must be a multiple of it.
        window: how the map is cut.
        reads: name of the layer that comes first, a letter for each tensor that it makes: "qkv".

    A map that the window does not divide is padded with zeros behind the end of its axes; padded
    positions take part like any other, as in the original nnFormer.
    """

    relative: Tensor

    def __init__(self, channels: int, heads: int, window: Window, reads: str) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels cannot be split into {heads} heads")
        self.heads, self.window, self.shift = heads, window.size, window.shift
        self.masked = window.mask_shift and any(self.shift)
        self.add_module(reads, nn.Linear(channels, len(reads) * channels))
        self.project = nn.Linear(channels, channels)
        self.bias_table = nn.Parameter(torch.empty(prod(2 * w - 1 for w in self.window), heads))
        index = colliding_index if window.legacy_index else relative_index
        self.register_buffer("relative", index(self.window), persistent=False)
        self._masks: dict[tuple[object, ...], Tensor] = {}
        nn.init.trunc_normal_(self.bias_table, std=0.02)

    def padded(self, space: Sequence[int]) -> tuple[int, ...]:
        """The next multiple of the window, per axis."""
        return tuple(-(-n // w) * w for n, w in zip(space, self.window, strict=True))

    def cut(self, x: Float[Tensor, "B *space C"]) -> Float[Tensor, "B W T C"]:
        """Pad, shift, cut."""
        x = pad_to(x, self.padded(x.shape[1:-1]))
        if any(self.shift):
            x = x.roll([-s for s in self.shift], tuple(range(1, x.ndim - 1)))
        return split_windows(x, self.window)

    def split_heads(self, x: Float[Tensor, "B W T _"], parts: int) -> Float[Tensor, "_ B W N T D"]:
        """Channels that hold `parts` tensors, heads within them -> one tensor each."""
        return x.reshape(*x.shape[:3], parts, self.heads, -1).permute(3, 0, 1, 4, 2, 5)

    def merge(
        self, out: Float[Tensor, "B W N T D"], space: Sequence[int]
    ) -> Float[Tensor, "B *space C"]:
        """Heads together, project, join, shift back, crop."""
        windows = self.project(out.transpose(2, 3).flatten(3))
        x = join_windows(windows, self.window, self.padded(space))
        if any(self.shift):
            x = x.roll(self.shift, tuple(range(1, x.ndim - 1)))
        return crop_to(x, space)

    def bias(self, space: Sequence[int]) -> Float[Tensor, "_ N T T"]:
        """Added to the logits of each window; -100 where two positions must not meet."""
        bias = self.bias_table[self.relative].permute(2, 0, 1)[None]
        if not self.masked:
            return bias
        return bias.masked_fill(self._mask(self.padded(space), bias.device), -100.0)

    def _mask(self, space: tuple[int, ...], device: torch.device) -> Bool[Tensor, "W 1 T T"]:
        """The mask depends on the map's size only: build it once per size and device."""
        key = (space, device)
        if key not in self._masks:
            with torch.inference_mode(False):  # training may use it after a validation built it
                mask = shift_mask(space, self.window, self.shift)[:, None]
                self._masks[key] = mask.to(device)
        return self._masks[key]


class WindowAttention(Windows):
    """Self-attention inside (shifted) windows of a channels-last map.

    `project` is the last linear layer of the branch: the channel scaling folds into it.
    """

    qkv: nn.Linear

    def __init__(self, channels: int, heads: int, window: Window) -> None:
        super().__init__(channels, heads, window, "qkv")

    def forward(self, x: Float[Tensor, "B *space C"]) -> Float[Tensor, "B *space C"]:
        space = x.shape[1:-1]
        q, k, v = self.split_heads(self.qkv(self.cut(x)), 3)
        return self.merge(attend(q, k, v, self.bias(space)), space)


class SkipAttention(Windows):
    """Positions of a map attend to the skip in the same window, never shifted; the map itself is
    the query.

    Only keys and values have a projection (nnFormer, Zhou et al. 2023, in its published code).
    `project` is the last linear layer of the branch.
    """

    kv: nn.Linear

    def __init__(self, channels: int, heads: int, window: Window) -> None:
        super().__init__(channels, heads, window.still(), "kv")

    def forward(
        self, x: Float[Tensor, "B *space C"], skip: Float[Tensor, "B *space C"]
    ) -> Float[Tensor, "B *space C"]:
        space = x.shape[1:-1]
        (q,) = self.split_heads(self.cut(x), 1)
        k, v = self.split_heads(self.kv(self.cut(skip)), 2)
        return self.merge(attend(q, k, v, self.bias(space)), space)
