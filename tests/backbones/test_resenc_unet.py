"""The residual-encoder U-Net: what it declares, what it computes, and the method on it."""

import io
from math import prod, sqrt

import pytest
import torch
from torch import Tensor, nn

from small_joint import shake
from unpaired.backbones import BACKBONES, ResEncUnet
from unpaired.backbones.resenc_unet import RESENC
from unpaired.losses import Objective
from unpaired.models import VARIANTS, Joint, Scaling, Segmenter, Semantics, fold, gains_form

EXACT = {"rtol": 1e-10, "atol": 1e-10}
CLASSES, CHANNELS = 3, {"a": 2, "b": 1}
SIZES = [(32, 32), (8, 16, 16)]


def small(size: tuple[int, ...], seed: int = 0, **options: object) -> ResEncUnet:
    """Widths 8, 16, 24, 24, ..., one or two blocks."""
    torch.manual_seed(seed)
    defaults = {"base_width": 8, "max_width": 24, "blocks": 1, "in_channels": 2}
    return ResEncUnet(size, classes=CLASSES, **{**defaults, **options}).double()


def small_joint(variant: str, size: tuple[int, ...], **options: object) -> Joint:
    chosen, backbone = VARIANTS[variant], small(size, **options)
    segmenter = Segmenter(backbone, CHANNELS, chosen.private_encoders)
    widths = [level.channels for level in backbone.levels]
    scaling = Scaling(CLASSES, widths[0], segmenter.branches) if chosen.scaling else None
    semantics = {m: Semantics(CLASSES, widths, 4) for m in CHANNELS}
    return Joint(segmenter, semantics, scaling).double()


