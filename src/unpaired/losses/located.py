"""The objective of localisation and segmentation (Payer et al. 2017)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Int64
from torch import Tensor

from unpaired.losses.localisation import box_centre, heat_map, heat_map_loss
from unpaired.losses.objective import Prediction, Terms
from unpaired.losses.segmentation import Sync, cross_entropy, identity


@dataclass(frozen=True)
class LocateAndSegment:
    """L = sum_m cross-entropy(crop of m) + weight * squared error(heat map of m).

    Attributes:
        whole: name of the whole views of modality m -> m; every other name is a modality's crops.
        spacing_mm: of the whole views, per axis.
        sigma_mm: of the Gaussian.
        weight: of the squared error.
        class_weights: of the cross-entropy.
        sync: sums over the processes of a distributed run.
    """

    whole: Mapping[str, str]
    spacing_mm: Sequence[float]
    sigma_mm: float
    weight: float = 1.0
    class_weights: tuple[float, ...] | None = None
    sync: Sync = field(default=identity)

    def __call__(
        self, outputs: Mapping[str, Prediction], labels: Mapping[str, Int64[Tensor, "B *space"]]
    ) -> Terms:
        """Every term of the step."""
        terms: dict[str, Tensor] = {}
        weighted: dict[str, Tensor] = {}
        for name, output in outputs.items():
            if name in self.whole:
                key = f"heat/{self.whole[name]}"
                terms[key] = self._locate(output.logits, labels[name])
                weighted[key] = self.weight * terms[key]
            else:
                key = f"seg/{name}"
                terms[key] = weighted[key] = self._segment(output.logits, labels[name])
        return Terms(torch.stack(list(weighted.values())).sum(), terms, weighted)

    def _locate(self, found: Tensor, label: Int64[Tensor, "B *space"]) -> Tensor:
        centre = box_centre(label > 0)
        wanted = heat_map(centre, found.shape[2:], self.spacing_mm, self.sigma_mm)
        return heat_map_loss(found.to(wanted.dtype), wanted, self.sync)

    def _segment(self, score: Tensor, label: Int64[Tensor, "B *space"]) -> Tensor:
        exact = score.to(torch.promote_types(score.dtype, torch.float32))
        weights = None
        if self.class_weights is not None:
            weights = torch.tensor(self.class_weights, dtype=exact.dtype, device=exact.device)
        return cross_entropy(exact, label, weights, self.sync)
