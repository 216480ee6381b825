"""Dual-stream U-Nets (Valindria et al. 2018): which parts of one U-Net the modalities share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unpaired.backbones.base import Backbone, Decoded
from unpaired.backbones.resenc_stages import (
    Layout,
    PerStage,
    Stage,
    lay_out,
    size_step,
    total_strides,
)
from unpaired.config import Config
from unpaired.config.schema import ModelConfig
from unpaired.data.plan import Plan
from unpaired.losses import Term
from unpaired.losses.segmentation import Sync, identity
from unpaired.methods.base import Method, input_channels
from unpaired.methods.consistency import paper_objective
from unpaired.models import Segmenter
from unpaired.nn.block import Gains
from unpaired.nn.dims import CONV, CONV_TRANSPOSE
from unpaired.nn.residual import SLOPE, ConvBlock, ConvNorm, ResidualBlock, activation

SHARINGS: dict[str, tuple[str, ...]] = {
    "all": (),
    "encoder": ("rise", "up"),
    "decoder": ("down", "bottom"),
    "middle": ("down", "up"),
}
"""What is shared -> the parts that are private to a modality; "decoder" is Y, "middle" X."""


@dataclass(frozen=True)
class Valindria(Method):
    """Its loss is the segmentation's alone."""

    name = "valindria"

    def network(self, model: ModelConfig) -> type[Backbone]:
        return DualStream

    def segmenter(self, config: Config, plan: Plan) -> Segmenter:
        backbone = self.backbone(config, plan)
        assert isinstance(backbone, DualStream)
        return Segmenter(backbone, input_channels(plan), bool(backbone.own), fixed_stems=True)

    def terms(self, config: Config, plan: Plan, sync: Sync = identity) -> dict[str, Term]:
        plain = config.loss.model_copy(update={"alpha": 0.0, "beta": 0.0, "gamma": 0.0})
        return paper_objective(plain, sync).terms()


class Down(nn.Module):
    """Stem and every encoder level but the last; yields their maps, fine to coarse."""

    def __init__(self, stages: Sequence[Stage], in_channels: int, norm: str) -> None:
        super().__init__()
        first = stages[0]
        self.stem = ConvNorm(in_channels, first.channels, first.kernel, first.stride, norm)
        self.act = activation()
        self.stages = nn.ModuleList(
            _level(first if i == 0 else stages[i - 1], stage, norm, i == 0)
            for i, stage in enumerate(stages[:-1])
        )

    def forward(self, image: Float[Tensor, "B K *space"]) -> list[Tensor]:
        x, maps = self.act(self.stem(image)), []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps


class Rise(nn.Module):
    """One decoder level: up, join the skip, convolve."""

    def __init__(self, below: Stage, stage: Stage, norm: str) -> None:
        super().__init__()
        rise = CONV_TRANSPOSE[len(stage.stride)]
        self.up = rise(below.channels, stage.channels, below.stride, below.stride)
        self.join = ConvBlock(2 * stage.channels, stage.channels, stage.kernel, norm)

    def forward(self, x: Float[Tensor, "B _ ..."], skip: Tensor) -> Tensor:
        return self.join(torch.cat([self.up(x), skip], 1))


class Up(nn.Module):
    """Every decoder level but the first (coarsest), and the classes' layer."""

    def __init__(self, stages: Sequence[Stage], classes: int, norm: str) -> None:
        super().__init__()
        self.rises = nn.ModuleList(Rise(b, s, norm) for b, s in pairwise(stages[-2::-1]))
        self.classify = CONV[len(stages[0].stride)](stages[0].channels, classes, 1)

    def forward(self, x: Float[Tensor, "B _ ..."], skips: Sequence[Tensor]) -> Tensor:
        for rise, skip in zip(self.rises, reversed(skips), strict=True):
            x = rise(x, skip)
        logits: Tensor = self.classify(x)
        return logits


