"""Eq. 10 and 11 against double loops over pairs."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import oracles
from unpaired.losses import icr, mcr

CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def draw(sizes: list[int], *shape: int, seed: int = 0, scale: float = 1.0) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        f"m{k}": (scale * torch.randn(n, *shape, generator=generator).double()).requires_grad_()
        for k, n in enumerate(sizes)
    }


def same(ours: Tensor, loops: Tensor, inputs: dict[str, Tensor]) -> None:
    torch.testing.assert_close(ours, loops, **CLOSE)
    gradients = [
        torch.autograd.grad(loss, list(inputs.values()), allow_unused=True, materialize_grads=True)
        for loss in (ours, loops)
    ]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, **CLOSE)


@settings(max_examples=15, deadline=None)
@given(
    modalities=st.integers(2, 4),
    classes=st.integers(1, 4),
    width=st.integers(2, 6),
    seed=st.integers(0, 10**6),
)
def test_mcr_equals_the_pairs(modalities: int, classes: int, width: int, seed: int) -> None:
    embeddings = draw([classes] * modalities, width, seed=seed)
    same(mcr(embeddings), oracles.mcr(embeddings), embeddings)


@settings(max_examples=15, deadline=None)
@given(
    images=st.lists(st.integers(1, 3), min_size=2, max_size=4),
    classes=st.integers(1, 4),
    tau=st.sampled_from([1.0, 4.0, 10.0]),
    seed=st.integers(0, 10**6),
)
def test_icr_equals_the_pairs(images: list[int], classes: int, tau: float, seed: int) -> None:
    """Modalities may bring unequal numbers of images; every pair across modalities counts once."""
    found = draw(images, classes, classes, seed=seed, scale=4.0)
    same(icr(found, tau), oracles.icr(found, tau), found)


@settings(max_examples=10, deadline=None)
@given(
    images=st.lists(st.integers(1, 3), min_size=2, max_size=3),
    classes=st.integers(1, 4),
    seed=st.integers(0, 10**6),
)
def test_icr_of_present_classes_equals_the_pairs(
    images: list[int], classes: int, seed: int
) -> None:
    found = draw(images, classes, classes, seed=seed, scale=4.0)
    generator = torch.Generator().manual_seed(seed)
    present = {m: torch.rand(len(e), classes, generator=generator) < 0.6 for m, e in found.items()}
    expected = oracles.icr(found, 4.0, present)
    if expected.requires_grad:
        same(icr(found, 4.0, present), expected, found)
    else:
        torch.testing.assert_close(icr(found, 4.0, present), expected, **CLOSE)


def test_one_modality_has_no_pair() -> None:
    assert float(mcr(draw([3], 4))) == 0
    assert float(icr(draw([2], 3, 3))) == 0


def test_icr_near_agreement_does_not_cancel() -> None:
    """In float32 sums a divergence of 1e-9 drowns in the rounding of terms of size 1."""
    torch.manual_seed(0)
    a = torch.randn(1, 5, 5)
    near = {"a": a, "b": a + 1e-4 * torch.randn(1, 5, 5)}
    expected = oracles.icr({m: e.double() for m, e in near.items()}, 4.0)
    assert 0 < float(expected) < 1e-7
    assert float(icr(near, 4.0)) == pytest.approx(float(expected), rel=1e-4)
    assert icr(near, 4.0).dtype == torch.float32


def test_icr_gradient_near_agreement_points_the_right_way() -> None:
    torch.manual_seed(0)
    a = torch.randn(1, 5, 5)
    found = {"a": a.requires_grad_(), "b": (a.detach() + 1e-3 * torch.randn(1, 5, 5))}
    exact = {m: e.detach().double().requires_grad_() for m, e in found.items()}
    ours = torch.autograd.grad(icr(found), found["a"])[0].double()
    loops = torch.autograd.grad(oracles.icr(exact, 4.0), exact["a"])[0]
    assert float((ours * loops).sum() / (ours.norm() * loops.norm())) > 0.9999


def test_mcr_of_parallel_embeddings_is_zero_whatever_their_length() -> None:
    q = torch.randn(5, 8).double()
    assert abs(float(mcr({"a": q, "b": 3 * q, "c": 0.1 * q}))) < 1e-12
    assert float(mcr({"a": q, "b": -q})) == pytest.approx(10)


def test_mcr_starts_near_the_number_of_classes() -> None:
    """Independent embeddings: 4.99 with a spread of 0.12 at Z = 5 and C = 384."""
    torch.manual_seed(0)
    values = torch.stack([mcr({m: torch.randn(5, 384) for m in "ab"}) for _ in range(40)])
    assert float(values.mean()) == pytest.approx(5, abs=0.1)
    assert float(values.std()) == pytest.approx(0.12, abs=0.05)


def test_permuting_the_classes_changes_neither_loss() -> None:
    order = torch.tensor([2, 0, 3, 1])
    q = draw([4, 4, 4], 6)
    torch.testing.assert_close(mcr(q), mcr({m: e[order] for m, e in q.items()}))
    e = draw([2, 3], 4, 4)
    moved = {m: x[:, order][:, :, order] for m, x in e.items()}
    torch.testing.assert_close(icr(e), icr(moved))
    # Only the rows: another matrix, another loss.
    torch.testing.assert_close(icr(e), icr({m: x[:, order] for m, x in e.items()}))
    mixed = {"m0": e["m0"], "m1": e["m1"][:, order]}
    assert float((icr(e) - icr(mixed)).detach().abs()) > 1e-6


def test_swapping_modalities_changes_neither_loss() -> None:
    q, e = draw([3, 3], 4), draw([1, 3], 3, 3)
    torch.testing.assert_close(mcr(q), mcr(dict(reversed(q.items()))))
    torch.testing.assert_close(icr(e), icr(dict(reversed(e.items()))))


def test_a_constant_added_to_a_row_changes_nothing() -> None:
    """softmax_j does not see what is common to a row; no factor tau^2 hides in the value."""
    e = draw([2, 2], 3, 3)
    lifted = {"m0": e["m0"] + torch.randn(2, 3, 1).double(), "m1": e["m1"]}
    torch.testing.assert_close(icr(e), icr(lifted))
    torch.testing.assert_close(icr(e, 4.0), icr({m: x / 4 for m, x in e.items()}, 1.0))


def test_pairs_of_a_step_split_over_processes() -> None:
    """`sync` sums the per-modality sums, so two halves give the loss of the whole step."""
    e = draw([4, 2], 3, 3)
    halves = [{m: x[i::2] for m, x in e.items()} for i in range(2)]
    sums: list[Tensor] = []
    for half in halves:
        icr(half, sync=lambda x: (sums.append(x), x)[1])
    shared = icr(halves[0], sync=lambda x: sums[0] + sums[1])
    torch.testing.assert_close(shared, icr(e))
