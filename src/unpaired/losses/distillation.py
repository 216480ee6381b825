"""UMMKD's objective (Dou et al. 2020): segmentation, and distillation of what classes look like.

Per modality Dice + cross-entropy weighted by class frequency. Between modalities, the confusion of
the classes: the softened mean prediction on the voxels of a class should be the same in both.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from math import log

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.nn import functional

from unpaired.losses.objective import Prediction, Terms
from unpaired.losses.segmentation import Sync, dice_sums, identity

DICE_EPSILON = 1e-7
LEAST_PROBABILITY = 0.005


def frequency_cross_entropy(
    logits: Float[Tensor, "B Z *space"], label: Int64[Tensor, "B *space"], sync: Sync = identity
) -> Float[Tensor, ""]:
    """Mean over all positions of -w log p, with w = 1 - the share of the position's class.

    Shares are those of the batch of all processes. Probabilities below 0.005 count as 0.005, and
    have no gradient.
    """
    counts = sync(torch.bincount(label.flatten(), minlength=logits.shape[1]).to(logits.dtype))
    weight = 1 - counts / counts.sum()
    log_p = logits.log_softmax(1).clamp(min=log(LEAST_PROBABILITY))
    own = log_p.gather(1, label[:, None])[:, 0]
    return sync(-(weight[label] * own).sum()) / counts.sum()


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
    found = []
    for a, b in combinations(range(len(sums)), 2):
        both = (counts[a] > 0) & (counts[b] > 0)
        per_class = ((p[a] - p[b]) * (log_p[a] - log_p[b])).sum(-1) / 2
        found.append((per_class * both).sum() / both.sum().clamp(min=1))
    return torch.stack(found).mean() if found else sums.new_zeros(())


@dataclass(frozen=True)
class Distillation:
    """L = sum_m (ce CE_m + dice Dice_m) + weight KD; terms `seg/m` and `kd`."""

    ce: float = 1.0
    dice: float = 1.0
    weight: float = 0.5
    temperature: float = 2.0
    sync: Sync = identity

    def __call__(
        self, outputs: Mapping[str, Prediction], labels: Mapping[str, Int64[Tensor, "B *space"]]
    ) -> Terms:
        """Every term of the step, at least in float32. A term of weight 0 is left out."""
        logits = {m: _exact(output.logits) for m, output in outputs.items()}
        terms = {f"seg/{m}": self._segment(x, labels[m]) for m, x in logits.items()}
        weighted = dict(terms)
        if self.weight and len(logits) > 1:
            terms["kd"] = distillation(logits, labels, self.temperature, self.sync)
            weighted["kd"] = self.weight * terms["kd"]
        return Terms(torch.stack(list(weighted.values())).sum(), terms, weighted)

    def _segment(self, logits: Tensor, label: Tensor) -> Tensor:
        loss = self.ce * frequency_cross_entropy(logits, label, self.sync)
        return loss + self.dice * plain_dice_loss(logits, label, self.sync)


def _exact(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
