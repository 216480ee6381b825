"""Resampling by separable exact splines: per axis one small matrix or one pair of neighbours.

Positions follow nnU-Net and skimage: output voxel i reads x = (i + 1/2) n_in / n_out - 1/2, so the
outer faces of the first and last voxel stay where they are; beyond the edge the last voxel repeats.
There is no smoothing before shrinking, as in nnU-Net.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

# The spline's prefilter forgets by 0.27 a voxel: 12 repeats of the edge are exact in float32.
_PAD = 12
# Voxels at a time: the one-hot arrays and the scores of all classes never exist at once.
_LABEL_SLAB = 1 << 22


def resample_image(
    image: Float[Tensor, "*space"], shape: Sequence[int], order: int = 3
) -> Float[Tensor, "*out"]:
    """Resample to `shape`, clipped to the input's range; order 0 (nearest), 1 or 3 (B-spline).

    Equal to skimage's `resize(..., order, mode="edge", clip=True, anti_aliasing=False)`.

    Raises:
        ValueError: another order, a size below 1, or another number of axes.
    """
    sizes = checked_sizes(image.shape, shape)
    if order not in (0, 1, 3):
        raise ValueError(f"order must be 0, 1 or 3, not {order}")
    out = image
    for axis in largest_shrink_first(image.shape, sizes):
        n_in, n_out = image.shape[axis], sizes[axis]
        if order == 0:
            out = out.index_select(axis, _nearest(n_in, n_out).to(image.device))
        else:
            matrix = torch.from_numpy(_matrix(n_in, n_out, order)).to(image.device, image.dtype)
            out = _along(out, matrix, axis)
    if order == 3 and out is not image:
        low, high = torch.aminmax(image)
        out = out.clamp_(low, high)
    return out.clone() if out is image else out


def resample_label(label: np.ndarray, shape: Sequence[int], classes: int) -> np.ndarray:
    """The class whose linearly resampled mask is largest; ties go to the lower class. uint8/uint16.

    Equal to the arg max of the resampled one-hot array in exact arithmetic, computed a class at a
    time inside its box.

    Raises:
        ValueError: a value outside 0 .. classes - 1, or another number of axes.
    """
    sizes = checked_sizes(label.shape, shape)
    dtype: type[np.integer] = np.uint8 if classes <= 256 else np.uint16
    low, high = (int(label.min()), int(label.max()))
    if low < 0 or high >= classes:
        raise ValueError(f"labels reach from {low} to {high}, expected 0 to {classes - 1}")
    if sizes == label.shape:
        return label.astype(dtype)
    return _LabelResampler(label, sizes, dtype).run()


def resample_scores(
    scores: Float[Tensor, "Z *space"], shape: Sequence[int], slab_voxels: int = 1 << 21
) -> Iterator[tuple[slice, Float[Tensor, "Z *slab"]]]:
    """Linear resampling, a slab of the first space axis at a time: (its place, [Z slab ...]).

    Memory stays near Z x slab_voxels floats, however large `shape` is.
    """
    sizes = checked_sizes(scores.shape[1:], shape)
    for place in slabs(sizes, slab_voxels):
        yield place, torch.stack([_slab(score, sizes, place) for score in scores])


def resample_argmax(
    scores: Float[Tensor, "Z *space"], shape: Sequence[int], slab_voxels: int = 1 << 21
) -> np.ndarray:
    """The class of the largest linearly resampled score, uint8 [*shape]; ties to the lower class.

    A slab and a class at a time with a running maximum: memory beyond input and output stays near
    four slabs, however many classes there are.
    """
    sizes = checked_sizes(scores.shape[1:], shape)
    if scores.shape[0] > 256:
        raise ValueError(f"{scores.shape[0]} classes do not fit uint8")
    out = torch.zeros(sizes, dtype=torch.uint8)
    for place in slabs(sizes, slab_voxels):
        best = _slab(scores[0], sizes, place)
        winner = out[place].to(scores.device)
        for value in range(1, scores.shape[0]):
            score = _slab(scores[value], sizes, place)
            winner.masked_fill_(score > best, value)
            torch.maximum(best, score, out=best)
        out[place] = winner.cpu()
    return out.numpy()


@dataclass(frozen=True)
class Neighbours:
    """The two input voxels each output voxel of one axis lies between.

    Attributes:
        below, above: int64 [n_out], indices of the input.
        weight: int64 [n_out], of `above`; `total - weight` is the weight of `below`.
        total: what counts as 1.
    """

    below: np.ndarray
    above: np.ndarray
    weight: np.ndarray
    total: int

    def reached(self, part: slice) -> slice:
        """The output voxels with some weight on the input voxels of `part`."""
        low = (self.below >= part.start) & (self.below < part.stop) & (self.weight < self.total)
        high = (self.above >= part.start) & (self.above < part.stop) & (self.weight > 0)
        touched = np.flatnonzero(low | high)
        return slice(int(touched[0]), int(touched[-1]) + 1) if len(touched) else slice(0, 0)


@lru_cache(maxsize=64)
def neighbours(n_in: int, n_out: int) -> Neighbours:
    """Linear interpolation of one axis in integers.

    The position is x = ((2i + 1) n_in - n_out) / (2 n_out), a fraction: weights over a common
    `total` are integers, so sums of their products are exact, and so are ties.
    """
    common = int(np.gcd(n_in, n_out))
    # x + 1 instead of x, to divide positive numbers.
    quotient, rest = np.divmod((2 * np.arange(n_out, dtype=np.int64) + 1) * n_in + n_out, 2 * n_out)
    below = (quotient - 1).clip(0, n_in - 1)
    above = quotient.clip(0, n_in - 1)
    return Neighbours(below, above, rest // common, 2 * n_out // common)


def largest_shrink_first(old: Sequence[int], new: Sequence[int]) -> list[int]:
    """The axes that change, so ordered that the arrays between stay small."""
    changed = [axis for axis in range(len(old)) if old[axis] != new[axis]]
    return sorted(changed, key=lambda axis: new[axis] / old[axis])


def checked_sizes(old: Sequence[int], new: Sequence[int]) -> tuple[int, ...]:
    sizes = tuple(int(n) for n in new)
    if len(sizes) != len(old) or min(*sizes, *old, 1) < 1:
        raise ValueError(f"cannot resample {tuple(old)} to {sizes}")
    return sizes


def slabs(sizes: tuple[int, ...], voxels: int) -> list[slice]:
    """Cuts of the first axis of at most `voxels` voxels (one row at least) each."""
    rows = max(1, voxels // max(1, int(np.prod(sizes[1:]))))
    return [slice(i, min(i + rows, sizes[0])) for i in range(0, sizes[0], rows)]


class _LabelResampler:
    """Running maximum over the classes; the background's score is what the others leave.

    A slab of the output's first axis at a time, so that the scores stay small.
    """

    def __init__(self, label: np.ndarray, sizes: tuple[int, ...], dtype: type[np.integer]) -> None:
        self.label, self.sizes = label, sizes
        self.pairs = [neighbours(a, b) for a, b in zip(label.shape, sizes, strict=True)]
        self.order = largest_shrink_first(label.shape, sizes)
        self.total = int(np.prod([self.pairs[axis].total for axis in self.order], dtype=object))
        if self.total >= 2**62:
            raise ValueError(f"cannot resample {label.shape} to {sizes}: the ratio is too fine")
        self.number = np.int32 if self.total < 2**31 else np.int64
        self.out: np.ndarray = np.zeros(sizes, dtype)

    def run(self) -> np.ndarray:
        boxes = ndimage.find_objects(self.label)
        places = {
            value: tuple(pair.reached(part) for pair, part in zip(self.pairs, box, strict=True))
            for value, box in enumerate(boxes, start=1)
            if box is not None
        }
        for slab in slabs(self.sizes, _LABEL_SLAB):
            self._slab(slab, boxes, places)
        return self.out

    def _slab(self, slab: slice, boxes: list, places: dict[int, tuple[slice, ...]]) -> None:
        out = self.out[slab]
        best = np.zeros(out.shape, self.number)
        rest = np.full(out.shape, self.total, self.number)
        for value, place in places.items():
            rows = slice(max(place[0].start, slab.start), min(place[0].stop, slab.stop))
            if rows.start >= rows.stop or any(part.start >= part.stop for part in place):
                continue
            score = self._score(value, boxes[value - 1], (rows, *place[1:]))
            here = (slice(rows.start - slab.start, rows.stop - slab.start), *place[1:])
            np.copyto(out[here], value, where=score > best[here])
            np.maximum(best[here], score, out=best[here])
            rest[here] -= score
        out[rest >= best] = 0

    def _score(self, value: int, box: tuple[slice, ...], place: tuple[slice, ...]) -> np.ndarray:
        """The mask of one class, resampled in integers, at the output voxels of `place`."""
        first = self.pairs[0]
        start = max(box[0].start, int(first.below[place[0]].min()))
        stop = min(box[0].stop, int(first.above[place[0]].max()) + 1)
        box = (slice(start, stop), *box[1:])
        score = (self.label[box] == value).astype(self.number)
        for axis in self.order:
            pair, part = self.pairs[axis], place[axis]
            shape = [-1 if a == axis else 1 for a in range(score.ndim)]
            upper = pair.weight[part].astype(self.number).reshape(shape)
            lower = _take(score, pair.below[part] - box[axis].start, axis)
            lower *= pair.total - upper
            higher = _take(score, pair.above[part] - box[axis].start, axis)
            higher *= upper
            score = np.add(lower, higher, out=lower)
        return score


def _take(array: np.ndarray, index: np.ndarray, axis: int) -> np.ndarray:
    """`array` at `index` along `axis`; zero outside (the mask is empty beyond its box)."""
    inside = (index >= 0) & (index < array.shape[axis])
    taken = array.take(index.clip(0, array.shape[axis] - 1), axis)
    if not inside.all():
        taken[(slice(None),) * axis + (~inside,)] = 0
    return taken


def _slab(score: Tensor, sizes: tuple[int, ...], place: slice) -> Tensor:
    """One class [*space] -> the rows `place` of its resampled array, float32."""
    pair = neighbours(score.shape[0], sizes[0])
    below, above = pair.below[place], pair.above[place]
    low, high = int(below.min()), int(above.max()) + 1
    rows = score[low:high].float()
    shrink = sizes[0] < score.shape[0]
    if not shrink:
        rows = _plane(rows, sizes[1:])
    lower = rows[torch.from_numpy(below - low).to(rows.device)]
    upper = rows[torch.from_numpy(above - low).to(rows.device)]
    fraction = torch.from_numpy(pair.weight[place] / pair.total).to(rows.device, rows.dtype)
    mixed = torch.lerp(lower, upper, fraction.reshape(-1, *[1] * (rows.ndim - 1)))
    return _plane(mixed, sizes[1:]) if shrink else mixed


def _plane(rows: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """Linear resampling of all but the first axis."""
    if tuple(rows.shape[1:]) == sizes:
        return rows
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(sizes)]
    return F.interpolate(rows[None], size=sizes, mode=mode, align_corners=False)[0]


def _along(array: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """Multiply one axis by `matrix` [n_out n_in], without moving memory."""
    old = array.shape
    shape = (*old[:axis], matrix.shape[0], *old[axis + 1 :])
    if axis == array.ndim - 1:
        return (array.reshape(-1, old[axis]) @ matrix.T).reshape(shape)
    stacked = array.reshape(-1, old[axis], int(np.prod(old[axis + 1 :])))
    return (matrix @ stacked).reshape(shape)


@lru_cache(maxsize=64)
def _matrix(n_in: int, n_out: int, order: int) -> np.ndarray:
    """The linear map from input to output voxels of one axis, float64 [n_out n_in]."""
    x = _positions(n_in, n_out)
    if order == 1:
        pair, rows = neighbours(n_in, n_out), np.arange(n_out)
        matrix = np.zeros((n_out, n_in))
        np.add.at(matrix, (rows, pair.below), 1 - pair.weight / pair.total)
        np.add.at(matrix, (rows, pair.above), pair.weight / pair.total)
        return matrix
    padded = np.pad(np.eye(n_in), ((_PAD, _PAD), (0, 0)), mode="edge")
    coefficients = ndimage.spline_filter1d(padded, order=3, axis=0, mode="reflect")
    first = np.floor(x).astype(int) - 1
    fraction = x - np.floor(x)
    weights = _cubic(np.stack([1 + fraction, fraction, 1 - fraction, 2 - fraction]))
    return sum(weights[k, :, None] * coefficients[first + k + _PAD] for k in range(4))


def _positions(n_in: int, n_out: int) -> np.ndarray:
    """Where output voxels read, in input voxels: float64 [n_out]."""
    return (np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5


def _nearest(n_in: int, n_out: int) -> Tensor:
    index = np.floor(_positions(n_in, n_out) + 0.5).clip(0, n_in - 1)
    return torch.from_numpy(index.astype(np.int64))


def _cubic(distance: np.ndarray) -> np.ndarray:
    """The cubic B-spline at `distance` in [0, 2]."""
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = (2 - distance) ** 3 / 6
    return np.where(distance < 1, near, far)
