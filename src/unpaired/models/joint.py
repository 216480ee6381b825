"""Training's network: the segmenter with the semantics of every modality beside it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from jaxtyping import Float, Int64
from torch import Tensor, nn

from unpaired.losses.prototypes import Means
from unpaired.losses.segmentation import Sync
from unpaired.models.bank import PrototypeBank
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


class View(NamedTuple):
    """The images of a modality in another style."""

    seen_as: str
    """The modality whose stem, norms, gains and embeddings they go through."""
    image: Float[Tensor, "B _ ..."]


@dataclass(frozen=True)
class Output:
    """What one modality yields in a step; the objective reads it.

    Attributes:
        view: of its images in another style, where there are any.
        features: F per scale, and
        prototypes: the class means of the modality before this step, where there is a bank.
    """

    logits: Float[Tensor, "B Z *space"]
    deep: tuple[Tensor, ...] = ()
    auxiliary: tuple[Tensor, ...] = ()
    correlations: tuple[Tensor, ...] = ()
    embeddings: Tensor | None = None
    view: "Output | None" = None
    features: tuple[Tensor, ...] = ()
    prototypes: tuple[Means, ...] = ()


class Joint(nn.Module):
    """Segmenter + semantics. A modality is a dictionary key; one, two or seven run alike.

    Args:
        segmenter: what is kept.
        semantics: per modality its embeddings and modules; empty where nothing uses them.
        scaling: makes the gains from the embeddings (V3), or None.
        bank: remembers class prototypes, or None.
    """

    def __init__(
        self,
        segmenter: Segmenter,
        semantics: Mapping[str, Semantics],
        scaling: Scaling | None = None,
        bank: PrototypeBank | None = None,
    ) -> None:
        super().__init__()
        self.segmenter = segmenter
        self.semantics = nn.ModuleDict(dict(semantics))
        self.scaling = scaling
        self.bank = bank

    def gains(self, modality: str) -> Gains | None:
        """The gains of a modality as they are now."""
        if self.scaling is None:
            return None
        return self.scaling(self.semantics[modality].embeddings)

    def forward(
        self,
        images: Mapping[str, Float[Tensor, "B _ ..."]],
        views: Mapping[str, View] | None = None,
    ) -> dict[str, Output]:
        """One sub-batch per modality in, everything the objective needs out."""
        found = {m: self._one(m, image) for m, image in images.items()}
        for m, view in (views or {}).items():
            found[m] = replace(found[m], view=self._one(view.seen_as, view.image))
        return found

    def remember(
        self,
        outputs: Mapping[str, Output],
        labels: Mapping[str, Int64[Tensor, "B *full"]],
        sync: Sync,
    ) -> None:
        """Take the class means of a step that is done into the bank, if there is one."""
        if self.bank is not None:
            self.bank.update({m: o.features for m, o in outputs.items()}, labels, sync)

    def _one(self, modality: str, image: Tensor) -> Output:
        decoded = self.segmenter(image, modality, self.gains(modality))
        found = Output(decoded.logits, decoded.deep)
        if self.bank is not None:
            means = self.bank.means(modality)
            found = replace(found, features=decoded.features, prototypes=means)
        if modality not in self.semantics:
            return found
        semantics = self.semantics[modality]
        assert isinstance(semantics, Semantics)
        interactions = semantics(decoded.features)
        return replace(
            found,
            auxiliary=tuple(i.logits for i in interactions if i.logits is not None),
            correlations=tuple(i.correlation for i in interactions if i.correlation is not None),
            embeddings=semantics.embeddings,
        )
