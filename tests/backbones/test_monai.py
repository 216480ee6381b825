"""MONAI's networks with our modules on them, and the same networks without."""

import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from foreign_toy import hooks
from small_joint import shake
from unpaired.backbones import BACKBONES, Foreign
from unpaired.config import load_config
from unpaired.data.plan import Clip, ModalityPlan, Plan
from unpaired.errors import UsageError
from unpaired.losses import Objective
from unpaired.methods import method_of
from unpaired.models import Joint, Scaling, Segmenter, Semantics, attach, detach, gains_form

nets = pytest.importorskip("monai.networks.nets", reason="MONAI is an extra")

CLASSES, MODALITIES = 3, {"a": 1, "b": 1}
SMALL: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "monai_swin_unetr": (
        (32, 64),
        {"feature_size": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 4), "window_size": 4},
    ),
    "monai_unetr": (
        (32, 48),
        {"feature_size": 8, "hidden_size": 24, "mlp_dim": 48, "num_heads": 4},
    ),
    "monai_dynunet": (
        (32, 32),
        {
            "strides": (1, 2, 2, (2, 1)),
            "filters": (8, 16, 16, 32),
            "res_block": True,
            "deep_supervision": 2,
        },
    ),
    "monai_segresnet": ((32, 32), {"blocks_down": (1, 1, 1), "blocks_up": (1, 1)}),
}
VOLUMES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "monai_swin_unetr": ((32, 32, 64), SMALL["monai_swin_unetr"][1]),
    "monai_unetr": ((16, 32, 16), SMALL["monai_unetr"][1]),
    "monai_dynunet": (
        (8, 16, 16),
        {"strides": ((1, 1, 1), (1, 2, 2), (2, 2, 2)), "filters": (8, 16, 24)},
    ),
    "monai_segresnet": ((8, 16, 16), SMALL["monai_segresnet"][1]),
}


def backbone(
    name: str, size: tuple[int, ...], options: dict[str, Any], channels: int = 1
) -> Foreign:
    torch.manual_seed(0)
    built = BACKBONES[name](image_size=size, in_channels=channels, classes=CLASSES, **options)  # type: ignore[call-arg]
    assert isinstance(built, Foreign)
    return built.double()


def joined(name: str, variant: str) -> Joint:
    made = backbone(name, *SMALL[name])
    widths = [level.channels for level in made.levels]
    segmenter = Segmenter(made, MODALITIES, variant == "V1")
    scaling = Scaling(CLASSES, widths[0], segmenter.branches) if variant == "V3" else None
    semantics = {m: Semantics(CLASSES, widths, heads=4) for m in MODALITIES}
    return Joint(segmenter, semantics, scaling).double()


def an_image(size: tuple[int, ...], seed: int = 0, images: int = 1, channels: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, channels, *size, generator=generator).double()


