"""Eq. 12: the terms of a step and their weights, against the loops."""

from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

import oracles
from unpaired.losses import Objective


@dataclass
class Step:
    """Stand-in for a model's output; three scales."""

    logits: Tensor
    auxiliary: tuple[Tensor, ...]
    correlations: tuple[Tensor, ...]
    embeddings: Tensor | None = field(default=None)
    deep: tuple[Tensor, ...] = ()


def step(modalities: int) -> tuple[dict[str, Step], dict[str, Tensor]]:
    torch.manual_seed(modalities)
    outputs, labels = {}, {}
    for k in range(modalities):
        images = 1 + k
        outputs[f"m{k}"] = Step(
            torch.randn(images, 3, 4, 4).double(),
            tuple(torch.randn(images, 3, s, s).double() for s in (1, 2, 4)),
            tuple(torch.randn(images, 3, 3).double() for _ in range(3)),
            torch.randn(3, 5).double(),
        )
        labels[f"m{k}"] = torch.randint(0, 3, (images, 4, 4))
    return outputs, labels


def test_deep_supervision_is_the_weighted_mean_over_the_scales() -> None:
    outputs, labels = step(1)
    full, label = outputs["m0"], labels["m0"]
    full.deep = (torch.randn(1, 3, 2, 2).double(), torch.randn(1, 3, 1, 1).double())
    expected = torch.zeros((), dtype=torch.float64)
    for share, scale in zip((4 / 7, 2 / 7, 1 / 7), (full.logits, *full.deep), strict=True):
        n = scale.shape[-1]
        pick = [int((i + 0.5) * 4 / n) for i in range(n)]
        small = torch.stack([torch.stack([label[:, y, x] for x in pick], 1) for y in pick], 1)
        expected += share * (oracles.cross_entropy(scale, small) + oracles.dice(scale, small))
    found = Objective(alpha=0.0, beta=0.0, gamma=0.0)(outputs, labels)
    torch.testing.assert_close(found.total, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("modalities", [1, 2, 3, 4])
def test_total_equals_the_equation(modalities: int) -> None:
    outputs, labels = step(modalities)
    found = Objective(alpha=0.7, beta=0.2, gamma=0.3, tau=2.0, mask_absent=False)(outputs, labels)
    expected = {}
    for m, o in outputs.items():
        segmentation = oracles.cross_entropy(o.logits, labels[m]) + oracles.dice(
            o.logits, labels[m]
        )
        expected[f"seg/{m}"] = (1.0, segmentation)
        expected[f"aux/{m}"] = (0.7, oracles.auxiliary(o.auxiliary, labels[m]))
    if modalities > 1:
        expected["mcr"] = (0.2, oracles.mcr({m: o.embeddings for m, o in outputs.items()}))
        scales = [{m: o.correlations[k] for m, o in outputs.items()} for k in range(3)]
        expected["icr"] = (0.3, sum(oracles.icr(e, 2.0) for e in scales))
    assert found.terms.keys() == found.weighted.keys() == expected.keys()
    for name, (weight, value) in expected.items():
        torch.testing.assert_close(found.terms[name], value, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(found.weighted[name], weight * value, rtol=1e-10, atol=1e-10)
    total = sum(weight * value for weight, value in expected.values())
    torch.testing.assert_close(found.total, total, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("weights", "terms"),
    [
        ({"alpha": 0.0, "beta": 0.0, "gamma": 0.0}, {"seg/m0", "seg/m1"}),
        ({"beta": 0.0, "gamma": 0.0}, {"seg/m0", "seg/m1", "aux/m0", "aux/m1"}),
        ({"alpha": 0.0, "gamma": 0.0}, {"seg/m0", "seg/m1", "mcr"}),
        ({"alpha": 0.0, "beta": 0.0}, {"seg/m0", "seg/m1", "icr"}),
    ],
)
def test_terms_of_weight_zero_are_left_out(weights: dict[str, float], terms: set[str]) -> None:
    """And what they would read need not be there."""
    outputs, labels = step(2)
    for o in outputs.values():
        o.auxiliary = o.auxiliary if "aux/m0" in terms else ()
        o.correlations = o.correlations if "icr" in terms else ()
        o.embeddings = o.embeddings if "mcr" in terms else None
    assert set(Objective(**weights)(outputs, labels).terms) == terms


def test_absent_classes_are_masked_on_request() -> None:
    outputs, labels = step(2)
    labels["m0"] = labels["m0"].clamp(max=1)  # m0 never shows class 2
    options = {"alpha": 0.0, "beta": 0.0, "gamma": 1.0, "tau": 4.0}
    masked = Objective(**options, mask_absent=True)(outputs, labels).terms["icr"]
    present = {
        m: torch.stack([torch.tensor([bool((x == z).any()) for z in range(3)]) for x in y])
        for m, y in labels.items()
    }
    scales = [{m: o.correlations[k] for m, o in outputs.items()} for k in range(3)]
    expected = sum(oracles.icr(e, 4.0, present) for e in scales)
    torch.testing.assert_close(masked, expected, rtol=1e-10, atol=1e-10)
    whole = Objective(**options, mask_absent=False)(outputs, labels).terms["icr"]
    assert float(whole) > float(masked)


def test_class_weights_enter_the_cross_entropy_only() -> None:
    outputs, labels = step(1)
    weights = (0.2, 1.0, 3.0)
    found = Objective(alpha=0.0, class_weights=weights)(outputs, labels).terms["seg/m0"]
    o, label = outputs["m0"], labels["m0"]
    expected = oracles.cross_entropy(o.logits, label, weights) + oracles.dice(o.logits, label)
    torch.testing.assert_close(found, expected)
