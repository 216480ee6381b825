"""Convolutional blocks against plain functional code, and where their gains act."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from unpaired.nn.residual import ConvBlock, ConvNorm, ResidualBlock, norm_layer

EXACT = {"rtol": 1e-11, "atol": 1e-11}
CONVOLVE = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
CASES = [
    ((7,), (3,), (1,), 4, 4),
    ((6, 8), (3, 3), (2, 2), 4, 8),
    ((6, 8), (3, 5), (1, 2), 8, 8),
    ((5, 6), (1, 3), (1, 1), 4, 8),
    ((3, 4, 6), (1, 3, 3), (1, 2, 2), 4, 8),
    ((4, 4, 4), (3, 3, 3), (2, 2, 2), 8, 8),
]


def random(module: torch.nn.Module, path: str = "") -> torch.nn.Module:
    """The module in float64 with random parameters and the path that names its gains."""
    generator = torch.Generator().manual_seed(0)
    module.double()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=p.dtype))
    if path:
        module.path = path
    return module


def instance_norm(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Every channel of every image to mean 0 and variance 1, then the affine map."""
    out = torch.empty_like(x)
    for b in range(x.shape[0]):
        for c in range(x.shape[1]):
            centred = x[b, c] - x[b, c].mean()
            out[b, c] = centred / (centred.square().mean() + 1e-5).sqrt() * weight[c] + bias[c]
    return out


def leaky(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.01 * x)


def convolve(block: ConvNorm, x: Tensor, kernel: Sequence[int], stride: Sequence[int]) -> Tensor:
    """Zeros around the map, the convolution without a bias, the norm."""
    padding = [k // 2 for k in reversed(kernel) for _ in range(2)]
    y = CONVOLVE[len(kernel)](functional.pad(x, padding), block.conv.weight, None, tuple(stride))
    return instance_norm(y, block.norm.weight, block.norm.bias)


def average(x: Tensor, stride: Sequence[int]) -> Tensor:
    """Mean over each cell of size `stride`."""
    for axis, s in enumerate(stride, 2):
        x = x.unflatten(axis, (-1, s)).mean(axis + 1)
    return x


@pytest.mark.parametrize(("size", "kernel", "stride", "before", "width"), CASES)
@pytest.mark.parametrize("with_gains", [True, False])
def test_residual_block_equals_plain_code(
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    before: int,
    width: int,
    with_gains: bool,
) -> None:
    block = random(ResidualBlock(before, width, kernel, stride), "here")
    x = torch.randn(2, before, *size).double()
    phi = torch.randn(width).double() if with_gains else torch.ones(width).double()
    one = (1,) * len(size)
    y = leaky(convolve(block.first, x, kernel, stride))
    y = convolve(block.second, y, kernel, one)
    skip = average(x, stride)
    if before != width:
        skip = convolve(block.skip[-1], skip, one, one)
    expected = leaky(skip + y * phi.reshape(-1, *one))
    gains = {"here.second.norm": phi} if with_gains else None
    torch.testing.assert_close(block(x, gains), expected, **EXACT)
    assert block.branch_ends() == {"here.second.norm": width}


@pytest.mark.parametrize(("size", "kernel", "stride", "before", "width"), CASES)
def test_convolution_block_equals_plain_code(
    size: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    before: int,
    width: int,
) -> None:
    block = random(ConvBlock(before, width, kernel), "here")
    x, phi = torch.randn(2, before, *size).double(), torch.randn(width).double()
    one = (1,) * len(size)
    y = convolve(block.read, x, kernel, one)
    torch.testing.assert_close(block(x), leaky(y), **EXACT)
    expected = leaky(y * phi.reshape(-1, *one))
    torch.testing.assert_close(block(x, {"here.read.norm": phi}), expected, **EXACT)
    assert block.branch_ends() == {"here.read.norm": width}


@pytest.mark.parametrize("norm", ["instance", "group"])
def test_a_gain_equals_the_norm_with_scaled_weight_and_bias(norm: str) -> None:
    """Also a gain of either sign, for both kinds of block."""
    phi = torch.randn(8).double()
    x = torch.randn(2, 8, 6, 6).double()
    for block, end in (
        (ResidualBlock(8, 8, (3, 3), (1, 1), norm), "second.norm"),
        (ConvBlock(8, 8, (3, 3), norm), "read.norm"),
    ):
        random(block, "b")
        live = block(x, {f"b.{end}": phi})
        layer = block.get_submodule(end)
        with torch.no_grad():
            layer.weight.mul_(phi)
            layer.bias.mul_(phi)
        torch.testing.assert_close(block(x), live, **EXACT)


def test_group_norm_normalises_groups() -> None:
    layer = random(norm_layer("group", 16, 2))
    x = torch.randn(2, 16, 3, 4).double()
    centred = x.reshape(2, 8, -1) - x.reshape(2, 8, -1).mean(-1, keepdim=True)
    flat = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    expected = flat.reshape(x.shape) * layer.weight[:, None, None] + layer.bias[:, None, None]
    torch.testing.assert_close(layer(x), expected, **EXACT)


def test_unknown_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="norm='batch' is unknown; choose"):
        norm_layer("batch", 8, 2)
