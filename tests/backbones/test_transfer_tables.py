"""Bias tables on another window: against plain loops, torch's pictures, and laws."""

from itertools import product
from math import floor, prod

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from unpaired.backbones.transfer.sources import resize_table, untangle, window_of
from unpaired.nn.attention import Window, WindowAttention


def grid_of(table: Tensor, window: tuple[int, ...]) -> Tensor:
    return table.reshape(*(2 * w - 1 for w in window), -1)


def cubic(x: float, a: float = -0.5) -> float:
    """Keys' kernel."""
    x = abs(x)
    if x < 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0


def loops(table: Tensor, old: tuple[int, ...], new: tuple[int, ...]) -> Tensor:
    """Every offset of the new window as a weighted sum over 4 neighbours an axis, ends repeated."""
    grid = grid_of(table, old)
    out = torch.zeros(*(2 * w - 1 for w in new), table.shape[1])
    for index in product(*(range(n) for n in out.shape[:-1])):
        at = [
            (i + 0.5) * n / m - 0.5 if n != m else float(i)
            for i, n, m in zip(index, grid.shape[:-1], out.shape[:-1], strict=True)
        ]
        for step in product(range(-1, 3), repeat=len(at)):
            weight = prod(cubic(x - floor(x) - s) for x, s in zip(at, step, strict=True))
            place = [
                min(max(floor(x) + s, 0), n - 1)
                for x, s, n in zip(at, step, grid.shape[:-1], strict=True)
            ]
            out[index] += weight * grid[tuple(place)]
    return out.reshape(-1, table.shape[1])


@pytest.mark.parametrize(
    ("old", "new"),
    [((3, 3), (4, 4)), ((4, 3), (2, 5)), ((2, 3, 3), (2, 2, 4)), ((3,), (6,)), ((4, 4), (1, 4))],
)
def test_equals_plain_loops(old: tuple[int, ...], new: tuple[int, ...]) -> None:
    table = torch.randn(prod(2 * w - 1 for w in old), 2)
    torch.testing.assert_close(resize_table(table, old, new), loops(table, old, new))


def test_two_axes_are_near_the_original_s_bicubic_picture() -> None:
    """Inside, torch's kernel with a = -1/2; its plain bicubic, which Swin uses, is a little off."""
    table = torch.randn(13 * 13, 3)
    picture = table.T.reshape(1, 3, 13, 13)
    found = resize_table(table, (7, 7), (8, 8)).T.reshape(1, 3, 15, 15)
    same = functional.interpolate(picture, (15, 15), mode="bicubic", antialias=True)
    inside = (..., slice(2, -2), slice(2, -2))
    torch.testing.assert_close(found[inside], same[inside])
    swin = functional.interpolate(picture, (15, 15), mode="bicubic")
    assert 0.005 < float((found - swin).std() / swin.std()) < 0.1


def test_the_same_window_is_left_alone() -> None:
    table = torch.randn(7 * 7 * 3, 2)
    assert resize_table(table, (4, 4, 2), (4, 4, 2)).equal(table)
    longer = grid_of(resize_table(table, (4, 4, 2), (4, 4, 5)), (4, 4, 5))
    assert longer[..., 4, :].allclose(grid_of(table, (4, 4, 2))[..., 1, :])  # offset 0 of the last


def test_a_table_linear_in_the_offset_stays_linear_inside() -> None:
    """And keeps its slope over the whole window: 13 offsets become 15."""
    offset = torch.arange(-6.0, 7.0)
    table = (0.5 + 2 * offset[:, None] - 3 * offset).reshape(-1, 1)
    found = grid_of(resize_table(table, (7, 7), (8, 8)), (8, 8))[..., 0]
    finer = torch.arange(-7.0, 8.0) * 13 / 15
    expected = 0.5 + 2 * finer[:, None] - 3 * finer
    torch.testing.assert_close(found[2:-2, 2:-2], expected[2:-2, 2:-2])
    assert not found[0].allclose(expected[0])  # beyond the last offset its value is repeated
    assert float(found[7, 7]) == pytest.approx(0.5)


def test_untangled_table_gives_the_original_s_bias() -> None:
    """Of 343 rows the original reads 115; each offset gets its own copy."""
    torch.manual_seed(0)
    tangled = WindowAttention(8, 2, Window((4, 4, 4), (0, 0, 0), legacy_index=True))
    free = WindowAttention(8, 2, Window((4, 4, 4), (0, 0, 0)))
    free.bias_table.data = untangle(tangled.bias_table.detach(), (4, 4, 4))
    assert free.bias((4, 4, 4)).equal(tangled.bias((4, 4, 4)))
    assert len(free.bias_table.unique(dim=0)) == 115


@pytest.mark.parametrize(
    ("rows", "like", "expected"),
    [
        (169, (8, 8), (7, 7)),
        (405, (3, 5, 5), (3, 5, 5)),
        (343, (2, 4, 4), (4, 4, 4)),
        (169, (1, 8, 8), (1, 7, 7)),
        (405, (4, 4, 4), None),
        (170, (8, 8), None),
        (64, (8, 8), None),
    ],
)
def test_window_told_from_the_rows(
    rows: int, like: tuple[int, ...], expected: tuple[int, ...] | None
) -> None:
    assert window_of(rows, like) == expected
