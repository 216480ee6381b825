"""Models that localise the structures on a coarse view and segment one crop (Payer et al. 2017).

A step sees two kinds of batches: those of a modality's name hold its crops, those of
`whole(modality)` the coarse views of whole images.
"""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from unpaired.models.joint import Joint, Output
from unpaired.models.payer import LocateThenSegment
from unpaired.models.segmenter import Segmenter


def whole(modality: str) -> str:
    """The name of a modality's batches of whole, coarse views."""
    return f"{modality}/whole"


class LocatingSegmenter(Segmenter):
    """What is kept: a pair of networks per modality, nothing shared.

    Each modality's networks read its image themselves: the stems stay the identity.
    """

    def __init__(self, backbone: LocateThenSegment, channels: Mapping[str, int]) -> None:
        super().__init__(backbone, channels, private_encoders=True, fixed_stems=True)

    def locate(self, view: Float[Tensor, "B K *space"], modality: str) -> Tensor:
        """The heat map [B 1 *space] of the structures' centre in coarse views of one modality."""
        assert isinstance(self.backbone, LocateThenSegment)
        return self.backbone.locate(self.stems[modality](view), self.encoders[modality])


class LocatingJoint(Joint):
    """Training's network: scores of crops, heat maps of whole views."""

    def __init__(self, segmenter: LocatingSegmenter) -> None:
        super().__init__(segmenter, {})
        self.views = {whole(m): m for m in segmenter.modalities}

    def _one(self, modality: str, image: Tensor) -> Output:
        if modality not in self.views:
            return super()._one(modality, image)
        assert isinstance(self.segmenter, LocatingSegmenter)
        return Output(self.segmenter.locate(image, self.views[modality]))
