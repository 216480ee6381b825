"""What is measured of a label map, alike for training labels and for predictions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unpaired.metrics.components import component_sizes

ML, PIECES, EDGE, PLACE, INTENSITY = 0, 1, 2, slice(3, 6), slice(6, None)
"""Columns of a class's row."""
QUARTERS = (25, 50, 75)
PIECE = 0.05
"""A component is a piece where it holds at least this share of its class."""
# Pieces, places and intensities are those of evenly spaced voxels; of a class of which these are
# too few, the volume is counted. More would take more memory than there may be: pure noise has as
# many runs as voxels.
_SAMPLE, _FEW = 1 << 19, 200


@dataclass(frozen=True, eq=False)
class Measures:
    """What one case measures; nan is unknown.

    Attributes:
        classes: float64 [Z-1 6+K], a row a foreground class: volume in ml, number of pieces,
            whether it reaches the edge of the scan, its centre in mm from the middle of the scan
            (slice, row, column), and its median intensity in each channel as the network sees it.
        spacing_mm: of the file's voxels (slice, row, column).
        extent_mm: of the scan's content, along the same axes.
        levels: [K 3], the quartiles of the intensities that the network sees.
    """

    classes: np.ndarray
    spacing_mm: np.ndarray
    extent_mm: np.ndarray
    levels: np.ndarray

    def record(self) -> dict[str, Any]:
        """For JSON; classes that are not there have no row."""
        rows = {
            str(z): [float(f"{x:.6g}") for x in row]
            for z, row in enumerate(self.classes, 1)
            if row[ML]
        }
        others = {
            name: getattr(self, name).tolist() for name in ("spacing_mm", "extent_mm", "levels")
        }
        return {"classes": rows, **others}

    @classmethod
    def from_record(cls, record: Any, classes: int) -> "Measures | None":
        """What `record` gave, of `classes` foreground classes; None where it is something else."""
        try:
            levels = np.array(record["levels"], float)
            rows = absent(classes, len(levels))
            for z, row in record["classes"].items():
                rows[int(z) - 1] = np.array(row, float)  # None, as JSON has nan, becomes nan
            spacing_mm, extent_mm = (
                np.array(record[name], float) for name in ("spacing_mm", "extent_mm")
            )
        except (KeyError, TypeError, ValueError, AttributeError, IndexError):
            return None
        return cls(rows, spacing_mm, extent_mm, levels)


def absent(classes: int, channels: int) -> np.ndarray:
    """The rows of classes that are not there."""
    rows = np.full((classes, 6 + channels), np.nan)
    rows[:, ML] = 0
    return rows


def measure_classes(
    labels: np.ndarray,
    image: Any,
    spacing_mm: Sequence[float] | np.ndarray,
    classes: int,
    middle: Sequence[float] | None = None,
) -> np.ndarray:
    """The rows of `Measures.classes`.

    Args:
        labels: class indices [d h w], every voxel annotated.
        image: [K d' h' w'] as the network sees it, over the same space; read at a few places.
        spacing_mm: of the labels.
        classes: number of foreground classes.
        middle: of the scan, in voxels of the labels; by default their own.
    """
    steps = _steps(labels.shape, spacing_mm)
    few = np.ascontiguousarray(labels[tuple(slice(None, None, step) for step in steps)])
    seen = _seen(image, labels.shape, steps)
    middle = [n / 2 for n in labels.shape] if middle is None else middle
    count = np.bincount(few.reshape(-1), minlength=classes + 1)[: classes + 1]
    voxels = count * float(np.prod(steps))
    if (count[1:] < _FEW).any():
        planes = [np.bincount(plane.reshape(-1), minlength=256) for plane in labels]
        voxels = np.sum(planes, axis=0, dtype=float)
    rows = absent(classes, len(seen))
    rows[:, ML] = voxels[1 : classes + 1] * float(np.prod(spacing_mm)) / 1000
    sizes, at_edge = component_sizes(few, range(1, classes + 1)), _at_edge(labels)
    step_mm = np.multiply(steps, spacing_mm)
    offset_mm = np.multiply(spacing_mm, np.subtract(0.5, middle))
    for z in map(int, np.flatnonzero(count[1:]) + 1):
        where = np.nonzero(few == z)
        row = rows[z - 1]
        row[PIECES] = np.count_nonzero(sizes[z] >= PIECE * count[z])
        row[EDGE] = z in at_edge
        row[PLACE] = [np.mean(i) for i in where] * step_mm + offset_mm
        row[INTENSITY] = np.median([channel[where] for channel in seen], axis=1)
    return rows


def levels_of(image: np.ndarray) -> np.ndarray:
    """Quartiles [K 3] of a prepared image [K d h w], from evenly spaced voxels."""
    steps = _steps(image.shape[1:], (1.0, 1.0, 1.0))
    return np.percentile(_seen(image, image.shape[1:], steps), QUARTERS, axis=(1, 2, 3)).T


def _steps(shape: Sequence[int], spacing_mm: Sequence[float] | np.ndarray) -> tuple[int, int, int]:
    """Every how many voxels, so that about half a million remain, as evenly spaced as can be."""
    steps = np.ones(3, int)
    while np.prod(-(-np.array(shape) // steps)) > _SAMPLE:
        steps[np.argmin(steps * spacing_mm)] += 1
    a, b, c = map(int, steps)
    return a, b, c


def _seen(image: Any, shape: Sequence[int], steps: Sequence[int]) -> np.ndarray:
    """float32 [K ...]: the image where the labels are looked at."""
    if tuple(image.shape[1:]) == tuple(shape):
        kept = (slice(None), *(slice(None, None, step) for step in steps))
        return np.asarray(image[kept], np.float32)
    places = [
        ((np.arange(0, n, step) + 0.5) * size / n).astype(int)
        for n, step, size in zip(shape, steps, image.shape[1:], strict=True)
    ]
    return np.asarray(image)[np.ix_(range(len(image)), *places)]


def _at_edge(labels: np.ndarray) -> set[int]:
    """The classes in the outermost planes."""
    planes = [labels.take(end, axis) for axis in range(3) for end in (0, -1)]
    return {int(z) for plane in planes for z in np.flatnonzero(np.bincount(plane.reshape(-1)))}
