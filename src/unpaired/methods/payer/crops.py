"""The coarse view of a whole image, the crops that are found in it, and batches of both.

A cell of the view is the mean of `stride` voxels of the prepared grid along each axis; where the
image ends within a cell, the mean of those that are there. The view is padded with its own minimum
(air), the image in the middle. Positions are in voxels of the prepared grid, centres of voxels
at whole numbers.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32, Int64

from unpaired.data.cache import PreparedCase
from unpaired.data.frame import of_a_class
from unpaired.data.plan import CoarseView
from unpaired.data.sampling import (
    Batch,
    Draws,
    Sample,
    as_target,
    batch_of,
    check_cases,
    modality_key,
)

Spans = tuple[tuple[slice, ...], tuple[slice, ...]]
Three = tuple[int, int, int]
Take = Callable[[PreparedCase, np.random.Generator], tuple[np.ndarray, np.ndarray]]
"""Image [K *space] and label [*space] of a case, by the random numbers of one sample."""

# Random streams of one (seed, name), other than those of `PatchSampler` and of augmentation.
_PASS, _SAMPLE = 4, 5


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
    """1 in every cell that holds a voxel of a class, else 0."""
    marks = _reduce(of_a_class(label)[None], view, np.maximum).astype(np.int64)
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
    middle, inside = [], of_a_class(label)
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        marked = np.flatnonzero(inside.any(axis=others))
        low, high = (marked[0], marked[-1]) if len(marked) else (0, label.shape[axis] - 1)
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


# Batches of one sample a case: whole coarse views, or crops around the structures. As of
# `PatchSampler`, each is a pure function of (seed, name, step, rank, world): a pass takes every
# case once, in a fresh order.


class CaseSampler:
    """Draws one sample a case.

    Args:
        name: of the batches; with the seed it makes the random numbers.
        take: what is drawn from a case.

    Raises:
        DataError: there is no case, or one has no label.
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        name: str,
        take: Take,
        draws: Draws,
    ) -> None:
        check_cases(cases, name)
        self.cases, self.take, self.draws = tuple(cases), take, draws
        self._seed = (draws.seed, modality_key(name))

    @property
    def places(self) -> int:
        """Number of samples in a pass over all cases."""
        return len(self.cases)

    def batch(self, step: int) -> Batch:
        """The batch of this step; the same whenever it is asked for."""
        positions = self.draws.positions(step)
        return batch_of([self._draw(position) for position in positions], positions)

    def _draw(self, position: int) -> Sample:
        order = np.random.default_rng([*self._seed, _PASS, position // self.places])
        case = self.cases[int(order.permutation(self.places)[position % self.places])]
        image, label = self.take(case, np.random.default_rng([*self._seed, _SAMPLE, position]))
        return image, label, case.id


@dataclass(frozen=True)
class WholeView:
    """Takes the coarse view of a whole case; its label is 1 wherever there is a structure."""

    view: CoarseView

    def __call__(
        self, case: PreparedCase, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        label = case.label()
        assert label is not None
        stored = coarse_image(case.image(), self.view)  # a mean of stored numbers is scaled as they
        image = np.stack([case.intensities(part, k) for k, part in enumerate(stored)])
        return image, coarse_marks(label, self.view)


@dataclass(frozen=True)
class CentredCrop:
    """Takes a crop around the centre of a case's structures, shifted at random.

    Attributes:
        patch: the crop's size.
        jitter: largest shift, in voxels, each axis both ways.
    """

    patch: tuple[int, ...]
    jitter: tuple[float, ...]

    def __call__(
        self, case: PreparedCase, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        label = case.label()
        assert label is not None
        shift = rng.uniform(-1, 1, 3) * self.jitter
        corner = corner_of(structures_centre(label) + shift, self.patch)
        stored = case.image()
        parts = [
            cut(
                lambda where, k=k: case.intensities(stored[k][where], k),  # type: ignore[misc]
                case.shape, corner, self.patch, margin,
            )
            for k, margin in enumerate(case.minimum)
        ]  # fmt: skip
        marks = cut(lambda where: label[where], case.shape, corner, self.patch, 0.0)
        return np.stack(parts).astype(np.float32, copy=False), as_target(marks)
