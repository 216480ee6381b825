"""Batches of one modality's slices, each a pure function of (seed, modality, step, rank, world).

There is no state to save: training resumes by asking for the next step. Sample number
p = (step * world + rank) * batch_size + i decides everything, so two ranks draw what one would
draw with a double batch.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from unpaired.data.prepared import PreparedCase
from unpaired.errors import DataError, UsageError

# Random streams of one (seed, modality): the order of a pass, a sample's draws.
_PASS, _SAMPLE = 0, 1


@dataclass(frozen=True)
class Batch:
    """Images and labels of one modality.

    Attributes:
        image: K = channels * context, channel-major: [channel 0 slice -1, slice 0, slice +1, ...].
        label: class indices of the middle slice.
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


def modality_key(modality: str) -> int:
    """A number that stands for the modality in counter-based seeds."""
    return zlib.crc32(modality.encode())


class SliceSampler:
    """Draws slices with their neighbours from prepared cases.

    Each pass over the slices is a fresh permutation; with probability `foreground` a sample is
    redrawn from the slices that hold a class, the class drawn uniformly among those present.
    """

    def __init__(
        self,
        cases: Sequence[PreparedCase],
        modality: str,
        patch: tuple[int, int],
        context: int,
        batch_size: int,
        foreground: float,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Read nothing yet.

        Raises:
            DataError: there is no case, or one has no label.
            UsageError: a number is out of range.
        """
        if not cases:
            raise DataError(f"{modality} has no training case; mend the split or add cases.")
        bare = [case.id for case in cases if not case.labelled]
        if bare:
            raise DataError(f"{modality}/{bare[0]} has no label; training needs one a case.")
        if context < 1 or context % 2 == 0:
            raise UsageError(f"context is {context}; it must be odd.")
        if not 0 <= foreground <= 1 or batch_size < 1 or seed < 0 or not 0 <= rank < world:
            raise UsageError(
                f"foreground {foreground}, batch size {batch_size}, seed {seed}, rank {rank} of "
                f"{world}: one of them is out of range."
            )
        self.cases, self.patch, self.context = tuple(cases), patch, context
        self.batch_size, self.foreground = batch_size, foreground
        self.rank, self.world = rank, world
        self._seed = (seed, modality_key(modality))
        self._first = np.cumsum([0, *(case.shape[0] for case in cases)])
        self._of_class = _slices_of_class(cases, self._first)

    @property
    def slices(self) -> int:
        """Number of slices in all cases: the length of a pass."""
        return int(self._first[-1])

    def batch(self, step: int) -> Batch:
        """The batch of this step; the same whenever it is asked for."""
        start = (step * self.world + self.rank) * self.batch_size
        positions = range(start, start + self.batch_size)
        passes = {p // self.slices: self._permutation(p // self.slices) for p in positions}
        drawn = [self._draw(p, passes[p // self.slices]) for p in positions]
        return Batch(
            image=torch.from_numpy(np.stack([image for image, _, _ in drawn])),
            label=torch.from_numpy(np.stack([label for _, label, _ in drawn])),
            case=tuple(case for _, _, case in drawn),
            position=torch.arange(start, start + self.batch_size),
        )

    def _permutation(self, number: int) -> np.ndarray:
        rng = np.random.default_rng([*self._seed, _PASS, number])
        return rng.permutation(self.slices)

    def _draw(self, position: int, order: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
        rng = np.random.default_rng([*self._seed, _SAMPLE, position])
        where, wanted = int(order[position % self.slices]), 0
        if self._of_class and rng.random() < self.foreground:
            wanted = int(rng.choice(list(self._of_class)))
            where = int(rng.choice(self._of_class[wanted]))
        number = int(np.searchsorted(self._first, where, side="right")) - 1
        case = self.cases[number]
        image, label = self._cut(case, where - int(self._first[number]), wanted, rng)
        return image, label, case.id

    def _cut(
        self, case: PreparedCase, z: int, wanted: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        stored, labels = case.image(), case.label()
        assert labels is not None
        plane = labels[z]
        starts = self._corner(plane, wanted, rng)
        around = z + np.arange(self.context) - self.context // 2
        around = around.clip(0, case.shape[0] - 1)  # the edge slice repeats
        planes = [
            case.intensities(_window(stored[k, n], starts, self.patch), k)
            for k in range(len(stored))
            for n in around
        ]
        margins = np.repeat(case.minimum, self.context)
        image = np.stack(
            [_pad(p, self.patch, value) for p, value in zip(planes, margins, strict=True)]
        )
        cut = _pad(_window(plane, starts, self.patch), self.patch, 0.0)
        return image.astype(np.float32, copy=False), cut.astype(np.int64)

    def _corner(self, plane: np.ndarray, wanted: int, rng: np.random.Generator) -> tuple[int, ...]:
        """Where the patch starts: anywhere, or near a voxel of the wanted class."""
        room = [max(0, n - size) for n, size in zip(plane.shape, self.patch, strict=True)]
        if not any(room):
            return (0,) * len(room)
        if not wanted:
            return tuple(int(rng.integers(0, n + 1)) for n in room)
        voxel = np.unravel_index(rng.choice(np.flatnonzero(plane == wanted)), plane.shape)
        starts = []
        for at, size, most in zip(voxel, self.patch, room, strict=True):
            jitter = int(rng.integers(-(size // 4), size // 4 + 1))
            starts.append(min(max(int(at) - size // 2 + jitter, 0), most))
        return tuple(starts)


def _slices_of_class(cases: Sequence[PreparedCase], first: np.ndarray) -> dict[int, np.ndarray]:
    """Class -> global numbers of the slices that hold it, over all cases."""
    found: dict[int, list[np.ndarray]] = {}
    for case, start in zip(cases, first[:-1], strict=True):
        for label, indices in case.slices.items():
            found.setdefault(label, []).append(indices + start)
    return {label: np.concatenate(found[label]) for label in sorted(found)}


def _window(plane: np.ndarray, starts: Sequence[int], patch: Sequence[int]) -> np.ndarray:
    return plane[tuple(slice(s, s + n) for s, n in zip(starts, patch, strict=True))]


def _pad(plane: np.ndarray, patch: Sequence[int], value: float) -> np.ndarray:
    """Fill a plane smaller than the patch with `value`, the plane in the middle."""
    lack = [max(0, size - n) for n, size in zip(plane.shape, patch, strict=True)]
    if not any(lack):
        return plane
    return np.pad(plane, [(n // 2, n - n // 2) for n in lack], constant_values=value)
