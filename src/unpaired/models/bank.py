"""A moving mean of every class's features, by modality and scale, as a part of the network."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from unpaired.losses.prototypes import Means, class_sums, means_of
from unpaired.losses.segmentation import Sync, identity

MOMENTUM = 0.95
"""Share of the past in a mean: it remembers about twenty steps."""


class PrototypeBank(nn.Module):
    """Class prototypes of every modality, empty at the start.

    mean <- 0.95 mean + 0.05 (the step's mean) for a class that the step holds; the first time the
    step's mean itself. They are buffers: saved with the weights, and no gradient reaches them.

    Args:
        classes: number of classes Z, background included.
        widths: C per decoder scale, coarse to fine.
    """

    def __init__(self, modalities: Iterable[str], classes: int, widths: Sequence[int]) -> None:
        super().__init__()
        self.of = nn.ModuleDict(
            {m: nn.ModuleList(_Scale(classes, width) for width in widths) for m in modalities}
        )

    def means(self, modality: str) -> tuple[Means, ...]:
        """What is known of a modality, coarse to fine."""
        return tuple(Means(one.mean, one.known) for one in self._scales(modality))

    @torch.no_grad()
    def update(
        self,
        features: Mapping[str, Sequence[Float[Tensor, "B _ ..."]]],
        labels: Mapping[str, Int64[Tensor, "B *full"]],
        sync: Sync = identity,
    ) -> None:
        """Take in the features of a step, of all processes."""
        for m, scales in features.items():
            for one, f in zip(self._scales(m), scales, strict=True):
                one.update(means_of(sync(class_sums(f, labels[m], len(one.mean)))))

    def _scales(self, modality: str) -> list["_Scale"]:
        found = self.of[modality]
        assert isinstance(found, nn.ModuleList)
        return [one for one in found if isinstance(one, _Scale)]


class _Scale(nn.Module):
    mean: Float[Tensor, "Z C"]
    known: Bool[Tensor, " Z"]

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(classes, width))
        self.register_buffer("known", torch.zeros(classes, dtype=torch.bool))

    def update(self, new: Means) -> None:
        mean = new.mean.to(self.mean.dtype)
        moved = torch.where(self.known[:, None], self.mean.lerp(mean, 1 - MOMENTUM), mean)
        self.mean.copy_(torch.where(new.known[:, None], moved, self.mean))
        self.known.logical_or_(new.known)
