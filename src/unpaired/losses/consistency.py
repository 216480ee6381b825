"""Structured semantic consistency: L_mcr and L_icr (paper, Eq. 10-11), at linear cost."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from unpaired.losses.segmentation import Sync, identity


def mcr(embeddings: Mapping[str, Float[Tensor, "Z C"]]) -> Float[Tensor, ""]:
    """Eq. 10: sum over classes of 1 - cos, mean over the pairs of modalities.

    The sum over all pairs of cosines is (|sum of unit vectors|^2 - M) / 2. One modality has no
    pair: 0.
    """
    stacked = torch.stack(list(embeddings.values()))
    m = len(stacked)
    if m < 2:
        return stacked.new_zeros(())
    unit = functional.normalize(
        stacked.to(torch.promote_types(stacked.dtype, torch.float32)), dim=-1
    )
    cosines = (unit.sum(0).square().sum(-1) - m) / 2
    return (1 - cosines / (m * (m - 1) / 2)).sum()  # Eq. 10


class Sums(NamedTuple):
    """What Eq. 11 needs of a set of images, per class i: with p = softmax_j(E^i / tau).

    Attributes:
        p: sum over the images of p, per j.
        log_p: of log p, per j.
        entropy: of sum_j p log p.
        counting: number of images that hold the class.
        images: number of images.
    """

    p: Float[Tensor, "*m Z Z"]
    log_p: Float[Tensor, "*m Z Z"]
    entropy: Float[Tensor, "*m Z"]
    counting: Float[Tensor, "*m Z"]
    images: Float[Tensor, "*m Z"]

    def pairs(self) -> Float[Tensor, "*m Z"]:
        """Sum of KL(p|q) over ordered pairs of the images, per class."""
        return self.counting * self.entropy - (self.p * self.log_p).sum(-1)


def icr(
    correlations: Mapping[str, Float[Tensor, "_ Z Z"]],
    tau: float = 4.0,
    present: Mapping[str, Bool[Tensor, "_ Z"]] | None = None,
    sync: Sync = identity,
) -> Float[Tensor, ""]:
    """Eq. 11 at one scale: symmetric KL of softmax_j(E^i / tau), summed over the classes i.

    Mean over **all** pairs of images of different modalities in the step. KL(p|q) + KL(q|p)
    summed over ordered pairs is n sum p log p - (sum p)(sum log p); what is across modalities is
    all minus what is within. Sums in float64: near agreement float32 cancels to 0.

    Args:
        correlations: per modality the E of its images; the numbers of images may differ.
        tau: temperature.
        present: per modality, which classes each image holds; a class counts only for pairs
            where both images hold it. None counts every class (the paper).
    """
    sums = [_sums(e, tau, None if present is None else present[m]) for m, e in correlations.items()]
    within = _synced(sums, sync)
    everything = Sums(*(part.sum(0) for part in within))
    across = everything.pairs() - within.pairs().sum(0)  # Eq. 11, per class i
    images = within.images[:, 0]
    pairs = (images.sum().square() - images.square().sum()) / 2
    like = next(iter(correlations.values()))
    if not pairs:
        return like.new_zeros(())
    return (across.sum() / pairs).to(torch.promote_types(like.dtype, torch.float32))


def _sums(e: Float[Tensor, "B Z Z"], tau: float, present: Bool[Tensor, "B Z"] | None) -> Sums:
    log_p = (e.double() / tau).log_softmax(-1)
    p = log_p.exp()
    weight = torch.ones_like(log_p[..., 0]) if present is None else present.double()
    return Sums(
        p=(p * weight[..., None]).sum(0),
        log_p=(log_p * weight[..., None]).sum(0),
        entropy=((p * log_p).sum(-1) * weight).sum(0),
        counting=weight.sum(0),
        images=torch.full_like(weight[0], len(e)),
    )


def _synced(sums: Sequence[Sums], sync: Sync) -> Sums:
    """Stacked over the modalities, and summed over the processes in one call."""
    columns = [torch.cat([one.p, one.log_p, torch.stack(one[2:], -1)], -1) for one in sums]
    packed = sync(torch.stack(columns))
    z = sums[0].p.shape[-1]
    p, log_p, *rest = packed.split([z, z, 1, 1, 1], dim=-1)
    return Sums(p, log_p, *(part.squeeze(-1) for part in rest))
