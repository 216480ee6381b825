"""Batches of one sample a case: whole coarse views, or crops around the structures.

As `PatchSampler`, each batch is a pure function of (seed, name, step, rank, world): a pass takes
every case once, in a fresh order.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from unpaired.data.cache import PreparedCase
from unpaired.data.coarse import coarse_image, coarse_marks, corner_of, cut, structures_centre
from unpaired.data.plan_types import CoarseView
from unpaired.data.sampling import Batch, modality_key
from unpaired.errors import DataError

Take = Callable[[PreparedCase, np.random.Generator], tuple[np.ndarray, np.ndarray]]
"""Image [K *space] and label [*space] of a case, by the random numbers of one sample."""

# Random streams of one (seed, name), other than those of `PatchSampler` and of augmentation.
_PASS, _SAMPLE = 4, 5


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
        batch_size: int,
        seed: int,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not cases:
            raise DataError(f"{name} has no training case; mend the split or add cases.")
        bare = [case.id for case in cases if not case.labelled]
        if bare:
            raise DataError(f"{name}/{bare[0]} has no label; training needs one a case.")
        self.cases, self.take, self.batch_size = tuple(cases), take, batch_size
        self.rank, self.world = rank, world
        self._seed = (seed, modality_key(name))

    @property
    def places(self) -> int:
        """Number of samples in a pass over all cases."""
        return len(self.cases)

    def batch(self, step: int) -> Batch:
        """The batch of this step; the same whenever it is asked for."""
        start = (step * self.world + self.rank) * self.batch_size
        drawn = [self._draw(position) for position in range(start, start + self.batch_size)]
        return Batch(
            image=torch.from_numpy(np.stack([image for image, _, _ in drawn])),
            label=torch.from_numpy(np.stack([label for _, label, _ in drawn])),
            case=tuple(case for _, _, case in drawn),
            position=torch.arange(start, start + self.batch_size),
        )

    def _draw(self, position: int) -> tuple[np.ndarray, np.ndarray, str]:
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
        return np.stack(parts).astype(np.float32, copy=False), marks.astype(np.int64)
