"""Divergences between pairs of images over the classes that both hold (docs/consistency.md)."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unpaired.losses.segmentation import Sync, identity, of_all

_NEVER = -1e30
"""In place of minus infinity, whose difference with itself is not a number."""


def divergence(
    a: Float[Tensor, "*pair Z Z"],
    b: Float[Tensor, "*pair Z Z"],
    both: Bool[Tensor, "*pair Z"],
    tau: float,
) -> Float[Tensor, "*pair"]:
    """Symmetric KL of the rows of two correlations, sum over the classes i that both images hold.

    The columns j of the other classes are left out too: p^i = softmax(E^i / tau) over the classes
    that both hold. In float64; 0 where they have fewer than two classes in common.
    """
    columns = both[..., None, :]
    log_p, log_q = (
        (e.double() / tau).masked_fill(~columns, _NEVER).log_softmax(-1) for e in (a, b)
    )
    apart = (log_p - log_q).masked_fill(~columns, 0.0)
    return (((log_p.exp() - log_q.exp()) * apart).sum(-1) * both).sum(-1)


def guided_icr(
    correlations: Mapping[str, Float[Tensor, "_ Z Z"]],
    present: Mapping[str, Bool[Tensor, "_ Z"]],
    tau: float = 4.0,
    rich: str | None = None,
    sync: Sync = identity,
) -> Float[Tensor, ""]:
    """L_icr at one scale, of the classes that both images hold, towards one modality.

    Mean over all pairs of images of different modalities in the step, of all processes; 0 where
    there are none.

    Args:
        present: per modality, which classes each image holds.
        rich: the modality whose correlations are not moved; None: all are.
    """
    e = {m: of_all(x.double(), sync) for m, x in correlations.items()}
    e = {m: x.detach() if m == rich else x for m, x in e.items()}
    held = {m: of_all(x.double(), sync) > 0.5 for m, x in present.items()}
    like = next(iter(correlations.values()))
    total, pairs = like.new_zeros((), dtype=torch.float64), 0
    for a, b in combinations(e, 2):
        both = held[a][:, None] & held[b][None]
        shape = (*both.shape, both.shape[-1])
        total = (
            total
            + divergence(e[a][:, None].expand(shape), e[b][None].expand(shape), both, tau).sum()
        )
        pairs += both.shape[0] * both.shape[1]
    return (total / max(1, pairs)).to(torch.promote_types(like.dtype, torch.float32))


def view_correlations(
    plain: Sequence[Float[Tensor, "B Z Z"]],
    view: Sequence[Float[Tensor, "B Z Z"]],
    present: Bool[Tensor, "B Z"],
    tau: float = 4.0,
    sync: Sync = identity,
) -> Float[Tensor, ""]:
    """Divergence of the correlations of each image and of its second view, which alone is moved;
    mean over the images, sum over the scales."""
    apart = [
        divergence(a.detach(), b, present, tau).sum() for a, b in zip(plain, view, strict=True)
    ]
    return _mean(torch.stack(apart).sum(), len(present), sync)


def view_logits(
    plain: Sequence[Float[Tensor, "B Z ..."]],
    view: Sequence[Float[Tensor, "B Z ..."]],
    sync: Sync = identity,
) -> Float[Tensor, ""]:
    """KL(plain | view) of the classes at each position, the plain view not moved; mean over
    positions and images, sum over the scales. At least in float32."""
    apart = []
    for a, b in zip(plain, view, strict=True):
        exact = torch.promote_types(a.dtype, torch.float32)
        log_p, log_q = a.detach().to(exact).log_softmax(1), b.to(exact).log_softmax(1)
        apart.append((log_p.exp() * (log_p - log_q)).sum(1).flatten(1).mean(1).sum())
    return _mean(torch.stack(apart).sum(), len(plain[0]), sync)


def _mean(total: Tensor, images: int, sync: Sync) -> Tensor:
    """Over the images of all processes."""
    return sync(total) / sync(total.new_tensor(float(images))).clamp(min=1)
