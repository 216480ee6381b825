"""Means over cells and linear interpolation, against loops and torch."""

from itertools import product

import pytest
import torch
from torch.nn import functional

from unpaired.nn.pooling import pool_mean, resize_linear

MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_the_mean_of_every_cell(dims: int) -> None:
    size = (4, 6, 2)[:dims]
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    found = pool_mean(x, 2)
    assert found.shape[2:] == tuple(n // 2 for n in size)
    for cell in product(*(range(n // 2) for n in size)):
        inside = x[(slice(None), slice(None), *(slice(2 * i, 2 * i + 2) for i in cell))]
        assert torch.allclose(found[(slice(None), slice(None), *cell)], inside.flatten(2).mean(2))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_linear_interpolation_is_that_of_torch(dims: int) -> None:
    x = torch.randn(2, 3, *(3, 5, 4)[:dims], dtype=torch.float64)
    for size in [(12, 10, 8)[:dims], (7, 5, 9)[:dims]]:
        wanted = functional.interpolate(x, size=size, mode=MODES[dims], align_corners=False)
        assert torch.allclose(resize_linear(x, size), wanted, atol=1e-12)


def test_a_resized_volume_of_depth_one_is_the_resized_picture() -> None:
    x = torch.randn(1, 2, 3, 4)
    flat = resize_linear(x, (6, 8))
    assert torch.equal(resize_linear(x[:, :, None], (1, 6, 8))[:, :, 0], flat)
