"""The External Attention Module of one modality at one decoder scale (paper, Fig. 3, App. E.1).

Class embeddings Q [Z C] ask, the positions of the decoder's map F [S C] answer:

    Eq. 1-3   A = q k',  Q~ = W_O softmax_x(A / sqrt(d)) v      classes attend to positions
    Eq. 4-5   Q <- Q~ + Q,  Q <- MLP(Norm(Q)) + Q               embeddings of this image
    Eq. 6-8   S = K A,  w = softmax_j(S),  E = E_x~w[A]         correlations between classes

with q = Norm(Q) W_Q, k = Norm(F) W_K, v = Norm(F) W_V split into N heads of width d, and
K^i = Q^i W^i. Below they stand in this order.
"""

from typing import Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, einsum, nn

from unpaired.nn.block import FeedForward

Maps = Literal["raw", "scaled", "mean"]
"""A = q k' (the paper's text); divided by sqrt(d); and E the mean over the heads, not their sum."""


class Interaction(NamedTuple):
    """What one module yields for a batch of B images."""

    maps: Float[Tensor, "B Z N *space"]
    """The semantic-aware maps A, before the softmax."""
    logits: Float[Tensor, "B Z *space"] | None
    """The auxiliary prediction (Eq. 9), if the module predicts."""
    correlation: Float[Tensor, "B Z Z"] | None
    """The semantic correlations E (Eq. 8), if the module correlates."""
    embeddings: Float[Tensor, "B Z D"] | None
    """The image-specific embeddings for the next scale, if there is one."""


