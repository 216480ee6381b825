"""From scores on the prepared grid to labels on the image's own grid, one slice at a time.

The interpolation is linear and separable (`unpaired.io.resample`), so a native slice needs only
the two prepared slices that it lies between: neither all slices nor all classes of a native volume
are ever held, however long the scan is.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from unpaired.engine.infer import best_class, take_better
from unpaired.io.resample import neighbours

Runs = Iterable[tuple[int, Float[Tensor, "n Z h w"]]]
"""Consecutive slices of the prepared grid with their scores, as `segment_slices` yields them."""


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


def labels_into(out: np.ndarray, slices: Iterable[Between]) -> None:
    """Write the label of every slice into `out` [D H W], which may be a view in any order."""
    for between in slices:
        out[between.index] = between.label().cpu().numpy()


def scores_into(
    labels: np.ndarray,
    scores: np.ndarray,
    slices: Iterable[Between],
    encode: Callable[[np.ndarray], np.ndarray] = lambda x: x,
) -> None:
    """As `labels_into`, and the scores of all classes into `scores` [Z D H W], encoded."""
    for between in slices:
        found = between.scores()
        labels[between.index] = best_class(found[None])[0].cpu().numpy()
        scores[:, between.index] = encode(found.cpu().numpy())


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
