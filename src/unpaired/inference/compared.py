"""What a segmentation measures, and how the models of an ensemble agree, to be compared with the
training."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import nan

import numpy as np
import torch

from unpaired.data.plan import Plan
from unpaired.data.preprocess import PreparedImage, slices
from unpaired.plausibility.judge import SCAN, Measured, Plausibility, judge
from unpaired.plausibility.measure import Measures, levels_of, measure_classes


@dataclass(frozen=True, eq=False)
class Segmented:
    """The labels of one image.

    Attributes:
        labels: uint8 [i j k].
        measures: to compare with those of the training labels.
        agreement: per foreground class the mean Dice of the models with their mean (where their
            grids differ, of those of each grid), nan where none finds it; None of a single model.
    """

    labels: np.ndarray
    measures: Measures
    agreement: list[float] | None

    def compared(self, modality: str, plan: Plan, doubts: Iterable[str]) -> Plausibility:
        """Beside what the plan of a trained model knows of its training.

        Args:
            doubts: that the image is of this modality.
        """
        expected = plan.modalities[modality].expected
        measures = [Measured(SCAN, "modality", nan, odd=True, says=text) for text in doubts]
        if expected is not None:
            measures += judge(self.measures, expected, plan.classes[1:], self.agreement)
        return Plausibility(modality, expected is not None, tuple(measures))


class Agreement:
    """Counts over slices how models agree with their mean."""

    def __init__(self, models: int, classes: int) -> None:
        self._own, self._both = np.zeros((2, models, classes))
        self._mean = np.zeros(classes)

    def add(self, each: Sequence[torch.Tensor], mean: torch.Tensor) -> None:
        """The labels of each model, and of their mean, at the same places."""
        self._mean += self._count(mean)
        for i, own in enumerate(each):
            self._own[i] += self._count(own)
            self._both[i] += self._count(own[own == mean.to(own.device)])

    def dice(self) -> list[float]:
        """Of each foreground class, the mean over the models."""
        total = self._own + self._mean
        found = np.where(total > 0, 2 * self._both / np.maximum(total, 1), np.nan).mean(0)
        return [float(value) for value in found[1:]]

    def _count(self, labels: torch.Tensor) -> np.ndarray:
        return torch.bincount(labels.reshape(-1), minlength=len(self._mean)).cpu().numpy()


def measures_of(labels: np.ndarray, image: PreparedImage, classes: int) -> Measures:
    """Of labels in canonical axes and the image that the first network saw."""
    inside = labels[slices(image.box)]
    rows = measure_classes(inside, image.array, image.native_mm, classes)
    return Measures(rows, image.native_mm, image.extent_mm, levels_of(image.array))
