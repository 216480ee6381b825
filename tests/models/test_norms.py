"""Norms of a modality's own: each modality sees its own, and nothing else is doubled."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from foreign_toy import CLASSES, INPUT_LAYERS, SCALES, SIZE, toy
from small_joint import shake, small_joint, small_step
from unpaired.models import PrivateNorms, attach, detach, fold, gains_form
from unpaired.models.norms import find_norms

EXACT = {"rtol": 1e-12, "atol": 1e-12}
BOTH = pytest.mark.parametrize("variant", ["V1", "V2", "V3"])


@BOTH
def test_at_the_start_they_are_the_shared_norms(variant: str) -> None:
    shared, private = (small_joint(variant, private_norms=own).eval() for own in (False, True))
    images, _ = small_step()
    for m, output in shared(images).items():
        assert torch.equal(private(images)[m].logits, output.logits)


@BOTH
def test_each_modality_is_a_network_with_its_norms_put_in(variant: str) -> None:
    joint = small_joint(variant, private_norms=True).eval()
    shake(joint, 0.2)
    segmenter, (images, _) = joint.segmenter, small_step()
    for m, image in images.items():
        plain = deepcopy(segmenter.backbone)
        if m in segmenter.encoders:
            plain.put_private(segmenter.encoders[m])
        modules = dict(plain.named_modules())
        norms = segmenter.norms[m]
        assert isinstance(norms, PrivateNorms)
        for path, norm in zip(norms.paths, norms, strict=True):
            modules[path].load_state_dict(norm.state_dict())
        expected = plain(segmenter.stems[m](image), joint.gains(m)).logits
        torch.testing.assert_close(joint({m: image})[m].logits, expected, **EXACT)
        kept = gains_form(joint)
        torch.testing.assert_close(fold(kept, m)(image).logits, expected, **EXACT)


def test_a_modality_moves_its_own_norms_only_and_all_else_is_shared() -> None:
    joint = small_joint("V2", alpha=0, beta=0, gamma=0, private_norms=True)
    joint({"a": small_step()[0]["a"]})["a"].logits.square().sum().backward()
    moved = {n for n, p in joint.named_parameters() if p.grad is not None and p.grad.any()}
    norms = [n for n, _ in joint.named_parameters() if n.startswith("segmenter.norms.")]
    assert {n for n in norms if ".norms.a." in n} <= moved
    assert not {n for n in norms if ".norms.b." in n} & moved
    own = set(find_norms(joint.segmenter.backbone))
    unread = [n for n, p in joint.segmenter.backbone.named_parameters() if not p.requires_grad]
    assert {n.rpartition(".")[0] for n in unread} == own  # nothing else stands still


def test_statistics_are_a_modalitys_own() -> None:
    network = toy(1, "plain").float()
    network.encode.block.norm1 = nn.BatchNorm2d(8)
    joint = attach(
        network, SCALES, CLASSES, {"a": 1, "b": 1}, input_layers=INPUT_LAYERS, multiple=2,
        heads=4, private_norms=True,
    )  # fmt: skip
    image = 5 + torch.randn(2, 1, *SIZE, generator=torch.Generator().manual_seed(0))
    joint.train()({"a": image})
    means = {m: dict(joint.segmenter.norms[m].named_buffers())["0.running_mean"] for m in "ab"}
    assert means["a"].abs().min() > 0
    assert not means["b"].any()
    assert not network.encode.block.norm1.running_mean.any()
    shake(joint)
    alone = detach(joint.eval(), "a")
    stem = joint.segmenter.stems["a"](image)
    torch.testing.assert_close(alone(image), joint({"a": image})["a"].logits, atol=1e-4, rtol=1e-4)
    assert not torch.equal(stem, image)
    assert all(p.requires_grad for p in alone.parameters())
