"""Linear resampling of labels and of class scores, a class and a slab at a time.

The one-hot arrays and the resampled scores of all classes never exist at once: a running maximum
keeps the winner.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

from unpaired.data.neighbours import checked_sizes, largest_shrink_first, neighbours

_LABEL_SLAB = 1 << 22


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


def slabs(sizes: tuple[int, ...], voxels: int) -> list[slice]:
    """Cuts of the first axis of at most `voxels` voxels (one row at least) each."""
    rows = max(1, voxels // max(1, int(np.prod(sizes[1:]))))
    return [slice(i, min(i + rows, sizes[0])) for i in range(0, sizes[0], rows)]


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
