"""Variants, starts, and what each loss's gradient reaches."""

import pytest
import torch
from torch import Tensor

import oracles
from small_joint import CLASSES, shake, small_joint, small_step
from unpaired.losses import Objective, mcr
from unpaired.models import Joint, Scaling, share_embeddings, share_modules
from unpaired.models.segmenter import Stem


def reached(joint: Joint, loss: Tensor) -> set[str]:
    """Names of the parameters that `loss` moves, by a gradient that is not zero."""
    names, parameters = zip(*joint.named_parameters(), strict=True)
    found = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
    return {n for n, g in zip(names, found, strict=True) if g is not None and bool(g.any())}


def starting(names: set[str], prefix: str) -> set[str]:
    return {n for n in names if n.startswith(prefix)}


def terms(joint: Joint, **options: float) -> dict[str, Tensor]:
    images, labels = small_step(joint.segmenter.modalities)
    return Objective(**options)(joint(images), labels).terms


@pytest.mark.parametrize("variant", ["V1", "V2", "V3"])
@pytest.mark.parametrize(
    "weights",
    [
        (0.4, 0.1, 0.1),
        (0.4, 0.0, 0.0),
        (0.4, 0.1, 0.0),
        (0.0, 0.0, 0.1),
        (0.0, 0.1, 0.0),
        (0.0, 0.0, 0.0),
    ],
)
def test_every_parameter_receives_a_gradient(
    variant: str, weights: tuple[float, float, float]
) -> None:
    """Nothing unused is built, in any variant and with any weight zero."""
    alpha, beta, gamma = weights
    joint = small_joint(variant, alpha=alpha, beta=beta, gamma=gamma)
    images, labels = small_step()
    loss = Objective(alpha=alpha, beta=beta, gamma=gamma)(joint(images), labels).total
    loss.backward()
    assert [n for n, p in joint.named_parameters() if p.grad is None] == []
    shake(joint)  # at the start W2, W3 are zero, so what feeds them has the gradient zero
    joint.zero_grad()
    Objective(alpha=alpha, beta=beta, gamma=gamma)(joint(images), labels).total.backward()
    still = {n for n, p in joint.named_parameters() if not p.grad.any()}
    assert still == set()
    if not any(weights) and variant != "V3":
        assert len(joint.semantics) == 0


@pytest.mark.parametrize("modalities", [("a",), ("a", "b", "c"), ("a", "b", "c", "d")])
def test_any_number_of_modalities_runs_the_same_lines(modalities: tuple[str, ...]) -> None:
    joint = small_joint("V3", modalities, gamma=0.1 if len(modalities) > 1 else 0.0)
    shake(joint)
    images, labels = small_step(modalities)
    images["a"], labels["a"] = images["a"][:1], labels["a"][:1]  # unequal numbers of images
    outputs = joint(images)
    found = Objective(tau=4.0, mask_absent=False)(outputs, labels)
    found.total.backward()
    assert all(p.grad is not None for p in joint.parameters())
    if len(modalities) > 1:
        expected = oracles.mcr({m: joint.semantics[m].embeddings for m in modalities})
        torch.testing.assert_close(found.terms["mcr"], expected)
        scales = [{m: o.correlations[k] for m, o in outputs.items()} for k in range(3)]
        expected = sum(oracles.icr(e, 4.0) for e in scales)
        torch.testing.assert_close(found.terms["icr"], expected)


def test_auxiliary_loss_reaches_its_own_modality_and_the_backbone_only() -> None:
    joint = small_joint("V3")
    shake(joint)
    names = reached(joint, terms(joint)["aux/a"])
    assert "semantics.a.embeddings" in names
    assert starting(names, "semantics.a.modules_per_scale")
    assert len(starting(names, "segmenter.stems.a")) == 4
    assert starting(names, "segmenter.backbone.encoder")
    assert starting(names, "segmenter.backbone.decoder.stages.2.1")
    assert starting(names, "scaling") == {"scaling.mix", "scaling.weight"}
    assert not starting(names, "segmenter.stems.b")
    assert not starting(names, "semantics.b")
    assert not starting(names, "segmenter.backbone.decoder.classify")
    assert not any("kernel" in n for n in names)


def test_embedding_loss_reaches_the_embeddings_only() -> None:
    joint = small_joint("V3")
    shake(joint)
    expected = {"semantics.a.embeddings", "semantics.b.embeddings"}
    assert reached(joint, terms(joint)["mcr"]) == expected


