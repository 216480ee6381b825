"""Weights of other trainings in a backbone: the original's mapping, equal outputs, refusals."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from original_weights import load_fixture, original_state
from torch import Tensor

from swin_files import State, original_nnformer, original_swin_unet, swin_classifier
from unpaired.backbones import Backbone, NNFormer, ResEncUnet, SwinUnet
from unpaired.backbones.nnformer_original import PUBLISHED, nnformer_from_original
from unpaired.backbones.transfer import match, recognise
from unpaired.backbones.transfer.layouts import swin_unet_from_original
from unpaired.backbones.transfer.match import Match
from unpaired.errors import DataError, UsageError

Find = Callable[[str], Path]

SMALL: dict[str, Any] = {"embed_dim": 8, "heads": (1, 2, 2, 4), "window": 2, "patch": 2}
FILE: dict[str, Any] = {"width": 8, "heads": (1, 2, 2, 4), "window": 2, "patch": 2}
VOLUME: dict[str, Any] = {"embed_dim": 8, "heads": (1, 2, 2, 4), "drop_path": 0.0}


def small(**changed: Any) -> SwinUnet:
    return SwinUnet((32, 32), **{"in_channels": 3, "classes": 3, **SMALL, **changed})


def matched(state: State, backbone: Backbone) -> Match:
    return match(recognise(state, backbone.state_dict()), backbone)


def fill(state: State, backbone: Backbone) -> Match:
    found = matched(state, backbone)
    backbone.load_state_dict({**backbone.state_dict(), **found.values})
    return found


def as_the_original_copies(state: State) -> State:
    """Every `layers.i` also under `layers_up.(last - i)`, where the decoder has it."""
    last = max(int(key[7]) for key in state if key.startswith("layers."))
    found = {key: tensor for key, tensor in state.items() if not key.startswith("head.")}
    for key, tensor in state.items():
        if re.match(r"layers\.\d\.blocks\.", key) and int(key[7]) < last:
            found[f"layers_up.{last - int(key[7])}{key[8:]}"] = tensor
    return swin_unet_from_original(found)


def test_the_original_s_list_of_what_swin_t_fills(shared: Find) -> None:
    """The same parameters: 25,082,820 of 27,168,516."""
    known = json.loads((shared("fixtures") / "swinunet_pretrain_map.json").read_text())
    backbone = SwinUnet((224, 224), classes=5, window=7)
    found = matched(swin_classifier(), backbone)
    filled = swin_unet_from_original({key: torch.zeros(1, 1) for key in known["filled"]})
    assert set(found.values) == set(filled)
    counts = [e.parameters for e in found.entries if e.how == "filled"]
    assert sum(counts) == known["n_filled"] == 25_082_820
    assert sum(e.parameters for e in found.entries) == known["n_total"]


def test_swin_fills_what_the_original_s_copying_fills() -> None:
    state = swin_classifier(**FILE)
    backbone = small()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    found, expected = fill(state, backbone), as_the_original_copies(state)
    for name, tensor in backbone.state_dict().items():
        if name in found.values:
            assert tensor.equal(expected[name]), name
        else:
            assert tensor.equal(before[name]), name
    assert found.values.keys() == expected.keys() & before.keys()
    assert {n.split(".")[1] for n in before.keys() - found.values.keys()} == {
        "expands", "joins", "norm", "expand", "classify"
    }  # fmt: skip


def test_another_window_interpolates_every_table() -> None:
    found = matched(swin_classifier(**{**FILE, "window": 3}), small())
    tables = [e for e in found.entries if e.name.endswith("bias_table")]
    assert tables and all(e.how == "interpolated" for e in tables)
    assert tables[0].why == "window 3 x 3 in the file, 2 x 2 here"
    assert {e.how for e in found.entries if e not in tables} == {"filled", "random"}


@pytest.mark.parametrize("channels", [1, 2, 6])
def test_input_layer_for_other_channels_keeps_the_response_to_equal_ones(channels: int) -> None:
    state, backbone = swin_classifier(**FILE), small(in_channels=channels)
    found = fill(state, backbone)
    three = small()
    fill(state, three)
    grey = torch.randn(1, 1, 32, 32)
    torch.testing.assert_close(
        backbone.encoder.embed(grey.expand(-1, channels, -1, -1)),
        three.encoder.embed(grey.expand(-1, 3, -1, -1)),
    )
    (entry,) = (e for e in found.entries if e.how == "averaged")
    assert (entry.name, entry.why) == (
        "encoder.embed.conv.weight", f"3 channels in the file, {channels} here"
    )  # fmt: skip


def test_three_channels_are_copied() -> None:
    state, backbone = swin_classifier(**FILE), small()
    fill(state, backbone)
    assert backbone.encoder.embed.conv.weight.equal(state["patch_embed.proj.weight"])


def test_a_volume_takes_only_what_has_no_spatial_extent() -> None:
    backbone = SwinUnet((8, 32, 32), patch=(1, 2, 2), stride=(1, 2, 2), window=(2, 2, 2),
                        embed_dim=8, heads=(1, 2, 2, 4), classes=3)  # fmt: skip
    state = swin_classifier(**FILE)
    found, expected = matched(state, backbone), as_the_original_copies(state)
    spatial = {n for n in expected if "bias_table" in n or "merges" in n or "embed.conv" in n}
    assert found.values.keys() == (expected.keys() & backbone.state_dict().keys()) - spatial
    reasons = {e.why for e in found.entries if e.name in spatial}
    assert reasons == {"of a picture in the file, not used for a volume"}


@pytest.mark.parametrize("decoder", ["add", "skip_attention"])
def test_swin_into_nnformer(decoder: str) -> None:
    """Two blocks a stage to the encoder and to the decoder's stage of that width."""
    state = swin_classifier(8, (2, 2, 5, 2), (1, 2, 2, 4), 7)
    backbone = NNFormer((16, 32, 32), decoder=decoder, **VOLUME)
    found = fill(state, backbone).values
    own = backbone.state_dict()
    assert own["encoder.embed.norms.3.bias"].equal(state["patch_embed.norm.bias"])
    for kind, theirs in (("norm1", "norm1"), ("attention.qkv", "attn.qkv"),
                         ("attention.project", "attn.proj"), ("norm2", "norm2"),
                         ("feed_forward.widen", "mlp.fc1"), ("feed_forward.project", "mlp.fc2"),
                         ):  # fmt: skip
        for i in range(4):
            for j in range(2):
                expected = state[f"layers.{i}.blocks.{j}.{theirs}.weight"]
                assert own[f"encoder.stages.{i}.{j}.{kind}.weight"].equal(expected)
                if i == 3:
                    continue  # the coarsest has no place in the decoder
                name = f"decoder.stages.{2 - i}.{j}.{kind}.weight"
                if decoder == "skip_attention":
                    name = f"decoder.stages.{2 - i}.0.{kind}.weight"
                    name = name if j else f"decoder.joins.{2 - i}.{kind}.weight"
                if "joins" in name and "qkv" in name:
                    assert name not in own
                else:
                    assert own[name].equal(expected), name
    random = own.keys() - found.keys()
    assert random == {
        n for n in own
        if re.search(r"bias_table|\.kv\.|convs|\.norms\.[012]|r\.norms\.3|downs|ups|heads", n)
    }  # fmt: skip


