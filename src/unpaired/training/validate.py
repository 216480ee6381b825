"""Validation on whole volumes of the prepared grid, by the network as it is now."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unpaired.data.cache import PreparedCase
from unpaired.data.plan import Plan
from unpaired.inference.inferer import Network, mean_probabilities, segment_labels
from unpaired.inference.located import Located
from unpaired.metrics import dice
from unpaired.models import Joint


@dataclass(frozen=True)
class Intensities:
    """A prepared image [K d h w] that gives float32 where it is indexed."""

    case: PreparedCase

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, slices, rows, columns."""
        return (len(self.case.scale), *self.case.shape)

    def __getitem__(self, key: Any, /) -> np.ndarray:
        scale, shift = (
            np.asarray(v, np.float32)[:, None, None, None]
            for v in (self.case.scale, self.case.shift)
        )
        channels = key[0] if isinstance(key, tuple) else key
        return self.case.image()[key] * _like(scale[channels]) + _like(shift[channels])


def _like(value: np.ndarray) -> np.ndarray:
    return value.reshape(()) if value.size == 1 else value


@dataclass(frozen=True)
class Validation:
    """Mean Dice per modality and class over the cases; nan where no case holds the class."""

    dice: dict[str, dict[str, float]]

    @property
    def mean(self) -> dict[str, float]:
        """Mean over the foreground classes, per modality."""
        return {m: _mean(list(classes.values())) for m, classes in self.dice.items()}

    @property
    def score(self) -> float:
        """Mean over the modalities: what the best checkpoint is chosen by."""
        return _mean(list(self.mean.values()))


def validate(
    joint: Joint,
    cases: Mapping[str, Sequence[PreparedCase]],
    plan: Plan,
    device: torch.device,
    autocast: torch.dtype | None,
    batch_size: int = 8,
) -> Validation:
    """Segment every case and compare on the prepared grid."""
    joint.eval()
    found: dict[str, dict[str, float]] = {}
    for m, members in cases.items():
        if not members:
            continue
        rows = [
            _dice_of(
                segment_labels(
                    _network(joint, m, plan),
                    Intensities(case),
                    context=plan.context,
                    patch=plan.patch,
                    batch_size=batch_size,
                    device=device,
                    autocast=autocast,
                ),
                case,
                len(plan.classes),
            )
            for case in members
        ]
        found[m] = {
            name: _mean([row[i] for row in rows]) for i, name in enumerate(plan.classes[1:])
        }
    joint.train()
    return Validation(found)


def _network(joint: Joint, modality: str, plan: Plan) -> Network:
    """The network as it is now; its scores are not made probabilities unless that matters."""
    with torch.no_grad():
        gains = joint.gains(modality)

    def scores(image: Tensor) -> Tensor:
        return joint.segmenter(image, modality, gains).logits

    if plan.coarse is None:
        return scores
    found = mean_probabilities([scores])  # beside a crop lie the background's probabilities
    return Located(found, lambda view: joint.segmenter.locate(view, modality), plan.coarse)  # type: ignore[operator]


def _dice_of(labels: np.ndarray, case: PreparedCase, classes: int) -> list[float]:
    truth = case.label()
    assert truth is not None
    return [dice(labels == z, truth == z) for z in range(1, classes)]


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")
