"""The heat map, its error, and the objective made of it, against plain loops."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from unpaired.methods.payer.losses import LocateAndSegment, box_centre, heat_map, heat_map_loss
from unpaired.models import Output


def test_a_gaussian_in_millimetres() -> None:
    centre = torch.tensor([[1.5, 4.0, 2.0], [0.0, 1.0, 5.0]])
    size, spacing, sigma = (4, 6, 7), (6.0, 3.0, 2.5), 9.0
    found = heat_map(centre, size, spacing, sigma)
    assert found.shape == (2, 1, *size)
    for b in range(2):
        for place in product(*(range(n) for n in size)):
            squared = sum(
                ((i - float(c)) * mm) ** 2
                for i, c, mm in zip(place, centre[b], spacing, strict=True)
            )
            wanted = math.exp(-squared / (2 * sigma**2))
            assert float(found[(b, 0, *place)]) == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_the_centre_of_the_box_around_everything(dims: int) -> None:
    generator = torch.Generator().manual_seed(dims)
    inside = torch.rand(5, *(6, 9, 7)[:dims], generator=generator) > 0.9
    inside[:, (2,) * dims if dims > 1 else 2] = True
    for b, centre in enumerate(box_centre(inside)):
        marked = [p for p in product(*(range(n) for n in inside.shape[1:])) if inside[(b, *p)]]
        for axis in range(dims):
            values = [p[axis] for p in marked]
            assert float(centre[axis]) == (min(values) + max(values)) / 2


def test_where_nothing_is_marked_the_map_is_empty() -> None:
    inside = torch.zeros(2, 4, 5, dtype=torch.bool)
    inside[1, 2, 3] = True
    found = heat_map(box_centre(inside), (4, 5), (1.0, 1.0), 2.0)
    assert torch.equal(found[0], torch.zeros(1, 4, 5))
    assert float(found[1, 0, 2, 3]) == 1.0


def test_the_error_is_one_for_an_empty_map_and_a_sum_of_squares() -> None:
    wanted = heat_map(torch.tensor([[2.0, 3.0]]), (5, 7), (1.0, 2.0), 3.0)
    assert float(heat_map_loss(torch.zeros_like(wanted), wanted)) == pytest.approx(1.0)
    assert float(heat_map_loss(wanted, wanted)) == 0.0
    found = torch.randn(wanted.shape, generator=torch.Generator().manual_seed(0))
    error = sum(
        (float(a) - float(b)) ** 2 for a, b in zip(found.ravel(), wanted.ravel(), strict=True)
    )
    empty = sum(float(b) ** 2 for b in wanted.ravel())
    assert float(heat_map_loss(found, wanted)) == pytest.approx(error / empty, rel=1e-5)


def step() -> tuple[dict[str, Output], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    scores = {m: torch.randn(2, 3, 4, 5, 6, generator=generator) for m in ("a", "b")}
    heats = {f"{m}/whole": torch.rand(2, 1, 4, 4, 4, generator=generator) for m in ("a", "b")}
    labels = {m: torch.randint(3, (2, 4, 5, 6), generator=generator) for m in scores}
    labels |= {m: torch.randint(2, (2, 4, 4, 4), generator=generator) for m in heats}
    return {m: Output(x) for m, x in {**scores, **heats}.items()}, labels


def test_the_objective_is_cross_entropy_and_weighted_squared_error() -> None:
    outputs, labels = step()
    names = {"a/whole": "a", "b/whole": "b"}
    objective = LocateAndSegment(names, (6.0, 3.0, 3.0), 10.0, weight=0.5)
    terms = objective(outputs, labels)
    assert set(terms.terms) == {"seg/a", "seg/b", "heat/a", "heat/b"}
    total = 0.0
    for m in ("a", "b"):
        log_p = outputs[m].logits.log_softmax(1)
        places = list(product(range(2), range(4), range(5), range(6)))
        entropy = -sum(float(log_p[b, labels[m][b, i, j, k], i, j, k]) for b, i, j, k in places)
        assert float(terms.terms[f"seg/{m}"]) == pytest.approx(entropy / len(places), rel=1e-5)
        name = f"{m}/whole"
        wanted = heat_map(box_centre(labels[name] > 0), (4, 4, 4), (6.0, 3.0, 3.0), 10.0)
        error = float(heat_map_loss(outputs[name].logits, wanted))
        assert float(terms.terms[f"heat/{m}"]) == pytest.approx(error, rel=1e-5)
        assert float(terms.weighted[f"heat/{m}"]) == pytest.approx(0.5 * error, rel=1e-5)
        total += entropy / len(places) + 0.5 * error
    assert float(terms.total) == pytest.approx(total, rel=1e-5)


def test_two_processes_have_the_loss_of_one_with_a_double_batch() -> None:
    outputs, labels = step()
    names = {"a/whole": "a", "b/whole": "b"}

    def parts(x: Tensor) -> list[Tensor]:
        return [x[:1], x[1:]]

    whole = LocateAndSegment(names, (1.0, 1.0, 1.0), 2.0)(outputs, labels).terms
    for name, m in {**names, "a": "a", "b": "b"}.items():
        sums: list[list[Tensor]] = []

        def note(x: Tensor, sums: list[list[Tensor]] = sums) -> Tensor:
            sums[-1].append(x)
            return x

        for logits, label in zip(parts(outputs[name].logits), parts(labels[name]), strict=True):
            sums.append([])
            LocateAndSegment(names, (1.0, 1.0, 1.0), 2.0, sync=note)(
                {name: Output(logits)}, {name: label}
            )
        top, bottom = (a + b for a, b in zip(*sums, strict=True))
        key = f"heat/{m}" if name in names else f"seg/{m}"
        assert float(top / bottom) == pytest.approx(float(whole[key]), rel=1e-5)
