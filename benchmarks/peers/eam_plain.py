"""The External Attention Modules as the equations are written, on the weights of ours.

Keys and values are formed over all positions, and the gated maps B^{ij} of Eq. 7 as one tensor of
Z x Z x N x S numbers, whose sums are divided by the gates' (Eq. 8).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from unpaired.models import Semantics
from unpaired.nn import ExternalAttention


def correlation(kernels: Tensor, maps: Tensor) -> Tensor:
    """Eq. 6-8: [B Z N], [B Z N S] -> [B Z Z]."""
    similarity = torch.einsum("bin,bjns->bijs", kernels, maps)
    gate = similarity.softmax(2)
    gated = maps[:, None] * gate[:, :, :, None]
    return gated.sum((3, 4)) / gate.sum(3)


def module(
    p: ExternalAttention, q: Tensor, features: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Auxiliary logits, correlations, and the embeddings of the next scale."""
    a, heads = p.attention, p.attention.heads
    f = p.norm_f(features.flatten(2).transpose(1, 2))
    normed = p.norm_q(q)

    def split(x: Tensor) -> Tensor:
        return x.unflatten(-1, (heads, -1)).transpose(1, 2)  # [B N . d]

    query, key = split(a.query(normed)), split(a.key(f))
    maps = query @ key.transpose(-1, -2)
    raw = maps.transpose(1, 2)  # [B Z N S]
    logits = (raw * p.head.weight[0][:, None]).sum(2)
    kernels = torch.einsum("bzc,zcn->bzn", q, p.kernel)
    found = correlation(kernels, raw)
    if a.value is None:
        return logits, found, None
    weights = (maps / key.shape[-1] ** 0.5).softmax(-1)
    attended = a.out((weights @ split(a.value(f))).transpose(1, 2).flatten(2))
    q = attended + q
    q = p.mlp(p.norm_mlp(q)) + q
    return logits, found, p.reduce(q)


def chain(semantics: Semantics, features: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Auxiliary logits and correlations of the three scales."""
    q = semantics.embeddings.expand(len(features[0]), -1, -1)
    out = []
    for p, feature in zip(semantics.modules_per_scale, features, strict=True):
        logits, found, q = module(p, q, feature)
        out.append((logits, found))
    return out
