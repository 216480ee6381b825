"""UMMKD (Dou et al. 2020): all convolutions shared, private norms, distillation of the classes.

Per modality Dice + cross-entropy weighted by class frequency. Between modalities, the confusion of
the classes: the softened mean prediction on the voxels of a class should be the same in both.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import log
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional

from unpaired.backbones.base import Backbone, Decoded
from unpaired.backbones.resenc_stages import Layout, PerStage, lay_out, size_step, total_strides
from unpaired.config import Config
from unpaired.config.schema import ModelConfig
from unpaired.data.plan import Plan
from unpaired.losses import Term
from unpaired.losses.objective import Labels, Outputs
from unpaired.losses.segmentation import Sync, annotated, dice_sums, identity
from unpaired.methods.base import Method, input_channels
from unpaired.models import Segmenter
from unpaired.nn.block import Gains
from unpaired.nn.dims import BATCH_NORM, CONV, CONV_TRANSPOSE

DICE_EPSILON = 1e-7
LEAST_PROBABILITY = 0.005


@dataclass(frozen=True)
class Ummkd(Method):
    """Terms `seg/m` and `kd`; the distillation is left out where its weight is 0."""

    name = "ummkd"

    def network(self, model: ModelConfig) -> type[Backbone]:
        return UmmkdNet

    def segmenter(self, config: Config, plan: Plan) -> Segmenter:
        backbone, channels = self.backbone(config, plan), input_channels(plan)
        return Segmenter(backbone, channels, private_encoders=True, fixed_stems=True)

    def terms(self, config: Config, plan: Plan, sync: Sync = identity) -> dict[str, Term]:
        loss = config.loss
        return ummkd_terms(loss.ce, loss.dice, loss.distill, loss.distill_tau, sync)


def ummkd_terms(
    ce: float = 1.0,
    dice: float = 1.0,
    weight: float = 0.5,
    temperature: float = 2.0,
    sync: Sync = identity,
) -> dict[str, Term]:
    """L = sum_m (ce CE_m + dice Dice_m) + weight KD, at least in float32."""

    def segment(outputs: Outputs, labels: Labels) -> dict[str, Tensor]:
        exact = {m: _exact(output.logits) for m, output in outputs.items()}
        return {
            m: ce * frequency_cross_entropy(x, labels[m], sync)
            + dice * plain_dice_loss(x, labels[m], sync)
            for m, x in exact.items()
        }

    def distil(outputs: Outputs, labels: Labels) -> Tensor | dict[str, Tensor]:
        if len(outputs) < 2:
            return {}
        exact = {m: _exact(output.logits) for m, output in outputs.items()}
        return distillation(exact, labels, temperature, sync)

    terms = {"seg": Term(1.0, segment)}
    return terms | {"kd": Term(weight, distil)} if weight else terms


def frequency_cross_entropy(
    logits: Float[Tensor, "B Z *space"], label: Int64[Tensor, "B *space"], sync: Sync = identity
) -> Float[Tensor, ""]:
    """Mean over all positions of -w log p, with w = 1 - the share of the position's class.

    Positions that nobody annotated are left out. Shares are those of the batch of all processes.
    Probabilities below 0.005 count as 0.005, and have no gradient.
    """
    logits, label = annotated(logits, label)
    counts = sync(torch.bincount(label.flatten(), minlength=logits.shape[1]).to(logits.dtype))
    weight = 1 - counts / counts.sum().clamp(min=1)
    log_p = logits.log_softmax(1).clamp(min=log(LEAST_PROBABILITY))
    own = log_p.gather(1, label[:, None])[:, 0]
    return sync(-(weight[label] * own).sum()) / counts.sum().clamp(min=1)


def plain_dice_loss(
    logits: Float[Tensor, "B Z *space"], label: Int64[Tensor, "B *space"], sync: Sync = identity
) -> Float[Tensor, ""]:
    """1 - the mean over all classes of 2 sum p y / (sum p^2 + sum y + e), sums over the batch.

    Nothing is added above: a class that the batch lacks counts 0 and pulls at nothing. (The
    original leaves out the constant 1.)
    """
    overlap, square, truth = dice_sums(logits, label, sync)
    return 1 - (2 * overlap / (square + truth + DICE_EPSILON)).mean()


def class_sums(
    logits: Float[Tensor, "B Z *space"], label: Int64[Tensor, "B *space"]
) -> Float[Tensor, "Z F"]:
    """Per class: the sum of the logits over its positions in the whole batch (Z), their number."""
    logits, label = annotated(logits, label)
    truth = functional.one_hot(label.flatten(1), logits.shape[1]).to(logits.dtype)
    sums = torch.einsum("bzp,bpc->cz", logits.flatten(2), truth)
    return torch.cat([sums, truth.sum((0, 1))[:, None]], 1)


def distillation(
    logits: Mapping[str, Float[Tensor, "_ Z ..."]],
    labels: Mapping[str, Int64[Tensor, "_ ..."]],
    temperature: float = 2.0,
    sync: Sync = identity,
) -> Float[Tensor, ""]:
    """Symmetric KL between modalities of softmax(mean logits of a class / temperature).

    (KL(p|q) + KL(q|p)) / 2, mean over the classes that both modalities hold in the batch, mean
    over the pairs of modalities; a pair without a common class counts 0, one modality has no pair.
    Leaving out absent classes is our reading: their mean does not exist.
    """
    sums = sync(torch.stack([class_sums(x, labels[m]) for m, x in logits.items()]))  # [M Z Z+1]
    counts = sums[..., -1]
    mean = sums[..., :-1] / counts.clamp(min=1)[..., None]
    log_p = (mean / temperature).log_softmax(-1)
    p = log_p.exp()
    losses = []
    for a, b in combinations(range(len(sums)), 2):
        both = (counts[a] > 0) & (counts[b] > 0)
        per_class = ((p[a] - p[b]) * (log_p[a] - log_p[b])).sum(-1) / 2
        losses.append((per_class * both).sum() / both.sum().clamp(min=1))
    return torch.stack(losses).mean() if losses else sums.new_zeros(())


def _exact(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


@dataclass(frozen=True)
class UmmkdNetOptions:
    """What `model.options` may say of UMMKD's network.

    Attributes:
        base_width: width of the finest stage; it doubles with every stage.
        max_width: largest width.
        stages: number of resolutions; None takes as many as `strides` has or the size allows.
        strides: stride per stage, the first 1; None halves as `ResEncUnet` does.
        dropout: share of values dropped after every encoder stage but the finest.
    """

    base_width: int = 16
    max_width: int = 256
    stages: int | None = None
    strides: PerStage | None = None
    dropout: float = 0.25


class UmmkdNet(Backbone):
    """A compact encoder-decoder of convolution -> batch norm -> ReLU, two to a stage.

    The layers are our reading (docs/comparators.md). What a modality has of its own
    (`take_private`) is the list of its norms: their affine maps and their running statistics. In
    training a sub-batch is normalised by its own statistics, so modalities never mix.

    Args:
        image_size: size per spatial axis that the strides are chosen for.
        in_channels: channels K of the input.
        classes: number of classes Z, background included.
        options: those of `UmmkdNetOptions`, by name.

    Raises:
        ValueError: the options contradict each other or do not fit the image size.
    """

    Options = UmmkdNetOptions

    def __init__(
        self,
        image_size: Sequence[int],
        in_channels: int = 3,
        classes: int = 5,
        **options: Any,
    ) -> None:
        super().__init__()
        o = UmmkdNetOptions(**options)
        self.dims, self.in_channels, self.classes = len(image_size), in_channels, classes
        plan = lay_out(image_size, Layout(o.base_width, o.max_width, o.stages, 1, o.strides))
        conv, rise = CONV[self.dims], CONV_TRANSPOSE[self.dims]
        widths = [in_channels, *(stage.channels for stage in plan)]
        self.down = nn.ModuleList(
            _convolutions(conv, before, stage.channels, stage.kernel, stage.stride)
            for before, stage in zip(widths, plan, strict=False)
        )
        coarse = plan[::-1]
        self.ups = nn.ModuleList(
            rise(below.channels, stage.channels, below.stride, below.stride)
            for below, stage in pairwise(coarse)
        )
        self.joins = nn.ModuleList(
            _convolutions(conv, 2 * stage.channels, stage.channels, stage.kernel)
            for stage in coarse[1:]
        )
        self.classify = conv(plan[0].channels, classes, 1)
        self.norms: nn.Module = nn.ModuleList(
            BATCH_NORM[self.dims](stage.channels) for stage in [*plan, *coarse[1:]] for _ in (1, 2)
        )
        """In the order of use."""
        self.dropout = nn.Dropout(o.dropout)
        self.levels, self.multiple = (), total_strides([stage.stride for stage in plan])[-1]
        self.input_layers, self.pads_input = ("down.0.0",), True
        for module in self.modules():
            if isinstance(module, (conv, rise)):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    @classmethod
    def size_step(cls, options: Mapping[str, Any], dims: int) -> tuple[int, ...]:
        """Per axis, the step of image sizes, as of `ResEncUnet`."""
        return size_step(options, dims)

    def take_private(self) -> nn.Module:
        taken, self.norms = self.norms, nn.Identity()
        return taken

    def put_private(self, private: nn.Module) -> None:
        self.norms = private

    def forward(
        self,
        image: Float[Tensor, "B K *space"],
        gains: Gains | None = None,
        private: nn.Module | None = None,
    ) -> Decoded:
        """Segment a batch with the norms of one modality, by default the network's own."""
        self.check_size(image.shape[2:])
        norms = iter(_listed(self.norms if private is None else private))

        def convolve(x: Tensor, stage: Iterable[nn.Module]) -> Tensor:
            for conv in stage:
                x = next(norms)(conv(x)).relu()
            return x

        x, maps = image, []
        for i, stage in enumerate(self.down):
            x = convolve(x, _listed(stage))
            x = self.dropout(x) if i else x
            maps.append(x)
        maps.pop()
        for up, stage in zip(self.ups, self.joins, strict=True):
            x = convolve(torch.cat([up(x), maps.pop()], 1), _listed(stage))
        return Decoded(self.classify(x), ())


def _convolutions(
    conv: type[nn.Module],
    before: int,
    channels: int,
    kernel: tuple[int, ...],
    stride: int | tuple[int, ...] = 1,
) -> nn.ModuleList:
    """Two, the first with the stride; no bias before a norm, which cancels it."""
    padding = tuple(k // 2 for k in kernel)
    return nn.ModuleList(
        conv(n, channels, kernel, s, padding, bias=False)
        for n, s in ((before, stride), (channels, 1))
    )


def _listed(modules: nn.Module) -> nn.ModuleList:
    assert isinstance(modules, nn.ModuleList)
    return modules
