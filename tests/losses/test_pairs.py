"""Divergences of pairs of images over common classes, against loops; and what they move."""

import math
from itertools import combinations, product

import pytest
import torch
from torch import Tensor

from unpaired.losses import icr
from unpaired.losses.pairs import guided_icr, view_correlations, view_logits

CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def softmax(row: list[Tensor]) -> list[Tensor]:
    parts = [x.exp() for x in row]
    return [part / sum(parts) for part in parts]


def pair(a: Tensor, b: Tensor, common: list[int], tau: float) -> Tensor:
    """Rows and columns of the common classes alone."""
    total = a.new_zeros(())
    for i in common:
        p, q = (softmax([e[i, j] / tau for j in common]) for e in (a, b))
        for x, y in zip(p, q, strict=True):
            total = total + x * (x / y).log() + y * (y / x).log()
    return total


def held(present: Tensor, s: int, other: Tensor, t: int) -> list[int]:
    return [z for z in range(present.shape[1]) if present[s, z] and other[t, z]]


@pytest.mark.parametrize("sizes", [(2, 3), (1, 2, 2)])
@pytest.mark.parametrize("rich", [None, "m1"])
def test_guided_icr_equals_the_loops(sizes: tuple[int, ...], rich: str | None) -> None:
    generator = torch.Generator().manual_seed(len(sizes))
    e = {
        f"m{k}": (4 * torch.randn(n, 4, 4, generator=generator).double()).requires_grad_()
        for k, n in enumerate(sizes)
    }
    present = {m: torch.rand(len(x), 4, generator=generator) < 0.7 for m, x in e.items()}
    ours = guided_icr(e, present, 2.0, rich)
    pairs = [
        pair(e[m][s], e[n][t], held(present[m], s, present[n], t), 2.0)
        for m, n in combinations(e, 2)
        for s, t in product(range(len(e[m])), range(len(e[n])))
    ]
    loops = sum(pairs) / len(pairs)
    torch.testing.assert_close(ours, loops, **CLOSE)
    fixed = {m: x.detach() if m == rich else x for m, x in e.items()}
    moved = sum(
        pair(fixed[m][s], fixed[n][t], held(present[m], s, present[n], t), 2.0)
        for m, n in combinations(e, 2)
        for s, t in product(range(len(e[m])), range(len(e[n])))
    ) / len(pairs)
    for m in e:
        given = torch.autograd.grad(
            ours, e[m], retain_graph=True, allow_unused=True, materialize_grads=True
        )[0]
        if m == rich:
            assert not given.any()
        else:
            torch.testing.assert_close(
                given, torch.autograd.grad(moved, e[m], retain_graph=True)[0], **CLOSE
            )


def test_with_every_class_there_it_is_l_icr() -> None:
    torch.manual_seed(0)
    e = {"a": 3 * torch.randn(3, 5, 5).double(), "b": torch.randn(2, 5, 5).double()}
    everything = {m: torch.ones(len(x), 5, dtype=torch.bool) for m, x in e.items()}
    torch.testing.assert_close(guided_icr(e, everything, 4.0), icr(e, 4.0), **CLOSE)
    assert guided_icr({"a": e["a"]}, {"a": everything["a"]}) == 0


def test_what_saturates_stays_finite_and_nothing_in_common_is_nothing() -> None:
    e = {m: (1e4 * torch.randn(2, 3, 3)).requires_grad_() for m in "ab"}
    there = torch.tensor([[True, False, True], [False, False, False]])
    loss = guided_icr(e, {"a": there, "b": ~there}, 4.0)
    assert loss == 0 and loss.dtype == torch.float32
    loss.backward()
    assert not e["a"].grad.any()
    loss = guided_icr(e, {"a": there, "b": there}, 4.0)
    loss.backward()
    assert math.isfinite(float(loss.detach())) and e["b"].grad.isfinite().all()
    assert not e["b"].grad[1].any(), "an image without any class moves nothing"
    assert not e["b"].grad[0, 1].any() and not e["b"].grad[0, :, 1].any(), "absent row and column"


def test_correlations_of_two_views_equal_the_loops() -> None:
    torch.manual_seed(1)
    plain = [(2 * torch.randn(3, 4, 4).double()).requires_grad_() for _ in range(2)]
    view = [(2 * torch.randn(3, 4, 4).double()).requires_grad_() for _ in range(2)]
    present = torch.rand(3, 4) < 0.7
    ours = view_correlations(plain, view, present, 2.0)
    loops = (
        sum(
            pair(a[s], b[s], held(present, s, present, s), 2.0)
            for a, b in zip(plain, view, strict=True)
            for s in range(3)
        )
        / 3
    )
    torch.testing.assert_close(ours, loops, **CLOSE)
    for a, b in zip(plain, view, strict=True):
        left, right = torch.autograd.grad(
            ours, [a, b], retain_graph=True, allow_unused=True, materialize_grads=True
        )
        torch.testing.assert_close(right, torch.autograd.grad(loops, b, retain_graph=True)[0])
        assert not left.any()


def test_logits_of_two_views_equal_the_loops() -> None:
    torch.manual_seed(2)
    plain = [torch.randn(2, 3, *s).double().requires_grad_() for s in ((2, 2), (1, 3, 2))]
    view = [torch.randn(2, 3, *s).double().requires_grad_() for s in ((2, 2), (1, 3, 2))]
    loops = torch.zeros((), dtype=torch.float64)
    for a, b in zip(plain, view, strict=True):
        a, b = a.flatten(2), b.flatten(2)
        for s, x in product(range(2), range(a.shape[2])):
            p, q = softmax(list(a[s, :, x])), softmax(list(b[s, :, x]))
            each = sum(u * (u / v).log() for u, v in zip(p, q, strict=True))
            loops = loops + each / (2 * a.shape[2])
    ours = view_logits(plain, view)
    torch.testing.assert_close(ours, loops, **CLOSE)
    ours.backward()
    assert all(x.grad is None for x in plain)
    expected = [g.clone() for g in (x.grad for x in view)]
    for x, g in zip(view, expected, strict=True):
        x.grad = None
        torch.testing.assert_close(torch.autograd.grad(loops, x, retain_graph=True)[0], g, **CLOSE)
    assert float(view_logits(plain, plain).detach()) == pytest.approx(0, abs=1e-12)
    half = view_logits([x.bfloat16() for x in plain], [x.bfloat16() for x in view])
    assert half.dtype == torch.float32


def test_two_processes_share_their_sums() -> None:
    torch.manual_seed(3)
    a, b, present = torch.randn(4, 3, 3), torch.randn(4, 3, 3), torch.rand(4, 3) < 0.8
    sums: list[Tensor] = []
    for part in (slice(0, 2), slice(2, 4)):
        view_correlations([a[part]], [b[part]], present[part], 4.0,
                          lambda x: (sums.append(x), x)[1])  # fmt: skip
    queue = [x + y for x, y in zip(sums[:2], sums[2:], strict=True)]
    shared = view_correlations([a[:2]], [b[:2]], present[:2], 4.0, lambda x: queue.pop(0))
    torch.testing.assert_close(shared, view_correlations([a], [b], present, 4.0))
