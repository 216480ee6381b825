"""UMMKD's network: one set of convolutions, statistics and affine maps of norms per modality."""

import pytest
import torch
from torch import Tensor, nn

from small_joint import shake
from unpaired.methods.ummkd import UmmkdNet
from unpaired.models import Joint, Segmenter, fold, gains_form

CLASSES = 3
SIZES = {2: (16, 24), 3: (4, 16, 16)}
CHANNELS = {"a": 2, "b": 2}


def small(dims: int = 2, dropout: float = 0.0, channels: dict[str, int] = CHANNELS) -> Joint:
    """Three resolutions of 4, 8 and 16 channels, moved away from the start."""
    torch.manual_seed(0)
    net = UmmkdNet(
        SIZES[dims], max(channels.values()), CLASSES, base_width=4, stages=3, dropout=dropout
    )
    joint = Joint(Segmenter(net, channels, private_encoders=True, fixed_stems=True), {}).double()
    for m in channels:
        shake(joint.segmenter.encoders[m], seed=len(m) + ord(m))
    return joint


def images(dims: int = 2, batch: int = 3, channels: dict[str, int] = CHANNELS) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        m: torch.randn(batch, k, *SIZES[dims], generator=generator, dtype=torch.float64)
        for m, k in channels.items()
    }


def norms(joint: Joint, modality: str) -> list[nn.Module]:
    return list(joint.segmenter.encoders[modality].children())


def statistics(joint: Joint, modality: str) -> list[Tensor]:
    return [b.clone() for b in joint.segmenter.encoders[modality].buffers()]


@pytest.mark.parametrize("dims", [2, 3])
def test_training_on_one_modality_leaves_the_others_statistics_untouched(dims: int) -> None:
    joint = small(dims).train()
    before = {m: statistics(joint, m) for m in CHANNELS}
    joint({"a": images(dims)["a"]})
    after = {m: statistics(joint, m) for m in CHANNELS}
    assert all(torch.equal(x, y) for x, y in zip(before["b"], after["b"], strict=True))
    assert not any(torch.equal(x, y) for x, y in zip(before["a"], after["a"], strict=True))
    assert len(before["a"]) == 3 * 10  # mean, variance, count; two norms a stage, five stages


def test_the_first_statistics_are_those_of_the_sub_batch() -> None:
    joint = small().train()
    image = images()["a"]
    conv = joint.segmenter.backbone.down[0][0]  # type: ignore[index]
    before = norms(joint, "a")[0].running_mean.clone()
    seen = conv(image).movedim(1, -1).reshape(-1, 4)
    joint({"a": image})
    expected = [0.9 * before[c] + 0.1 * sum(seen[:, c]) / len(seen) for c in range(4)]
    torch.testing.assert_close(norms(joint, "a")[0].running_mean, torch.stack(expected))


def test_convolutions_are_shared_and_norms_are_not() -> None:
    """What a loss on one modality reaches is every convolution and that modality's norms."""
    joint = small().train()
    for m, other in (("a", "b"), ("b", "a")):
        joint.zero_grad()
        joint({m: images()[m]})[m].logits.square().sum().backward()
        reached = {n for n, p in joint.named_parameters() if p.grad is not None and p.grad.any()}
        backbone = {n for n, _ in joint.named_parameters() if n.startswith("segmenter.backbone.")}
        own = {n for n, _ in joint.named_parameters() if n.startswith(f"segmenter.encoders.{m}.")}
        assert reached == backbone | own, other
        assert len(backbone) == 2 * 5 + 2 * 2 + 2 and len(own) == 2 * 10
        assert not any("norm" in name for name in backbone)


def test_modalities_do_not_mix_within_a_step() -> None:
    """A shared batch norm would see both."""
    joint, both = small().train(), images()
    together = joint(both)["a"].logits
    alone = joint({"a": both["a"]})["a"].logits
    torch.testing.assert_close(together, alone, rtol=0, atol=0)
    torch.testing.assert_close(
        joint({"a": both["a"], "b": 5 * both["b"] + 3})["a"].logits, alone, rtol=0, atol=0
    )


def test_each_modality_is_normalised_by_what_it_was_trained_on() -> None:
    """After training on shifted images, the shift is gone for its own modality only."""
    joint, image = small().train(), images()["a"]
    joint.segmenter.encoders["b"].load_state_dict(joint.segmenter.encoders["a"].state_dict())
    shifted = 4 * image
    for _ in range(200):
        joint({"a": image, "b": shifted})
    joint.eval()
    with torch.no_grad():
        plain, undone = joint.segmenter(image, "a").logits, joint.segmenter(shifted, "b").logits
        wrong = joint.segmenter(shifted, "a").logits
    torch.testing.assert_close(undone, plain, rtol=1e-3, atol=1e-3)
    assert (wrong - plain).abs().max() > 0.5


@pytest.mark.parametrize("dims", [2, 3])
def test_folded_is_live(dims: int) -> None:
    """A plain network per modality, its own norms in it; fewer channels than the widest too."""
    channels = {"a": 2, "b": 1}
    joint = small(dims, 0.3, channels).train()
    found = images(dims, 2, channels)
    joint(found)
    kept = gains_form(joint.eval())
    outputs = []
    for m, image in found.items():
        plain = fold(kept, m).eval()
        assert plain.in_channels == channels[m]
        live = kept(image, m).logits
        torch.testing.assert_close(plain(image).logits, live, rtol=1e-9, atol=1e-9)
        outputs.append(live)
    assert (outputs[0] - outputs[1]).abs().max() > 1e-2


def test_dropout_is_for_training_and_keeps_three_quarters() -> None:
    net = UmmkdNet(SIZES[2], 2, CLASSES, base_width=4, stages=3)
    assert net.dropout.p == 0.25
    image = images()["a"].float()
    torch.manual_seed(0)
    one = net(image).logits
    torch.manual_seed(1)
    assert not torch.equal(one, net(image).logits)
    net.eval()
    assert torch.equal(net(image).logits, net(image).logits)


def test_a_size_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"must be a multiple of \(4, 4\)"):
        small().segmenter(torch.zeros(1, 2, 18, 16).double(), "a")


@pytest.mark.parametrize("modality", ["a", "b"])
def test_fixed_stems_are_the_identity_and_never_learn(modality: str) -> None:
    joint = small(channels={"a": 2, "b": 1})
    image = images(channels={"a": 2, "b": 1})[modality]
    seen = joint.segmenter.stems[modality](image)
    assert torch.equal(seen[:, : image.shape[1]], image) and not seen[:, image.shape[1] :].any()
    assert not any(p.requires_grad for p in joint.segmenter.stems.parameters())
