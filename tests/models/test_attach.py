"""A network of one's own: attach, train, detach; nothing of ours is left."""

from typing import Any

import pytest
import torch
from torch import Tensor

from foreign_toy import BRANCHES, CLASSES, INPUT_LAYERS, SCALES, SIZE, hooks, toy
from small_joint import shake, small_joint
from unpaired.backbones import Level
from unpaired.errors import UsageError
from unpaired.losses import Objective
from unpaired.models import Joint, attach, detach

EXACT = {"rtol": 0, "atol": 1e-12}


def attached(channels: int = 1, shape: str = "plain", **changes: Any) -> Joint:
    network = changes.pop("network", None) or toy(channels, shape)
    declared: dict[str, Any] = {
        "modalities": {"a": channels, "b": 1},
        "input_layers": INPUT_LAYERS,
        "multiple": 2,
        "encoder": "encode",
        "branches": BRANCHES,
        "heads": 4,
    }
    return attach(network, SCALES, CLASSES, **{**declared, **changes})


def step(channels: int = 1) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    images = {
        m: torch.randn(2, k, *SIZE, generator=generator).double()
        for m, k in (("a", channels), ("b", 1))
    }
    return images, {m: (image[:, 0] > 0.3).long() for m, image in images.items()}


def train(joint: Joint, steps: int = 10, channels: int = 1) -> list[float]:
    images, labels = step(channels)
    optimizer = torch.optim.Adam([p for p in joint.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = Objective()(joint(images), labels).total
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("variant", ["V2", "V3"])
def test_attaching_changes_nothing_and_detaching_gives_the_object_back(variant: Any) -> None:
    network = toy()
    names, image = list(network.state_dict()), step()[0]["a"]
    before = network(image)
    joint = attached(network=network, variant=variant)
    assert torch.equal(joint({"a": image})["a"].logits, before)  # the stem is the identity
    assert detach(joint) is network
    assert list(network.state_dict()) == names
    assert torch.equal(detach(joint)(image), before)
    alone = detach(joint, "a")
    assert type(alone) is type(network)
    assert list(alone.state_dict()) == names
    assert torch.equal(alone(image), before)
    assert hooks(alone) == hooks(network) == 0


@pytest.mark.parametrize("variant", ["V1", "V2", "V3"])
def test_trained_and_detached_equals_live(variant: Any) -> None:
    """Two channels against one; every part has moved in training, and is shaken beside."""
    joint = attached(2, variant=variant)
    losses = train(joint, channels=2)
    assert losses[-1] < 0.95 * losses[0]
    shake(joint.semantics)
    if joint.scaling is not None:
        shake(joint.scaling)
    images = step(2)[0]
    live = joint.eval()(images)
    for m in images:
        torch.testing.assert_close(detach(joint, m)(images[m]), live[m].logits, **EXACT)
    networks = [
        detach(joint, m)(images["b"].expand(-1, k, -1, -1)) for m, k in (("a", 2), ("b", 1))
    ]
    assert (networks[0] - networks[1]).abs().max() > 1e-3  # a modality's own


def test_the_object_itself_gives_the_live_logits_behind_the_stem() -> None:
    joint = attached()
    train(joint)
    image = step()[0]["b"]
    stem = joint.segmenter.stems["b"](image)
    assert not torch.equal(stem, image)
    assert torch.equal(detach(joint)(stem), joint({"b": image})["b"].logits)


@pytest.mark.parametrize("variant", ["V1", "V2", "V3"])
def test_every_parameter_is_trained(variant: Any) -> None:
    joint = attached(variant=variant, shape="list")
    train(joint, 1)
    unused = {n for n, p in joint.named_parameters() if p.grad is None}
    assert not unused


def test_deep_supervision_reaches_the_objective() -> None:
    joint = attached(shape="list")
    images, labels = step()
    outputs = joint(images)
    assert [d.shape[2:] for d in outputs["a"].deep] == [(8, 6)]
    Objective()(outputs, labels).total.backward()
    head = joint.segmenter.backbone.get_submodule("network.decode.coarse")
    assert head.weight.grad is not None


def test_a_step_of_two_modalities_equals_each_alone() -> None:
    joint = attached(variant="V3")
    shake(joint, 0.2)
    images = step()[0]
    both = joint(images)
    for m, image in images.items():
        assert torch.equal(joint({m: image})[m].logits, both[m].logits)
    assert not torch.equal(joint({"b": images["a"]})["b"].logits, both["a"].logits)


def test_state_of_the_whole_goes_round() -> None:
    for variant in ("V1", "V2", "V3"):
        joint, other = attached(variant=variant), attached(variant=variant)
        shake(joint, 0.2)
        images = step()[0]
        assert not torch.equal(other(images)["b"].logits, joint(images)["b"].logits)
        other.load_state_dict(joint.state_dict())
        assert torch.equal(other(images)["b"].logits, joint(images)["b"].logits)


def test_a_detached_network_is_exported() -> None:
    joint = attached(variant="V3")
    shake(joint, 0.2)
    image = step()[0]["a"]
    alone = detach(joint.eval(), "a")
    program = torch.export.export(alone, (image,)).module()
    torch.testing.assert_close(program(image), alone(image), **EXACT)
    kept = torch.export.export(joint.segmenter, (image, "a")).module()
    torch.testing.assert_close(kept(image, "a").logits, joint.segmenter(image, "a").logits, **EXACT)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heads": 3}, r"heads=3 does not divide the widths \[8, 4\]"),
        ({"variant": "V3", "branches": ()}, "V3 multiplies residual branches: name"),
        ({"variant": "V1", "encoder": ()}, "need to know the network's encoder"),
        ({"variant": "V4"}, "'V4' is unknown; known: V1, V2, V3"),
        ({"input_layers": ("encode.frist",)}, r"Did you mean 'encode\.first'"),
    ],
)
def test_what_cannot_be_attached(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        attached(**changes)


def test_what_cannot_be_detached() -> None:
    with pytest.raises(UsageError, match="built around SwinUnet"):
        detach(small_joint())
    with pytest.raises(UsageError, match=r"network per modality: name one of \('a', 'b'\)"):
        detach(attached(variant="V1"))
    with pytest.raises(UsageError, match="'pet' is not one of"):
        detach(attached(), "pet")


def test_a_wrong_scale_is_found_at_the_first_step() -> None:
    joint = attach(
        toy(), {"decode.low": Level(8, (4, 4))}, CLASSES, {"a": 1}, input_layers=INPUT_LAYERS
    )
    with pytest.raises(UsageError, match=r"'decode\.low' was declared with 8 channels at stride"):
        joint({"a": step()[0]["a"]})
