"""Eq. 6-8: the short form against every gated map formed, and what it must survive."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from unpaired.losses import icr
from unpaired.models import Semantics
from unpaired.nn import correlation


@settings(max_examples=12, deadline=None)
@given(
    images=st.integers(1, 2),
    classes=st.integers(1, 4),
    heads=st.integers(1, 3),
    space=st.sampled_from([(1,), (5,), (2, 3), (2, 1, 2)]),
    scale=st.sampled_from([0.1, 1.0, 6.0]),
    seed=st.integers(0, 10**6),
)
def test_equals_the_naive_form(
    images: int, classes: int, heads: int, space: tuple[int, ...], scale: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return (scale * torch.randn(shape, generator=generator).double()).requires_grad_()

    kernels, maps = draw(images, classes, heads), draw(images, classes, heads, *space)
    ours = correlation(kernels, maps)
    loops = torch.stack(
        [oracles.correlation(k, a.flatten(2)) for k, a in zip(kernels, maps, strict=True)]
    )
    torch.testing.assert_close(ours, loops, rtol=1e-10, atol=1e-10)
    weight = torch.randn(ours.shape, generator=generator).double()
    for a, b in zip(
        torch.autograd.grad((ours * weight).sum(), [kernels, maps]),
        torch.autograd.grad((loops * weight).sum(), [kernels, maps]),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-9)


def test_a_gate_that_underflows_is_no_division_by_zero() -> None:
    """w^ij is 0 in floating point everywhere for one j; its expectation is still defined."""
    maps = torch.zeros(1, 2, 1, 4)
    maps[0, 0, 0] = torch.tensor([1000.0, 1001.0, 1002.0, 1003.0])
    kernels = torch.ones(1, 2, 1, requires_grad=True)
    found = correlation(kernels, maps)
    assert torch.isfinite(found).all()
    found.sum().backward()
    assert torch.isfinite(kernels.grad).all()


def test_a_class_whose_map_is_constant_correlates_by_its_sum() -> None:
    """Where A^j is the same everywhere no gate changes its mean: E^ij = sum_n A^j_n."""
    torch.manual_seed(0)
    maps = torch.randn(1, 3, 2, 6).double()
    maps[0, 1] = torch.tensor([[0.3], [-1.2]])
    found = correlation(torch.randn(1, 3, 2).double(), maps)
    torch.testing.assert_close(found[0, :, 1], torch.full((3,), -0.9).double())


def test_maps_after_the_softmax_would_make_the_consistency_loss_vanish() -> None:
    """Why A is raw: softmax rows sum to 1, the gate is nearly flat, E constant, L_icr zero."""
    torch.manual_seed(1)
    raw = {m: torch.randn(2, 5, 8, 14, 14).double() for m in ("a", "b")}
    kernels = {m: 0.4 * torch.randn(2, 5, 8).double() for m in raw}
    after = {m: a.flatten(3).softmax(-1).unflatten(-1, (14, 14)) for m, a in raw.items()}
    loss = {
        name: icr({m: correlation(kernels[m], a) for m, a in maps.items()})
        for name, maps in (("raw", raw), ("after", after))
    }
    assert loss["raw"] > 1e-2
    assert loss["after"] < 1e-9


def test_loss_starts_where_the_specification_says() -> None:
    """L_icr(tau 4) near 0.21, 0.03 and 0.002 at the three scales of C = 96, measured as there.

    The value depends on how much of a feature is common to all positions of its image: purely
    independent positions give 0.06, 0.001 and 0.00002. A common part of 0.24 beside a noise of 1
    gives the stated three at once.
    """
    torch.manual_seed(2)
    scales = ((384, 14), (192, 28), (96, 56))

    def features() -> list[torch.Tensor]:
        return [0.24 * torch.randn(2, c, 1, 1) + torch.randn(2, c, s, s) for c, s in scales]

    losses = []
    for _ in range(8):
        with torch.no_grad():
            found = {m: Semantics(5, (384, 192, 96))(features()) for m in ("a", "b")}
        losses.append([icr({m: f[k].correlation for m, f in found.items()}, 4.0) for k in range(3)])
    mean = torch.tensor(losses).mean(0)
    for value, stated in zip(mean.tolist(), (0.21, 0.03, 0.002), strict=True):
        assert stated / 2 < value < 2 * stated
