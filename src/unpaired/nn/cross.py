"""Classes attend to positions (paper, Eq. 1-3); the maps A come out before the softmax."""

from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, einsum, nn


class ClassAttention(nn.Module):
    """Multi-head cross attention from Z class embeddings to S positions.

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
        self.scale = (channels // heads) ** -0.5
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
        maps = self._maps(query, features, absorb)  # A = q k'
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
