"""Swin-Unet in its plain form: the network as published, for two axes, written plainly.

Nothing is saved or reordered: tokens are laid out as [B L C], the window's bias is gathered and
the shift mask added as numbers in every pass, maps are normalised after they are expanded, and the
last 1x1 convolution reads the full-size map. Parameters carry the original's names, so the
published weights load as they are.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def windows_of(x: Tensor, w: int) -> Tensor:
    """[B H W C] -> [(B windows) w w C]."""
    b, height, width, c = x.shape
    x = x.view(b, height // w, w, width // w, w, c)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, w, w, c)


def map_of(windows: Tensor, w: int, height: int, width: int) -> Tensor:
    """Inverse of `windows_of`."""
    b = windows.shape[0] // (height // w * (width // w))
    x = windows.view(b, height // w, width // w, w, w, -1)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(b, height, width, -1)


class Attention(nn.Module):
    """Self-attention inside windows, with a relative position bias."""

    def __init__(self, dim: int, window: int, heads: int) -> None:
        super().__init__()
        self.window, self.heads, self.scale = window, heads, (dim // heads) ** -0.5
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing="ij")
        at = torch.stack([y.flatten(), x.flatten()])
        offset = at[:, :, None] - at[:, None, :] + window - 1
        self.register_buffer("index", offset[0] * (2 * window - 1) + offset[1], persistent=False)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        b, t, c = x.shape
        qkv = self.qkv(x).reshape(b, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0] * self.scale, qkv[1], qkv[2]
        attn = q @ k.transpose(-2, -1)
        bias = self.relative_position_bias_table[self.index.view(-1)].view(t, t, -1)
        attn = attn + bias.permute(2, 0, 1).contiguous().unsqueeze(0)
        if mask is not None:
            count = mask.shape[0]
            attn = attn.view(b // count, count, self.heads, t, t) + mask[None, :, None]
            attn = attn.view(-1, self.heads, t, t)
        attn = attn.softmax(-1)
        return self.proj((attn @ v).transpose(1, 2).reshape(b, t, c))


class Mlp(nn.Module):
    """Two linear layers."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x)))


class Block(nn.Module):
    """One (shifted) window block on tokens [B L C] of a square map."""

    def __init__(self, dim: int, size: int, heads: int, window: int, shift: int) -> None:
        super().__init__()
        self.size, self.window, self.shift = size, min(window, size), shift if size > window else 0
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn = Attention(dim, self.window, heads)
        self.mlp = Mlp(dim)
        self.register_buffer("mask", self._mask(), persistent=False)

    def _mask(self) -> Tensor | None:
        if not self.shift:
            return None
        region = torch.zeros(1, self.size, self.size, 1)
        cuts = (slice(0, -self.window), slice(-self.window, -self.shift), slice(-self.shift, None))
        for i, rows in enumerate(cuts):
            for j, columns in enumerate(cuts):
                region[:, rows, columns] = 3 * i + j
        flat = windows_of(region, self.window).view(-1, self.window**2)
        apart = flat[:, None, :] != flat[:, :, None]
        return torch.zeros(apart.shape).masked_fill(apart, -100.0)

    def forward(self, x: Tensor) -> Tensor:
        b, length, c = x.shape
        shortcut = x
        x = self.norm1(x).view(b, self.size, self.size, c)
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        windows = windows_of(x, self.window).view(-1, self.window**2, c)
        windows = self.attn(windows, self.mask).view(-1, self.window, self.window, c)
        x = map_of(windows, self.window, self.size, self.size)
        if self.shift:
            x = torch.roll(x, (self.shift, self.shift), (1, 2))
        x = shortcut + x.view(b, length, c)
        return x + self.mlp(self.norm2(x))


class Merge(nn.Module):
    """2 x 2 tokens -> one of twice the width."""

    def __init__(self, dim: int, size: int) -> None:
        super().__init__()
        self.size = size
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, _, c = x.shape
        x = x.view(b, self.size, self.size, c)
        parts = [x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)]
        return self.reduction(self.norm(torch.cat(parts, -1).view(b, -1, 4 * c)))


class Expand(nn.Module):
    """One token -> `scale` x `scale` tokens."""

    def __init__(self, dim: int, size: int, scale: int, out: int) -> None:
        super().__init__()
        self.size, self.scale, self.out = size, scale, out
        self.expand = nn.Linear(dim, scale**2 * out, bias=False)
        self.norm = nn.LayerNorm(out)

    def forward(self, x: Tensor) -> Tensor:
        b, s = x.shape[0], self.scale
        x = self.expand(x).view(b, self.size, self.size, s, s, self.out)
        x = x.permute(0, 1, 3, 2, 4, 5).contiguous().view(b, -1, self.out)
        return self.norm(x)


class Stage(nn.Module):
    """Blocks, then a change of resolution where there is one."""

    def __init__(self, dim: int, size: int, depth: int, heads: int, window: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(dim, size, heads, window, window // 2 if i % 2 else 0) for i in range(depth)
        )
        self.downsample: nn.Module | None = None
        self.upsample: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        change = self.downsample or self.upsample
        return x if change is None else change(x)


class Embed(nn.Module):
    """Patches to tokens."""

    def __init__(self, channels: int, dim: int, patch: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, dim, patch, patch)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).flatten(2).transpose(1, 2))


class PlainSwinUnet(nn.Module):
    """The published network on square images, without stochastic depth."""

    def __init__(
        self,
        size: int = 224,
        classes: int = 9,
        dim: int = 96,
        depths: Sequence[int] = (2, 2, 2, 2),
        heads: Sequence[int] = (3, 6, 12, 24),
        window: int = 7,
        channels: int = 3,
    ) -> None:
        super().__init__()
        self.grid = size // 4
        self.patch_embed = Embed(channels, dim, 4)
        shapes = [(dim * 2**i, self.grid // 2**i, depths[i], heads[i], window) for i in range(4)]
        self.layers = nn.ModuleList(Stage(*shape) for shape in shapes)
        for stage, shape in zip(self.layers[:-1], shapes, strict=False):
            stage.downsample = Merge(shape[0], shape[1])
        self.norm = nn.LayerNorm(8 * dim)
        self.layers_up = nn.ModuleList([Expand(8 * dim, self.grid // 8, 2, 4 * dim)])
        self.concat_back_dim = nn.ModuleList([nn.Identity()])
        for shape in reversed(shapes[:-1]):
            self.concat_back_dim.append(nn.Linear(2 * shape[0], shape[0]))
            self.layers_up.append(Stage(*shape))
        for stage, shape in zip(self.layers_up[1:-1], shapes[2:0:-1], strict=True):
            stage.upsample = Expand(shape[0], shape[1], 2, shape[0] // 2)
        self.norm_up = nn.LayerNorm(dim)
        self.up = Expand(dim, self.grid, 4, dim)
        self.output = nn.Conv2d(dim, classes, 1, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch_embed(image)
        skips = []
        for stage in self.layers:
            skips.append(x)
            x = stage(x)
        x = self.norm(x)
        for i, stage in enumerate(self.layers_up):
            if i:
                x = self.concat_back_dim[i](torch.cat([x, skips[3 - i]], -1))
            x = stage(x)
        x = self.up(self.norm_up(x))
        full = 4 * self.grid
        return self.output(x.view(x.shape[0], full, full, -1).permute(0, 3, 1, 2))
