"""Finding the structures by a heat map (Payer et al. 2017): its target and its squared error."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from unpaired.losses.segmentation import Sync, identity


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
    found: Float[Tensor, "B 1 *space"],
    wanted: Float[Tensor, "B 1 *space"],
    sync: Sync = identity,
) -> Float[Tensor, ""]:
    """Squared error, divided by that of an empty map: 1 for predicting nothing, 0 for the target.

    A mean over all voxels would be tiny, since nearly all of them are zero.
    """
    wanted = wanted.to(found.dtype)
    error, empty = (found - wanted).square().sum(), wanted.square().sum()
    return sync(error) / sync(empty).clamp_min(1e-6)