@dataclass(frozen=True)
class DualStreamOptions:
    """What `model.options` may say of a dual-stream network.

    Attributes:
        sharing: "all"; "encoder"; "decoder" (Y); "middle" (X), reported as the best.
        base_width: width of the finest stage; it doubles with every stage.
        max_width: largest width.
        stages: number of resolutions; None takes as many as `strides` has or the size allows.
        blocks: residual blocks per encoder stage.
        strides: stride per stage, the first 1; None halves as `ResEncUnet` does.
        norm: "instance" or "group".
    """

    sharing: str = "middle"
    base_width: int = 32
    max_width: int = 320
    stages: int | None = None
    blocks: int = 1
    strides: PerStage | None = None
    norm: str = "instance"


class DualStream(Backbone):
    """A residual U-Net in four parts, of which a modality has some of its own.

    `down` (encoder levels) -> `bottom` (last encoder level) -> `rise` (first decoder level) ->
    `up` (further decoder levels, classes). The four sharings are our reading
    (docs/comparators.md). Private parts are alike at the start.

    Args:
        image_size: size per spatial axis that the strides are chosen for.
        in_channels: channels K of the input.
        classes: number of classes Z, background included.
        options: those of `DualStreamOptions`, by name.

    Raises:
        ValueError: the sharing is unknown, or the options do not fit each other or the image size.
    """

    Options = DualStreamOptions

    def __init__(
        self,
        image_size: Sequence[int],
        in_channels: int = 3,
        classes: int = 5,
        **options: Any,
    ) -> None:
        super().__init__()
        o = DualStreamOptions(**options)
        if o.sharing not in SHARINGS:
            raise ValueError(f"sharing={o.sharing!r} is unknown; choose from {', '.join(SHARINGS)}")
        self.dims, self.in_channels, self.classes = len(image_size), in_channels, classes
        self.own = SHARINGS[o.sharing]
        """Names of the parts that are private to a modality."""
        plan = lay_out(image_size, Layout(o.base_width, o.max_width, o.stages, o.blocks, o.strides))
        self.down: nn.Module = Down(plan, in_channels, o.norm)
        self.bottom: nn.Module = _level(plan[-2], plan[-1], o.norm)
        self.rise: nn.Module = Rise(plan[-1], plan[-2], o.norm)
        self.up: nn.Module = Up(plan, classes, o.norm)
        self.levels, self.multiple = (), total_strides([stage.stride for stage in plan])[-1]
        self.input_layers, self.pads_input = ("down.stem.conv",), True
        convolutions = (CONV[self.dims], CONV_TRANSPOSE[self.dims])
        for module in self.modules():
            if isinstance(module, convolutions):
                nn.init.kaiming_normal_(module.weight, SLOPE)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        self.name_branches()

    @classmethod
    def size_step(cls, options: Mapping[str, Any], dims: int) -> tuple[int, ...]:
        """Per axis, the step of image sizes, as of `ResEncUnet`."""
        return size_step(options, dims)

    def take_private(self) -> nn.Module:
        taken = nn.ModuleDict({name: getattr(self, name) for name in self.own})
        for name in self.own:
            setattr(self, name, nn.Identity())
        return taken

    def put_private(self, private: nn.Module) -> None:
        for name in self.own:
            setattr(self, name, private.get_submodule(name))

    def forward(
        self,
        image: Float[Tensor, "B K *space"],
        gains: Gains | None = None,
        private: nn.Module | None = None,
    ) -> Decoded:
        """Segment a batch with the parts of one modality, by default the network's own."""
        self.check_size(image.shape[2:])

        def part(name: str) -> nn.Module:
            own = private is not None and name in self.own
            return (private if own and private is not None else self).get_submodule(name)

        *skips, last = part("down")(image)
        x = part("rise")(part("bottom")(last), last)
        return Decoded(part("up")(x, skips), ())


def _level(before: Stage, stage: Stage, norm: str, first: bool = False) -> nn.Sequential:
    """An encoder level; the stem has taken the first one's stride."""
    one = (1,) * len(stage.stride)
    return nn.Sequential(
        *(
            ResidualBlock(
                stage.channels if i else before.channels, stage.channels, stage.kernel,
                one if i or first else stage.stride, norm,
            )
            for i in range(stage.blocks)
        )
    )  # fmt: skip
