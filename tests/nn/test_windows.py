"""Windows, shift masks, relative offsets and window attention against one token at a time."""

from itertools import product
from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from unpaired.nn.attention import (
    Window,
    WindowAttention,
    join_windows,
    relative_index,
    shift_mask,
    split_windows,
)

AXES = st.lists(
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(0, 2)), min_size=1, max_size=3
)


@settings(max_examples=20, deadline=None)
@given(axes=AXES, images=st.integers(1, 2), seed=st.integers(0, 10**6))
def test_windows_join_back(axes: list[tuple[int, int, int]], images: int, seed: int) -> None:
    window = tuple(w for w, _, _ in axes)
    space = tuple(w * n for w, n, _ in axes)
    x = torch.randn(images, *space, 2, generator=torch.Generator().manual_seed(seed))
    windows = split_windows(x, window)
    assert torch.equal(join_windows(windows, window, space), x)
    for i, corner in enumerate(
        product(*(range(0, n, w) for n, w in zip(space, window, strict=True)))
    ):
        box = tuple(slice(c, c + w) for c, w in zip(corner, window, strict=True))
        assert torch.equal(windows[:, i], x[(slice(None), *box)].reshape(images, -1, 2))


@settings(max_examples=20, deadline=None)
@given(axes=AXES)
def test_shift_mask_against_brute_force(axes: list[tuple[int, int, int]]) -> None:
    """Roll positions as the layer does; allowed are those that a window without wrap holds."""
    window = tuple(w for w, _, _ in axes)
    space = tuple(w * n for w, n, _ in axes)
    shift = tuple(s % w for w, _, s in axes)
    allowed = oracles.neighbours(space, window, shift)
    where = torch.tensor(list(product(*(range(n) for n in space)))).reshape(*space, -1)
    rolled = where.roll([-s for s in shift], tuple(range(len(space))))
    windows = split_windows(rolled[None].double(), window)[0].long()
    mask = shift_mask(space, window, shift)
    for window_positions, blocked in zip(windows, mask, strict=True):
        for a, row in zip(window_positions.tolist(), blocked, strict=True):
            for b, no in zip(window_positions.tolist(), row, strict=True):
                assert bool(no) == (tuple(b) not in allowed[tuple(a)])


@pytest.mark.parametrize("window", [(4,), (2, 3), (1, 3, 2)])
def test_each_offset_has_one_row_of_its_own(window: tuple[int, ...]) -> None:
    """The original nnFormer's index lets offsets collide; this one may not."""
    positions = list(product(*(range(w) for w in window)))
    rows: dict[tuple[int, ...], int] = {}
    index = relative_index(window)
    for (i, a), (j, b) in product(enumerate(positions), repeat=2):
        offset = tuple(x - y for x, y in zip(a, b, strict=True))
        assert rows.setdefault(offset, int(index[i, j])) == int(index[i, j])
    assert sorted(rows.values()) == list(range(prod(2 * w - 1 for w in window)))


def attention_oracle(layer: WindowAttention) -> oracles.Attention:
    return oracles.Attention(
        (layer.qkv.weight, layer.qkv.bias),
        (layer.project.weight, layer.project.bias),
        layer.bias_table,
        layer.heads,
        layer.window,
        layer.shift,
    )


@pytest.mark.parametrize(
    ("space", "window", "shift"),
    [
        ((6,), (3,), (1,)),
        ((4, 4), (2, 2), (0, 0)),
        ((4, 4), (2, 2), (1, 1)),
        ((4, 6), (4, 3), (0, 1)),
        ((2, 4, 4), (1, 2, 2), (0, 1, 1)),
        ((4, 2, 2), (2, 2, 1), (1, 0, 0)),
    ],
)
def test_window_attention_equals_the_loops(
    space: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]
) -> None:
    torch.manual_seed(len(space))
    layer = WindowAttention(4, 2, Window(window, shift)).double()
    with torch.no_grad():
        for p in layer.parameters():
            p.normal_()
    x = torch.randn(2, *space, 4).double().requires_grad_()
    ours = layer(x)
    loops = torch.stack([oracles.window_attention(attention_oracle(layer), one) for one in x])
    torch.testing.assert_close(ours, loops, rtol=1e-10, atol=1e-10)
    weight = torch.randn_like(ours)
    inputs = [x, *layer.parameters()]
    for a, b in zip(
        torch.autograd.grad((ours * weight).sum(), inputs),
        torch.autograd.grad((loops * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_training_after_inference_at_a_new_size() -> None:
    """The mask of a size is kept; one first built in inference mode must serve training too."""
    layer = WindowAttention(4, 2, Window((2, 2), (1, 1)))
    with torch.inference_mode():
        before = layer(torch.ones(1, 4, 4, 4))
    after = layer(torch.ones(1, 4, 4, 4))
    after.sum().backward()
    assert layer.bias_table.grad is not None
    torch.testing.assert_close(after.detach(), before.clone())


def test_the_output_follows_the_weights_between_passes() -> None:
    """Nothing that depends on the bias table may be kept from one pass to the next."""
    torch.manual_seed(0)
    layer = WindowAttention(4, 2, Window((2, 2), (1, 1))).eval()
    x = torch.randn(1, 4, 4, 4)
    before = layer(x)
    with torch.no_grad():
        layer.bias_table.normal_()
    assert (layer(x) - before).abs().max() > 1e-3


def test_heads_that_do_not_divide_the_channels_are_refused() -> None:
    with pytest.raises(ValueError, match="10 channels cannot be split into 4 heads"):
        WindowAttention(10, 4, Window((2,), (0,)))
