"""The External Attention Module of one modality at one decoder scale (paper, Fig. 3, App. E.1)."""

from typing import Literal, NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, einsum, nn

from unpaired.nn.block import FeedForward
from unpaired.nn.correlation import correlation
from unpaired.nn.cross import ClassAttention


class Interaction(NamedTuple):
    """What one module yields for a batch of B images."""

    maps: Float[Tensor, "B Z N *space"]
    """The semantic-aware maps A."""
    logits: Float[Tensor, "B Z *space"] | None
    """The auxiliary prediction (Eq. 9), if the module predicts."""
    correlation: Float[Tensor, "B Z Z"] | None
    """The semantic correlations E (Eq. 8), if the module correlates."""
    embeddings: Float[Tensor, "B Z D"] | None
    """The image-specific embeddings for the next scale, if there is one."""


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
        maps: "raw" (A = q k') or "scaled" (A = q k' / sqrt(d)).

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
        maps: Literal["raw", "scaled"] = "raw",
    ) -> None:
        super().__init__()
        update = next_channels is not None
        self.norm_q = nn.LayerNorm(channels)
        self.norm_f = nn.LayerNorm(channels)
        self.attention = ClassAttention(channels, heads, update, maps)
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
        maps, attended = self.attention(self.norm_q(q), positions)
        logits = None
        if self.head is not None:
            head = self.head.weight.to(maps.dtype).expand(*maps.shape[:2], -1, -1)
            logits = (head @ maps).squeeze(2).unflatten(-1, space)
        maps = maps.unflatten(-1, space)
        return Interaction(maps, logits, self._correlate(q, maps), self._update(q, attended))

    def _correlate(self, q: Tensor, maps: Tensor) -> Tensor | None:
        """In float32 whatever the autocast: the softmax over positions needs it."""
        if self.kernel is None:
            return None
        with torch.autocast(q.device.type, enabled=False):
            exact = torch.promote_types(maps.dtype, torch.float32)
            kernels = einsum("bzc,zcn->bzn", q.to(exact), self.kernel.to(exact))  # K^i = Q^i W^i
            return correlation(kernels, maps.to(exact))

    def _update(self, q: Tensor, attended: Tensor | None) -> Tensor | None:
        if attended is None or self.mlp is None or self.norm_mlp is None or self.reduce is None:
            return None
        q = attended + q  # Eq. 4
        q = self.mlp(self.norm_mlp(q)) + q  # Eq. 5
        return self.reduce(q)
