"""Structured semantic consistency: L_mcr and L_icr (paper, Eq. 10-11), at linear cost."""

from collections.abc import Mapping

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
    return (1 - cosines / (m * (m - 1) / 2)).sum()


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
    within = sync(torch.stack(sums))
    everything = within.sum(0)
    across = _ordered_pairs(everything) - _ordered_pairs(within).sum(0)
    images = within[:, 0, -1]
    pairs = (images.sum().square() - images.square().sum()) / 2
    if not pairs:
        return next(iter(correlations.values())).new_zeros(())
    return (across.sum() / pairs).to(
        torch.promote_types(next(iter(correlations.values())).dtype, torch.float32)
    )


def _sums(
    e: Float[Tensor, "B Z Z"], tau: float, present: Bool[Tensor, "B Z"] | None
) -> Float[Tensor, "Z F"]:
    """Per class i: sum p (Z values), sum log p (Z), sum p log p, images that count, images."""
    log_p = (e.double() / tau).log_softmax(-1)
    p = log_p.exp()
    weight = torch.ones_like(log_p[..., 0]) if present is None else present.double()
    images = torch.full_like(weight[0], len(e))
    parts = [
        (p * weight[..., None]).sum(0),
        (log_p * weight[..., None]).sum(0),
        ((p * log_p).sum(-1) * weight).sum(0)[:, None],
        weight.sum(0)[:, None],
        images[:, None],
    ]
    return torch.cat(parts, dim=1)


def _ordered_pairs(sums: Float[Tensor, "*m Z F"]) -> Float[Tensor, "*m Z"]:
    """Sum of KL(p|q) over ordered pairs of the images behind `sums`, per class."""
    z = (sums.shape[-1] - 3) // 2
    p, log_p = sums[..., :z], sums[..., z : 2 * z]
    entropy, count = sums[..., 2 * z], sums[..., 2 * z + 1]
    return count * entropy - (p * log_p).sum(-1)
