"""Training's network: the segmenter with the semantics of every modality beside it."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor, nn

from unpaired.models.segmenter import Segmenter
from unpaired.models.semantics import Scaling, Semantics
from unpaired.nn.block import Gains


@dataclass(frozen=True)
class Variant:
    """What is private to a modality, and whether blocks are scaled (paper, Appendix B)."""

    private_encoders: bool
    scaling: bool


VARIANTS = {
    "V1": Variant(private_encoders=True, scaling=False),
    "V2": Variant(private_encoders=False, scaling=False),
    "V3": Variant(private_encoders=False, scaling=True),
}


@dataclass(frozen=True)
class Output:
    """What one modality yields in a step; the objective reads it."""

    logits: Float[Tensor, "B Z *space"]
    deep: tuple[Tensor, ...] = ()
    auxiliary: tuple[Tensor, ...] = ()
    correlations: tuple[Tensor, ...] = ()
    embeddings: Tensor | None = None


class Joint(nn.Module):
    """Segmenter + semantics. A modality is a dictionary key; one, two or seven run alike.

    Args:
        segmenter: what is kept.
        semantics: per modality its embeddings and modules; empty where nothing uses them.
        scaling: makes the gains from the embeddings (V3), or None.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        semantics: Mapping[str, Semantics],
        scaling: Scaling | None = None,
    ) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.semantics = nn.ModuleDict(dict(semantics))
        self.scaling = scaling

    def gains(self, modality: str) -> Gains | None:
        """The gains of a modality as they are now."""
        if self.scaling is None:
            return None
        return self.scaling(self.semantics[modality].embeddings)

    def forward(self, images: Mapping[str, Float[Tensor, "B _ ..."]]) -> dict[str, Output]:
        """One sub-batch per modality in, everything the objective needs out."""
        return {m: self._one(m, image) for m, image in images.items()}

    def _one(self, modality: str, image: Tensor) -> Output:
        decoded = self.segmenter(image, modality, self.gains(modality))
        if modality not in self.semantics:
            return Output(decoded.logits, decoded.deep)
        semantics = self.semantics[modality]
        assert isinstance(semantics, Semantics)
        interactions = semantics(decoded.features)
        return Output(
            decoded.logits,
            decoded.deep,
            tuple(i.logits for i in interactions if i.logits is not None),
            tuple(i.correlation for i in interactions if i.correlation is not None),
            semantics.embeddings,
        )