def step(size: tuple[int, ...]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(3)
    images = {
        m: torch.randn(2, k, *size, generator=generator).double() for m, k in CHANNELS.items()
    }
    labels = {m: torch.randint(0, CLASSES, (2, *size), generator=generator) for m in CHANNELS}
    return images, labels


def count(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


# --- the network ---------------------------------------------------------------------------


def by_hand(
    in_channels: int,
    classes: int,
    widths: list[int],
    blocks: list[int],
    kernels: list[tuple[int, ...]],
    strides: list[tuple[int, ...]],
    deep: bool,
) -> int:
    """Weights, and two numbers a channel for every norm."""
    total = in_channels * widths[0] * prod(kernels[0]) + 2 * widths[0]
    before = widths[0]
    for width, number, kernel in zip(widths, blocks, kernels, strict=True):
        for _ in range(number):
            total += (before + width) * width * prod(kernel) + 4 * width
            if before != width:
                total += before * width + 2 * width
            before = width
    for i in range(len(widths) - 1):
        total += widths[i + 1] * widths[i] * prod(strides[i + 1]) + widths[i]
        total += 2 * widths[i] * widths[i] * prod(kernels[i]) + 2 * widths[i]
        if i == 0 or (deep and i < len(widths) - 2):
            total += widths[i] * classes + classes
    return total


@pytest.mark.parametrize("deep", [True, False])
def test_parameters_as_counted_by_hand(deep: bool) -> None:
    strides = [(1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2)]
    kernels = [(1, 3, 3), (3, 3, 3), (3, 3, 3), (3, 5, 3)]
    model = ResEncUnet(
        (8, 32, 32), 2, 4, base_width=8, max_width=24, stages=4, blocks=(1, 3, 2, 2),
        strides=strides, kernels=kernels, deep_supervision=deep,
    )  # fmt: skip
    assert count(model) == by_hand(2, 4, [8, 16, 24, 24], [1, 3, 2, 2], kernels, strides, deep)


def test_parameters_as_published() -> None:
    """102 million, 90 of them in the encoder; 42 and 29 with two blocks in every stage.

    Figures that users of the architecture print, for one channel.
    """
    with torch.device("meta"):
        presets = {k: ResEncUnet(in_channels=1, classes=2, **v[3]) for k, v in RESENC.items()}
        plain = ResEncUnet((128, 128, 128), 1, 2, stages=6, blocks=2)
        planes = {k: ResEncUnet(in_channels=1, classes=2, **v[2]) for k, v in RESENC.items()}
    for model in presets.values():
        assert count(model) / 1e6 == pytest.approx(102, abs=1)
        assert count(model.encoder) / 1e6 == pytest.approx(90, abs=1)
        assert [level.channels for level in model.levels] == [320, 256, 128]
    assert count(plain) / 1e6 == pytest.approx(42, abs=1)
    assert count(plain.encoder) / 1e6 == pytest.approx(29, abs=1)
    for model in planes.values():
        assert [level.channels for level in model.levels] == [512, 256, 128]
        assert [level.stride for level in model.levels] == [(16, 16), (8, 8), (4, 4)]
    assert BACKBONES["resenc_unet"] is ResEncUnet


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((64,), {}),
        ((32, 64), {}),
        ((32, 32), {"stages": 2}),
        ((16, 24), {"strides": (1, (1, 2), 2, (2, 3)), "scales": 2, "norm": "group"}),
        ((4, 32, 32), {"anisotropic": True}),
        ((8, 16, 16), {"blocks": (1, 2, 2), "kernels": (1, (1, 3, 3), 3)}),
    ],
)
def test_what_is_declared_is_what_comes_out(
    size: tuple[int, ...], options: dict[str, object]
) -> None:
    model = small(size, **options).eval()
    for factor in (1, 2):
        larger = tuple(n if i else n * factor for i, n in enumerate(size))
        out = model(torch.randn(2, 2, *larger).double())
        assert out.logits.shape == (2, CLASSES, *larger)
        assert len(out.features) == len(model.levels)
        for feature, level in zip(out.features, model.levels, strict=True):
            small_size = [n // s for n, s in zip(larger, level.stride, strict=True)]
            assert list(feature.shape) == [2, level.channels, *small_size]
    totals = [prod(level.stride) for level in model.levels]
    assert totals == sorted(totals, reverse=True)
    with pytest.raises(ValueError, match="does not fit this backbone"):
        model(torch.randn(2, 2, *[n + 1 for n in size]).double())


def test_the_forward_pass_is_the_known_network() -> None:
    """Block by block as nnU-Net wires it: every skip, the order of the join, the features."""
    model = small((16, 16), blocks=(1, 2, 1), scales=2).eval()
    shake(model, 0.3)
    image = torch.randn(2, 2, 16, 16).double()
    encoder, decoder = model.encoder, model.decoder
    x = nn.functional.leaky_relu(encoder.stem(image), 0.01)
    fine = encoder.stages[0][0](x)
    half = encoder.stages[1][0](fine)  # the first block of a stage is strided
    assert fine.shape[1:] == (8, 16, 16) and half.shape[1:] == (16, 8, 8)
    middle = encoder.stages[1][1](half)
    bottom = encoder.stages[2][0](middle)
    assert bottom.shape == (2, 24, 4, 4)
    coarse = decoder.stages[0](torch.cat([decoder.ups[0](bottom), middle], 1))
    last = decoder.stages[1](torch.cat([decoder.ups[1](coarse), fine], 1))
    found = model(image)
    torch.testing.assert_close(found.logits, decoder.classify(last), **EXACT)
    for a, b in zip(found.features, (coarse, last), strict=True):
        torch.testing.assert_close(a, b, **EXACT)


@pytest.mark.parametrize("anisotropic", [True, False])
def test_a_volume_of_depth_1_equals_a_picture(anisotropic: bool) -> None:
    picture, volume = small((32, 32)), small((1, 32, 32), anisotropic=anisotropic)
    shake(picture, 0.3)
    state = {n: v.unsqueeze(2) if v.ndim == 4 else v for n, v in picture.state_dict().items()}
    volume.load_state_dict(state)
    image = torch.randn(2, 2, 32, 32).double()
    gains = {name: torch.randn(d).double() for name, d in picture.branches.items()}
    assert volume.branches == picture.branches
    flat, deep = picture(image, gains), volume(image[:, :, None], gains)
    pairs = [(deep.logits, flat.logits), *zip(deep.features, flat.features, strict=True)]
    pairs += zip(deep.deep, flat.deep, strict=True)
    assert len(pairs) == 5
    for a, b in pairs:
        torch.testing.assert_close(a[:, :, 0], b, **EXACT)


def test_a_flat_kernel_in_a_deep_one_computes_the_same() -> None:
    """Weights inserted in the middle of kernels of depth 3, over a volume of depth 1."""
    picture = small((16, 16))
    volume = small((1, 16, 16), kernels=(3, 3, 3), strides=(1, (1, 2, 2), (1, 2, 2)))
    shake(picture, 0.3)
    state = volume.state_dict()
    for name, value in picture.state_dict().items():
        inside = state[name].zero_()
        target = inside.select(2, inside.shape[2] // 2) if value.ndim == 4 else inside
        target.copy_(value)
    volume.load_state_dict(state)
    image = torch.randn(2, 2, 16, 16).double()
    flat, deep = picture(image).logits, volume(image[:, :, None]).logits
    torch.testing.assert_close(deep[:, :, 0], flat, **EXACT)


@pytest.mark.parametrize("size", [(32, 32), (16, 16, 32)])
def test_deep_supervision_classifies_the_coarser_stages_in_training_only(
    size: tuple[int, ...],
) -> None:
    model = small(size, strides=(1, 2, 2, 2, 2))
    shake(model, 0.3)
    seen: list[Tensor] = []
    for block in model.decoder.stages:
        block.register_forward_hook(lambda *a: seen.append(a[-1]))
    image = torch.randn(2, 2, *size).double()
    out = model.train()(image)
    assert [d.shape[-1] for d in out.deep] == [size[-1] // 2, size[-1] // 4]
    heads = [model.decoder.deep[1], model.decoder.deep[0]]
    for logits, head, y in zip(out.deep, heads, (seen[2], seen[1]), strict=True):
        expected = torch.einsum("zc,bc...->bz...", head.weight.flatten(1), y)
        expected = expected + head.bias.view(-1, *[1] * len(size))
        torch.testing.assert_close(logits, expected, **EXACT)
    alone = model.eval()(image)
    assert alone.deep == ()
    assert torch.equal(alone.logits, out.logits)
    without = small(size, strides=(1, 2, 2, 2, 2), deep_supervision=False).train()
    assert without(image).deep == () and len(without.decoder.deep) == 0
    assert not any(".deep." in name for name in without.state_dict())


@pytest.mark.parametrize("zero_branches", [True, False])
def test_convolutions_start_as_he_and_norms_as_the_identity(zero_branches: bool) -> None:
    model = small((32, 32), base_width=32, max_width=64, zero_branches=zero_branches)
    ends = set(model.branches)
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            fan_in = module.weight[0].numel()
            expected = sqrt(2 / (1 + 0.01**2) / fan_in)
            rel = 5 / sqrt(module.weight.numel())  # several deviations of the estimate
            assert float(module.weight.detach().std()) == pytest.approx(expected, rel=rel), name
            assert module.bias is None or not module.bias.any()
        elif isinstance(module, nn.InstanceNorm2d):
            zero = zero_branches and name in ends and name.startswith("encoder")
            assert torch.all(module.weight == (0.0 if zero else 1.0)), name
            assert not module.bias.any()


def test_weights_survive_a_file() -> None:
    model, other = small((32, 32)).eval(), small((32, 32), seed=1).eval()
    shake(model)
    image = torch.randn(1, 2, 32, 32).double()
    assert not torch.allclose(model(image).logits, other(image).logits)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(model(image).logits, other(image).logits)


# --- the method ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("norm", ["instance", "group"])
@pytest.mark.parametrize("private", [True, False])
def test_folded_equals_live(size: tuple[int, ...], norm: str, private: bool) -> None:
    """Stems moved away from the identity, gains of any sign, every voxel up to the border."""
    segmenter = Segmenter(small(size, norm=norm), CHANNELS, private).double().eval()
    shake(segmenter, 0.3)
    images, _ = step(size)
    gains = {}
    if not private:
        assert len(segmenter.branches) == 2 * len(segmenter.backbone.decoder.stages) + 1
        widths = segmenter.branches.items()
        gains = {m: {name: torch.randn(d).double() for name, d in widths} for m in CHANNELS}
    live = {m: segmenter(x, m, gains.get(m)) for m, x in images.items()}
    segmenter.store_gains(gains)
    for m, x in images.items():
        plain = fold(segmenter, m)
        assert plain.in_channels == CHANNELS[m]
        found = plain(x)
        torch.testing.assert_close(found.logits, live[m].logits, **EXACT)
        for a, b in zip(found.features, live[m].features, strict=True):
            torch.testing.assert_close(a, b, **EXACT)
        if not private:
            apart = segmenter(x, m, None).logits - segmenter.backbone(segmenter.stems[m](x)).logits
            assert apart.abs().max() > 1e-3


def test_every_branch_is_scaled_and_none_in_vain() -> None:
    """A gain changes the output; before an instance norm it would not."""
    model = small((32, 32), blocks=2).eval()
    shake(model, 0.2)
    image = torch.randn(2, 2, 32, 32).double()
    ones = {name: torch.ones(d).double() for name, d in model.branches.items()}
    plain = model(image).logits
    assert torch.equal(model(image, ones).logits, plain)
    blocks = 2 * len(model.encoder.stages) + len(model.decoder.stages)
    assert len(ones) == blocks
    for name in ones:
        other = model(image, {**ones, name: 1.5 * ones[name]}).logits
        assert (other - plain).abs().max() > 1e-4, name


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("variant", ["V1", "V2", "V3"])
def test_every_parameter_receives_a_gradient(variant: str, size: tuple[int, ...]) -> None:
    joint = small_joint(variant, size)
    shake(joint)  # at the start W2, W3 are zero, so what feeds them has the gradient zero
    images, labels = step(size)
    Objective()(joint(images), labels).total.backward()
    still = {n for n, p in joint.named_parameters() if p.grad is None or not p.grad.any()}
    assert still == set()


@pytest.mark.parametrize("variant", ["V1", "V3"])
def test_every_variant_starts_as_joint_training(variant: str) -> None:
    images, _ = step((32, 32))
    plain, other = (small_joint(v, (32, 32))(images) for v in ("V2", variant))
    for m in images:
        assert torch.equal(other[m].logits, plain[m].logits)
        assert len(other[m].deep) == 1
        assert torch.equal(other[m].deep[0], plain[m].deep[0])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("variant", ["V1", "V2", "V3"])
def test_the_exported_forms_equal_the_trained_network(variant: str, size: tuple[int, ...]) -> None:
    joint = small_joint(variant, size).eval()
    shake(joint, 0.2)
    images, _ = step(size)
    live, kept = joint(images), gains_form(joint)
    for m, x in images.items():
        torch.testing.assert_close(kept(x, m).logits, live[m].logits, **EXACT)
        torch.testing.assert_close(fold(kept, m)(x).logits, live[m].logits, **EXACT)


@pytest.mark.parametrize("size", SIZES)
def test_ten_steps_lower_the_loss(size: tuple[int, ...]) -> None:
    joint = small_joint("V3", size)
    images, labels = step(size)
    optimizer = torch.optim.AdamW(joint.parameters(), 3e-3)
    losses = []
    for _ in range(11):
        terms = Objective()(joint(images), labels)
        losses.append(float(terms.total.detach()))
        optimizer.zero_grad()
        terms.total.backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
