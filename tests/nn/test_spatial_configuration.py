"""The two branches: what each sees, what each does to the score, and how they start."""

from itertools import product

import pytest
import torch
from torch import Tensor

from unpaired.nn.pooled_unet import PooledUnet
from unpaired.nn.spatial_configuration import SpatialConfiguration

CLASSES = 3


def network(dims: int = 2, seed: int = 0) -> SpatialConfiguration:
    torch.manual_seed(seed)
    found = SpatialConfiguration(
        1, CLASSES, width=4, levels=2, configuration_width=4, stride=2, kernel=3, dims=dims
    ).double()
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
    net = SpatialConfiguration(1, CLASSES, 8, 2, 8, 2, 3, 2)
    maps = net(torch.randn(1, 1, 16, 16))
    assert (maps.configuration - 1).abs().max() < 0.2
    assert (maps.score - maps.local).abs().max() < 0.2 * maps.local.abs().max()


def test_a_unet_sees_beyond_one_level_and_keeps_the_place() -> None:
    torch.manual_seed(0)
    net = PooledUnet(1, 1, width=4, levels=3, dims=1).double()
    x = torch.randn(1, 1, 32, dtype=torch.float64, requires_grad=True)
    reach = torch.autograd.grad(net(x)[0, 0, 16], x)[0][0, 0].abs()
    assert reach[16] > 0 and reach[4] > 0  # convolutions alone reach 4 at full resolution
