"""nnFormer (Zhou et al. 2021, 2023), for any number of spatial axes.

Local and global attention in windows; strided convolutions down, transposed ones up. The published
networks are option sets of `nnformer_original.PUBLISHED`; our defaults are that of Synapse with
windows per axis and a bias table in which every offset has a row of its own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jaxtyping import Float
from torch import Tensor, nn

from unpaired.backbones.base import Backbone, Decoded
from unpaired.backbones.nnformer_layout import (
    Cut,
    Down,
    PerStage,
    Stage,
    check_options,
    linear_rates,
    map_sizes,
    multiple,
    patch_size,
    plan_downs,
    plan_levels,
    plan_stages,
)
from unpaired.nn.block import Gains
from unpaired.nn.dims import CONV_TRANSPOSE
from unpaired.nn.resample import ConvEmbed, StridedConv, TransposedConv


class Encoder(nn.Module):
    """Convolutional patches, then per stage blocks and a strided convolution.

    Yields the normalised map of every stage, fine to coarse.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        rates: Sequence[Sequence[float]],
        in_channels: int,
        patch: Sequence[int],
        downs: Sequence[Down],
    ) -> None:
        super().__init__()
        self.embed = ConvEmbed(in_channels, stages[0].channels, patch)
        self.stages = nn.ModuleList(
            stage.blocks(r, _alternating(r)) for stage, r in zip(stages, rates, strict=True)
        )
        self.downs = nn.ModuleList(
            StridedConv(stage.channels, *down)
            for stage, down in zip(stages[:-1], downs, strict=True)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(stage.channels) for stage in stages)

    def forward(
        self, image: Float[Tensor, "B K *space"], gains: Gains | None = None
    ) -> list[Tensor]:
        x = self.embed(image)
        maps = []
        for i, blocks in enumerate(self.stages):
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, gains)
            maps.append(self.norms[i](x))
            if i < len(self.downs):
                x = self.downs[i](x)
        return maps


class Add(nn.Module):
    """The skip joined by addition, as in the network of 2021."""

    def forward(
        self,
        x: Float[Tensor, "B *space C"],
        skip: Float[Tensor, "B *space C"],
        gains: Gains | None = None,
    ) -> Float[Tensor, "B *space C"]:
        return x + skip


class Decoder(nn.Module):
    """Transposed convolution, join the skip, blocks; a head per scale that is asked for.

    Args:
        stages: coarse to fine, each with the drop-path rates of its blocks (with `attend` the first
            is its join's) and the stride up to it.
        attend: join by attention to the skip (and shift all the blocks) instead of adding it.
        outputs: scales with a head, the finest first; the others than that are for training.
    """

    def __init__(
        self,
        stages: Sequence[tuple[Stage, Sequence[float], tuple[int, ...]]],
        attend: bool,
        classes: int,
        patch: Sequence[int],
        outputs: int,
    ) -> None:
        super().__init__()
        self.ups = nn.ModuleList(TransposedConv(2 * s.channels, up) for s, _, up in stages)
        if attend:
            self.joins = nn.ModuleList(s.join(r[0]) for s, r, _ in stages)
            self.stages = nn.ModuleList(
                s.blocks(r[1:], [True] * (len(r) - 1)) for s, r, _ in stages
            )
        else:
            self.joins = nn.ModuleList(Add() for _ in stages)
            self.stages = nn.ModuleList(s.blocks(r, _alternating(r)) for s, r, _ in stages)
        self.heads = nn.ModuleList(
            CONV_TRANSPOSE[len(patch)](stage.channels, classes, tuple(patch), tuple(patch))
            for stage, *_ in list(reversed(stages))[:outputs]
        )

    def forward(self, maps: list[Tensor], gains: Gains | None = None) -> Decoded:
        *skips, x = maps
        features = []
        for up, join, blocks in zip(self.ups, self.joins, self.stages, strict=True):
            skip = skips.pop()
            x = join(up(x, skip.shape[1:-1]), skip, gains)
            for block in blocks:  # type: ignore[attr-defined]
                x = block(x, gains)
            features.append(x.movedim(-1, 1))
        used = len(self.heads) if self.training else 1
        fine = reversed(features[-used:])
        logits, *deep = (head(f) for head, f in zip(self.heads, fine, strict=False))
        return Decoded(logits, tuple(features), tuple(deep))


