"""What a patch should show of the scans, and how fine a grid that leaves."""

from collections.abc import Mapping, Sequence

import numpy as np

from unpaired.data import measure
from unpaired.data.plan import Plan
from unpaired.datasets.dataset import Dataset, value_table
from unpaired.datasets.planes import Lattice, orient
from unpaired.io.volume import Orientation

COARSEST_MM = 4.0
"""Coarser planes lose the organs; larger ones are tiled."""
# Of the labelled structures' size, what a patch shows; and how much less than a plane that must be.
_AROUND, _CLEARLY = 1.33, 0.7
# Of a side of a patch: less shows too little of what lies around.
_FEWEST_VOXELS = 64


def turned_of(scans: Sequence[measure.Lattice], plan: Plan) -> list[measure.Geometry]:
    """The scans' grids along the plan's axes."""
    return [measure.turned(s, orient(s, plan.slice_axis, plan.planes)) for s in scans]


def coarser(
    spacing_mm: Sequence[float], extent_mm: np.ndarray, side: int
) -> tuple[float, float, float]:
    """The spacing in the plane at which the longer side of `extent_mm` [3] has `side` voxels.

    Never finer than the scans', nor coarser than `COARSEST_MM` (there a plane is tiled).
    """
    voxels = extent_mm[1:] / spacing_mm[1:]
    factor = max(1.0, float(voxels.max()) / side)
    slices, rows, columns = spacing_mm
    rows, columns = (mm if factor == 1 else max(mm, min(mm * factor, COARSEST_MM))
                     for mm in (rows, columns))  # fmt: skip
    return round(slices, 4), round(rows, 4), round(columns, 4)


def seen_mm(
    datasets: Mapping[str, Dataset], plan: Plan, scans: Sequence[measure.Geometry]
) -> np.ndarray:
    """What a patch should show [3]: a typical scan, or where the labelled structures take clearly
    less of its planes, as a heart does, those and a third more."""
    whole = measure.typical_extent_mm(scans)

    def turn(scan: Lattice) -> Orientation:
        return orient(scan, plan.slice_axis, plan.planes)

    boxes = []
    for dataset in datasets.values():
        values = [value for value, k in value_table(dataset, plan.classes).items() if k > 0]
        boxes.append(measure.labelled_extent_mm(dataset, values, turn))
    box = np.max(boxes, axis=0)
    least = _FEWEST_VOXELS * np.array(plan.spacing_mm)
    around = np.maximum(_AROUND * box, [0.0, *least[1:]])
    seen: np.ndarray = np.where(box > 0, np.minimum(whole, around), whole)
    return seen if np.prod(seen[1:]) < _CLEARLY * np.prod(whole[1:]) else whole


def is_part(seen_mm: np.ndarray, scans: Sequence[measure.Geometry]) -> bool:
    """Whether a patch is smaller than a scan's plane."""
    return bool((seen_mm < measure.typical_extent_mm(scans)).any())


def patch_of(
    seen_mm: np.ndarray, spacing: Sequence[float], unit: int, side: int
) -> tuple[int, int]:
    """Rows and columns, multiples of `unit`, that show so much; not much more than `side`."""
    rows, columns = (
        min(-(-n // unit), max(1, side // unit)) * unit
        for n in np.ceil(seen_mm[1:] / np.asarray(spacing)[1:] - 0.5).astype(int).tolist()
    )
    return max(unit, rows), max(unit, columns)
