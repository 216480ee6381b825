"""Folded equals live: stems and gains multiplied into a plain network."""

import pytest
import torch
from torch import Tensor, nn

from small_joint import shake, small_joint, small_step
from unpaired.backbones import Backbone, Decoded, Level
from unpaired.models import Segmenter, fold, gains_form
from unpaired.nn.block import Gains

EXACT = {"rtol": 1e-12, "atol": 1e-12}


@pytest.mark.parametrize("variant", ["V1", "V2", "V3"])
def test_folded_and_stored_equal_live(variant: str) -> None:
    joint = small_joint(variant).eval()
    shake(joint, 0.2)
    images, _ = small_step()
    live = joint(images)
    kept = gains_form(joint)
    for m, image in images.items():
        plain = fold(kept, m)
        torch.testing.assert_close(kept(image, m).logits, live[m].logits, **EXACT)
        torch.testing.assert_close(plain(image).logits, live[m].logits, **EXACT)
        for a, b in zip(plain(image).features, kept(image, m).features, strict=True):
            torch.testing.assert_close(a, b, **EXACT)
    apart = fold(kept, "a")(images["a"]).logits - fold(kept, "b")(images["a"]).logits
    assert apart.abs().max() > 1e-3


def test_folded_is_a_plain_backbone_of_the_same_size() -> None:
    joint = small_joint("V3")
    shake(joint)
    plain = fold(gains_form(joint), "a")
    assert {n for n, _ in plain.named_parameters()} == {
        n for n, _ in joint.segmenter.backbone.named_parameters()
    }


def test_folding_leaves_the_network_as_it_was() -> None:
    joint = small_joint("V3")
    shake(joint)
    before = {n: p.clone() for n, p in joint.named_parameters()}
    kept = gains_form(joint)
    for m in ("a", "b"):
        fold(kept, m)
    assert all(torch.equal(p, before[n]) and p.requires_grad for n, p in joint.named_parameters())
    image = small_step()[0]["a"]
    torch.testing.assert_close(kept(image, "a").logits, joint({"a": image})["a"].logits, **EXACT)


def test_other_channels_than_the_backbone_fold_too() -> None:
    joint = small_joint("V3", channels={"a": 3, "b": 1})
    shake(joint, 0.3)
    x = torch.randn(1, 1, 32, 32).double()
    kept = gains_form(joint)
    plain = fold(kept, "b")
    assert plain.in_channels == 1
    torch.testing.assert_close(plain(x).logits, kept(x, "b").logits, **EXACT)


def test_the_optional_form_drops_the_gains() -> None:
    joint = small_joint("V3")
    shake(joint, 0.3)
    image = small_step()[0]["a"]
    without = gains_form(joint, scaling_at_test=False)
    torch.testing.assert_close(
        without(image, "a").logits, joint.segmenter(image, "a").logits, rtol=0, atol=0
    )
    assert (without(image, "a").logits - joint({"a": image})["a"].logits).abs().max() > 1e-3


def test_unknown_modality_cannot_be_folded() -> None:
    with pytest.raises(KeyError, match="'pet' is not one of this network's"):
        fold(gains_form(small_joint("V2")), "pet")


class _Reads(nn.Module):
    """Two layers that read the input, and pad it with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(3, 4, 3, padding=1)
        self.skip = nn.Conv2d(3, 4, 5, padding=2, bias=False)

    def forward(self, image: Tensor, gains: Gains | None = None) -> Tensor:
        return self.wide(image).relu() + self.skip(image)


class _Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.classify = nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor, gains: Gains | None = None) -> Decoded:
        return Decoded(self.classify(x), (x,))


class Padding(Backbone):
    """A backbone whose first layers pad with zeros, as convolutional networks do."""

    def __init__(self, pads_input: bool = True) -> None:
        super().__init__()
        self.dims, self.in_channels, self.classes = 2, 3, 2
        self.levels, self.multiple = (Level(4, (1, 1)),), (1, 1)
        self.input_layers = ("encoder.wide", "encoder.skip")
        self.pads_input = pads_input
        self.encoder, self.decoder = _Reads(), _Head()


def folding_error(pads_input: bool) -> Tensor:
    """Largest difference between folded and live, per position."""
    torch.manual_seed(0)
    segmenter = Segmenter(Padding(pads_input), {"a": 3}).double().eval()
    shake(segmenter, 0.3)
    image = torch.randn(2, 3, 9, 9).double()
    plain = fold(segmenter, "a")
    return (plain(image).logits - segmenter(image, "a").logits).detach().abs().amax((0, 1))


def test_padded_layers_fold_at_the_border() -> None:
    """Every layer that reads the input takes the stem, and the stem has no bias."""
    assert float(folding_error(pads_input=True).max()) < 1e-12


def test_a_bias_before_padding_would_not_fold() -> None:
    """The reason for the rule: the same network with a bias is wrong at the border only."""
    error = folding_error(pads_input=False)
    assert float(error[2:-2, 2:-2].max()) < 1e-12
    assert float(error.max()) > 1e-2
