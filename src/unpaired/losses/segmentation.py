"""Cross-entropy + Dice, and the auxiliary loss on semantic-aware maps (paper, Eq. 9)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, distributed
from torch.nn import functional

Sync = Callable[[Tensor], Tensor]
"""Differentiable sum over the processes of a distributed run; the identity in one process."""

EPSILON = 1e-5
IGNORE_INDEX = -100
"""The label of positions that nobody annotated (torch's own default); they count nowhere."""


def identity(x: Tensor) -> Tensor:
    """The sum over one process."""
    return x


def of_all(x: Float[Tensor, "B *rest"], sync: Sync) -> Float[Tensor, "all *rest"]:
    """The rows of every process, one process after the other; in one process `x` itself.

    Every process must bring as many rows.
    """
    if sync is identity or not (distributed.is_available() and distributed.is_initialized()):
        return x
    rank, world = distributed.get_rank(), distributed.get_world_size()
    others = [torch.zeros_like(x) for _ in range(world - 1)]
    return sync(torch.cat([*others[:rank], x, *others[rank:]]))


def present(label: Int64[Tensor, "B *space"], classes: int) -> Bool[Tensor, "B Z"]:
    """Which classes each image holds."""
    flat = label.flatten(1)
    return torch.stack([(flat == z).any(1) for z in range(classes)], dim=1)


def annotated(
    logits: Float[Tensor, "B Z *space"], label: Int64[Tensor, "B *space"]
) -> tuple[Float[Tensor, "b Z ..."], Int64[Tensor, "b ..."]]:
    """Both without the positions that nobody annotated: [1 Z n] and [1 n]; as they are, where every
    position is annotated."""
    known = label != IGNORE_INDEX
    if bool(known.all()):
        return logits, label
    return logits.movedim(1, -1)[known].T[None], label[known][None]


def cross_entropy(
    logits: Float[Tensor, "B Z *space"],
    label: Int64[Tensor, "B *space"],
    class_weights: Float[Tensor, " Z"] | None = None,
    sync: Sync = identity,
) -> Float[Tensor, ""]:
    """(Weighted) mean of -log p over all annotated positions of all processes; 0 without any."""
    logits, label = annotated(logits, label)
    total = functional.cross_entropy(logits, label, class_weights, reduction="sum")
    weight = logits.new_tensor(float(label.numel()))
    if class_weights is not None:
        weight = class_weights[label].sum()
    return sync(total) / sync(weight).clamp_min(torch.finfo(logits.dtype).tiny)


def dice_loss(
    logits: Float[Tensor, "B Z *space"],
    label: Int64[Tensor, "B *space"],
    background: bool = True,
    sync: Sync = identity,
) -> Float[Tensor, ""]:
    """1 - (2 sum p y + e) / (sum p^2 + sum y^2 + e), mean over the classes, sums over the batch."""
    overlap, square, truth = dice_sums(logits, label, sync)
    ratio = (2 * overlap + EPSILON) / (square + truth + EPSILON)
    return 1 - (ratio if background else ratio[1:]).mean()


def dice_sums(
    logits: Float[Tensor, "B Z *space"], label: Int64[Tensor, "B *space"], sync: Sync = identity
) -> Float[Tensor, "3 Z"]:
    """Per class sum p y, sum p^2 and sum y (= sum y^2), over the annotated positions of the batch
    of all processes."""
    logits, label = annotated(logits, label)
    classes = logits.shape[1]
    p = logits.softmax(1)
    flat = label.flatten()
    hit = p.gather(1, label[:, None]).flatten()
    overlap = p.new_zeros(classes).index_add(0, flat, hit)
    square = p.square().flatten(2).sum((0, 2))
    truth = torch.bincount(flat, minlength=classes).to(p.dtype)
    return sync(torch.stack([overlap, square, truth]))


@dataclass(frozen=True)
class SegmentationLoss:
    """L_seg = ce * cross-entropy + dice * Dice, at least in float32.

    Attributes:
        class_weights: of the cross-entropy, background first; None: all equal.
        background: whether the Dice loss counts it.
        sync: sums over the processes of a distributed run.
    """

    ce: float = 1.0
    dice: float = 1.0
    class_weights: tuple[float, ...] | None = None
    background: bool = True
    sync: Sync = identity

    def __call__(
        self, logits: Float[Tensor, "B Z *space"], label: Int64[Tensor, "B *space"]
    ) -> Float[Tensor, ""]:
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        weights = None
        if self.class_weights is not None:
            weights = torch.tensor(self.class_weights, dtype=logits.dtype, device=logits.device)
        loss = self.ce * cross_entropy(logits, label, weights, self.sync)
        return loss + self.dice * dice_loss(logits, label, self.background, self.sync)


def label_at(label: Int64[Tensor, "B *space"], size: Sequence[int]) -> Int64[Tensor, "B *small"]:
    """Labels brought to a coarser grid: the label at the centre of each cell (nearest)."""
    for axis, n in enumerate(size, start=1):
        step = label.shape[axis] / n
        centre = ((torch.arange(n, device=label.device) + 0.5) * step).long()
        label = label.index_select(axis, centre)
    return label


def deep_weights(count: int) -> list[float]:
    """1, 1/2, 1/4, ... from fine to coarse, divided by their sum (nnU-Net, nnFormer)."""
    halves = [0.5**i for i in range(count)]
    return [value / sum(halves) for value in halves]


def auxiliary_loss(
    logits: Sequence[Float[Tensor, "B Z ..."]],
    label: Int64[Tensor, "B *space"],
    target: Literal["label", "logits"] = "label",
    segment: SegmentationLoss = SegmentationLoss(),
) -> Float[Tensor, ""]:
    """Eq. 9: the segmentation loss of each scale's auxiliary prediction, summed over the scales.

    Args:
        target: "label" brings the label to the scale; "logits" interpolates the logits up.
        segment: the loss of one scale.
    """
    total = logits[0].new_zeros(())
    for scale in logits:
        if target == "label":
            truth = label_at(label, scale.shape[2:])
        else:
            truth, mode = label, {1: "linear", 2: "bilinear", 3: "trilinear"}[label.ndim - 1]
            scale = functional.interpolate(scale, label.shape[1:], mode=mode)
        total = total + segment(scale, truth)
    return total
