"""Validation on whole volumes of the prepared grid, by the network as it is now."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unpaired.artifact.model import Network, probabilities
from unpaired.config import Config
from unpaired.config.schema import PredictConfig
from unpaired.data.cache import Intensities, PreparedCase
from unpaired.data.plan import Plan
from unpaired.data.preprocess import middle_of
from unpaired.datasets.dataset import IGNORED
from unpaired.device import autocast_dtype
from unpaired.errors import DataError
from unpaired.files import read_json, write_json
from unpaired.inference.inferer import Inferer
from unpaired.methods import Method, method_of
from unpaired.metrics import dice, keep_largest
from unpaired.models import Joint
from unpaired.plausibility.measure import measure_classes
from unpaired.training.distributed import Group


@dataclass(frozen=True)
class Validation:
    """How the network segments the validation cases.

    Attributes:
        dice: per modality and class the mean over the cases; nan where no case holds the class.
        cases: per modality and case [Z-1 1+6+K]: of each class its Dice, and what it measures
            (`unpaired.plausibility.measure`).
    """

    dice: dict[str, dict[str, float]]
    cases: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)

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
    names, channels = plan.classes[1:], max(len(m.channel_names) for m in plan.modalities.values())
    columns = 7 + channels
    largest = [plan.classes.index(name) for name in config.predict.largest_component]
    found = torch.zeros(sum(map(len, cases.values())), len(names), columns, dtype=torch.float64)
    place = count()
    where = {m: [next(place) for _ in members] for m, members in cases.items()}
    for m, members in cases.items():
        inferer = Inferer(_network(joint, m, plan, method), plan, settings, device, autocast)
        for row, case in zip(where[m], members, strict=True):
            if row % group.world == group.rank:
                own = _scored(inferer.labels(Intensities(case)), case, plan, largest)
                found[row, :, : own.shape[1]] = torch.from_numpy(own)
    joint.train()
    found = group.total(found)  # zeros and one number each: exact
    return Validation(
        {
            m: {name: _mean(found[rows, i, 0].tolist()) for i, name in enumerate(names)}
            for m, rows in where.items()
            if rows
        },
        {
            m: {case.id: found[row].numpy() for row, case in zip(where[m], members, strict=True)}
            for m, members in cases.items()
        },
    )


def write_validated(path: Path, step: int, validation: Validation) -> None:
    """Keep what the cases measured, and of which step the network was."""
    cases = {m: {i: v.tolist() for i, v in own.items()} for m, own in validation.cases.items()}
    write_json(path, {"step": step, "cases": cases}, seal=True)


def read_validated(path: Path, step: int) -> dict[str, dict[str, np.ndarray]]:
    """What `write_validated` kept of the network of this step; empty where there is nothing."""
    try:
        content = read_json(path)
        if content["step"] != step:
            return {}
        return {
            m: {i: np.array(v, float) for i, v in own.items()}
            for m, own in content["cases"].items()
        }
    except (DataError, KeyError, TypeError, ValueError, AttributeError):
        return {}


def _network(joint: Joint, modality: str, plan: Plan, method: Method) -> Network:
    """The network as it is now; its scores are not made probabilities unless that matters."""
    with torch.no_grad():
        gains = joint.gains(modality)

    def scores(image: Tensor) -> Tensor:
        return joint.segmenter(image, modality, gains).logits

    found = scores if method.one_pass else probabilities(scores)
    return method.looking(found, joint.segmenter, modality, plan)


def _scored(
    labels: np.ndarray, case: PreparedCase, plan: Plan, largest: Sequence[int]
) -> np.ndarray:
    """A case's rows of `Validation.cases`, of its own number of channels.

    Args:
        largest: classes of which prediction keeps the largest piece; so do the measures.
    """
    truth = case.label()
    assert truth is not None
    if case.annotated is not None:
        labels = np.where(truth == IGNORED, 0, labels)
    scores = [dice(labels == z, truth == z) for z in range(1, len(plan.classes))]
    middle = middle_of(case.grid or case.shape, case.frame)
    kept = keep_largest(labels, largest) if largest else labels
    rows = measure_classes(kept, Intensities(case), case.spacing_mm, len(scores), middle)
    return np.column_stack([scores, rows])


def _mean(values: Sequence[float]) -> float:
    defined = [value for value in values if not np.isnan(value)]
    return float(np.mean(defined)) if defined else float("nan")
