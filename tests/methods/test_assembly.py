"""Assembly: what is built for which weights, and what is refused with which words."""

import pytest
import torch

from unpaired.artifact.safetensors import build_shapes
from unpaired.config import Config, load_config, preset_names
from unpaired.data.plan import Clip, CoarseView, ModalityPlan, Plan
from unpaired.errors import UsageError
from unpaired.methods import Consistency, method_of

SMALL = ["model.options.embed_dim=8", "model.options.heads=[1, 2, 2, 4]", "model.heads=4"]


def config(*overrides: str) -> Config:
    return load_config(None, None, [*SMALL, *overrides])


def plan(*modalities: str, patch: tuple[int, int] = (64, 64), channels: int = 1) -> Plan:
    clip = Clip(kind="percentile", low=0.5, high=99.5)
    names = tuple(f"c{i}" for i in range(channels))
    parts = {m: ModalityPlan(channel_names=names, clip=(clip,) * channels) for m in modalities}
    return Plan(
        classes=("background", "liver", "spleen"),
        modalities=parts,
        spacing_mm=(6.0, 3.0, 3.0),
        slice_axis="S",
        patch=patch,
    )


@pytest.mark.parametrize(
    ("overrides", "semantics", "modules", "scaling"),
    [
        ((), True, True, True),
        (("model.variant=V2",), True, True, False),
        (("model.variant=V2", "loss.alpha=0", "loss.gamma=0"), True, False, False),
        (("model.variant=V2", "loss.alpha=0", "loss.beta=0", "loss.gamma=0"), False, False, False),
        (("loss.alpha=0", "loss.beta=0", "loss.gamma=0"), True, False, True),
    ],
)
def test_only_what_is_used_is_built(
    overrides: tuple[str, ...], semantics: bool, modules: bool, scaling: bool
) -> None:
    joint = Consistency().joint(config(*overrides), plan("a", "b"))
    assert bool(joint.semantics) == semantics
    assert (
        any("attention.query" in name for name, _ in joint.semantics.named_parameters()) == modules
    )
    assert (joint.scaling is not None) == scaling


def test_one_modality_has_no_correlations() -> None:
    joint = Consistency().joint(config(), plan("a"))
    assert not any(name.endswith("kernel") for name, _ in joint.named_parameters())


def test_one_chain_of_modules_for_all_on_request() -> None:
    private, shared = (
        Consistency().joint(config(*more), plan("a", "b", "c"))
        for more in ((), ("model.modules=shared", "model.maps=mean"))
    )
    counts = [sum(p.numel() for p in j.semantics.parameters()) for j in (private, shared)]
    q = shared.semantics["a"].embeddings.numel()  # type: ignore[operator]
    assert counts[1] - 3 * q == (counts[0] - 3 * q) // 3
    assert shared.semantics["a"].modules_per_scale[0].over_heads == config().model.heads  # type: ignore[index, union-attr]
    assert private.semantics["a"].modules_per_scale[0].over_heads == 1  # type: ignore[index, union-attr]


def test_channels_widen_the_input() -> None:
    """Two channels of three slices each: K = 6, and the stem begins as the identity."""
    segmenter = Consistency().segmenter(config(), plan("a", channels=2))
    assert segmenter.backbone.in_channels == 6
    image = torch.randn(1, 6, 4, 4)
    torch.testing.assert_close(segmenter.stems["a"](image), image)


def test_sizes_step_by_what_the_options_allow() -> None:
    assert Consistency().size_step(config()) == (32, 32)
    assert Consistency().size_step(config("model.options.window=7")) == (224, 224)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (("model.backbone=swin_une",), "Did you mean 'swin_unet'"),
        (("model.options.embed_dimm=8",), r"embed_dimm is unknown\. Did you mean 'embed_dim'"),
        (("model.heads=3",), r"model\.heads=3 does not divide the decoder widths"),
        (("model.options.window=5",), "cannot be cut into windows"),
        (("model.options.depths=[2, 2]",), "differ in length"),
    ],
)
def test_what_does_not_fit_is_said(overrides: tuple[str, ...], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Consistency().joint(config(*overrides), plan("a", "b"))


def test_a_patch_that_does_not_fit_names_the_multiple() -> None:
    with pytest.raises(UsageError, match=r"must be a multiple of \(32, 32\)"):
        Consistency().joint(config(), plan("a", patch=(72, 64)))


def test_class_weights_must_match_the_classes() -> None:
    with pytest.raises(UsageError, match="has 2 values, but there are 3 classes"):
        Consistency().objective(config("loss.class_weights=[1, 2]"), plan("a"))


@pytest.mark.parametrize("name", ["train", "t2.w", "1st", "half"])
def test_a_name_that_no_module_can_have_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be used"):
        Consistency().joint(config(), plan(name))


@pytest.mark.parametrize("of_minutes", [False, True])
@pytest.mark.parametrize("name", preset_names())
def test_every_preset_builds_its_network_at_its_patch(name: str, of_minutes: bool) -> None:
    """On the meta device: nothing is computed, but every size and number of heads must fit."""
    found = load_config(name, of_minutes=of_minutes)
    step = method_of(found).size_step(found)
    size = found.data.patch or tuple(max(n, 64 // n * n) for n in step)
    part = ModalityPlan(channel_names=("c0",), clip=(Clip(kind="percentile", low=0.5, high=99.5),))
    rule, view = method_of(found).plan_rule(found), None
    if rule is not None:
        cells = (2 * rule.coarse_step,) * 3
        view = CoarseView(stride=(2, 2, 2), shape=cells, step=rule.coarse_step)
    chosen = Plan(
        classes=("background", "spleen", "right kidney", "left kidney", "liver"),
        modalities={"a": part, "b": part},
        spacing_mm=found.data.spacing_mm or (3.0, 1.0, 1.0),
        slice_axis="S",
        patch=size,
        context=found.data.context if found.data.dims == 2 else 1,
        coarse=view,
    )
    assert all(n % s == 0 for n, s in zip(size, step, strict=True))
    joint = build_shapes(lambda: method_of(found).joint(found, chosen), 10_000)
    method_of(found).objective(found, chosen)
    assert joint.segmenter.backbone.dims == found.data.dims
    losses = found.loss.alpha or found.loss.beta or found.loss.gamma
    with_modules = found.model.name == "consistency" and losses
    assert joint.semantics.keys() == ({"a", "b"} if with_modules else set())
    if name == "paper-abdomen-3d" and not of_minutes:  # the published Synapse network, 5 classes
        network = joint.segmenter.backbone
        tables = sum(p.numel() for n, p in network.named_parameters() if "bias_table" in n)
        assert sum(p.numel() for p in network.parameters()) - tables > 149_000_000
