"""Eq. 14-15 against the loops, and drop path."""

import pytest
import torch
from test_windows import attention_oracle

import oracles
from unpaired.nn.attention import Window
from unpaired.nn.block import Block, DropPath


@pytest.mark.parametrize(
    ("space", "window", "shift"),
    [((4,), (2,), (1,)), ((2, 4), (2, 2), (0, 1)), ((1, 2, 4), (1, 2, 2), (0, 0, 1))],
)
@pytest.mark.parametrize("scaled", [True, False])
def test_block_equals_the_loops(
    space: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...], scaled: bool
) -> None:
    torch.manual_seed(0)
    block = Block(4, 2, Window(window, shift)).double()
    block.path = "here"
    with torch.no_grad():
        for p in block.parameters():
            p.add_(0.5 * torch.randn_like(p))
    phi = [torch.randn(4).double().requires_grad_() for _ in range(2)]
    names = list(block.branch_ends())
    gains = dict(zip(names, phi, strict=True)) if scaled else None
    x = torch.randn(2, *space, 4).double().requires_grad_()
    ours = block(x, gains)
    weights = oracles.Block(
        (block.norm1.weight, block.norm1.bias),
        attention_oracle(block.attention),
        (block.norm2.weight, block.norm2.bias),
        (
            *(block.feed_forward.widen.weight, block.feed_forward.widen.bias),
            *(block.feed_forward.project.weight, block.feed_forward.project.bias),
        ),
        *(phi if scaled else [torch.ones(4).double()] * 2),
    )
    loops = torch.stack([oracles.block(weights, one) for one in x])
    torch.testing.assert_close(ours, loops, rtol=1e-10, atol=1e-10)
    weight = torch.randn_like(ours)
    inputs = [x, *block.parameters(), *(phi if scaled else [])]
    for a, b in zip(
        torch.autograd.grad((ours * weight).sum(), inputs),
        torch.autograd.grad((loops * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_names_of_the_gains_are_the_modules_they_fold_into() -> None:
    block = Block(4, 2, Window((2,), (0,)))
    block.path = "a.b"
    assert block.branch_ends() == {"a.b.attention.project": 4, "a.b.feed_forward.project": 4}
    for name, width in block.branch_ends().items():
        assert block.get_submodule(name.removeprefix("a.b.")).out_features == width


def test_drop_path_drops_whole_images_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    layer = DropPath(0.3)
    x = torch.randn(4000, 2, 3)
    out = layer(x)
    dropped = (out == 0).flatten(1).all(1)
    kept = out[~dropped]
    torch.testing.assert_close(kept, x[~dropped] / 0.7)
    assert float(dropped.float().mean()) == pytest.approx(0.3, abs=0.03)
    ones = layer(torch.ones(20000, 1))
    assert float(ones.mean()) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(("rate", "training"), [(0.5, False), (0.0, True)])
def test_drop_path_does_nothing_in_evaluation_or_at_rate_0(rate: float, training: bool) -> None:
    x = torch.randn(8, 3)
    assert torch.equal(DropPath(rate).train(training)(x), x)


def test_drop_path_comes_after_the_gain() -> None:
    """An image whose branches are both dropped passes a block unchanged, whatever the gains."""
    torch.manual_seed(1)
    block = Block(4, 2, Window((2,), (0,)), drop_path=0.9)
    block.path = "b"
    gains = {name: torch.full((4,), 7.0) for name in block.branch_ends()}
    x = torch.randn(64, 4, 4)
    out = block(x, gains)
    assert (out == x).flatten(1).all(1).float().mean() > 0.6
