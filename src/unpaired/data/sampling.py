"""Batches of one modality, each a pure function of (seed, modality, step, rank, world).

There is no state to save: training resumes by asking for the next step. Sample number
p = (step * world + rank) * batch_size + i decides everything, so two ranks draw what one would
draw with a double batch.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from unpaired.data.cache import PreparedCase
from unpaired.datasets.dataset import IGNORED
from unpaired.errors import DataError, UsageError

IGNORE_INDEX = -100
"""In a batch: the label of a voxel that nobody annotated. It is what torch's losses leave out."""
# Random streams of one (seed, modality): the order of a pass, a sample's draws.
_PASS, _SAMPLE = 0, 1
Sample = tuple[np.ndarray, np.ndarray, str]
"""Image [K *space], label [*space], and the case it is from."""


@dataclass(frozen=True)
class Batch:
    """Images and labels of one modality.

    Attributes:
        image: K = channels * context, channel-major: [channel 0 slice -1, slice 0, slice +1, ...].
        label: class indices of the middle slice; `IGNORE_INDEX` where nobody annotated.
        case: where each sample is from.
        position: number of the sample in the whole training; seeds its augmentation.
    """

    image: Float[Tensor, "B K *space"]
    label: Int64[Tensor, "B *space"]
    case: tuple[str, ...]
    position: Int64[Tensor, " B"]

    def to(self, device: torch.device | str) -> "Batch":
        """The batch with image and label on `device`; positions stay where they are read."""
        image = self.image.to(device, non_blocking=True)
        label = self.label.to(device, non_blocking=True)
        return Batch(image, label, self.case, self.position)


@dataclass(frozen=True)
class Draws:
    """What one process draws in a step.

    Attributes:
        batch_size: samples a step.
        seed: of the random numbers.
        rank, world: this process among all; together they draw what one would draw with a batch
            `world` times as large.
    """

    batch_size: int
    seed: int
    rank: int = 0
    world: int = 1

    def positions(self, step: int) -> range:
        """Numbers of this step's samples in the whole training."""
        start = (step * self.world + self.rank) * self.batch_size
        return range(start, start + self.batch_size)


def modality_key(modality: str) -> int:
    """A number that stands for the modality in counter-based seeds."""
    return zlib.crc32(modality.encode())


def check_cases(cases: Sequence[PreparedCase], name: str) -> None:
    """Refuse what cannot be trained on.

    Raises:
        DataError: there is no case, or one has no label.
    """
    if not cases:
        raise DataError(f"{name} has no training case; mend the split or add cases.")
    bare = [case.id for case in cases if not case.labelled]
    if bare:
        raise DataError(f"{name}/{bare[0]} has no label; training needs one a case.")


def as_target(label: np.ndarray) -> np.ndarray:
    """Prepared class indices as a network's target: int64, `IGNORE_INDEX` where ignored."""
    target = label.astype(np.int64)
    target[label == IGNORED] = IGNORE_INDEX
    return target


def batch_of(samples: Sequence[Sample], positions: range) -> Batch:
    """Samples as one batch."""
    return Batch(
        image=torch.from_numpy(np.stack([image for image, _, _ in samples])),
        label=torch.from_numpy(np.stack([label for _, label, _ in samples])),
        case=tuple(case for _, _, case in samples),
        position=torch.arange(positions.start, positions.stop),
    )


