"""Laws of nnFormer that hold for any size, option and number of axes."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from small_joint import shake
from unpaired.backbones import BACKBONES, NNFormer
from unpaired.backbones.nnformer_original import PUBLISHED
from unpaired.models import VARIANTS, Joint, Scaling, Segmenter, Semantics, fold, gains_form

EXACT = {"rtol": 1e-11, "atol": 1e-11}
DECODERS = pytest.mark.parametrize("decoder", ["skip_attention", "add"])
SMALL = {"embed_dim": 8, "heads": (1, 2, 2, 4), "window": (3, 2, 2, 2), "drop_path": 0.0}
"""Maps of 8, 4, 2, 1 at 32 x 32: windows that pad, shift, cover."""
ACDC = {
    **{k: v for k, v in PUBLISHED["acdc"].items() if k not in ("embed_dim", "heads")},
    "window": ((3, 5, 5), (3, 3, 3), (7, 2, 2), (3, 1, 1)),
    "legacy_index": False,
}
"""The published options at a fifth of the size in-plane."""


def small(size: tuple[int, ...], in_channels: int = 2, **options: Any) -> NNFormer:
    torch.manual_seed(0)
    model = NNFormer(size, in_channels, 3, **{**SMALL, **options}).double().eval()
    shake(model, 0.2)
    return model


@pytest.mark.parametrize(
    ("name", "size", "channels", "classes", "expected"),
    [
        ("synapse", (64, 128, 128), 1, 14, 150_054_210),
        ("synapse", (64, 128, 128), 1, 5, 149_667_111),
        ("synapse", (16, 128, 128), 1, 5, 149_312_871),  # cubes: windows of 2 and 1 at the bottom
        ("acdc", (14, 160, 160), 1, 4, 37_160_200),
        ("tumour", (128, 128, 128), 4, 4, 37_606_726),
        # 158,876,034 less the original's dead convolution down and coarsest head
        ("synapse_2021", (64, 128, 128), 1, 14, 158_876_034 - 37_754_880 - (768 * 32 + 1) * 14),
    ],
)
def test_number_of_parameters_is_the_published_one(
    name: str, size: tuple[int, ...], channels: int, classes: int, expected: int
) -> None:
    with torch.device("meta"):
        model = NNFormer(size, channels, classes, **PUBLISHED[name])
    assert sum(p.numel() for p in model.parameters()) == expected


def test_the_published_network_for_acdc_has_its_maps() -> None:
    """Depth 14, 14, 7, 3 down; back to 7 by the size of the skip."""
    model = small((14, 32, 32), **ACDC)
    depths: list[int] = []
    for norm in model.encoder.norms:
        norm.register_forward_hook(lambda *a: depths.append(a[-1].shape[1]))
    out = model(torch.randn(1, 2, 14, 32, 32).double())
    assert depths == [14, 14, 7, 3]
    assert [f.shape[2] for f in out.features] == [7, 14, 14]
    assert out.logits.shape == (1, 3, 14, 32, 32)
    assert model.multiple == (2, 32, 32)
    assert all(not m.masked for m in model.modules() if hasattr(m, "masked"))
    for depth in (16, 18):  # the last convolution down drops a slice of 8, not of 9
        assert model(torch.randn(1, 2, depth, 32, 32).double()).logits.shape[2] == depth


def to_volume(picture: NNFormer, volume: NNFormer) -> None:
    """The picture's weights at the middle of kernels along the new axis, zeros beside them."""
    flat, state = picture.state_dict(), volume.state_dict()
    for name, tensor in state.items():
        if tensor.ndim == 5:
            tensor.zero_()
            tensor[:, :, tensor.shape[2] // 2] = flat[name]
        else:
            tensor.copy_(flat[name])


@DECODERS
@pytest.mark.parametrize("overlap", [True, False])
def test_a_volume_of_depth_1_equals_a_picture(decoder: str, overlap: bool) -> None:
    options = {"decoder": decoder, "overlap": overlap, "deep_supervision": True}
    picture = small((64, 64), **options).train()
    flat = {"patch": (1, 4, 4), "stride": ((1, 2, 2),) * 3}
    volume = small((1, 64, 64), **flat, **options).train()
    to_volume(picture, volume)
    image = torch.randn(2, 2, 64, 64).double()
    one, two = picture(image), volume(image[:, :, None])
    torch.testing.assert_close(two.logits[:, :, 0], one.logits, **EXACT)
    pairs = [*zip(two.features, one.features, strict=True), *zip(two.deep, one.deep, strict=True)]
    assert len(pairs) == 5
    for a, b in pairs:
        torch.testing.assert_close(a[:, :, 0], b, **EXACT)


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((64,), {}),
        ((32, 64), {}),
        ((16, 32, 32), {}),
        ((14, 32, 32), ACDC),
        ((32, 32), {"decoder": "add", "overlap": False}),
        ((8, 48), {"patch": (1, 3), "stride": ((1, 2), 2, (2, 4))}),
        ((16, 16), {"depths": (1, 2, 1), "heads": (1, 2, 2), "window": 3, "stride": 2}),
    ],
)
def test_what_is_declared_is_what_comes_out(
    size: tuple[int, ...], options: dict[str, object]
) -> None:
    model = small(size, **options)
    out = model(torch.randn(2, 2, *size).double())
    assert out.logits.shape == (2, 3, *size)
    assert len(out.features) == len(model.levels)
    for feature, level in zip(out.features, model.levels, strict=True):
        expected = [n // s for n, s in zip(size, level.stride, strict=True)]
        assert list(feature.shape) == [2, level.channels, *expected]
    widths = [level.channels for level in model.levels]
    assert widths == [8 * 2**i for i in reversed(range(len(widths)))]
    assert NNFormer.size_step(options, len(size)) == model.multiple
    larger = tuple(n + m for n, m in zip(size, model.multiple, strict=True))
    assert model(torch.randn(1, 2, *larger).double()).logits.shape[2:] == larger
    for path, width in model.branches.items():
        layer = model.get_submodule(path)
        assert isinstance(layer, nn.Linear) and layer.out_features == width
    assert model.pads_input
    assert all(model.get_submodule(path).in_channels == 2 for path in model.input_layers)


def test_sizes_by_default() -> None:
    """Multiples of 16 in depth and 32 in-plane."""
    assert NNFormer.size_step({}, 3) == (16, 32, 32)
    assert NNFormer.size_step({}, 2) == (32, 32)
    assert NNFormer.size_step(PUBLISHED["tumour"], 3) == (32, 32, 32)
    assert NNFormer.size_step(PUBLISHED["acdc"], 3) == (2, 32, 32)
    assert BACKBONES["nnformer"] is NNFormer


def windows(model: NNFormer) -> list[list[tuple[tuple[int, ...], tuple[int, ...]]]]:
    return [[(b.attention.window, b.attention.shift) for b in s] for s in model.encoder.stages]


def test_windows_are_fitted_per_axis() -> None:
    """16 slices: no axis gets a smaller window because another one is short."""
    with torch.device("meta"):
        model = NNFormer((16, 128, 128), embed_dim=48)
    local, still = (4, 4, 4), (0, 0, 0)
    assert windows(model) == [
        [(local, still), (local, (2, 2, 2))],
        [(local, still), (local, (0, 2, 2))],  # 4 slices: one window covers them
        [((2, 8, 8), still)] * 2,  # global
        [((1, 4, 4), still)] * 2,
    ]
    joins = [join.attention.window for join in model.decoder.joins]
    assert joins == [(2, 8, 8), local, local]
    shifts = [[block.attention.shift for block in stage] for stage in model.decoder.stages]
    assert shifts == [[still], [(0, 2, 2)], [(2, 2, 2)]]  # all are shifted


def test_cubic_windows_follow_the_smallest_side() -> None:
    with torch.device("meta"):
        model = NNFormer((16, 128, 128), embed_dim=48, cubic_windows=True, decoder="add")
    still = (0, 0, 0)
    assert [stage[1] for stage in windows(model)] == [
        ((4, 4, 4), (2, 2, 2)),
        ((4, 4, 4), still),
        ((2, 2, 2), still),
        ((1, 1, 1), still),
    ]
    shifts = [[block.attention.shift for block in stage] for stage in model.decoder.stages]
    assert shifts == [[still] * 2, [still] * 2, [still, (2, 2, 2)]]  # every second one


@DECODERS
def test_features_are_the_last_block_of_each_stage(decoder: str) -> None:
    model = small((32, 32), decoder=decoder)
    seen: list[Tensor] = []
    for stage in model.decoder.stages:
        stage[-1].register_forward_hook(lambda *a: seen.append(a[-1]))
    features = model(torch.randn(1, 2, 32, 32).double()).features
    for feature, block in zip(features, seen, strict=True):
        assert torch.equal(feature, block.movedim(-1, 1))


@pytest.mark.parametrize("count", [1, 2])
def test_deep_logits_are_the_heads_of_the_coarser_maps_in_training(count: int) -> None:
    model = small((32, 32), deep_supervision=True, deep_outputs=count)
    image = torch.randn(2, 2, 32, 32).double()
    assert model(image).deep == ()
    out = model.train()(image)
    assert len(out.deep) == count == len(model.decoder.heads) - 1
    for i, deep in enumerate(out.deep):
        feature, head = out.features[1 - i], model.decoder.heads[1 + i]
        assert deep.shape[2:] == (16 // 2**i, 16 // 2**i)
        corner = torch.einsum("bc,czhw->bzhw", feature[:, :, 0, 0], head.weight)
        expected = corner + head.bias[:, None, None]
        torch.testing.assert_close(deep[:, :, :4, :4], expected, **EXACT)


def test_without_deep_supervision_nothing_is_built_for_it() -> None:
    model = small((32, 32)).train()
    assert len(model.decoder.heads) == 1
    assert model(torch.randn(1, 2, 32, 32).double()).deep == ()


@DECODERS
@pytest.mark.parametrize("deep", [False, True])
def test_every_parameter_gets_a_gradient(decoder: str, deep: bool) -> None:
    """Unused ones break distributed training; the original of 2021 holds 37.8 million."""
    model = small((64, 64), decoder=decoder, deep_supervision=deep).train()
    out = model(torch.randn(1, 2, 64, 64).double())
    sum((y**2).sum() for y in (out.logits, *out.deep)).backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


@DECODERS
def test_drop_path_grows_over_each_path(decoder: str) -> None:
    """Over the encoder's 8 blocks, and again over the decoder's 6, largest at the finest."""
    model = small((32, 32), drop_path=0.35, decoder=decoder)
    rates = [b.drop_path.rate for stage in model.encoder.stages for b in stage]
    assert rates == pytest.approx([0.05 * i for i in range(8)])
    rates = []
    for join, stage in zip(model.decoder.joins, model.decoder.stages, strict=True):
        rates += [b.drop_path.rate for b in (join, *stage) if hasattr(b, "drop_path")]
    assert rates == pytest.approx([0.07 * i for i in range(6)])


@DECODERS
def test_the_decoder_mirrors_the_depths(decoder: str) -> None:
    """All but the last; the block that attends to the skip is one of them."""
    model = small((32, 32), depths=(1, 2, 3, 1), decoder=decoder)
    assert [len(stage) for stage in model.encoder.stages] == [1, 2, 3, 1]
    attends = decoder == "skip_attention"
    assert [len(stage) + attends for stage in model.decoder.stages] == [3, 2, 1]
    assert len(model.branches) == 2 * (7 + 6)
    assert [level.channels for level in model.levels] == [32, 16, 8]
    assert model(torch.randn(1, 2, 32, 32).double()).logits.shape == (1, 3, 32, 32)


def test_state_dict_round_trip() -> None:
    """Into a network that started elsewhere; the index and the masks are not stored."""
    options = {"deep_supervision": True}
    first, second = small((32, 32), **options), small((32, 32), **options)
    shake(first, 0.3, seed=5)
    image = torch.randn(1, 2, 32, 32).double()
    assert (first(image).logits - second(image).logits).abs().max() > 1e-2
    state = {name: value.clone() for name, value in first.state_dict().items()}
    assert not [name for name in state if "relative" in name or "mask" in name]
    second.load_state_dict(state)
    assert torch.equal(first(image).logits, second(image).logits)


def test_images_of_a_batch_do_not_see_each_other() -> None:
    model = small((32, 32))
    images = torch.randn(3, 2, 32, 32).double()
    alone = torch.cat([model(one[None]).logits for one in images])
    torch.testing.assert_close(model(images).logits, alone)


def joint_network(variant: str, size: tuple[int, ...], **options: Any) -> Joint:
    """As `methods` assemble it, two modalities of two and of one channel."""
    backbone, chosen = small(size, **options), VARIANTS[variant]
    segmenter = Segmenter(backbone, {"a": 2, "b": 1}, chosen.private_encoders)
    widths = [level.channels for level in backbone.levels]
    semantics = {m: Semantics(3, widths, 4) for m in segmenter.modalities}
    scaling = Scaling(3, widths[0], segmenter.branches) if chosen.scaling else None
    joint = Joint(segmenter, semantics, scaling).double().eval()
    shake(joint, 0.2)
    return joint


@pytest.mark.parametrize("variant", ["V1", "V2", "V3"])
@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((32, 32), {}),
        ((32, 32), {"decoder": "add", "overlap": False}),
        ((16, 32, 32), {"depths": (1, 1, 1, 1)}),
    ],
)
def test_folded_and_stored_equal_live(
    variant: str, size: tuple[int, ...], options: dict[str, Any]
) -> None:
    """Shaken stems and gains; every voxel, the border (where the first layer pads) included."""
    joint = joint_network(variant, size, **options)
    images = {"a": torch.randn(1, 2, *size).double(), "b": torch.randn(1, 1, *size).double()}
    live, kept = joint(images), gains_form(joint)
    if variant == "V3":
        gains = joint.gains("a")
        assert gains is not None and len(gains) == 2 * sum(
            module.path != "" for module in kept.backbone.modules() if hasattr(module, "path")
        )
        assert min(float((phi - 1).detach().abs().max()) for phi in gains.values()) > 1e-3
    for m, image in images.items():
        assert len(live[m].correlations) == 3
        plain = fold(kept, m)
        assert plain.in_channels == image.shape[1]
        torch.testing.assert_close(kept(image, m).logits, live[m].logits, **EXACT)
        torch.testing.assert_close(plain(image).logits, live[m].logits, **EXACT)
        for a, b in zip(plain(image).features, kept(image, m).features, strict=True):
            torch.testing.assert_close(a, b, **EXACT)