@pytest.mark.parametrize("variant", ["V1", "V2", "V3"])
def test_correlation_loss_reaches_every_modality(variant: str) -> None:
    joint = small_joint(variant, ("a", "b", "c"))
    shake(joint)
    names = reached(joint, terms(joint)["icr"])
    for m in joint.segmenter.modalities:
        assert f"semantics.{m}.embeddings" in names
        assert len(starting(names, f"segmenter.stems.{m}")) == 4
        assert {f"semantics.{m}.modules_per_scale.{k}.kernel" for k in range(3)} <= names
    assert not any(".head." in n for n in names)


def test_segmentation_loss_reaches_no_embedding_without_scaling() -> None:
    joint = small_joint("V2")
    shake(joint)
    assert not starting(reached(joint, terms(joint)["seg/a"]), "semantics")
    scaled = small_joint("V3")
    shake(scaled)
    names = reached(scaled, terms(scaled)["seg/a"])
    assert starting(names, "semantics") == {"semantics.a.embeddings"}


def test_private_encoders_are_private() -> None:
    joint = small_joint("V1")
    shake(joint)
    own = [{id(p) for p in joint.segmenter.encoders[m].parameters()} for m in ("a", "b")]
    assert len(own[0]) == len(own[1]) > 0 and not own[0] & own[1]
    names = reached(joint, terms(joint)["seg/a"])
    assert starting(names, "segmenter.encoders.a") and not starting(names, "segmenter.encoders.b")
    assert not starting({n for n, _ in joint.named_parameters()}, "segmenter.backbone.encoder")


@pytest.mark.parametrize("variant", ["V1", "V3"])
def test_every_variant_starts_as_joint_training(variant: str) -> None:
    """Private encoders start alike and gains start at one: the same numbers as V2."""
    plain, other = small_joint("V2"), small_joint(variant)
    images, _ = small_step()
    for m, output in other(images).items():
        torch.testing.assert_close(output.logits, plain(images)[m].logits, rtol=0, atol=0)


def test_stems_start_as_the_identity() -> None:
    joint = small_joint("V2")
    images, _ = small_step()
    for m, image in images.items():
        assert torch.equal(joint.segmenter.stems[m](image), image)
    for dims, bias in ((1, True), (2, False), (3, True)):
        x = torch.randn(2, 4, *[3] * dims)
        assert torch.equal(Stem(4, 4, dims, bias)(x), x)
        assert all((layer.bias is not None) == bias for layer in Stem(4, 4, dims, bias))


def test_modalities_may_bring_different_channels() -> None:
    joint = small_joint("V3", channels={"a": 3, "b": 1})
    x = torch.randn(2, 1, 32, 32).double()
    out = joint.segmenter.stems["b"](x)
    assert torch.equal(out[:, :1], x) and not out[:, 1:].any()
    assert joint.segmenter(x, "b").logits.shape[1] == CLASSES


def test_gains_equal_the_equation() -> None:
    """Eq. 13: Omega = w1 Q, Phi = 1 + Omega W, per branch; values and gradients."""
    torch.manual_seed(0)
    widths = {"one.project": 4, "two.project": 2, "three.project": 3}
    scaling = Scaling(3, 5, widths).double()
    assert torch.equal(scaling.mix, torch.full((3,), 1 / 3).double()) and not scaling.weight.any()
    shake(scaling, 1.0)
    q = torch.randn(3, 5).double().requires_grad_()
    start = 0
    for name, phi in scaling(q).items():
        part = scaling.weight[:, start : start + widths[name]]
        expected = oracles.gains(scaling.mix, q, part)
        torch.testing.assert_close(phi, expected, rtol=1e-12, atol=1e-12)
        inputs = [q, scaling.mix, scaling.weight]
        for a, b in zip(
            torch.autograd.grad(phi.square().sum(), inputs, retain_graph=True),
            torch.autograd.grad(expected.square().sum(), inputs, retain_graph=True),
            strict=True,
        ):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
        start += widths[name]


def test_every_block_has_two_gains() -> None:
    """All blocks, of encoder and decoder: 14 of them, 28 branches."""
    joint = small_joint("V3")
    names = set(joint.gains("a"))
    assert len(names) == 28
    ends = {n for n, _ in joint.segmenter.backbone.named_modules() if n.endswith(".project")}
    assert names == ends


