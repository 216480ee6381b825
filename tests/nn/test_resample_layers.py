"""Merging and expanding of maps against indexing, cell by cell."""

from itertools import product

import pytest
import torch

from unpaired.nn.resample import (
    PatchEmbed,
    PatchExpand,
    PatchMerge,
    cells_to_space,
    space_to_channels,
)

CASES = [((6,), (2,)), ((4, 6), (2, 3)), ((4, 4), (1, 2)), ((2, 4, 2), (1, 2, 2))]


@pytest.mark.parametrize(("space", "stride"), CASES)
def test_a_cell_is_concatenated_first_axis_fastest(
    space: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    """Order (0,0), (1,0), (0,1), (1,1) in two dimensions, as the published weights expect."""
    x = torch.randn(2, *space, 3)
    out = space_to_channels(x, stride)
    inside = [tuple(reversed(i)) for i in product(*(range(s) for s in reversed(stride)))]
    for cell in product(*(range(n // s) for n, s in zip(space, stride, strict=True))):
        corner = [c * s for c, s in zip(cell, stride, strict=True)]
        parts = [
            x[(slice(None), *(c + i for c, i in zip(corner, inner, strict=True)))]
            for inner in inside
        ]
        assert torch.equal(out[(slice(None), *cell)], torch.cat(parts, -1))


@pytest.mark.parametrize(("space", "scale"), CASES)
def test_cells_are_laid_out_row_by_row(space: tuple[int, ...], scale: tuple[int, ...]) -> None:
    inside = list(product(*(range(s) for s in scale)))
    cells = torch.randn(2, *space, len(inside), 3)
    out = cells_to_space(cells, scale)
    for cell in product(*(range(n) for n in space)):
        for k, inner in enumerate(inside):
            at = [c * s + i for c, s, i in zip(cell, scale, inner, strict=True)]
            assert torch.equal(out[(slice(None), *at)], cells[(slice(None), *cell, k)])


@pytest.mark.parametrize(("space", "scale"), CASES)
def test_expanding_normalises_as_if_after_the_shuffle(
    space: tuple[int, ...], scale: tuple[int, ...]
) -> None:
    layer = PatchExpand(4, 2, scale).double()
    torch.nn.init.normal_(layer.norm.weight)
    x = torch.randn(2, *space, 4).double()
    wide = layer.expand(x).unflatten(-1, (-1, 2))
    torch.testing.assert_close(layer(x), layer.norm(cells_to_space(wide, scale)))


@pytest.mark.parametrize(("space", "stride"), CASES)
def test_embedding_is_a_linear_map_of_each_patch(
    space: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    layer = PatchEmbed(2, 3, stride).double()
    image = torch.randn(1, 2, *space).double()
    out = layer(image)
    for cell in product(*(range(n // s) for n, s in zip(space, stride, strict=True))):
        box = tuple(slice(c * s, (c + 1) * s) for c, s in zip(cell, stride, strict=True))
        patch = image[(0, slice(None), *box)].flatten()
        expected = layer.norm(layer.conv.weight.flatten(1) @ patch + layer.conv.bias)
        torch.testing.assert_close(out[(0, *cell)], expected)


def test_merging_has_no_bias_and_doubles_the_width() -> None:
    layer = PatchMerge(3, (2, 2)).double()
    x = torch.randn(1, 4, 4, 3).double()
    assert layer.reduce.bias is None
    cell = torch.cat([x[0, i, j] for j in (2, 3) for i in (0, 1)])
    expected = layer.reduce.weight @ layer.norm(cell)
    torch.testing.assert_close(layer(x)[0, 0, 1], expected)
