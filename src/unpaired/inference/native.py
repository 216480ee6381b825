"""From scores on the prepared grid to labels, there and on the image's own grid, slice by slice.

The interpolation is linear and separable (`unpaired.io.resample`), so a native slice needs only
the two prepared slices that it lies between: neither all slices nor all classes of a native
volume are ever held, however long the scan is.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from unpaired.data.preprocess import Placement, slices
from unpaired.io.resample import neighbours

Runs = Iterator[tuple[int, Float[Tensor, "n Z h w"]]]
"""Consecutive slices of the prepared grid with their scores, as `Inferer.scores` yields them."""


@dataclass(frozen=True)
class Between:
    """One native slice: the two prepared slices around it and the share of the upper one.

    The planes have the native size where slices are added, the prepared size where they are
    thinned out (the fewest planes are resampled).
    """

    index: int
    lower: Float[Tensor, "Z _ _"]
    upper: Float[Tensor, "Z _ _"]
    share: float
    plane: tuple[int, int]

    def scores(self) -> Float[Tensor, "Z H W"]:
        """All classes of this slice."""
        return _plane(_mix(self.lower, self.upper, self.share), self.plane)

    def label(self) -> Tensor:
        """uint8 [H W]: the class of the highest score, ties to the lower class."""
        if self.share == 0 and tuple(self.lower.shape[1:]) == self.plane:
            return best_class(self.lower[None])[0]
        if tuple(self.lower.shape[1:]) != self.plane:
            return best_class(self.scores()[None])[0]
        # A class at a time: the planes stay in the processor's cache.
        best = _mix(self.lower[0], self.upper[0], self.share)
        label = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
        for z in range(1, len(self.lower)):
            take_better(best, label, _mix(self.lower[z], self.upper[z], self.share), z)
        return label


def native_slices(runs: Runs, depth: int, shape: Sequence[int]) -> Iterator[Between]:
    """Every slice of the native grid, in order, as soon as the prepared slices allow it.

    Args:
        runs: the prepared slices, in order.
        depth: number of prepared slices.
        shape: native (slices, rows, columns).
    """
    count, plane = shape[0], (int(shape[1]), int(shape[2]))
    pair = neighbours(depth, count)
    thinned = count < depth
    held: deque[tuple[int, Tensor]] = deque()
    index = 0
    for place, scores in _singly(runs):
        if index == count or place < pair.below[index]:
            continue  # thinned out: no native slice reads it
        held.append((place, scores if thinned else _plane(scores, plane)))
        while index < count and pair.above[index] <= place:
            while held[0][0] < pair.below[index]:
                held.popleft()
            share = float(pair.weight[index] / pair.total)
            # At the last slice below and above are one; held[-1] is `above` by construction.
            yield Between(index, held[0][1], held[-1][1], share, plane)
            index += 1


@dataclass(frozen=True)
class Mean:
    """One native slice of several networks whose grids differ."""

    parts: Sequence[Between]
    weights: Sequence[float]

    @property
    def index(self) -> int:
        """Which slice."""
        return self.parts[0].index

    def scores(self) -> Float[Tensor, "Z H W"]:
        """The weighted mean of all classes of this slice."""
        return self._scores

    def label(self) -> Tensor:
        """uint8 [H W]: the class of the highest score, ties to the lower class."""
        return self._label

    # Who watches looks at the same mean as who writes it.
    @cached_property
    def _scores(self) -> Tensor:
        total = self.parts[0].scores() * self.weights[0]
        for part, weight in zip(self.parts[1:], self.weights[1:], strict=True):
            total = total.add_(part.scores().to(total.device), alpha=weight)
        return total

    @cached_property
    def _label(self) -> Tensor:
        return best_class(self._scores[None])[0]


def native_labels(
    runs: Runs,
    image: Placement,
    scores: np.ndarray | None = None,
    encode: Callable[[np.ndarray], np.ndarray] = lambda x: x,
) -> np.ndarray:
    """uint8 labels [D H W] of the whole file in canonical axes; background outside its content.

    Args:
        runs: the prepared slices, in order.
        image: where they lie in the file.
        scores: [Z D H W] in canonical axes; filled, inside the content, with the encoded scores.
    """
    return _labels(native_slices(runs, image.grid[0], image.box_shape), image, scores, encode)


def mean_labels(
    streams: Sequence[tuple[Runs, Placement, float]],
    scores: np.ndarray | None = None,
    encode: Callable[[np.ndarray], np.ndarray] = lambda x: x,
    watch: Callable[[Sequence[Tensor], Tensor], None] | None = None,
) -> np.ndarray:
    """As `native_labels`, of the weighted mean of scores that lie on several prepared grids.

    Args:
        streams: of each grid the prepared slices, where they lie, and the weight; the weights
            add up to 1. All have the file's slices along one axis.
        watch: told of every slice the labels of each grid, and those of their mean.
    """
    slices_of = [native_slices(runs, at.grid[0], at.box_shape) for runs, at, _ in streams]
    weights = [weight for *_, weight in streams]
    means: Iterator[Mean] = (Mean(parts, weights) for parts in zip(*slices_of, strict=True))
    if watch is not None:
        means = _watched(means, watch)
    return _labels(means, streams[0][1], scores, encode)


def _watched(
    means: Iterator[Mean], watch: Callable[[Sequence[Tensor], Tensor], None]
) -> Iterator[Mean]:
    for mean in means:
        watch([part.label() for part in mean.parts], mean.label())
        yield mean


def _labels(
    found: Iterator[Between] | Iterator[Mean],
    image: Placement,
    scores: np.ndarray | None,
    encode: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    whole, box = np.zeros(image.native_shape, np.uint8), slices(image.box)
    labels = whole[box]
    for one in found:
        if scores is None:
            labels[one.index] = one.label().cpu().numpy()
            continue
        values = one.scores()
        labels[one.index] = best_class(values[None])[0].cpu().numpy()
        scores[:, *box][:, one.index] = encode(values.cpu().numpy())
    return whole


def noting(runs: Runs, labels: np.ndarray) -> Runs:
    """Pass the runs on, with the class of the highest score of every slice put into `labels`."""
    for start, scores in runs:
        labels[start : start + len(scores)] = best_class(scores).cpu().numpy()
        yield start, scores


def best_class(scores: Float[Tensor, "n Z h w"]) -> Tensor:
    """Index of the highest score, uint8 [n h w]; ties to the lower class.

    A running maximum over the classes: `argmax` over an axis that is not the last is ten times
    slower on a CPU.
    """
    best = scores[:, 0].clone()
    label = torch.zeros(best.shape, dtype=torch.uint8, device=scores.device)
    for z in range(1, scores.shape[1]):
        take_better(best, label, scores[:, z], z)
    return label


def take_better(best: Tensor, label: Tensor, score: Tensor, z: int) -> None:
    """Where `score` of class z is above `best`, note both in place; z must grow from call to call.

    The maximum of indices does what a masked fill would do at a tenth of its time.
    """
    wins = torch.gt(score, best).view(torch.uint8)
    torch.maximum(label, wins.mul_(z), out=label)
    torch.maximum(best, score, out=best)


def _singly(runs: Runs) -> Iterator[tuple[int, Tensor]]:
    for start, scores in runs:
        for offset, one in enumerate(scores):
            yield start + offset, one


def _mix(lower: Tensor, upper: Tensor, share: float) -> Tensor:
    return lower if share == 0 else torch.lerp(lower, upper, share)


def _plane(scores: Float[Tensor, "Z _ _"], size: tuple[int, int]) -> Float[Tensor, "Z _ _"]:
    if tuple(scores.shape[1:]) == size:
        return scores
    return F.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0]
