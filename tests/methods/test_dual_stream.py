"""Which parts of the U-Net the modalities share, in each of the four dual-stream networks."""

import pytest
import torch
from torch import Tensor

from small_joint import shake
from unpaired.methods.dual_stream import SHARINGS, DualStream
from unpaired.models import Joint, Segmenter, fold, gains_form

CLASSES = 3
SIZES = {2: (16, 24), 3: (4, 16, 16)}
PARTS = ("down", "bottom", "rise", "up")
SHARED = {
    "all": {"down", "bottom", "rise", "up"},
    "encoder": {"down", "bottom"},
    "decoder": {"rise", "up"},
    "middle": {"bottom", "rise"},
}
"""Our reading of the four, written down once more."""


def small(
    sharing: str, dims: int = 2, channels: dict[str, int] | None = None, blocks: int = 1
) -> Joint:
    """Four resolutions in a plane; every parameter, also of the private parts, moved apart."""
    channels = channels or {"a": 2, "b": 2}
    torch.manual_seed(0)
    net = DualStream(
        SIZES[dims], max(channels.values()), CLASSES, sharing=sharing, base_width=4,
        stages=3, blocks=blocks,
    )  # fmt: skip
    private = bool(net.own)
    joint = Joint(Segmenter(net, channels, private, fixed_stems=True), {}).double()
    shake(joint.segmenter.backbone)
    shake(joint.segmenter.encoders, seed=5)
    return joint


def images(dims: int = 2, channels: dict[str, int] | None = None) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    channels = channels or {"a": 2, "b": 2}
    return {
        m: torch.randn(2, k, *SIZES[dims], generator=generator, dtype=torch.float64)
        for m, k in channels.items()
    }


def part_of(name: str) -> tuple[str, str]:
    """Whose it is ("shared" or the modality), and the part of the network."""
    _, where, *rest = name.split(".")
    if where == "backbone":
        return "shared", rest[0]
    assert where == "encoders"
    return rest[0], rest[1]


def test_all_four_are_here() -> None:
    assert SHARED.keys() == SHARINGS.keys()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("sharing", SHARINGS)
def test_a_loss_reaches_what_is_shared_and_its_own(sharing: str, dims: int) -> None:
    joint = small(sharing, dims)
    own = set(PARTS) - SHARED[sharing]
    learnt = {n for n, p in joint.named_parameters() if p.requires_grad}
    assert {part_of(n) for n in learnt} == {("shared", p) for p in SHARED[sharing]} | {
        (m, p) for m in ("a", "b") for p in own
    }
    for m in ("a", "b"):
        joint.zero_grad()
        joint({m: images(dims)[m]})[m].logits.square().sum().backward()
        reached = {n for n, p in joint.named_parameters() if p.grad is not None and p.grad.any()}
        assert reached == {n for n in learnt if part_of(n)[0] in ("shared", m)}


@pytest.mark.parametrize("sharing", SHARINGS)
def test_parts_together_are_one_network(sharing: str) -> None:
    """Shared plus one modality's parts are the whole network, none of it twice."""
    whole = sum(p.numel() for p in small("all").segmenter.backbone.parameters())
    joint = small(sharing)
    shared = sum(p.numel() for p in joint.segmenter.backbone.parameters())
    own = sum(p.numel() for n, p in joint.segmenter.encoders.named_parameters() if n[0] == "a")
    assert shared + own == whole
    assert (own == 0) == (sharing == "all")


@pytest.mark.parametrize("sharing", SHARINGS)
def test_alike_at_the_start_and_apart_once_trained(sharing: str) -> None:
    image, start = images()["a"], small(sharing)
    apart = start.segmenter(image, "a").logits - start.segmenter(image, "b").logits
    assert bool(apart.any()) == (sharing != "all")
    torch.manual_seed(0)
    net = DualStream(SIZES[2], 2, CLASSES, sharing=sharing, base_width=4, stages=3)
    fresh = Segmenter(net, {"a": 2, "b": 2}, bool(net.own)).double()
    assert torch.equal(fresh(image, "a").logits, fresh(image, "b").logits)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("sharing", SHARINGS)
def test_folded_is_live(sharing: str, dims: int) -> None:
    channels = {"a": 2, "b": 1}
    joint = small(sharing, dims, channels, blocks=2)
    kept = gains_form(joint.eval())
    for m, image in images(dims, channels).items():
        plain = fold(kept, m).eval()
        assert plain.in_channels == channels[m]
        torch.testing.assert_close(plain(image).logits, kept(image, m).logits, rtol=1e-9, atol=1e-9)


def test_every_level_and_skip_is_used() -> None:
    """The coarsest map alone would lose where things are: each skip changes the logits."""
    joint = small("all")
    net, image = joint.segmenter.backbone, images()["a"]
    maps = net.down(image)  # type: ignore[operator]
    assert [tuple(m.shape[1:]) for m in maps] == [(4, 16, 24), (8, 8, 12)]
    plain = net(image).logits
    for i in range(len(maps)):
        hook = net.down.register_forward_hook(  # type: ignore[union-attr]
            lambda module, given, found, i=i: [0 * m if j == i else m for j, m in enumerate(found)]
        )
        assert (net(image).logits - plain).abs().max() > 1e-2
        hook.remove()


def test_an_unknown_sharing_names_the_four() -> None:
    with pytest.raises(ValueError, match="choose from all, encoder, decoder, middle"):
        DualStream((16, 16), sharing="X")
