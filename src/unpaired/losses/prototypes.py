"""Class prototypes: features drawn to the class means of another modality (docs/consistency.md).

The contrast is InfoNCE (van den Oord et al. 2018) with cosines: a vector of class z against the
means of all known classes, of which its own is the right one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional

from unpaired.losses.segmentation import Sync, identity, label_at

TEMPERATURE = 0.1
"""Of the contrast's cosines, as supervised contrastive learning has it (Khosla et al. 2020)."""


class Means(NamedTuple):
    """Mean feature of every class at one scale."""

    mean: Float[Tensor, "Z C"]
    known: Bool[Tensor, " Z"]


def class_sums(
    features: Float[Tensor, "B C *space"], label: Int64[Tensor, "B *full"], classes: int
) -> Float[Tensor, "Z F"]:
    """Per class: the sum of the features (C) over its positions in the batch, and their number.

    Labels are brought to the scale; positions that nobody annotated are left out.
    """
    rows, small = _positions(features, label)
    hot = (small[:, None] == torch.arange(classes, device=small.device)).to(rows.dtype)
    return torch.cat([hot.T @ rows, hot.sum(0)[:, None]], 1)


def means_of(sums: Float[Tensor, "Z F"]) -> Means:
    """The mean features that `class_sums` are the sums of."""
    counts = sums[:, -1]
    return Means(sums[:, :-1] / counts.clamp(min=1)[:, None], counts > 0)


def contrast_means(
    features: Sequence[Float[Tensor, "B _ ..."]],
    label: Int64[Tensor, "B *full"],
    bank: Sequence[Means],
    sync: Sync = identity,
) -> Float[Tensor, ""]:
    """InfoNCE of the step's class means against another modality's bank, which is not moved.

    Mean over the classes that the step and the bank hold, mean over the scales; 0 without any.
    """
    losses = []
    for f, known in zip(features, bank, strict=True):
        own = means_of(sync(class_sums(f, label, len(known.mean))))
        index = torch.arange(len(known.mean), device=f.device)
        losses.append(_mean_over(own.known & known.known, _contrast(own.mean, index, known)))
    return torch.stack(losses).mean()


def contrast_pixels(
    features: Sequence[Float[Tensor, "B _ ..."]],
    label: Int64[Tensor, "B *full"],
    bank: Sequence[Means],
    sync: Sync = identity,
) -> Float[Tensor, ""]:
    """The same of every position; first the mean over the positions of a class."""
    losses = []
    for f, known in zip(features, bank, strict=True):
        rows, small = _positions(f, label)
        hot = (small[:, None] == torch.arange(len(known.mean), device=f.device)).to(rows.dtype)
        each = _contrast(rows, small, known)
        sums = sync(torch.stack([hot.T @ each, hot.sum(0)]))
        mean = sums[0] / sums[1].clamp(min=1)
        losses.append(_mean_over((sums[1] > 0) & known.known, mean))
    return torch.stack(losses).mean()


def tie(
    embeddings: Float[Tensor, "Z C"],
    features: Float[Tensor, "B C *space"],
    label: Int64[Tensor, "B *full"],
    sync: Sync = identity,
) -> Float[Tensor, ""]:
    """Class embeddings Q and the step's class means at the scale they enter: mean of 1 - cos over
    the classes that the step holds; both are moved."""
    own = means_of(sync(class_sums(features, label, len(embeddings))))
    exact = torch.promote_types(embeddings.dtype, torch.float32)
    cosine = functional.cosine_similarity(embeddings.to(exact), own.mean.to(exact), dim=-1)
    return _mean_over(own.known, 1 - cosine)


def _positions(
    features: Float[Tensor, "B C *space"], label: Int64[Tensor, "B *full"]
) -> tuple[Float[Tensor, "n C"], Int64[Tensor, " n"]]:
    """Features and class of every annotated position, at least in float32."""
    small = label_at(label, features.shape[2:]).flatten()
    rows = features.to(torch.promote_types(features.dtype, torch.float32))
    rows = rows.movedim(1, -1).flatten(0, -2)
    annotated = small >= 0
    return (rows, small) if bool(annotated.all()) else (rows[annotated], small[annotated])


def _contrast(
    vectors: Float[Tensor, "n C"], own: Int64[Tensor, " n"], bank: Means
) -> Float[Tensor, " n"]:
    """-log of the softmax of the cosines at the vector's own class, over the known classes; 0 for
    vectors whose class is not known."""
    means = functional.normalize(bank.mean.detach().to(vectors.dtype), dim=-1)
    cosines = functional.normalize(vectors, dim=-1) @ means.T / TEMPERATURE
    log_p = cosines.masked_fill(~bank.known, torch.finfo(vectors.dtype).min).log_softmax(-1)
    return -(log_p.gather(1, own[:, None])[:, 0]).where(bank.known[own], log_p.new_zeros(()))


def _mean_over(chosen: Bool[Tensor, " Z"], values: Float[Tensor, " Z"]) -> Float[Tensor, ""]:
    """Mean of the chosen values; 0 without any."""
    return values.where(chosen, values.new_zeros(())).sum() / chosen.sum().clamp(min=1)
