"""Every registered backbone keeps the same contract, assembled as training assembles it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from unpaired.artifact.graph import trace
from unpaired.artifact.model import Model
from unpaired.backbones import BACKBONES, Foreign
from unpaired.config import Config, load_config
from unpaired.data.plan import Clip, ModalityPlan, Plan
from unpaired.methods import Consistency
from unpaired.models import Joint, fold, gains_form

pytestmark = pytest.mark.slow

SMALL: dict[str, dict[int, list[str]]] = {
    "swin_unet": {
        2: ["embed_dim=8", "depths=[2, 2, 2]", "heads=[1, 2, 4]", "window=2", "drop_path=0.0"],
        3: ["embed_dim=8", "depths=[2, 2, 2]", "heads=[1, 2, 4]", "window=2", "drop_path=0.0",
            "patch=[1, 4, 4]", "stride=[1, 2, 2]"],
    },
    "nnformer": {
        2: ["embed_dim=16", "depths=[2, 2, 2]", "heads=[1, 2, 4]", "window=2", "drop_path=0.0"],
        3: ["embed_dim=16", "depths=[2, 2, 2]", "heads=[1, 2, 4]", "window=2", "drop_path=0.0",
            "patch=[1, 4, 4]"],
    },
    "resenc_unet": {
        2: ["base_width=8", "blocks=[1, 2, 2, 1]"],
        3: ["base_width=8", "blocks=[1, 1, 1]", "strides=[[1, 1, 1], [1, 2, 2], [2, 2, 2]]"],
    },
    "monai_swin_unetr": {2: ["feature_size=12", "depths=[2, 2, 2, 2]"]},
    "monai_unetr": {2: ["feature_size=8", "hidden_size=24", "mlp_dim=48", "num_heads=2"]},
    "monai_dynunet": {2: ["strides=[1, 2, 2, 2]", "filters=[8, 16, 24, 32]"]},
    "monai_segresnet": {2: ["init_filters=8"]},
}  # fmt: skip
"""Options of a small network per number of axes; a new backbone needs a line here."""
PATCH = {2: (32, 32), 3: (8, 32, 32)}
SWIN_UNETR = {2: (64, 64)}  # its five halvings need more
CASES = [(name, dims) for name, found in SMALL.items() for dims in found]
CLASSES = ("background", "one", "two")
CHANNELS = {"a": 1, "b": 2}


def test_every_backbone_is_here() -> None:
    assert SMALL.keys() == BACKBONES.keys()


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1]}d")
def chosen(request: pytest.FixtureRequest) -> tuple[str, int]:
    name, dims = request.param
    if name.startswith("monai"):
        pytest.importorskip("monai", reason="the extra monai is not installed")
    return name, dims


def config_of(chosen: tuple[str, int], *more: str) -> Config:
    name, dims = chosen
    options = [f"model.options.{text}" for text in SMALL[name][dims]]
    own = [f"model.backbone={name}", f"data.dims={dims}", "model.heads=4", "train.precision=fp32"]
    return load_config(None, None, [*own, *options, *more])


def plan_of(chosen: tuple[str, int]) -> Plan:
    name, dims = chosen
    clip = Clip(kind="percentile", low=1.0, high=99.0)
    parts = {
        m: ModalityPlan(channel_names=tuple(f"c{i}" for i in range(n)), clip=(clip,) * n)
        for m, n in CHANNELS.items()
    }
    patch = SWIN_UNETR[dims] if name == "monai_swin_unetr" else PATCH[dims]
    return Plan(
        classes=CLASSES, modalities=parts, spacing_mm=(3.0, 1.0, 1.0), slice_axis="S",
        patch=patch, context=1,
    )  # fmt: skip


def joint_of(chosen: tuple[str, int], variant: str = "V3", shaken: bool = True) -> Joint:
    torch.manual_seed(0)
    joint = Consistency().joint(config_of(chosen, f"model.variant={variant}"), plan_of(chosen))
    if shaken:  # so that no zero or one of the start hides an error
        with torch.no_grad():
            for p in (*joint.segmenter.stems.parameters(), *joint.semantics.parameters()):
                p.add_(0.1 * torch.randn_like(p))
            if joint.scaling is not None:
                joint.scaling.weight.normal_(0, 0.1)
    return joint


def images_of(chosen: tuple[str, int], batch: int = 2, dtype=torch.float32) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    patch = plan_of(chosen).patch
    return {
        m: torch.randn(batch, n, *patch, generator=generator).to(dtype) for m, n in CHANNELS.items()
    }


def labels_of(images: dict[str, Tensor]) -> dict[str, Tensor]:
    """The sign of the first channel: learnable from the image alone."""
    return {m: (x[:, 0] > 0).long() + (x[:, 0] > 1).long() for m, x in images.items()}


def test_levels_and_legal_sizes_are_as_declared(chosen: tuple[str, int]) -> None:
    joint = joint_of(chosen).eval()
    backbone = joint.segmenter.backbone
    step = Consistency().size_step(config_of(chosen))
    patch = plan_of(chosen).patch
    for n, wide, fine in zip(patch, step, backbone.multiple, strict=True):
        assert n % wide == 0 and n % fine == 0
    with torch.no_grad():
        for m, image in images_of(chosen).items():
            found = joint.segmenter(image, m, joint.gains(m))
            assert found.logits.shape == (2, len(CLASSES), *patch)
            assert found.deep == ()
            for level, feature in zip(backbone.levels, found.features, strict=True):
                small = tuple(n // s for n, s in zip(patch, level.stride, strict=True))
                assert feature.shape == (2, level.channels, *small)
    odd = [m + 1 for m in backbone.multiple]
    if any(n % m for n, m in zip(odd, backbone.multiple, strict=True)):
        with pytest.raises(ValueError, match="multiple of"):
            backbone.check_size(odd)


@pytest.mark.parametrize("variant", ["V1", "V2", "V3"])
def test_ten_steps_lower_the_loss_and_every_parameter_learns(
    chosen: tuple[str, int], variant: str
) -> None:
    joint = joint_of(chosen, variant, shaken=False).train()
    objective = Consistency().objective(config_of(chosen), plan_of(chosen))
    optimizer = torch.optim.AdamW(joint.parameters(), 3e-3)
    images = images_of(chosen)
    labels, losses = labels_of(images), []
    for _ in range(10):
        total = objective(joint(images), labels).total
        optimizer.zero_grad()
        total.backward()
        if not losses:
            idle = [n for n, p in joint.named_parameters() if p.grad is None]
            assert not idle or isinstance(joint.segmenter.backbone, Foreign), idle
        optimizer.step()
        losses.append(float(total.detach()))
    assert min(losses[-3:]) < 0.95 * losses[0], losses


def test_the_modules_are_dropped_and_the_variant_starts_as_the_plain_network(
    chosen: tuple[str, int],
) -> None:
    """V3 at its start is V2, and what is kept gives what the whole network gave."""
    joint = joint_of(chosen, "V3", shaken=False).eval()
    plain = Consistency().segmenter(config_of(chosen, "model.variant=V2"), plan_of(chosen)).eval()
    kept = gains_form(joint).eval()
    plain.load_state_dict({k: v for k, v in kept.state_dict().items() if "gains." not in k})
    with torch.no_grad():
        for m, image in images_of(chosen).items():
            whole = joint({m: image})[m].logits
            assert torch.equal(kept(image, m).logits, whole)
            torch.testing.assert_close(plain(image, m).logits, whole, rtol=0, atol=1e-6)
    assert not any(
        "semantics" in name or "embed" in name.split(".")[0] for name in kept.state_dict()
    )


@pytest.mark.parametrize("variant", ["V1", "V3"])
def test_folded_is_live(chosen: tuple[str, int], variant: str) -> None:
    """In float64, with stems and gains away from their start, border voxels and all."""
    joint = joint_of(chosen, variant).double().eval()
    kept = gains_form(joint).eval()
    with torch.no_grad():
        outputs = {}
        for m, image in images_of(chosen, dtype=torch.float64).items():
            live = kept(image, m).logits
            folded = fold(kept, m).eval()
            assert folded.in_channels == CHANNELS[m]
            torch.testing.assert_close(folded(image).logits, live, rtol=1e-9, atol=1e-9)
            outputs[m] = live
    assert (outputs["a"] - outputs["b"]).abs().max() > 1e-3


def test_what_is_saved_is_what_was(chosen: tuple[str, int], tmp_path: Path) -> None:
    joint = joint_of(chosen).eval()
    other = Consistency().joint(config_of(chosen), plan_of(chosen)).eval()
    other.load_state_dict(joint.state_dict())
    kept = gains_form(joint).eval()
    Model(kept, plan_of(chosen), config_of(chosen)).save(tmp_path, {})
    read = Model.load(tmp_path).segmenter
    with torch.no_grad():
        for m, image in images_of(chosen).items():
            expected = kept(image, m).logits
            assert torch.equal(other({m: image})[m].logits, expected)
            assert torch.equal(read(image, m).logits, expected)


def test_a_traced_graph_answers_alike(chosen: tuple[str, int]) -> None:
    kept = gains_form(joint_of(chosen)).eval()
    config, plan = config_of(chosen), plan_of(chosen)
    program, _ = trace(Model(kept, plan, config), fixed_size=True)
    graph = program.module()
    widest = max(CHANNELS.values())
    with torch.no_grad():
        for index, (m, image) in enumerate(images_of(chosen, batch=3).items()):
            padded = torch.cat(
                [image, image.new_zeros(3, widest - CHANNELS[m], *image.shape[2:])], 1
            )
            found = graph(padded, torch.tensor([index]))
            torch.testing.assert_close(found, kept(image, m).logits, rtol=1e-4, atol=1e-4)


def test_bf16_stays_near(chosen: tuple[str, int]) -> None:
    joint = joint_of(chosen, shaken=False).eval()
    images = images_of(chosen)
    with torch.no_grad():
        exact = joint(images)
        with torch.autocast("cpu", torch.bfloat16):
            rough = joint(images)
    for m in images:
        a, b = exact[m].logits, rough[m].logits.float()
        assert b.isfinite().all()
        assert (a - b).norm() < 0.1 * a.norm()
        for e, f in zip(exact[m].correlations, rough[m].correlations, strict=True):
            assert f.dtype == torch.float32 and (e - f).norm() < 0.1 * e.norm() + 1e-3
