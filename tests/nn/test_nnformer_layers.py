"""The parts of nnFormer against plain loops: padding, the skip's attention, its convolutions."""

from collections.abc import Callable
from itertools import product
from math import ceil

import pytest
import torch
from test_windows import attention_oracle
from torch import Tensor
from torch.nn import functional

import oracles
from unpaired.nn.attention import (
    SkipAttention,
    Window,
    WindowAttention,
    colliding_index,
    crop_to,
    pad_to,
    relative_index,
)
from unpaired.nn.block import SkipBlock
from unpaired.nn.resample import ConvEmbed, StridedConv, TransposedConv

UNEVEN = [
    ((5,), (3,), (1,)),
    ((5, 3), (2, 2), (0, 0)),
    ((5, 4), (3, 2), (1, 1)),
    ((3, 3, 4), (2, 3, 2), (1, 0, 1)),
    ((1, 5, 4), (1, 3, 2), (0, 1, 1)),
    ((2, 3), (3, 2), (0, 1)),
]
"""Space, window, shift: windows that do not divide the map, one even larger than it."""


def filled(shape: tuple[int, ...], layer: torch.nn.Module) -> Tensor:
    """Random weights; returns a random map that wants a gradient."""
    torch.manual_seed(len(shape))
    with torch.no_grad():
        for p in layer.parameters():
            p.normal_()
    return torch.randn(shape).double().requires_grad_()