@DECODERS
def test_a_gain_scales_its_branch_and_no_other(decoder: str) -> None:
    """Doubling a gain is doubling the rows and the bias of that layer, for every branch."""
    model = small((32, 32), decoder=decoder)
    image = torch.randn(1, 2, 32, 32).double()
    ones = {name: torch.ones(width).double() for name, width in model.branches.items()}
    plain = model(image).logits
    torch.testing.assert_close(model(image, ones).logits, plain, **EXACT)
    assert len(ones) == 2 * (8 + 6)
    for name in ones:
        scaled = model(image, {**ones, name: 2 * ones[name]}).logits
        layer = model.get_submodule(name)
        with torch.no_grad():
            for p in layer.parameters():
                p.mul_(2)
            torch.testing.assert_close(model(image).logits, scaled, **EXACT)
            for p in layer.parameters():
                p.div_(2)
        assert (scaled - plain).abs().max() > 1e-6, name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": (32, 40)}, r"\(32, 40\) does not fit .* multiple of \(32, 32\)"),
        ({"window": (4, 4)}, "window has 2 values, but 4 are needed, one per stage"),
        ({"window": ((4, 4, 4),) * 4}, "3 values, but there are 2 spatial axes"),
        ({"stride": (1, 2, 2, 2)}, "stride has 4 values, but 3 are needed"),
        ({"heads": (1, 2, 2)}, "4 stages need as many numbers of heads"),
        ({"decoder_heads": (1, 2)}, "3 stages need as many numbers of heads"),
        ({"heads": (3, 3, 3, 3)}, "8 channels cannot be split into 3 heads"),
        ({"decoder": "cat"}, "'skip_attention' or 'add', not 'cat'"),
        ({"depths": (2, 2, 2, 0)}, "at least two stages of at least one block"),
        ({"deep_supervision": True, "deep_outputs": 3}, "deep_outputs=3, but 4 stages have 2"),
        ({"cubic_windows": True, "window": ((2, 4),) * 4}, "cubic_windows needs one number"),
        ({"legacy_index": True}, "the original index exists for volumes only"),
        ({"down_padding": 2}, r"down_padding \(2, 2\) is too much for a kernel of \(3, 3\)"),
        ({"down_padding": 0, "image_size": (8, 8), "patch": 1}, "too small"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NNFormer(**{"image_size": (32, 32), **SMALL, **options})
    assert small((32, 32)).check_size((64, 32)) is None


def test_a_size_without_a_map_is_refused_when_running() -> None:
    model = small((14, 32, 32), **ACDC)
    with pytest.raises(ValueError, match=r"an image of \(4, 32, 32\) is too small"):
        model(torch.randn(1, 2, 4, 32, 32).double())
