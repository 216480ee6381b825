"""The coarse view of a whole image, and the crops that are found in it.

A cell of the view is the mean of `stride` voxels of the prepared grid along each axis; where the
image ends within a cell, the mean of those that are there. The view is padded with its own minimum
(air), the image in the middle. Positions are in voxels of the prepared grid, centres of voxels
at whole numbers.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64

from unpaired.data.plan_types import CoarseView

Spans = tuple[tuple[slice, ...], tuple[slice, ...]]
Three = tuple[int, int, int]


@runtime_checkable
class Indexed(Protocol):
    """An image [K d h w]: an array, or what gives float arrays when it is indexed."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, slices, rows, columns."""

    def __getitem__(self, key: Any, /) -> Any:
        """Numpy's indexing."""


def coarse_image(image: Indexed, view: CoarseView) -> Float32[np.ndarray, "K D H W"]:
    """The view of an image, read as many slices at a time as a cell has."""
    slabs = [
        _reduce(np.asarray(image[:, z : z + view.stride[0]], np.float32), view, np.add)
        for z in range(0, image.shape[1], view.stride[0])
    ]
    cells = np.concatenate(slabs, axis=1)
    cells /= _counts(image.shape[1:], view)
    return _padded(cells, view, cells.min((1, 2, 3)))


def coarse_marks(label: np.ndarray, view: CoarseView) -> Int64[np.ndarray, "D H W"]:
    """1 in every cell that holds a labelled voxel, else 0."""
    marks = _reduce((label > 0)[None], view, np.maximum).astype(np.int64)
    return _padded(marks, view, np.zeros(1, np.int64))[0]


def view_shape(shape: Sequence[int], view: CoarseView) -> Three:
    """The size of the view of an image [d h w]: the plan's, or larger where the image is."""
    return _grown(_cells(shape, view), view)


def cell_position(cell: Sequence[int], shape: Sequence[int], view: CoarseView) -> np.ndarray:
    """Where the centre of a cell of the view lies in an image [d h w], in its voxels."""
    inside = np.subtract(cell, _before(shape, view))
    return (inside + 0.5) * view.stride - 0.5


def structures_centre(label: np.ndarray) -> np.ndarray:
    """The centre of the box around all labelled voxels; the image's own where there is none."""
    middle = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        found = np.flatnonzero((label > 0).any(axis=others))
        low, high = (found[0], found[-1]) if len(found) else (0, label.shape[axis] - 1)
        middle.append((low + high) / 2)
    return np.array(middle, float)


def corner_of(centre: Sequence[float] | np.ndarray, patch: Sequence[int]) -> Three:
    """The first voxel of the crop of this size around a centre; it may lie outside."""
    a, b, c = (int(np.floor(x - (n - 1) / 2 + 0.5)) for x, n in zip(centre, patch, strict=True))
    return a, b, c


def overlap(corner: Sequence[int], patch: Sequence[int], shape: Sequence[int]) -> Spans:
    """Where a crop and an image [d h w] meet: in the image, and in the crop. May be empty."""
    there, here = [], []
    for start, size, n in zip(corner, patch, shape, strict=True):
        first = min(max(start, 0), n)
        last = max(min(start + size, n), first)
        there.append(slice(first, last))
        here.append(slice(first - start, last - start) if last > first else slice(0, 0))
    return tuple(there), tuple(here)


def cut(
    read: Callable[[tuple[slice, ...]], np.ndarray],
    shape: Sequence[int],
    corner: Sequence[int],
    patch: Sequence[int],
    fill: float,
) -> np.ndarray:
    """A crop, with `fill` where it reaches outside.

    Args:
        read: gives the image's part [d h w] in these slices.
    """
    there, here = overlap(corner, patch, shape)
    part = read(there)
    out = np.full(tuple(patch), fill, part.dtype)
    out[here] = part
    return out


def _cells(shape: Sequence[int], view: CoarseView) -> list[int]:
    return [-(-n // s) for n, s in zip(shape, view.stride, strict=True)]


def _grown(cells: Sequence[int], view: CoarseView) -> Three:
    d, h, w = (
        max(least, -(-n // view.step) * view.step)
        for n, least in zip(cells, view.shape, strict=True)
    )
    return d, h, w


def _before(shape: Sequence[int], view: CoarseView) -> list[int]:
    cells = _cells(shape, view)
    return [(full - n) // 2 for full, n in zip(view_shape(shape, view), cells, strict=True)]


def _reduce(array: np.ndarray, view: CoarseView, operation: np.ufunc) -> np.ndarray:
    """Cells of [K d h w], added up or compared, the last one cut off where the array ends."""
    for axis, stride in enumerate(view.stride, start=1):
        if stride > 1:
            array = operation.reduceat(array, np.arange(0, array.shape[axis], stride), axis)
    return array


def _counts(shape: Sequence[int], view: CoarseView) -> Float32[np.ndarray, "D H W"]:
    d, h, w = (
        np.minimum(s, n - np.arange(0, n, s)).astype(np.float32)
        for n, s in zip(shape, view.stride, strict=True)
    )
    return d[:, None, None] * h[:, None] * w


def _padded(cells: np.ndarray, view: CoarseView, fill: np.ndarray) -> np.ndarray:
    sizes = _grown(cells.shape[1:], view)
    out = np.empty((len(cells), *sizes), cells.dtype)
    out[:] = fill.astype(cells.dtype).reshape(-1, 1, 1, 1)
    place = [
        slice((full - n) // 2, (full - n) // 2 + n)
        for full, n in zip(sizes, cells.shape[1:], strict=True)
    ]
    out[:, *place] = cells
    return out
