"""Laws of the network that hold for any size and number of axes."""

import pytest
import torch
from torch import nn

from unpaired.backbones import BACKBONES, SwinUnet


def small(size: tuple[int, ...], **options: object) -> SwinUnet:
    torch.manual_seed(0)
    defaults = {"classes": 3, "embed_dim": 8, "heads": (1, 2, 2, 4), "window": 2, "patch": 2}
    model = SwinUnet(size, **{**defaults, **options}).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
    return model


def test_a_volume_of_depth_1_equals_a_picture() -> None:
    """The same weights, with an axis of one voxel that is neither cut, merged nor shifted."""
    picture = small((32, 32))
    volume = small((1, 32, 32), window=(1, 2, 2), patch=(1, 2, 2), stride=(1, 2, 2))
    state = {
        name: value.unsqueeze(2) if name == "encoder.embed.conv.weight" else value
        for name, value in picture.state_dict().items()
    }
    volume.load_state_dict(state)
    image = torch.randn(2, 3, 32, 32).double()
    flat, deep = picture(image), volume(image[:, :, None])
    torch.testing.assert_close(deep.logits[:, :, 0], flat.logits, rtol=1e-12, atol=1e-12)
    for a, b in zip(deep.features, flat.features, strict=True):
        torch.testing.assert_close(a[:, :, 0], b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("size", "options"),
    [
        ((32,), {}),
        ((32, 64), {}),
        ((16, 32), {"stride": (1, 2), "window": (4, 2)}),
        ((4, 16, 16), {"patch": (2, 2, 2), "stride": (1, 2, 2), "window": (2, 2, 2)}),
    ],
)
def test_what_is_declared_is_what_comes_out(
    size: tuple[int, ...], options: dict[str, object]
) -> None:
    model = small(size, **options)
    out = model(torch.randn(2, 3, *size).double())
    assert out.logits.shape == (2, 3, *size)
    assert len(out.features) == len(model.levels) == 3
    for feature, level in zip(out.features, model.levels, strict=True):
        small_size = [n // s for n, s in zip(size, level.stride, strict=True)]
        assert list(feature.shape) == [2, level.channels, *small_size]
    assert [level.channels for level in model.levels] == [32, 16, 8]


def test_features_are_the_last_block_of_each_stage_before_expanding() -> None:
    model = small((32, 32))
    seen: list[torch.Tensor] = []
    for stage in model.decoder.stages:
        stage[-1].register_forward_hook(lambda *a: seen.append(a[-1]))
    features = model(torch.randn(1, 3, 32, 32).double()).features
    for feature, block in zip(features, seen, strict=True):
        assert torch.equal(feature, block.movedim(-1, 1))


def test_images_of_a_batch_do_not_see_each_other() -> None:
    model = small((32, 32))
    images = torch.randn(3, 3, 32, 32).double()
    together = model(images).logits
    alone = torch.cat([model(one[None]).logits for one in images])
    torch.testing.assert_close(together, alone)


def test_a_larger_legal_size_runs_with_the_same_weights() -> None:
    """Away from the border a window sees what it saw before: layers, not sizes, are learnt."""
    model = small((32, 32))
    assert model.multiple == (32, 32)
    assert model(torch.randn(1, 3, 64, 96).double()).logits.shape == (1, 3, 64, 96)
    with pytest.raises(ValueError, match=r"\(32, 40\) does not fit .* multiple of \(32, 32\)"):
        model(torch.randn(1, 3, 32, 40).double())


@pytest.mark.parametrize(
    ("size", "expected"),
    [(256, [8, 8, 8, 8]), (224, [7, 7, 7, 7]), (128, [8, 8, 8, 4]), (160, [5, 5, 5, 5])],
)
def test_windows_are_the_largest_that_cut_every_map(size: int, expected: list[int]) -> None:
    model = SwinUnet((size, size), embed_dim=2, heads=(1, 1, 1, 1))
    windows = [stage[0].attention.window for stage in model.encoder.stages]
    assert windows == [(w, w) for w in expected]


def test_no_shift_where_one_window_covers_the_map() -> None:
    model = SwinUnet((224, 224), embed_dim=2, heads=(1, 1, 1, 1), window=7)
    shifts = [[block.attention.shift for block in stage] for stage in model.encoder.stages]
    assert shifts == [[(0, 0), (3, 3)]] * 3 + [[(0, 0), (0, 0)]]
    assert [[b.attention.shift for b in stage] for stage in model.decoder.stages] == shifts[2::-1]


def test_drop_path_grows_over_the_encoder_and_is_mirrored() -> None:
    model = SwinUnet((64, 64), embed_dim=4, heads=(1, 1, 1, 1), window=2, drop_path=0.7)
    rates = [[block.drop_path.rate for block in stage] for stage in model.encoder.stages]
    assert [rate for stage in rates for rate in stage] == pytest.approx([0.1 * i for i in range(8)])
    assert [[b.drop_path.rate for b in stage] for stage in model.decoder.stages] == rates[2::-1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": (30, 32)}, r"image size \(30, 32\) does not fit"),
        (
            {"image_size": (256, 256), "window": 7},
            r"\(64, 64\) cannot be cut into windows of \(7, 7\)",
        ),
        ({"heads": (1, 2)}, r"heads \(1, 2\) and depths \(2, 2, 2, 2\) differ"),
        ({"window": (2, 2, 2)}, r"3 values, but there are 2 spatial axes"),
        ({"heads": (3, 3, 3, 3)}, "8 channels cannot be split into 3 heads"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, object], message: str) -> None:
    defaults = {"image_size": (64, 64), "embed_dim": 8, "heads": (1, 2, 2, 4)}
    with pytest.raises(ValueError, match=message):
        SwinUnet(**{**defaults, **options})


@pytest.mark.parametrize("options", [{}, {"window": 4}, {"patch": (2, 4), "stride": 2}])
def test_any_multiple_of_the_size_step_can_be_built(options: dict[str, object]) -> None:
    steps = SwinUnet.size_step(options, 2)
    for factor in (1, 2, 3):
        size = tuple(factor * s for s in steps)
        SwinUnet(size, embed_dim=2, heads=(1, 1, 1, 1), **options).check_size(size)


def test_absolute_positions_tell_places_apart() -> None:
    """Without them a constant image gives one pattern, repeated; with them it does not."""
    image = torch.ones(1, 3, 64, 64).double()
    errors = []
    for position in (False, True):
        model = small((64, 64), depths=(1, 1), heads=(1, 1), position=position)
        logits = model(image).logits
        errors.append(float((logits[..., 4:] - logits[..., :-4]).detach().abs().max()))
    assert errors[0] < 1e-12 and errors[1] > 1e-2
    assert model.multiple == (64, 64)


def test_every_registered_backbone_names_its_branches_and_input_layers() -> None:
    assert "swin_unet" in BACKBONES
    model = small((32, 32))
    for path, width in model.branches.items():
        layer = model.get_submodule(path)
        assert isinstance(layer, nn.Linear) and layer.out_features == width
    for path in model.input_layers:
        assert isinstance(model.get_submodule(path), nn.Conv2d)