class PatchSampler:
    """Draws patches from prepared cases: slices with their neighbours, or several slices.

    Each pass takes every place once, in a fresh order; with probability `foreground` a sample is
    redrawn from the slices that hold a class, the class drawn uniformly among those present.
    A place is a slice where the patch is (rows, columns); where it is (slices, rows, columns),
    a case has as many places as patches that cover it, and the patch lies anywhere in it.
    Of a case of which only a part is annotated, every patch holds some of that part.
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        modality: str,
        patch: tuple[int, ...],
        context: int,
        foreground: float,
        draws: Draws,
    ) -> None:
        """Read nothing yet.

        Raises:
            DataError: there is no case, one has no label, or no voxel is annotated.
            UsageError: a number is out of range.
        """
        check_cases(cases, modality)
        if context < 1 or context % 2 == 0:
            raise UsageError(f"context is {context}; it must be odd.")
        if len(patch) == 3 and context != 1:
            raise UsageError(f"context is {context}; a patch of several slices has none, give 1.")
        d = draws
        if not 0 <= foreground <= 1 or d.batch_size < 1 or d.seed < 0 or not 0 <= d.rank < d.world:
            raise UsageError(
                f"foreground {foreground}, batch size {d.batch_size}, seed {d.seed}, rank {d.rank} "
                f"of {d.world}: one of them is out of range."
            )
        self.cases, self.patch, self.context = tuple(cases), patch, context
        self.foreground, self.draws = foreground, draws
        self._seed = (draws.seed, modality_key(modality))
        self._window = (*[1] * (3 - len(patch)), *patch)
        self._first = np.cumsum([0, *(case.shape[0] for case in cases)])
        self._places = np.cumsum([0, *(self._count(case) for case in cases)])
        self._of_class = _slices_of_class(cases, self._first)
        if not self.places:
            raise DataError(
                f"{modality} has no annotated voxel in its training cases: all are marked "
                "`ignore`; annotate some, or mend the labels."
            )

    def _count(self, case: PreparedCase) -> int:
        """Places of a case in a pass."""
        slices = case.shape[0] if case.annotated is None else len(case.annotated)
        if len(self.patch) == 2 or not slices:
            return slices
        return prod(-(-n // size) for n, size in zip(case.shape, self.patch, strict=True))

    @property
    def places(self) -> int:
        """Number of samples in a pass over all cases."""
        return int(self._places[-1])

    def batch(self, step: int) -> Batch:
        """The batch of this step; the same whenever it is asked for."""
        positions = self.draws.positions(step)
        passes = {p // self.places: self._permutation(p // self.places) for p in positions}
        return batch_of([self._draw(p, passes[p // self.places]) for p in positions], positions)

    def _permutation(self, number: int) -> np.ndarray:
        rng = np.random.default_rng([*self._seed, _PASS, number])
        return rng.permutation(self.places)

    def _draw(self, position: int, order: np.ndarray) -> Sample:
        rng = np.random.default_rng([*self._seed, _SAMPLE, position])
        where, wanted, first = int(order[position % self.places]), 0, self._places
        if self._of_class and rng.random() < self.foreground:
            wanted = int(rng.choice(list(self._of_class)))
            where, first = int(rng.choice(self._of_class[wanted])), self._first
        number = int(np.searchsorted(first, where, side="right")) - 1
        case, z = self.cases[number], where - int(first[number])
        if case.annotated is not None and not wanted:
            z = int(case.annotated[z] if len(self.patch) == 2 else rng.choice(case.annotated))
        image, label = self._cut(case, z, wanted, rng)
        return image, label, case.id

    def _cut(
        self, case: PreparedCase, z: int, wanted: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        stored, labels = case.image(), case.label()
        assert labels is not None
        start = self._corner(labels, z, wanted, rng, whole=case.annotated is None)
        parts = [
            _pad(case.intensities(_window(stored[k], near, self._window), k), self._window, margin)
            for k, margin in enumerate(case.minimum)
            for near in _neighbours(start, self.context, case.shape[0])
        ]
        cut = _pad(_window(labels, start, self._window), self._window, 0.0)
        image = np.stack(parts).reshape(-1, *self.patch)
        return image.astype(np.float32, copy=False), as_target(cut).reshape(self.patch)

    def _corner(
        self, labels: np.ndarray, z: int, wanted: int, rng: np.random.Generator, whole: bool
    ) -> tuple[int, ...]:
        """Where the patch starts: near a voxel of the wanted class in slice z, else anywhere.

        Args:
            whole: every voxel is annotated; else "anywhere" is near one that is, in slice z.
        """
        fixed = 3 - len(self.patch)  # a slice stays where it is
        sizes = zip(labels.shape, self._window, strict=True)
        free = [max(0, n - size) for n, size in sizes][fixed:]
        given = (z,) * fixed
        if not any(free):
            return given + (0,) * len(free)
        if whole and not wanted:
            return given + tuple(int(rng.integers(0, n + 1)) for n in free)
        plane = labels[z]
        there = plane == wanted if wanted else plane != IGNORED
        voxel = np.unravel_index(rng.choice(np.flatnonzero(there)), plane.shape)
        starts = []
        for at, size, most in zip((z, *voxel)[fixed:], self.patch, free, strict=True):
            jitter = int(rng.integers(-(size // 4), size // 4 + 1))
            starts.append(min(max(int(at) - size // 2 + jitter, 0), most))
        return given + tuple(starts)


def _neighbours(start: tuple[int, ...], context: int, slices: int) -> list[tuple[int, ...]]:
    """Starts of the patch and of its neighbours along the slices; the edge slice repeats."""
    z = start[0] + np.arange(context) - context // 2
    return [(int(i), *start[1:]) for i in z.clip(0, slices - 1)]


def _slices_of_class(cases: Sequence[PreparedCase], first: np.ndarray) -> dict[int, np.ndarray]:
    """Class -> global numbers of the slices that hold it, over all cases."""
    slices_of: dict[int, list[np.ndarray]] = {}
    for case, start in zip(cases, first[:-1], strict=True):
        for label, indices in case.slices.items():
            slices_of.setdefault(label, []).append(indices + start)
    return {label: np.concatenate(slices_of[label]) for label in sorted(slices_of)}


def _window(array: np.ndarray, starts: Sequence[int], patch: Sequence[int]) -> np.ndarray:
    return array[tuple(slice(s, s + n) for s, n in zip(starts, patch, strict=True))]


def _pad(array: np.ndarray, patch: Sequence[int], value: float) -> np.ndarray:
    """Fill an array smaller than the patch with `value`, the array in the middle."""
    lack = [max(0, size - n) for n, size in zip(array.shape, patch, strict=True)]
    if not any(lack):
        return array
    return np.pad(array, [(n // 2, n - n // 2) for n in lack], constant_values=value)