def test_each_gain_changes_the_output() -> None:
    joint = small_joint("V3")
    image = small_step()[0]["a"][:1]
    before = joint.segmenter(image, "a", joint.gains("a")).logits
    for name, phi in joint.gains("a").items():
        moved = {**joint.gains("a"), name: 2 * phi}
        assert (joint.segmenter(image, "a", moved).logits - before).abs().max() > 1e-9, name


def test_permuting_the_classes_of_embeddings_and_kernels_permutes_the_correlations() -> None:
    """And leaves L_mcr and L_icr as they are, through the whole chain of three scales."""
    joint = small_joint("V2")
    shake(joint)
    images, labels = small_step()
    before = joint(images)
    order = torch.tensor([2, 0, 1])
    with torch.no_grad():
        for name, p in joint.named_parameters():
            if name.endswith((".embeddings", ".kernel")):
                p.copy_(p[order].clone())
    after = joint(images)
    for m in images:
        for a, b in zip(after[m].correlations, before[m].correlations, strict=True):
            torch.testing.assert_close(a, b[:, order][:, :, order])
        for a, b in zip(after[m].auxiliary, before[m].auxiliary, strict=True):
            torch.testing.assert_close(a, b[:, order])
    for name in ("mcr", "icr"):
        ours, theirs = (Objective()(o, labels).terms[name] for o in (after, before))
        torch.testing.assert_close(ours, theirs)


def test_unknown_modality_is_refused_by_name() -> None:
    with pytest.raises(KeyError, match="'pet' is not one of this network's modalities"):
        small_joint("V2").segmenter(torch.zeros(1, 3, 32, 32).double(), "pet")


def test_shared_embeddings_are_one_parameter_and_make_the_gains_alike() -> None:
    joint = small_joint("V3")
    shake(joint)
    before = sum(p.numel() for p in joint.parameters())
    apart = joint.gains("a"), joint.gains("b")
    share_embeddings([joint.semantics["a"], joint.semantics["b"]])  # type: ignore[list-item]
    after = sum(p.numel() for p in joint.parameters())
    q = joint.semantics["a"].embeddings
    assert before - after == q.numel()  # type: ignore[operator]
    together = joint.gains("a"), joint.gains("b")
    assert all(torch.equal(together[0][name], together[1][name]) for name in together[0])
    assert not all(torch.equal(apart[0][name], apart[1][name]) for name in apart[0])
    images, _ = small_step()
    outputs = joint(images)
    assert mcr({m: out.embeddings for m, out in outputs.items()}).item() < 1e-12
    sum(out.auxiliary[0].sum() for out in outputs.values()).backward()
    alone = joint.semantics["a"].embeddings.grad.clone()
    joint.zero_grad()
    joint({"a": images["a"]})["a"].auxiliary[0].sum().backward()
    assert not torch.allclose(alone, joint.semantics["a"].embeddings.grad)


def test_shared_modules_are_one_chain_and_embeddings_stay_private() -> None:
    """One modality's auxiliary loss then moves the chain of all, and its own Q only."""
    joint = small_joint("V2")
    own = sum(p.numel() for p in joint.semantics["a"].parameters())
    share_modules([joint.semantics["a"], joint.semantics["b"]])  # type: ignore[list-item]
    q = joint.semantics["b"].embeddings
    assert sum(p.numel() for p in joint.semantics.parameters()) == own + q.numel()  # type: ignore[operator]
    shake(joint)
    names = reached(joint, terms(joint)["aux/b"])
    assert starting(names, "semantics.a.modules_per_scale")
    assert starting(names, "semantics.b") == {"semantics.b.embeddings"}
    assert "semantics.a.embeddings" not in names
    images, labels = small_step()
    joint.zero_grad()
    Objective()(joint(images), labels).total.backward()
    assert [n for n, p in joint.named_parameters() if p.grad is None] == []
    # With equal embeddings and features the correlations are equal: there is no gauge left.
    with torch.no_grad():
        q.copy_(joint.semantics["a"].embeddings)
        joint.segmenter.stems["b"].load_state_dict(joint.segmenter.stems["a"].state_dict())
    same = joint(dict.fromkeys("ab", images["a"]))
    for a, b in zip(same["a"].correlations, same["b"].correlations, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)
