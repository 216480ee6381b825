"""Validation on whole volumes of the prepared grid, by the network as it is now."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from torch import Tensor

from unpaired.artifact.model import Network, probabilities
from unpaired.config import Config
from unpaired.config.schema import PredictConfig
from unpaired.data.cache import Intensities, PreparedCase
from unpaired.data.plan import Plan
from unpaired.datasets.dataset import IGNORED
from unpaired.device import autocast_dtype
from unpaired.inference.inferer import Inferer
from unpaired.methods import Method, method_of
from unpaired.metrics import dice
from unpaired.models import Joint
from unpaired.training.distributed import Group


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
    config: Config,
    plan: Plan,
    method: Method | None = None,
    group: Group | None = None,
) -> Validation:
    """Segment every case and compare on the prepared grid.

    Args:
        method: as of `train`.
        group: the processes that share out the cases; each gives the scores of all.
    """
    group, device = group or Group(), next(joint.parameters()).device
    joint.eval()
    method = method_of(config, method)
    settings = PredictConfig(batch_size=config.predict.batch_size)
    autocast = autocast_dtype(config.train.precision, device)
    names = plan.classes[1:]
    scores = torch.zeros(sum(map(len, cases.values())), len(names), dtype=torch.float64)
    place = count()
    where = {m: [next(place) for _ in members] for m, members in cases.items()}
    for m, members in cases.items():
        inferer = Inferer(_network(joint, m, plan, method), plan, settings, device, autocast)
        for row, case in zip(where[m], members, strict=True):
            if row % group.world == group.rank:
                found = _dice_of(inferer.labels(Intensities(case)), case, len(plan.classes))
                scores[row] = torch.tensor(found, dtype=torch.float64)
    joint.train()
    scores = group.total(scores)  # zeros and one number each: exact
    return Validation(
        {
            m: {name: _mean(scores[rows, i].tolist()) for i, name in enumerate(names)}
            for m, rows in where.items()
            if rows
        }
    )


def _network(joint: Joint, modality: str, plan: Plan, method: Method) -> Network:
    """The network as it is now; its scores are not made probabilities unless that matters."""
    with torch.no_grad():
        gains = joint.gains(modality)

    def scores(image: Tensor) -> Tensor:
        return joint.segmenter(image, modality, gains).logits

    found = scores if method.one_pass else probabilities(scores)
    return method.looking(found, joint.segmenter, modality, plan)


def _dice_of(labels: np.ndarray, case: PreparedCase, classes: int) -> list[float]:
    truth = case.label()
    assert truth is not None
    if case.annotated is not None:
        labels = np.where(truth == IGNORED, 0, labels)
    return [dice(labels == z, truth == z) for z in range(1, classes)]


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")