class ClassAttention(nn.Module):
    """Multi-head cross attention from Z class embeddings to S positions (Eq. 1-3).

    Args:
        channels: width C of embeddings and features.
        heads: number of heads N; C must be a multiple of it.
        update: whether anything consumes the attended embeddings. Where nothing does (the
            finest scale) W_V and W_O are not built: unused parameters break distributed training.
        maps: "raw" gives A = q k' (the paper's text); "scaled" divides by sqrt(d).

    The keys k = F W_K and values v = F W_V are never formed over positions where that is
    dearer: W_K is absorbed into the query and W_V is applied after the pooling. Exact; it
    loses when Z N > C + Z, so the choice is made per call.
    """

    def __init__(
        self,
        channels: int,
        heads: int,
        update: bool = True,
        maps: Literal["raw", "scaled"] = "raw",
    ) -> None:
        super().__init__()
        if channels % heads:
            raise ValueError(
                f"{channels} channels cannot be split into {heads} heads; "
                "choose a number of heads that divides the width of every decoder scale"
            )
        self.heads, self.maps = heads, maps
        self.scale = (channels // heads) ** -0.5  # 1 / sqrt(d)
        self.query = nn.Linear(channels, channels, bias=False)
        self.key = nn.Linear(channels, channels, bias=False)
        self.value = nn.Linear(channels, channels, bias=False) if update else None
        self.out = nn.Linear(channels, channels) if update else None

    def forward(
        self, q: Float[Tensor, "B Z C"], features: Float[Tensor, "B S C"]
    ) -> tuple[Float[Tensor, "B Z N S"], Float[Tensor, "B Z C"] | None]:
        """Return the maps A and the attended embeddings (None without `update`)."""
        absorb = q.shape[1] * self.heads <= q.shape[2] + q.shape[1]
        query = rearrange(self.query(q), "b z (n d) -> b z n d", n=self.heads)
        maps = self._maps(query, features, absorb)  # Eq. 1: A = q k'
        attended = None
        if self.value is not None and self.out is not None:
            exact = torch.promote_types(maps.dtype, torch.float32)
            weights = (maps * self.scale).softmax(-1, dtype=exact)  # Eq. 2: over the positions
            weights = weights.to(maps.dtype)
            attended = self.out(self._pool(weights, features, absorb))  # Eq. 3
        return maps * self.scale if self.maps == "scaled" else maps, attended

    def _maps(self, query: Tensor, features: Tensor, absorb: bool) -> Float[Tensor, "B Z N S"]:
        if absorb:
            weight = rearrange(self.key.weight, "(n d) c -> n d c", n=self.heads)
            return einsum("bznc,bsc->bzns", einsum("bznd,ndc->bznc", query, weight), features)
        key = rearrange(self.key(features), "b s (n d) -> b s n d", n=self.heads)
        return einsum("bznd,bsnd->bzns", query, key)

    def _pool(self, weights: Tensor, features: Tensor, absorb: bool) -> Float[Tensor, "B Z C"]:
        assert self.value is not None
        if absorb:
            pooled = einsum("bzns,bsc->bznc", weights, features)
            weight = rearrange(self.value.weight, "(n d) c -> n d c", n=self.heads)
            return einsum("bznc,ndc->bznd", pooled, weight).flatten(2)
        value = rearrange(self.value(features), "b s (n d) -> b s n d", n=self.heads)
        return einsum("bzns,bsnd->bznd", weights, value).flatten(2)


class ExternalAttention(nn.Module):
    """Class embeddings interact with a decoder's feature map.

    Args:
        channels: width C of the feature map and of the embeddings that enter.
        classes: number of classes Z, background included.
        heads: number of heads N.
        next_channels: width of the next (finer) scale; None at the finest, where nothing
            consumes the updated embeddings and neither W_V, W_O nor the MLP is built.
        predict: build F_1x1, the head of the auxiliary loss.
        correlate: build W^i, the kernels of the correlations.
        maps: "raw" (A = q k'), "scaled" (A = q k' / sqrt(d)), or "mean": scaled, and E averaged
            over the heads.

    Only what is asked for is built, so that every parameter receives a gradient.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        heads: int = 8,
        next_channels: int | None = None,
        predict: bool = True,
        correlate: bool = True,
        maps: Maps = "raw",
    ) -> None:
        super().__init__()
        update = next_channels is not None
        self.norm_q = nn.LayerNorm(channels)
        self.norm_f = nn.LayerNorm(channels)
        self.attention = ClassAttention(
            channels, heads, update, "raw" if maps == "raw" else "scaled"
        )
        self.over_heads = heads if maps == "mean" else 1
        self.norm_mlp = nn.LayerNorm(channels) if update else None
        self.mlp = FeedForward(channels) if update else None
        self.reduce = nn.Linear(channels, next_channels) if next_channels is not None else None
        self.head = nn.Linear(heads, 1, bias=False) if predict else None  # F_1x1
        self.kernel = nn.Parameter(torch.empty(classes, channels, heads)) if correlate else None
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        if self.kernel is not None:
            nn.init.trunc_normal_(self.kernel, std=0.02)

    def forward(
        self, q: Float[Tensor, "B Z C"], features: Float[Tensor, "B C *space"]
    ) -> Interaction:
        space = features.shape[2:]
        positions = self.norm_f(rearrange(features, "b c ... -> b (...) c"))
        maps, attended = self.attention(self.norm_q(q), positions)  # Eq. 1-3
        logits = None
        if self.head is not None:  # Eq. 9: F_1x1 (A)
            head = self.head.weight.to(maps.dtype).expand(*maps.shape[:2], -1, -1)
            logits = (head @ maps).squeeze(2).unflatten(-1, space)
        correlations = self._correlate(q, maps)  # Eq. 6-8
        embeddings = self._update(q, attended)  # Eq. 4-5
        return Interaction(maps.unflatten(-1, space), logits, correlations, embeddings)

    def _update(self, q: Tensor, attended: Tensor | None) -> Tensor | None:
        if attended is None or self.mlp is None or self.norm_mlp is None or self.reduce is None:
            return None
        q = attended + q  # Eq. 4
        q = self.mlp(self.norm_mlp(q)) + q  # Eq. 5
        return self.reduce(q)

    def _correlate(self, q: Tensor, maps: Tensor) -> Tensor | None:
        """In float32 whatever the autocast: the softmax over positions needs it."""
        if self.kernel is None:
            return None
        with torch.autocast(q.device.type, enabled=False):
            exact = torch.promote_types(maps.dtype, torch.float32)
            kernels = einsum("bzc,zcn->bzn", q.to(exact), self.kernel.to(exact))  # K^i = Q^i W^i
            return correlation(kernels, maps.to(exact)) / self.over_heads


def correlation(
    kernels: Float[Tensor, "B Z N"], maps: Float[Tensor, "B Z N *space"]
) -> Float[Tensor, "B Z Z"]:
    """Class-by-class correlation matrix E of each image (Eq. 6-8).

    Args:
        kernels: K^i = Q^i W^i, one row per class.
        maps: the semantic-aware maps A.

    Returns:
        E with E[i, j] = sum_{n,x} A^j_n(x) w^ij(x) / sum_x w^ij(x), where the gate
        w^ij = softmax_j(S^ij) and S^ij(x) = sum_n K^i_n A^j_n(x). Its rows are i.

    The gate does not depend on n, so the sum over n moves inside, and the quotient is an
    expectation under softmax_x(log w): no Z x Z x N x S tensor, and never 0 / 0.
    """
    maps = maps.flatten(3)
    similarity = kernels[:, None] @ maps  # Eq. 6, as [B j i S]: the maps stay where they are
    log_gate = similarity.log_softmax(1)  # Eq. 7, over the classes j
    activation = maps.sum(2)  # a^j(x) = sum_n A^j_n(x)
    expected = log_gate.softmax(-1) @ activation[..., None]  # Eq. 8, as [B j i 1]
    return expected.squeeze(-1).transpose(1, 2)
