"""Finding the structures by a heat map (Payer et al. 2017): its target, its error, the loss."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from unpaired.losses import Term, Terms, weigh
from unpaired.losses.objective import Labels, Outputs
from unpaired.losses.segmentation import Sync, cross_entropy, identity


@dataclass(frozen=True)
class LocateAndSegment:
    """L = sum_m cross-entropy(crop of m) + weight * squared error(heat map of m).

    Attributes:
        views: name of the coarse views of modality m -> m; every other name is a modality's crops.
        spacing_mm: of the coarse views, per axis.
        sigma_mm: of the Gaussian.
        weight: of the squared error.
        class_weights: of the cross-entropy.
        sync: sums over the processes of a distributed run.
    """

    views: Mapping[str, str]
    spacing_mm: Sequence[float]
    sigma_mm: float
    weight: float = 1.0
    class_weights: tuple[float, ...] | None = None
    sync: Sync = identity

    def __call__(self, outputs: Outputs, labels: Labels) -> Terms:
        """Every term of the step."""
        return weigh(self.terms(), outputs, labels)

    def terms(self) -> dict[str, Term]:
        """`seg/m` and `heat/m`."""
        return {"seg": Term(1.0, self._segment), "heat": Term(self.weight, self._locate)}

    def _segment(self, outputs: Outputs, labels: Labels) -> dict[str, Tensor]:
        crops = {m: output.logits for m, output in outputs.items() if m not in self.views}
        return {m: self._entropy(score, labels[m]) for m, score in crops.items()}

    def _locate(self, outputs: Outputs, labels: Labels) -> dict[str, Tensor]:
        return {
            m: self._heat_error(outputs[view].logits, labels[view])
            for view, m in self.views.items()
            if view in outputs
        }

    def _entropy(self, score: Tensor, label: Int64[Tensor, "B *space"]) -> Tensor:
        exact = score.to(torch.promote_types(score.dtype, torch.float32))
        weights = None
        if self.class_weights is not None:
            weights = torch.tensor(self.class_weights, dtype=exact.dtype, device=exact.device)
        return cross_entropy(exact, label, weights, self.sync)

    def _heat_error(self, heat: Tensor, label: Int64[Tensor, "B *space"]) -> Tensor:
        wanted = heat_map(box_centre(label > 0), heat.shape[2:], self.spacing_mm, self.sigma_mm)
        return heat_map_loss(heat.to(wanted.dtype), wanted, self.sync)


def box_centre(inside: Bool[Tensor, "B *space"]) -> Float[Tensor, "B axes"]:
    """The centre of the box around the marked voxels, in voxels; nan where none is marked."""
    axes = inside.ndim - 1
    centres = []
    for axis in range(1, axes + 1):
        others = [other for other in range(1, axes + 1) if other != axis]
        seen = inside.sum(others) > 0 if others else inside
        index = torch.arange(seen.shape[1], dtype=torch.float32, device=seen.device)
        first = torch.where(seen, index, torch.inf).amin(1)
        last = torch.where(seen, index, -torch.inf).amax(1)
        centres.append((first + last) / 2)
    return torch.stack(centres, 1)


def heat_map(
    centre: Float[Tensor, "B axes"],
    size: Sequence[int],
    spacing_mm: Sequence[float],
    sigma_mm: float,
) -> Float[Tensor, "B 1 *space"]:
    """exp(-r^2 / (2 sigma^2)), r the distance in mm from the centre; zero where that is nan.

    Args:
        centre: in voxels.
        size: of the map.
        spacing_mm: of its voxels, per axis.
    """
    squared = torch.zeros(len(centre), *size, device=centre.device)
    for axis, (n, mm) in enumerate(zip(size, spacing_mm, strict=True)):
        index = torch.arange(n, dtype=torch.float32, device=centre.device)
        along = ((index - centre[:, axis, None]) * mm).square()
        squared = squared + along.reshape(-1, *[n if a == axis else 1 for a in range(len(size))])
    return torch.exp(-squared / (2 * sigma_mm**2)).nan_to_num(0.0)[:, None]


def heat_map_loss(
    heat: Float[Tensor, "B 1 *space"],
    wanted: Float[Tensor, "B 1 *space"],
    sync: Sync = identity,
) -> Float[Tensor, ""]:
    """Squared error, divided by that of an empty map: 1 for predicting nothing, 0 for the target.

    A mean over all voxels would be tiny, since nearly all of them are zero.
    """
    wanted = wanted.to(heat.dtype)
    error, empty = (heat - wanted).square().sum(), wanted.square().sum()
    return sync(error) / sync(empty).clamp_min(1e-6)