@dataclass(frozen=True)
class NNFormerOptions:
    """What `model.options` may say of an nnFormer.

    Attributes:
        embed_dim: width C of the finest stage.
        depths: blocks per encoder stage; the decoder mirrors all but the last, the block that
            attends to the skip included.
        heads: heads per encoder stage.
        decoder_heads: heads at the widths C, 2C, 4C of the decoder; None: as the encoder.
        window: window of each encoder stage; the decoder uses that of its resolution. Per axis
            min(window, map size), and no shift along an axis that one window covers; a stage whose
            window covers the map is global.
        patch: size of a token per axis; None: 4, along the first axis of a volume 2.
        stride: of each step between two stages.
        overlap: convolutions down with kernel 3 and padding 1 along an axis that they cut; False:
            kernel = stride (2021).
        down_padding: zeros around what each of them reads, where not 1 for kernel 3, else 0.
        decoder: "skip_attention" (2022) or "add" (2021).
        deep_supervision: logits of coarser maps in training.
        deep_outputs: of how many coarser maps; the network of 2021 has 1.
        drop_path: largest rate of stochastic depth; grows linearly over the encoder, and again
            from the coarsest to the finest stage of the decoder.
        cubic_windows: the original's rule instead: where the window covers the smallest side of
            the map, that side is the window of every axis, without shift.
        legacy_index: the original's bias rows, where offsets collide; for its weights.
        mask_shift: False lets opposite ends of a shifted map meet, as the original for ACDC.
    """

    embed_dim: int = 192
    depths: Sequence[int] = (2, 2, 2, 2)
    heads: Sequence[int] = (6, 12, 24, 48)
    decoder_heads: Sequence[int] | None = None
    window: PerStage = (4, 4, 8, 4)
    patch: int | Sequence[int] | None = None
    stride: PerStage = 2
    overlap: bool = True
    down_padding: PerStage | None = None
    decoder: str = "skip_attention"
    deep_supervision: bool = False
    deep_outputs: int = 2
    drop_path: float = 0.2
    cubic_windows: bool = False
    legacy_index: bool = False
    mask_shift: bool = True


class NNFormer(Backbone):
    """nnFormer.

    Stages are the outer axis of an option that has several values: `window = 4` is for all stages
    and axes, `[4, 4, 8, 4]` per stage, `[[3, 5, 5], ...]` per stage and axis.

    Args:
        image_size: size per spatial axis that windows are laid out for; other legal sizes run.
        in_channels: channels K of the input.
        classes: number of classes Z, background included.
        options: those of `NNFormerOptions`, by name.

    Raises:
        ValueError: options that do not fit each other or the image size.
    """

    Options = NNFormerOptions

    def __init__(
        self,
        image_size: Sequence[int],
        in_channels: int = 1,
        classes: int = 5,
        **options: Any,
    ) -> None:
        super().__init__()
        o = NNFormerOptions(**options)
        self.dims, self.in_channels, self.classes = len(image_size), in_channels, classes
        check_options(o.decoder, o.depths, o.deep_outputs if o.deep_supervision else 1)
        count, patches = len(o.depths), patch_size(o.patch, self.dims)
        downs = plan_downs(o.stride, o.overlap, o.down_padding, count - 1, self.dims)
        self.multiple = multiple(patches, downs)
        self._patch, self._downs = patches, downs
        self.check_size(image_size)
        sizes = map_sizes(image_size, patches, downs)
        cut = Cut(o.window, o.cubic_windows, o.legacy_index, o.mask_shift)
        fine = plan_stages(sizes, o.embed_dim, o.heads, cut)
        inner = plan_stages(sizes, o.embed_dim, o.decoder_heads or o.heads[:-1], cut, last=False)
        coarse = inner[::-1]
        self.encoder = Encoder(
            fine, linear_rates(o.drop_path, o.depths), in_channels, patches, downs
        )
        rates = linear_rates(o.drop_path, list(o.depths)[-2::-1])
        ups = [down.stride for down in reversed(downs)]
        outputs = 1 + o.deep_outputs * o.deep_supervision
        attend = o.decoder == "skip_attention"
        stages = list(zip(coarse, rates, ups, strict=True))
        self.decoder = Decoder(stages, attend, classes, patches, outputs)
        self.levels = plan_levels(coarse, patches, downs)
        self.input_layers, self.pads_input = ("encoder.embed.convs.0",), True
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)
        self.name_branches()

    @classmethod
    def size_step(cls, options: Mapping[str, Any], dims: int) -> tuple[int, ...]:
        o = NNFormerOptions(**options)
        downs = plan_downs(o.stride, o.overlap, o.down_padding, len(o.depths) - 1, dims)
        return multiple(patch_size(o.patch, dims), downs)

    def check_size(self, size: Sequence[int]) -> None:
        super().check_size(size)
        map_sizes(size, self._patch, self._downs)


def _alternating(rates: Sequence[float]) -> list[bool]:
    """Every second block is shifted."""
    return [i % 2 == 1 for i in range(len(rates))]
