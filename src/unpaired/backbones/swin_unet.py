"""Swin-Unet (Cao et al. 2021), for any number of spatial axes.

The published network is `SwinUnet(image_size=(224, 224), window=7)`: 27,168,900 parameters with
9 classes. Windows, strides and patches are per axis, so a volume of depth 1 equals a picture.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import lcm
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unpaired.backbones.base import Backbone, Decoded, Level
from unpaired.nn.attention import Window
from unpaired.nn.block import Block, Gains
from unpaired.nn.dims import per_axis
from unpaired.nn.resample import PatchEmbed, PatchExpand, PatchMerge, cells_to_space


class Stage(NamedTuple):
    """What both paths share of one resolution."""

    channels: int
    heads: int
    window: Window
    rates: tuple[float, ...]
    """Drop-path rate per block."""

    def blocks(self) -> nn.ModuleList:
        """Alternating plain and shifted blocks."""
        still = self.window.still()
        return nn.ModuleList(
            Block(self.channels, self.heads, self.window if i % 2 else still, rate)
            for i, rate in enumerate(self.rates)
        )


class Encoder(nn.Module):
    """Patches, then per stage blocks and merging. Yields the skips and the bottleneck."""

    def __init__(
        self,
        stages: Sequence[Stage],
        in_channels: int,
        patch: Sequence[int],
        stride: Sequence[int],
        grid: Sequence[int] | None,
    ) -> None:
        super().__init__()
        width = stages[0].channels
        self.embed = PatchEmbed(in_channels, width, patch)
        self.position = None if grid is None else nn.Parameter(torch.zeros(*grid, width))
        self.stages = nn.ModuleList(stage.blocks() for stage in stages)
        self.merges = nn.ModuleList(PatchMerge(stage.channels, stride) for stage in stages[:-1])
        self.norm = nn.LayerNorm(stages[-1].channels)

    def forward(
        self, image: Float[Tensor, "B K *space"], gains: Gains | None = None
    ) -> list[Tensor]:
        x = self.embed(image)
        if self.position is not None:
            x = x + self.position
        maps = []
        for i, blocks in enumerate(self.stages):
            maps.append(x)  # the skip is what enters the stage
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, gains)
            if i < len(self.merges):
                x = self.merges[i](x)
        return [*maps[:-1], self.norm(x)]


class Decoder(nn.Module):
    """Expand, join the skip, blocks; the last stage is expanded to full size and classified."""

    def __init__(
        self,
        stages: Sequence[Stage],
        classes: int,
        patch: Sequence[int],
        stride: Sequence[int],
    ) -> None:
        super().__init__()
        coarse = [stage.channels for stage in reversed(stages)]
        self.expands = nn.ModuleList(PatchExpand(c, c // 2, stride) for c in coarse[:-1])
        self.joins = nn.ModuleList(nn.Linear(2 * c, c) for c in coarse[1:])
        self.stages = nn.ModuleList(stage.blocks() for stage in reversed(stages[:-1]))
        self.norm = nn.LayerNorm(coarse[-1])
        self.expand = PatchExpand(coarse[-1], coarse[-1], patch)
        self.classify = nn.Linear(coarse[-1], classes, bias=False)

    def forward(self, maps: list[Tensor], gains: Gains | None = None) -> Decoded:
        *skips, x = maps
        features = []
        for expand, join, blocks in zip(self.expands, self.joins, self.stages, strict=True):
            x = join(torch.cat([expand(x), skips.pop()], -1))
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, gains)
            features.append(x.movedim(-1, 1))
        cells = self.classify(self.expand.cells(self.norm(x)))  # Z values move, not C
        logits = cells_to_space(cells, self.expand.scale).movedim(-1, 1)
        return Decoded(logits, tuple(features))


@dataclass(frozen=True)
class SwinUnetOptions:
    """What `model.options` may say of a Swin-Unet.

    Attributes:
        embed_dim: width C of the finest stage.
        depths: blocks per encoder stage; the decoder mirrors all but the last.
        heads: heads per encoder stage.
        window: window per axis; min(window, map size) per axis, and no shift along an axis that
            one window covers. None takes, per axis, the largest up to 8 that cuts every map
            evenly: 8 at 256 and 128, 7 at 224.
        patch: size of a token per axis.
        stride: merging factor per axis.
        drop_path: largest rate of stochastic depth; grows linearly over the encoder, and each
            decoder stage uses the rates of the encoder stage of its width.
        position: add a learned absolute position embedding (ours; then the size is fixed).
    """

    embed_dim: int = 96
    depths: Sequence[int] = (2, 2, 2, 2)
    heads: Sequence[int] = (3, 6, 12, 24)
    window: int | Sequence[int] | None = None
    patch: int | Sequence[int] = 4
    stride: int | Sequence[int] = 2
    drop_path: float = 0.1
    position: bool = False


class SwinUnet(Backbone):
    """Swin-Unet.

    Args:
        image_size: size per spatial axis that windows are laid out for; other legal sizes run.
        in_channels: channels K of the input.
        classes: number of classes Z, background included.
        options: those of `SwinUnetOptions`, by name.

    Raises:
        ValueError: the image size does not fit patch, strides and windows.
    """

    Options = SwinUnetOptions

    def __init__(
        self,
        image_size: Sequence[int],
        in_channels: int = 3,
        classes: int = 5,
        **options: Any,
    ) -> None:
        super().__init__()
        o = SwinUnetOptions(**options)
        self.dims, self.in_channels, self.classes = len(image_size), in_channels, classes
        patches, strides = (per_axis(_plain(v), self.dims) for v in (o.patch, o.stride))
        if len(o.heads) != len(o.depths):
            raise ValueError(
                f"heads {tuple(o.heads)} and depths {tuple(o.depths)} differ in length"
            )
        sizes = _map_sizes(image_size, patches, strides, len(o.depths))
        windows = _windows(sizes) if o.window is None else per_axis(_plain(o.window), self.dims)
        rates = torch.linspace(0, o.drop_path, sum(o.depths)).split(list(o.depths))
        stages = [
            _stage(o.embed_dim * 2**i, o.heads[i], sizes[i], windows, rates[i].tolist())
            for i in range(len(o.depths))
        ]
        grid = sizes[0] if o.position else None
        self.encoder = Encoder(stages, in_channels, patches, strides, grid)
        self.decoder = Decoder(stages, classes, patches, strides)
        self.levels = tuple(
            Level(
                o.embed_dim * 2**i, tuple(p * s**i for p, s in zip(patches, strides, strict=True))
            )
            for i in reversed(range(len(o.depths) - 1))
        )
        self.multiple = tuple(image_size) if o.position else _multiple(stages, patches, strides)
        self.input_layers, self.pads_input = ("encoder.embed.conv",), False
        self._initialise()
        self.name_branches()

    @classmethod
    def size_step(cls, options: Mapping[str, Any], dims: int) -> tuple[int, ...]:
        o = SwinUnetOptions(**options)
        patch, stride, window = (
            per_axis(_plain(value), dims) for value in (o.patch, o.stride, o.window or 1)
        )
        return tuple(
            p * s ** (len(o.depths) - 1) * w for p, s, w in zip(patch, stride, window, strict=True)
        )

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear) and module is not self.decoder.classify:
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if isinstance(self.encoder.position, Tensor):
            nn.init.trunc_normal_(self.encoder.position, std=0.02)


def _plain(value: int | Sequence[int]) -> int | tuple[int, ...]:
    return value if isinstance(value, int) else tuple(value)


def _map_sizes(
    image_size: Sequence[int], patch: Sequence[int], stride: Sequence[int], stages: int
) -> list[tuple[int, ...]]:
    """Size of the map at each encoder stage."""
    factor = [p * s ** (stages - 1) for p, s in zip(patch, stride, strict=True)]
    if any(n % f for n, f in zip(image_size, factor, strict=True)):
        raise ValueError(
            f"image size {tuple(image_size)} does not fit: with patch {tuple(patch)}, merging by "
            f"{tuple(stride)} and {stages} stages it must be a multiple of {tuple(factor)}"
        )
    return [
        tuple(n // (p * s**i) for n, p, s in zip(image_size, patch, stride, strict=True))
        for i in range(stages)
    ]


def _stage(
    channels: int, heads: int, size: Sequence[int], window: Sequence[int], rates: Sequence[float]
) -> Stage:
    fitted = tuple(min(n, w) for n, w in zip(size, window, strict=True))
    if any(n % w for n, w in zip(size, fitted, strict=True)):
        raise ValueError(
            f"a map of {tuple(size)} cannot be cut into windows of {fitted}: choose a window that "
            "divides it, or another image size (256 with window 8, 224 with window 7)"
        )
    shift = tuple(w // 2 if n > w else 0 for n, w in zip(size, fitted, strict=True))
    return Stage(channels, heads, Window(fitted, shift), tuple(rates))


def _windows(sizes: Sequence[Sequence[int]], largest: int = 8) -> tuple[int, ...]:
    """Per axis, the largest window that divides every map it does not cover."""

    def fits(w: int, axis: int) -> bool:
        return all(size[axis] % min(w, size[axis]) == 0 for size in sizes)

    axes = range(len(sizes[0]))
    return tuple(next(w for w in range(largest, 0, -1) if fits(w, axis)) for axis in axes)


def _multiple(
    stages: Sequence[Stage], patch: Sequence[int], stride: Sequence[int]
) -> tuple[int, ...]:
    """Smallest step of legal sizes: every stage's map is a multiple of its window."""
    return tuple(
        lcm(*(patch[a] * stride[a] ** i * stage.window.size[a] for i, stage in enumerate(stages)))
        for a in range(len(patch))
    )
