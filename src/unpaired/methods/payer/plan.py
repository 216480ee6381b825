"""The crop around the structures and the coarse view they are found in, from the labels' boxes."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from unpaired.data.make_plan import Grid
from unpaired.data.measure import collect
from unpaired.data.plan import CoarseView
from unpaired.data.plan_rules import Patch
from unpaired.datasets.dataset import Case, foreground_values
from unpaired.datasets.planes import lattice_of, orient
from unpaired.errors import DataError
from unpaired.io.read import read_label_image


@dataclass(frozen=True)
class CropRule:
    """How a model that finds the structures first wants its crop and its coarse view.

    Attributes:
        margin_mm: room on each side of the largest box.
        coarse_mm: cells of the view come close to this size.
        coarse_step: the view's sizes are multiples of this.
    """

    margin_mm: float
    coarse_mm: float
    coarse_step: int

    def __call__(self, grid: Grid) -> tuple[dict[str, Any], dict[str, str]]:
        """View and, unless one is configured, patch, each with its reason."""
        view, why_view = coarse_view(grid, self)
        if grid.patch is not None:
            return {"coarse": view}, {"coarse": why_view}
        boxes = boxes_mm(grid)
        patch, why_patch = crop_patch(boxes, grid.spacing_mm, grid.multiple, self.margin_mm)
        return {"coarse": view, "patch": patch}, {"coarse": why_view, "patch": why_patch}


def boxes_mm(grid: Grid) -> np.ndarray:
    """Sides of the box around all structures, [cases 3] in array axes; unlabelled cases left out.

    Raises:
        DataError: no case holds a structure, or files are damaged (all are listed).
    """
    boxes, train = [], grid.train
    for m, dataset in grid.datasets.items():
        values = foreground_values(dataset, grid.classes)
        cases = [c for c in dataset.cases if train is None or c.id in set(train.get(m, ()))]
        labelled = [case for case in cases if case.label is not None]
        extents = collect(labelled, partial(_extent_mm, values=values, grid=grid))
        boxes += [one for one in extents if one is not None]
    if not boxes:
        raise DataError("no training case holds a structure, so there is nothing to localise.")
    return np.array(boxes)


def crop_patch(
    boxes: np.ndarray,
    spacing_mm: Sequence[float],
    multiple: Sequence[int],
    margin_mm: float,
) -> tuple[Patch, str]:
    """The smallest legal crop with room around the largest box, and the reason in a sentence.

    Args:
        boxes: as `boxes_mm` gives them.
    """
    largest = boxes.max(0)
    voxels = (largest + 2 * margin_mm) / spacing_mm
    d, h, w = (
        int(np.ceil(n / unit - 1e-9)) * unit for n, unit in zip(voxels, multiple, strict=True)
    )
    size_mm = np.multiply((d, h, w), spacing_mm)
    return (d, h, w), (
        f"The patch is the crop around the structures, {_shown(size_mm)} mm: the largest box of "
        f"the training labels, {_shown(largest)} mm, with at least {margin_mm:g} mm of room on "
        f"each side, in multiples of {_shown(multiple)} voxels."
    )


def coarse_view(grid: Grid, rule: CropRule) -> tuple[CoarseView, str]:
    """The view that holds every image, and the reason in a sentence."""
    spacing_mm = grid.spacing_mm
    stride = [max(1, round(rule.coarse_mm / mm)) for mm in spacing_mm]
    extents_mm = np.array([np.multiply(g.spacing_mm, g.shape) for g in grid.geometries])
    cells = np.ceil(np.rint(extents_mm / spacing_mm).max(0) / stride)
    # Two steps at least: a single voxel at the coarsest level could not be normalised.
    sizes = [max(2, int(np.ceil(n / rule.coarse_step))) * rule.coarse_step for n in cells]
    mm = np.multiply(stride, spacing_mm)
    view = CoarseView(stride=_three(stride), shape=_three(sizes), step=rule.coarse_step)
    return view, (
        f"The structures are looked for in a view of {_shown(sizes)} cells of {_shown(mm)} mm, "
        "which holds every image; a larger image has a larger view."
    )


def _extent_mm(case: Case, values: Sequence[int], grid: Grid) -> list[float] | None:
    assert case.label is not None
    label = read_label_image(case.label)
    turn = orient(lattice_of(label), grid.slice_axis, grid.planes)
    inside = turn.apply(np.isin(label.array, values))
    if not inside.any():
        return None
    sides = []
    for a, mm in enumerate(turn.spacing(label.spacing_mm)):
        others = tuple(other for other in range(3) if other != a)
        marked = np.flatnonzero(inside.any(axis=others))
        sides.append(float((marked[-1] - marked[0] + 1) * mm))
    return sides


def _three(sizes: Sequence[int]) -> tuple[int, int, int]:
    a, b, c = sizes
    return a, b, c


def _shown(sizes: Iterable[float | int]) -> str:
    return " x ".join(f"{size:.0f}" for size in sizes)