def same_with_gradients(ours: Tensor, loops: Tensor, inputs: list[Tensor]) -> None:
    torch.testing.assert_close(ours, loops, rtol=1e-9, atol=1e-9)
    weight = torch.randn_like(ours)
    for a, b in zip(
        torch.autograd.grad((ours * weight).sum(), inputs),
        torch.autograd.grad((loops * weight).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def zero_padded(x: Tensor, window: tuple[int, ...]) -> Tensor:
    """One image [*space C] laid at the start of zeros."""
    size = [ceil(n / w) * w for n, w in zip(x.shape[:-1], window, strict=True)]
    whole = torch.zeros(*size, x.shape[-1], dtype=x.dtype)
    whole[tuple(slice(n) for n in x.shape[:-1])] = x
    return whole


@pytest.mark.parametrize(("space", "window", "shift"), UNEVEN)
def test_padded_attention_equals_the_loops(
    space: tuple[int, ...], window: tuple[int, ...], shift: tuple[int, ...]
) -> None:
    """Padded positions are zero before the projection, and attended to like any other."""
    layer = WindowAttention(4, 2, Window(window, shift)).double()
    x = filled((2, *space, 4), layer)
    loops = []
    for one in x:
        out = oracles.window_attention(attention_oracle(layer), zero_padded(one, window))
        loops.append(out[tuple(slice(n) for n in space)])
    same_with_gradients(layer(x), torch.stack(loops), [x, *layer.parameters()])


def test_padding_is_attended_to() -> None:
    """The original masks it nowhere; a mask would give another result."""
    layer = WindowAttention(4, 2, Window((3,), (0,))).double()
    x = filled((1, 2, 4), layer)
    alone = oracles.window_attention(attention_oracle(layer), x[0])  # a window of two positions
    assert (layer(x)[0] - alone).abs().max() > 1e-2


def test_without_mask_the_ends_of_a_shifted_map_meet() -> None:
    """As the original for one data set: windows wrap around, offsets are those inside a window."""
    layer = WindowAttention(4, 2, Window((3,), (1,), mask_shift=False)).double()
    x = filled((1, 6, 4), layer)
    still = WindowAttention(4, 2, Window((3,), (0,))).double()
    still.load_state_dict(layer.state_dict())
    around = [1, 2, 3, 4, 5, 0]
    expected = torch.empty_like(x)
    expected[:, around] = still(x[:, around])
    torch.testing.assert_close(layer(x), expected)
    layer.masked = True
    assert (layer(x) - expected).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("window", "used", "rows"),
    [
        ((4, 4, 4), 115, 343),
        ((8, 8, 8), 547, 3375),
        ((3, 5, 5), 137, 405),
        ((7, 10, 10), 709, 4693),
    ],
)
def test_the_originals_index_uses_few_rows(window: tuple[int, ...], used: int, rows: int) -> None:
    """The numbers of the original's own tables."""
    assert len(colliding_index(window).unique()) == used
    assert len(relative_index(window).unique()) == rows


def test_the_originals_index_by_hand() -> None:
    window = (2, 3, 2)
    positions = list(product(*(range(w) for w in window)))
    index = colliding_index(window)
    for (i, a), (j, b) in product(enumerate(positions), repeat=2):
        p, q, r = (m - n + w - 1 for m, n, w in zip(a, b, window, strict=True))
        assert int(index[i, j]) == p * (3 * 3 - 1) + q * (2 * 3 - 1) + r


def test_the_originals_index_is_for_volumes() -> None:
    with pytest.raises(ValueError, match=r"volumes only, not for windows of \(4, 4\)"):
        colliding_index((4, 4))


def test_the_originals_index_may_leave_its_table() -> None:
    with pytest.raises(ValueError, match=r"more than the 5 rows of windows of \(3, 1, 1\)"):
        colliding_index((3, 1, 1))
    for window in ((1, 1, 1), (2, 2, 2), (3, 5, 5)):
        rows = (2 * window[0] - 1) * (2 * window[1] - 1) * (2 * window[2] - 1)
        assert int(colliding_index(window).max()) < rows


def skip_loops(layer: SkipAttention, x: Tensor, skip: Tensor) -> Tensor:
    """One query at a time over one image; the map is the query, the skip gives keys and values."""
    channels, d = x.shape[-1], x.shape[-1] // layer.heads
    space, window = x.shape[:-1], layer.window
    x, skip = zero_padded(x, window), zero_padded(skip, window)
    table = layer.bias_table.reshape(*(2 * w - 1 for w in window), layer.heads)
    kv = {a: layer.kv.weight @ skip[a] + layer.kv.bias for a in product(*map(range, x.shape[:-1]))}
    out = torch.empty(*space, channels, dtype=x.dtype)
    around = oracles.neighbours(x.shape[:-1], window, (0,) * len(window))
    for a in product(*map(range, space)):
        heads = []
        for n in range(layer.heads):
            part, values = (slice(i * channels + n * d, i * channels + (n + 1) * d) for i in (0, 1))
            logits = []
            for b in around[a]:
                offset = [i - j + w - 1 for i, j, w in zip(a, b, window, strict=True)]
                logits.append((x[a][part] * kv[b][part]).sum() / d**0.5 + table[(*offset, n)])
            weights = oracles.softmax(logits)
            heads.append(sum(w * kv[b][values] for w, b in zip(weights, around[a], strict=True)))
        out[a] = layer.project.weight @ torch.cat(heads) + layer.project.bias
    return out


@pytest.mark.parametrize(
    ("space", "window"), [((4,), (2,)), ((5, 3), (2, 2)), ((2, 3, 3), (2, 2, 3))]
)
def test_skip_attention_equals_the_loops(space: tuple[int, ...], window: tuple[int, ...]) -> None:
    layer = SkipAttention(4, 2, Window(window, window)).double()
    x = filled((2, *space, 4), layer)
    skip = torch.randn_like(x).requires_grad_()
    loops = torch.stack([skip_loops(layer, a, b) for a, b in zip(x, skip, strict=True)])
    same_with_gradients(layer(x, skip), loops, [x, skip, *layer.parameters()])


@pytest.mark.parametrize("scaled", [True, False])
def test_skip_block_equals_the_loops(scaled: bool) -> None:
    """Both maps by one norm, both added to the attended; gains on both branches."""
    block = SkipBlock(4, 2, Window((2, 2), (0, 0))).double()
    block.path = "here"
    x = filled((1, 3, 2, 4), block)
    skip = torch.randn_like(x).requires_grad_()
    phi = [torch.randn(4).double().requires_grad_() for _ in range(2)]
    gains = dict(zip(block.branch_ends(), phi, strict=True)) if scaled else None
    scale = phi if scaled else [torch.ones(4).double()] * 2

    def norm(y: Tensor, layer: torch.nn.LayerNorm) -> Tensor:
        rows = [oracles.layer_norm(v, layer.weight, layer.bias) for v in y.flatten(0, -2)]
        return torch.stack(rows).reshape(y.shape)

    normed = norm(x[0], block.norm1), norm(skip[0], block.norm1)
    y = x[0] + skip[0] + scale[0] * skip_loops(block.attention, *normed)
    ff = block.feed_forward
    hidden = oracles.gelu(norm(y, block.norm2) @ ff.widen.weight.T + ff.widen.bias)
    y = y + scale[1] * (hidden @ ff.project.weight.T + ff.project.bias)
    inputs = [x, skip, *block.parameters(), *(phi if scaled else [])]
    same_with_gradients(block(x, skip, gains), y[None], inputs)
    assert list(block.branch_ends()) == ["here.attention.project", "here.feed_forward.project"]


def convolved(x: Tensor, conv: torch.nn.Module, at: tuple[int, ...]) -> Tensor:
    """One output position of a convolution of x [C *space], voxel by voxel, zeros outside."""
    total = conv.bias.clone()
    for inner in product(*map(range, conv.kernel_size)):
        rule = zip(at, inner, conv.stride, conv.padding, strict=True)
        where = tuple(a * s + i - p for a, i, s, p in rule)
        if all(0 <= w < n for w, n in zip(where, x.shape[1:], strict=True)):
            total = total + conv.weight[(..., *inner)] @ x[(slice(None), *where)]
    return total


def whole(x: Tensor, conv: torch.nn.Module, size: tuple[int, ...]) -> Tensor:
    """[C *space] -> [*size D]."""
    places = product(*map(range, size))
    return torch.stack([convolved(x, conv, at) for at in places]).reshape(*size, -1)


@pytest.mark.parametrize(
    ("space", "kernel", "stride", "padding", "size"),
    [
        ((4, 6), (3, 3), (2, 2), (1, 1), (2, 3)),
        ((4, 6), (2, 2), (2, 2), (0, 0), (2, 3)),
        ((7, 4), (3, 3), (2, 2), (0, 1), (3, 2)),
        ((2, 3, 4), (1, 3, 3), (1, 2, 2), (0, 1, 1), (2, 2, 2)),
    ],
)
def test_strided_convolution_activates_then_normalises(
    space: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    size: tuple[int, ...],
) -> None:
    layer = StridedConv(3, kernel, stride, padding).double()
    x = filled((1, *space, 3), layer)
    normed = functional.layer_norm(oracles.gelu(x[0]), (3,), layer.norm.weight, layer.norm.bias)
    expected = whole(normed.movedim(-1, 0), layer.conv, size)
    torch.testing.assert_close(layer(x)[0], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    ("patch", "strides"),
    [
        ((4,), [(2,), (2,)]),
        ((2, 4), [(2, 2), (1, 2)]),
        ((1, 4), [(1, 2), (1, 2)]),
        ((3, 6), [(3, 3), (1, 2)]),
    ],
)
def test_embedding_is_four_convolutions(
    patch: tuple[int, ...], strides: list[tuple[int, ...]]
) -> None:
    layer = ConvEmbed(2, 4, patch).double()
    space = tuple(2 * p for p in patch)
    image = filled((1, 2, *space), layer)
    one = (1,) * len(patch)
    assert [c.stride for c in layer.convs] == [strides[0], one, strides[1], one]
    x, size = image[0], space
    for i, (conv, norm) in enumerate(zip(layer.convs, layer.norms, strict=True)):
        size = tuple(n // s for n, s in zip(size, conv.stride, strict=True))
        y = whole(x, conv, size)
        y = y if i == 3 else oracles.gelu(y)  # GELU before the norm, none before the last
        x = functional.layer_norm(y, y.shape[-1:], norm.weight, norm.bias).movedim(-1, 0)
    torch.testing.assert_close(layer(image)[0], x.movedim(0, -1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("space", "stride", "size"),
    [
        ((3,), (2,), (6,)),
        ((3, 2), (2, 2), (7, 4)),  # 7 from 3: the original's output padding
        ((3,), (2,), (9,)),
        ((4, 2), (2, 1), (7, 2)),
    ],
)
def test_transposed_convolution_meets_the_skip(
    space: tuple[int, ...], stride: tuple[int, ...], size: tuple[int, ...]
) -> None:
    """Position x holds the weights of its place in cell x // stride; beyond the cells the bias."""
    layer = TransposedConv(4, stride).double()
    x = filled((2, *space, 4), layer)
    normed = functional.layer_norm(x, (4,), layer.norm.weight, layer.norm.bias)
    out = layer(x, size)
    assert out.shape == (2, *size, 2)
    for at in product(*map(range, size)):
        cell = tuple(a // s for a, s in zip(at, stride, strict=True))
        expected = layer.conv.bias.expand(2, -1)
        if all(c < n for c, n in zip(cell, space, strict=True)):
            inner = tuple(a % s for a, s in zip(at, stride, strict=True))
            value = normed[(slice(None), *cell)]
            expected = expected + value @ layer.conv.weight[(..., *inner)]
        torch.testing.assert_close(out[(slice(None), *at)], expected, rtol=1e-10, atol=1e-10)


def test_output_padding_is_the_same_thing() -> None:
    layer = TransposedConv(4, (2, 2)).double()
    x = filled((1, 3, 5, 4), layer)
    theirs = functional.conv_transpose2d(
        layer.norm(x).movedim(-1, 1), layer.conv.weight, layer.conv.bias, 2, 0, (1, 0)
    )
    torch.testing.assert_close(layer(x, (7, 10)), theirs.movedim(1, -1))


@pytest.mark.parametrize("change", [pad_to, crop_to])
def test_a_map_of_the_right_size_is_passed_on(change: Callable[..., Tensor]) -> None:
    x = torch.randn(1, 3, 2, 4)
    assert change(x, (3, 2)) is x
