"""Window self-attention with a relative position bias (Liu et al. 2021), any number of axes."""

from collections.abc import Sequence
from math import prod

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from unpaired.nn.windows import join_windows, relative_index, shift_mask, split_windows


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


class WindowAttention(nn.Module):
    """Self-attention inside (shifted) windows of a channels-last map.

    Args:
        channels: width C of the map.
        heads: number of heads; C must be a multiple of it.
        window: window size per axis.
        shift: cyclic shift per axis, 0 for none.

    `project` is the last linear layer of the branch: the channel scaling folds into it.
    """

    relative: Tensor

    def __init__(
        self, channels: int, heads: int, window: Sequence[int], shift: Sequence[int]
    ) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(f"{channels} channels cannot be split into {heads} heads")
        self.heads, self.window, self.shift = heads, tuple(window), tuple(shift)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, channels)
        self.bias_table = nn.Parameter(torch.empty(prod(2 * w - 1 for w in window), heads))
        self.register_buffer("relative", relative_index(window), persistent=False)
        self._masks: dict[tuple[object, ...], Tensor] = {}
        nn.init.trunc_normal_(self.bias_table, std=0.02)

    def forward(self, x: Float[Tensor, "B *space C"]) -> Float[Tensor, "B *space C"]:
        space = x.shape[1:-1]
        axes = tuple(range(1, x.ndim - 1))
        if any(self.shift):
            x = x.roll([-s for s in self.shift], axes)
        windows = split_windows(x, self.window)
        batch, count, positions, channels = windows.shape
        qkv = self.qkv(windows).reshape(batch, count, positions, 3, self.heads, -1)
        q, k, v = qkv.permute(3, 0, 1, 4, 2, 5)
        out = attend(q, k, v, self._bias(space))
        windows = self.project(out.transpose(2, 3).reshape(batch, count, positions, channels))
        x = join_windows(windows, self.window, space)
        return x.roll(self.shift, axes) if any(self.shift) else x

    def _bias(self, space: Sequence[int]) -> Float[Tensor, "W N T T"]:
        bias = self.bias_table[self.relative].permute(2, 0, 1)[None]
        if not any(self.shift):
            return bias
        return bias.masked_fill(self._mask(tuple(space), bias.device), -100.0)

    def _mask(self, space: tuple[int, ...], device: torch.device) -> Bool[Tensor, "W 1 T T"]:
        """The mask depends on the map's size only: build it once per size and device."""
        key = (space, device)
        if key not in self._masks:
            with torch.inference_mode(False):  # training may use it after a validation built it
                mask = shift_mask(space, self.window, self.shift)[:, None]
                self._masks[key] = mask.to(device)
        return self._masks[key]
