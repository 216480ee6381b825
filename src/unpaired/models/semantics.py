"""What is dropped: class embeddings, External Attention Modules, and the source of the gains."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from unpaired.nn.block import Gains
from unpaired.nn.external_attention import ExternalAttention, Interaction, Maps


class Semantics(nn.Module):
    """The class embeddings Q of one modality and its chain of External Attention Modules.

    Args:
        classes: number of classes Z, background included.
        widths: C per decoder scale, coarse to fine.
        heads: N, the same at every scale.
        predict: whether the auxiliary loss is used (alpha > 0).
        correlate: whether the correlations are used (gamma > 0).

    Without either no module is built and only Q remains (it feeds the scaling and L_mcr).
    """

    def __init__(
        self,
        classes: int,
        widths: Sequence[int],
        heads: int = 8,
        predict: bool = True,
        correlate: bool = True,
        maps: Maps = "raw",
    ) -> None:
        super().__init__()
        self.embeddings = nn.Parameter(torch.randn(classes, widths[0]))
        following = [*widths[1:], None]
        self.modules_per_scale = nn.ModuleList(
            ExternalAttention(width, classes, heads, after, predict, correlate, maps)
            for width, after in zip(widths, following, strict=True)
            if predict or correlate
        )

    def forward(self, features: Sequence[Float[Tensor, "B _ ..."]]) -> list[Interaction]:
        """One interaction per scale; Q_1, Q_2 carry the image's semantics on."""
        q: Tensor | None = self.embeddings.expand(len(features[0]), -1, -1)
        interactions: list[Interaction] = []
        for module, feature in zip(self.modules_per_scale, features, strict=False):
            interactions.append(module(q, feature))
            q = interactions[-1].embeddings
        return interactions


def share_embeddings(parts: Sequence[Semantics]) -> None:
    """Give all modalities one set of class embeddings, that of the first.

    The control for separate sets: L_mcr is then 0 by construction, and gains are alike.
    """
    for part in parts[1:]:
        part.embeddings = parts[0].embeddings


def share_modules(parts: Sequence[Semantics]) -> None:
    """Give all modalities one chain of modules, that of the first; embeddings stay their own.

    Without it the correlations of two modalities differ by how their modules began, whatever the
    images show (docs/consistency.md).
    """
    for part in parts[1:]:
        part.modules_per_scale = parts[0].modules_per_scale


class Scaling(nn.Module):
    """Eq. 13: Omega = w1 Q;  Phi = 1 + Omega W per branch. Shared by the modalities.

    W2 and W3 of every block are columns of one matrix, zero at the start: training begins
    exactly at the plain network (decision D14).
    """

    def __init__(self, classes: int, channels: int, branches: Mapping[str, int]) -> None:
        super().__init__()
        self.branches = dict(branches)
        self.mix = nn.Parameter(torch.full((classes,), 1.0 / classes))  # w1
        self.weight = nn.Parameter(torch.zeros(channels, sum(self.branches.values())))

    def forward(self, embeddings: Float[Tensor, "Z C"]) -> Gains:
        """Diagonals of Phi, by branch."""
        with torch.autocast(embeddings.device.type, enabled=False):
            phi = 1.0 + (self.mix @ embeddings) @ self.weight
        return dict(zip(self.branches, phi.split(list(self.branches.values())), strict=True))
