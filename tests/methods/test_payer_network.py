"""The two branches: what each sees, what each does to the score, and how they start."""

from itertools import product

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from unpaired.methods.payer.network import (
    PooledUnet,
    SpatialConfiguration,
    conv_blocks,
    pool_mean,
    resize_linear,
)
from unpaired.nn.dims import CONV

CLASSES = 3
MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def two_branches(width: int, dims: int = 2) -> SpatialConfiguration:
    local = PooledUnet(1, CLASSES, width, 2, dims)
    last = CONV[dims](width, CLASSES, 1)
    branch = nn.Sequential(conv_blocks(CLASSES, width, dims, 3, 3), last)
    return SpatialConfiguration(local, branch, 2)


def network(dims: int = 2, seed: int = 0) -> SpatialConfiguration:
    torch.manual_seed(seed)
    found = two_branches(4, dims).double()
    with torch.no_grad():
        for p in found.parameters():
            p.add_(0.1 * torch.randn_like(p))
    return found


def image(dims: int = 2) -> Tensor:
    return torch.randn(2, 1, *(8, 12, 4)[:dims], dtype=torch.float64)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_score_is_the_product_of_both_maps_before_the_softmax(dims: int) -> None:
    net, x = network(dims), image(dims)
    maps = net(x)
    probability = maps.score.softmax(1)
    for place in list(product(*(range(n) for n in x.shape[2:])))[::7]:
        at = (slice(None), slice(None), *place)
        powers = [torch.exp(maps.local[at][:, z] * maps.configuration[at][:, z]) for z in range(3)]
        for z in range(CLASSES):
            assert torch.allclose(probability[at][:, z], powers[z] / sum(powers))


def test_the_configuration_branch_sees_only_the_maps() -> None:
    net = network()
    fixed = torch.randn(2, CLASSES, 8, 12, dtype=torch.float64)
    net.local.register_forward_hook(lambda *_: fixed)  # the maps, whatever the image
    first, second = net(image()), net(image())
    assert torch.equal(first.configuration, second.configuration)
    assert torch.equal(first.configuration, net.configure(fixed))
    other = net.configure(fixed + torch.randn_like(fixed))
    assert not torch.allclose(first.configuration, other)


def test_the_image_reaches_the_configuration_only_through_the_maps() -> None:
    net = network()
    x = image().requires_grad_()
    maps = net(x)
    assert torch.autograd.grad(maps.configuration.sum(), x, retain_graph=True)[0].abs().sum() > 0
    cut = net.configure(maps.local.detach())
    assert torch.autograd.grad(cut.sum(), x, allow_unused=True)[0] is None


def test_both_branches_learn_from_the_score() -> None:
    net = network()
    weights = torch.randn(2, CLASSES, 8, 12, dtype=torch.float64)
    (net(image()).score * weights).sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None and p.grad.abs().sum() > 0, name


def test_the_configuration_works_at_low_resolution() -> None:
    """What averages to nothing in every cell is not seen."""
    net = network()
    local = torch.randn(1, CLASSES, 8, 12, dtype=torch.float64)
    ripple = torch.ones(8, 12, dtype=torch.float64)
    ripple[:, ::2] = -1
    assert torch.allclose(net.configure(local), net.configure(local + ripple))
    assert not torch.allclose(net.configure(local), net.configure(local + ripple.abs().tril()))


def test_the_score_starts_as_the_local_map() -> None:
    torch.manual_seed(0)
    net = two_branches(8)
    maps = net(torch.randn(1, 1, 16, 16))
    assert (maps.configuration - 1).abs().max() < 0.2
    assert (maps.score - maps.local).abs().max() < 0.2 * maps.local.abs().max()


def test_a_unet_sees_beyond_one_level_and_keeps_the_place() -> None:
    torch.manual_seed(0)
    net = PooledUnet(1, 1, width=4, levels=3, dims=1).double()
    x = torch.randn(1, 1, 32, dtype=torch.float64, requires_grad=True)
    reach = torch.autograd.grad(net(x)[0, 0, 16], x)[0][0, 0].abs()
    assert reach[16] > 0 and reach[4] > 0  # convolutions alone reach 4 at full resolution


# Means over cells and linear interpolation, against loops and torch.


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