def train(joint: Joint, size: tuple[int, ...], steps: int) -> list[float]:
    images = {m: an_image(size, i, 2) for i, m in enumerate(MODALITIES)}
    labels = {m: (image[:, 0] > 0.5).long() + (image[:, 0] > 1.5) for m, image in images.items()}
    optimizer = torch.optim.Adam([p for p in joint.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = Objective()(joint(images), labels).total
        loss.backward()
        losses.append(float(loss.detach()))
        optimizer.step()
    return losses


@pytest.mark.parametrize(("name", "sizes"), [(n, s) for s in (SMALL, VOLUMES) for n in SMALL])
def test_the_networks_own_logits_bit_for_bit(name: str, sizes: dict[str, Any]) -> None:
    """And the declared widths and strides, which the first pass checks, in 2D and 3D."""
    size, options = sizes[name]
    made = backbone(name, size, options).eval()
    image = an_image(size)
    with torch.no_grad():
        found = made(image)
        assert torch.equal(found.logits, made.network(image))
    assert made.checked
    assert hooks(made) == 0
    assert all(n % s == 0 for n, s in zip(size, made.size_step(options, len(size)), strict=True))
    sizes_of = [tuple(f.shape[2:]) for f in found.features]
    assert sizes_of == [
        tuple(n // s for n, s in zip(size, w.stride, strict=True)) for w in made.levels
    ]


def test_it_is_the_network_that_monai_builds() -> None:
    """MONAI's own state dict goes in; `affine=False` where its norms have no weights."""
    size, options = SMALL["monai_swin_unetr"]
    own = nets.SwinUNETR(in_channels=1, out_channels=CLASSES, spatial_dims=2, **options).double()
    made = backbone("monai_swin_unetr", size, {**options, "affine": False})
    made.network.load_state_dict(own.state_dict())
    assert torch.equal(made.eval()(an_image(size)).logits, own.eval()(an_image(size)))
    assert len(made.branches) == 2 * 4
    assert len(backbone("monai_swin_unetr", size, options).branches) == 2 * 4 + 5 + 5


@pytest.mark.parametrize("name", SMALL)
def test_v2_learns_and_detaches(name: str) -> None:
    joint, size = joined(name, "V2"), SMALL[name][0]
    losses = train(joint, size, 10)
    assert losses[-1] < 0.97 * losses[0], losses
    joint.eval()
    network, image = detach(joint), an_image(size, 7)
    assert type(network).__module__.startswith("monai.")
    with torch.no_grad():
        stem = joint.segmenter.stems["a"](image)
        assert torch.equal(network(stem), joint({"a": image})["a"].logits)


@pytest.mark.parametrize("variant", ["V1", "V3"])
@pytest.mark.parametrize("name", SMALL)
def test_v1_and_v3_train_all_they_have_and_fold(name: str, variant: str) -> None:
    joint, size = joined(name, variant), SMALL[name][0]
    train(joint, size, 2)
    unused = [n for n, p in joint.named_parameters() if p.requires_grad and p.grad is None]
    assert not unused
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in joint.parameters():
            p.add_(0.05 * torch.randn(p.shape, generator=generator).double())
    joint.eval()
    image = an_image(size, 9)
    found = {}
    for m in MODALITIES:
        with torch.no_grad():
            live = joint({m: image})[m].logits
            found[m] = detach(joint, m)(image)
        torch.testing.assert_close(found[m], live, rtol=0, atol=1e-12)
    assert (found["a"] - found["b"]).abs().max() > 1e-3
    assert hooks(joint) == 0


@pytest.mark.parametrize("name", SMALL)
def test_all_of_the_encoder_is_private(name: str) -> None:
    """What remains shared gives logits that no longer follow the image's own layers."""
    joint = joined(name, "V1")
    shared = {n for n, _ in joint.segmenter.backbone.named_parameters()}
    own = {n for n, _ in backbone(name, *SMALL[name]).named_parameters()}
    gone = {n.split(".")[1] for n in own - shared}
    decoders = {"decoder1", "decoder2", "decoder3", "decoder4", "decoder5", "out", "upsamples"}
    decoders |= {"output_block", "up_layers", "up_samples", "conv_final", "skip_layers"}
    assert gone
    assert not gone & (decoders - {"skip_layers"})
    assert {n.split(".")[1] for n in shared} <= decoders | {"deep_supervision_heads"}
    moved = joint.segmenter.encoders["b"]
    with torch.no_grad():
        for p in moved.parameters():
            p.mul_(1.1)
    image = an_image(SMALL[name][0], 4)
    both = [joint.eval().segmenter(image, m).logits for m in MODALITIES]
    assert (both[0] - both[1]).abs().max() > 1e-4


def test_deep_supervision_and_a_copy_in_the_middle_of_training() -> None:
    """DynUNet keeps the maps of its last pass, with their history, and shares modules."""
    joint, size = joined("monai_dynunet", "V3"), SMALL["monai_dynunet"][0]
    image = an_image(size)
    outputs = joint({"a": image})
    assert [tuple(d.shape) for d in outputs["a"].deep] == [(1, CLASSES, *size)] * 2
    kept = gains_form(joint)
    assert torch.equal(kept.eval()(image, "a").logits, joint.eval()({"a": image})["a"].logits)
    state = kept.state_dict()
    assert len({t.data_ptr() for t in state.values()}) == len(state)
    other = gains_form(joint)
    shake(other)
    other.load_state_dict(state)
    assert torch.equal(other.eval()(image, "a").logits, kept(image, "a").logits)


@pytest.mark.parametrize("name", SMALL)
def test_ten_lines_on_a_network_as_monai_builds_it(name: str) -> None:
    """Bit for bit, before attaching and after detaching, by the user's own declaration.

    In float32 and with three channels: weights with other strides would run other kernels.
    """
    size, options = SMALL[name]
    made = backbone(name, size, options, channels=3).float().eval()
    network, image = made.network, an_image(size, channels=3).float()
    before = network(image)
    layers = tuple(path.removeprefix("network.") for path in made.input_layers)
    joint = attach(network, made.scales, CLASSES, {"a": 3, "b": 3}, input_layers=layers, heads=4)
    assert torch.equal(joint.eval()({"a": image})["a"].logits, before)
    assert detach(joint) is network
    assert torch.equal(network(image), before)
    alone = detach(joint, "b")
    assert list(alone.state_dict()) == list(network.state_dict())
    assert torch.equal(alone(image), before)


def test_all_readers_of_the_image_are_declared() -> None:
    size, options = SMALL["monai_swin_unetr"]
    made = backbone("monai_swin_unetr", size, options)
    less = Foreign(
        made.network, made.scales, classes=CLASSES, input_layers=("swinViT.patch_embed.proj",)
    )
    with pytest.raises(
        UsageError, match=r"'encoder1\.layer\.conv1\.conv', 'encoder1\.layer\.conv3"
    ):
        less(an_image(size))


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        (
            "monai_swin_unetr",
            {"image_size": (48, 64)},
            r"\(48, 64\) must be a multiple of \(32, 32\)",
        ),
        ("monai_swin_unetr", {"image_size": (32, 32)}, "leaves one position in the coarsest map"),
        ("monai_swin_unetr", {"in_channels": 12}, "feature_size=12 equals the number of input"),
        ("monai_unetr", {"image_size": (24, 32)}, r"must be a multiple of \(16, 16\)"),
        ("monai_dynunet", {"image_size": (12, 12)}, r"must be a multiple of \(8, 4\)"),
        ("monai_dynunet", {"strides": (2, 2, 2, 2)}, "the first must be 1"),
        ("monai_segresnet", {"image_size": (30, 32)}, r"must be a multiple of \(4, 4\)"),
        ("monai_segresnet", {"blocks_up": (1, 1, 1)}, "one stage less"),
    ],
)
def test_what_monai_cannot_run_is_said_before(
    name: str, changes: dict[str, Any], words: str
) -> None:
    size, options = SMALL[name]
    with pytest.raises(ValueError, match=words):
        BACKBONES[name](**{"image_size": size, "in_channels": 1, **options, **changes})


def test_the_ordinary_command_line_builds_and_trains_it() -> None:
    options = ("strides=[1, 2, 2]", "filters=[8, 16, 16]", "deep_supervision=1")
    settings = ["model.backbone=monai_dynunet", *(f"model.options.{o}" for o in options)]
    config = load_config(None, None, settings)
    clip = (Clip(kind="percentile", low=0.5, high=99.5),)
    parts = {m: ModalityPlan(channel_names=("x",), clip=clip) for m in MODALITIES}
    plan = Plan(
        classes=("background", "liver"),
        modalities=parts,
        spacing_mm=(1.0, 1.0, 1.0),
        slice_axis="S",
        patch=(16, 24),
        context=3,
    )
    method = method_of(config)
    joint, objective = method.joint(config, plan), method.objective(config, plan)
    images = {m: torch.randn(2, 3, 16, 24) for m in MODALITIES}
    labels = {m: torch.randint(2, (2, 16, 24)) for m in MODALITIES}
    objective(joint(images), labels).total.backward()
    assert all(p.grad is not None for p in joint.parameters())
    with pytest.raises(UsageError, match=r"feature_siz is unknown\. Did you mean 'feature_size'"):
        method_of(config).joint(
            load_config(None, None, ["model.backbone=monai_unetr", "model.options.feature_siz=4"]),
            plan,
        )


def test_without_monai_a_sentence_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "monai.networks", None)
    with pytest.raises(UsageError, match=r'pip install "unpaired\[monai\]"'):
        BACKBONES["monai_segresnet"](image_size=(32, 32))  # type: ignore[call-arg]


def test_the_registry_does_not_import_monai() -> None:
    code = "import sys, unpaired.backbones; sys.exit('monai' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_networks_are_modules_of_monai() -> None:
    """The names of the registry say which."""
    kinds = {"swin_unetr": nets.SwinUNETR, "unetr": nets.UNETR}
    kinds |= {"dynunet": nets.DynUNet, "segresnet": nets.SegResNet}
    for name, kind in kinds.items():
        network: nn.Module = backbone(f"monai_{name}", *SMALL[f"monai_{name}"]).network
        assert type(network) is kind