def test_the_original_swin_unet_gives_its_own_outputs(shared: Find) -> None:
    description, arrays = load_fixture(shared("fixtures"), "swinunet_tiny64_w4")
    state = {f"module.swin_unet.{k}": t for k, t in original_state(description).items()}
    backbone = SwinUnet((64, 64), embed_dim=24, heads=(1, 2, 4, 8), window=4, drop_path=0.0).eval()
    found = fill(state, backbone)
    assert {e.how for e in found.entries} == {"filled"}
    output = backbone(arrays["input"]).logits
    torch.testing.assert_close(output, arrays["output/0"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("legacy", [True, False])
def test_the_original_nnformer_gives_its_own_outputs(shared: Find, legacy: bool) -> None:
    """Without the legacy index too: the tables are made free of collisions."""
    description, arrays = load_fixture(shared("fixtures"), "nnformer_syn_tiny")
    options = {**PUBLISHED["synapse"], "window": (4, 4, 4, 2), "legacy_index": legacy}
    backbone = NNFormer((32, 64, 64), 1, 5, embed_dim=24, heads=(2, 4, 8, 16), **options).eval()
    found = fill(original_state(description), backbone)
    assert {e.how for e in found.entries} == {"filled"}
    output = backbone(arrays["input"]).logits
    torch.testing.assert_close(output, arrays["output/0"], rtol=0, atol=1e-4)


@pytest.mark.parametrize("old", [True, False])
def test_generated_nnformer_fits_every_place(old: bool) -> None:
    state = original_nnformer(8, (1, 2, 2, 4), 2, 5, old)
    options = {"window": 2, "legacy_index": True, "deep_supervision": True}
    options |= {"decoder": "add", "overlap": False, "deep_outputs": 1} if old else {}
    backbone = NNFormer((32, 64, 64), 1, 5, **VOLUME, **options)
    found = matched(state, backbone)
    assert found.values.keys() == backbone.state_dict().keys()
    for name, tensor in nnformer_from_original(state).items():
        assert found.values[name].equal(tensor)


def test_other_windows_of_nnformer_pass_through_free_tables() -> None:
    state = original_nnformer(8, (1, 2, 2, 4), 3, 5)
    here = NNFormer((32, 64, 64), 1, 5, window=2, **VOLUME)
    same = NNFormer((32, 64, 64), 1, 5, window=3, **VOLUME)
    name = "encoder.stages.0.1.attention.bias_table"
    free = matched(state, same).values[name]
    from unpaired.backbones.transfer.sources import resize_table

    torch.testing.assert_close(
        matched(state, here).values[name], resize_table(free, (3, 3, 3), (2, 2, 2))
    )
    with pytest.raises(UsageError, match=r"bias_table \(\(125, 1\) there, \(27, 1\) here\)"):
        matched(state, NNFormer((32, 64, 64), 1, 5, window=2, legacy_index=True, **VOLUME))


def test_a_head_of_other_classes_stays_random() -> None:
    state = original_swin_unet(8, (2, 2, 2, 2), (1, 2, 2, 4), 2, 2, classes=9)
    assert matched(state, small(classes=9)).values.keys() == small().state_dict().keys()
    found = matched(state, small())
    (entry,) = (e for e in found.entries if e.how == "random")
    assert (entry.name, entry.part) == ("decoder.classify.weight", "head")
    deep = NNFormer((32, 64, 64), 1, 4, window=2, deep_supervision=True, **VOLUME)
    volume = matched(original_nnformer(8, (1, 2, 2, 4), 2, 5), deep)
    assert {e.name.split(".")[1] for e in volume.entries if e.how == "random"} == {"heads"}
    assert sum(e.how == "random" for e in volume.entries) == 6


def test_own_weights_of_any_backbone() -> None:
    torch.manual_seed(0)
    one, two = (ResEncUnet((32, 32), 1, 3, base_width=8, blocks=(1, 1, 2)) for _ in range(2))
    found = fill(dict(one.state_dict()), two)
    assert all(two.state_dict()[n].equal(t) for n, t in one.state_dict().items())
    assert {e.how for e in found.entries} == {"filled"}
    assert sum(e.parameters for e in found.entries) == sum(p.numel() for p in two.parameters())


@pytest.mark.parametrize("prefix", ["module.", "backbone.", "module.backbone."])
def test_prefixes_and_segmentation_networks(prefix: str) -> None:
    """UPerNet's backbone: norms per stage, of which the last is the classifier's; its own head."""
    plain = swin_classifier(**FILE)
    state = {f"{prefix}{k}": t for k, t in plain.items() if not k.startswith(("head.", "norm."))}
    for i in range(4):
        for kind in ("weight", "bias"):
            state[f"{prefix}norm{i}.{kind}"] = torch.full((8 * 2**i,), float(i))
    if "backbone" in prefix:
        state[f"{prefix.replace('backbone.', '')}decode_head.conv_seg.weight"] = torch.zeros(3)
    found = matched(state, small()).values
    assert found["encoder.norm.weight"].unique().tolist() == [3.0]
    assert found.keys() == matched(plain, small()).values.keys()


def other(state: State, **changed: Tensor | None) -> State:
    named = {key.replace("__", "."): tensor for key, tensor in changed.items()}
    return {k: t for k, t in {**state, **named}.items() if t is not None}


def test_mismatches_name_layers_and_shapes() -> None:
    state, qkv = swin_classifier(**FILE), "layers.0.blocks.1.attn.qkv.weight"
    with pytest.raises(
        UsageError, match=r"the file's is 8 wide, this one 16; .*\(8,\) there, \(16"
    ):
        matched(state, small(embed_dim=16))
    with pytest.raises(UsageError, match=r"bias_table \(\(9, 1\) there, \(9, 2\) here\)"):
        matched(state, small(heads=(2, 2, 2, 4)))
    with pytest.raises(UsageError, match=r"missing in the file: encoder\.stages\.0\.1\.\S+qkv"):
        matched({k: t for k, t in state.items() if k != qkv}, small())
    with pytest.raises(UsageError, match=r"missing in the file: encoder\.stages\.0\.2\..* 21 more"):
        matched(state, small(depths=(3, 2, 2, 2)))
    with pytest.raises(UsageError, match=r"96 wide, this one 192"):
        matched(swin_classifier(), NNFormer((16, 32, 32), heads=(3, 6, 12, 24), embed_dim=192))
    with pytest.raises(UsageError, match=r"stages\.0\.0\.attention \(1 heads there, 2 here\)"):
        matched(state, NNFormer((16, 32, 32), **{**VOLUME, "heads": (2, 2, 2, 4)}))
    deeper = dict(small(depths=(3, 2, 2, 2)).state_dict())
    with pytest.raises(UsageError, match=r"not in this network: encoder\.stages\.0\.2\.norm1"):
        matched(deeper, small())


def test_nothing_but_finite_ordinary_numbers() -> None:
    state, name = swin_classifier(**FILE), "layers.1.blocks.0.norm1.weight"
    bad = state[name].clone()
    bad[3] = float("nan")
    with pytest.raises(
        DataError, match=r"not finite numbers: encoder\.stages\.1\.0\.norm1\.weight"
    ):
        matched({**state, name: bad}, small())
    with pytest.raises(DataError, match=r"stages\.1\.0\.norm1\.weight .* not an ordinary tensor"):
        matched({**state, name: state[name].to_sparse()}, small())
    unused = {**state, "layers.9.blocks.0.norm1.weight": bad}
    assert matched(unused, small()).values


def test_a_file_for_another_kind_of_backbone() -> None:
    state = original_swin_unet(8, (2, 2, 2, 2), (1, 2, 2, 4), 2, 2, 3)
    with pytest.raises(UsageError, match="original Swin-Unet; they do not serve NNFormer"):
        matched(state, NNFormer((16, 32, 32), **VOLUME))
    with pytest.raises(UsageError, match=r"a Swin classifier.* do not serve ResEncUnet"):
        matched(swin_classifier(**FILE), ResEncUnet((32, 32), 1, 3))


@pytest.mark.parametrize(
    "keys",
    [
        ("features.0.0.weight", "features.1.0.norm1.weight"),
        ("swin.encoder.layers.0.blocks.0.weight",),
        ("layers.0.blocks.0.attn.logit_scale", "layers.0.blocks.0.attn.q_bias"),
        ("layers.0.blocks.0.norm1.weight", "head.fc.weight"),
    ],
)
def test_unknown_layouts_name_keys_and_what_is_known(keys: tuple[str, ...]) -> None:
    state = dict.fromkeys(keys, torch.zeros(2))
    with pytest.raises(DataError, match=rf"not known.*keys: .*{re.escape(keys[-1])}") as caught:
        matched(state, small())
    assert "Swin-T" in str(caught.value) and "nnFormer of 2021" in str(caught.value)
