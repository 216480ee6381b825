"""Our nnFormer with the originals' weights gives the originals' numbers."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from original_weights import fixture_loss, load_fixture, original_state
from torch import Tensor, nn

from unpaired.backbones import NNFormer
from unpaired.backbones.nnformer_original import PUBLISHED, nnformer_from_original
from unpaired.errors import DataError

Find = Callable[[str], Path]

ENCODER = {
    "patch_embed": "encoder.embed",
    **{f"enc{i}_block_last": f"encoder.stages.{i}.1" for i in range(4)},
    **{f"enc{i}_norm_out": f"encoder.norms.{i}" for i in range(4)},
    **{f"dec{2 - i}_upsample": f"decoder.ups.{i}" for i in range(3)},
}
TAPS = {
    "nnformer_syn_tiny": {
        **ENCODER,
        **{f"enc{i}_down": f"encoder.downs.{i}" for i in range(3)},
        **{f"dec{2 - i}_cross_block": f"decoder.joins.{i}" for i in range(3)},
        **{f"dec{2 - i}_block_last": f"decoder.stages.{i}.0" for i in range(3)},
    },
    "nnformer_v1_syn_tiny": {
        **ENCODER,
        **{f"dec{2 - i}_block_last": f"decoder.stages.{i}.1" for i in range(3)},
    },
}
"""Per version, what the reference saw, and the module of ours that yields it."""

OPTIONS: dict[str, Mapping[str, Any]] = {
    "nnformer_syn_tiny": {**PUBLISHED["synapse"], "window": (4, 4, 4, 2)},
    "nnformer_v1_syn_tiny": PUBLISHED["synapse_2021"],
}
SMALL = {"embed_dim": 24, "heads": (2, 4, 8, 16), "drop_path": 0.0}
VERSIONS = pytest.mark.parametrize("name", list(TAPS))


def network(name: str, **changed: Any) -> NNFormer:
    return NNFormer((32, 64, 64), 1, 5, **{**OPTIONS[name], **SMALL, **changed})


def filled(description: dict[str, Any], **changed: Any) -> NNFormer:
    """In training mode, which yields the coarser outputs; without drop path it is evaluation."""
    model = network(description["name"], **changed).train()
    model.load_state_dict(nnformer_from_original(original_state(description)))
    return model


def watch(model: nn.Module, taps: Mapping[str, str]) -> dict[str, Tensor]:
    seen: dict[str, Tensor] = {}
    for tap, path in taps.items():

        def keep(_: nn.Module, __: Any, out: Tensor, tap: str = tap) -> None:
            out = out.detach()
            seen[tap] = out.movedim(-1, 1) if tap == "patch_embed" else out.flatten(1, -2)

        model.get_submodule(path).register_forward_hook(keep)
    return seen


@VERSIONS
@pytest.mark.slow
def test_numbers_equal_the_original(shared: Find, name: str) -> None:
    """Outputs, every map that was kept, and the gradient norm of every parameter."""
    description, arrays = load_fixture(shared("fixtures"), name)
    model = filled(description)
    seen = watch(model, TAPS[name])
    decoded = model(arrays["input"])
    outputs = [decoded.logits, *decoded.deep]
    assert len(outputs) == len(description["outputs"])
    for i, output in enumerate(outputs):
        torch.testing.assert_close(output, arrays[f"output/{i}"], rtol=0, atol=1e-4)
    assert seen.keys() == description["features"].keys()
    for tap, found in seen.items():
        statistics = description["features"][tap]
        assert list(found.shape) == statistics["shape"]
        assert float(found.mean()) == pytest.approx(statistics["mean"], abs=1e-5)
        assert float(found.std(correction=0)) == pytest.approx(statistics["std"], rel=1e-4)
        torch.testing.assert_close(found, arrays[f"feat/{tap}"], rtol=0, atol=1e-4)
    for level, feature in zip((2, 1, 0), decoded.features, strict=True):
        assert torch.equal(feature.flatten(2).mT, seen[f"dec{level}_block_last"])
    fixture_loss(name, outputs).backward()
    compare_gradients(model, description["grad_norm"])


def compare_gradients(model: NNFormer, norms: Mapping[str, float | None]) -> None:
    left = dict(model.named_parameters())
    for key, norm in norms.items():
        renamed = nnformer_from_original({**dict.fromkeys(norms, torch.zeros(1)), key: KEY})
        ours = next((name for name, value in renamed.items() if value is KEY), None)
        if norm is None:
            assert ours is None, f"{key} has no gradient in the original"
            continue
        assert ours is not None
        gradient = left.pop(ours).grad
        assert gradient is not None
        assert float(gradient.norm()) == pytest.approx(norm, rel=1e-3, abs=1e-9), key
    assert not left


KEY = torch.ones(1)


@VERSIONS
def test_every_key_of_the_original_finds_its_place(shared: Find, name: str) -> None:
    """All but the buffers that follow from the sizes, and what 2021 built and never used."""
    description, _ = load_fixture(shared("fixtures"), name)
    state = original_state(description)
    renamed = nnformer_from_original(state)
    own = network(name).state_dict()
    assert renamed.keys() == own.keys()
    assert all(renamed[key].shape == own[key].shape for key in own)
    dead = {key for key, norm in description["grad_norm"].items() if norm is None}
    buffers = {key for key in state if re.search("attn_mask|_index", key)}
    assert len(dead) == (6 if "v1" in name else 0)
    assert len(state) - len(renamed) == len(dead | buffers)


def difference(shared: Find, name: str, break_it: Callable[[NNFormer], None], **changed: Any):
    """Largest difference from the original's output of a network that is changed on purpose."""
    description, arrays = load_fixture(shared("fixtures"), name)
    model = filled(description, **changed)
    break_it(model)
    with torch.no_grad():
        return float((model(arrays["input"]).logits - arrays["output/0"]).abs().max())


def _nothing(model: NNFormer) -> None:
    pass


def _no_shift(model: NNFormer) -> None:
    attention = model.get_submodule("encoder.stages.0.1.attention")
    attention.shift, attention.masked = (0, 0, 0), False


def _one_norm(model: NNFormer) -> None:
    model.get_submodule("encoder.norms.0").weight.data.fill_(1.0)


@VERSIONS
@pytest.mark.parametrize(
    ("break_it", "changed"),
    [
        (_nothing, {"legacy_index": False}),
        (_nothing, {"mask_shift": False}),
        (_no_shift, {}),
        (_one_norm, {}),
    ],
    ids=["the corrected index", "no mask", "one shift less", "one norm's weight"],
)
def test_the_comparison_sees_a_fault(
    shared: Find, name: str, break_it: Callable[[NNFormer], None], changed: dict[str, Any]
) -> None:
    assert difference(shared, name, break_it, **changed) > 1e-2


@pytest.mark.parametrize(
    "key",
    [
        "module.model_down.norm0.weight",
        "model_down.patch_embed.proj3.conv1.weight",
        "model_down.layers.0.blocks.0.attn.q.weight",
        "model_down.layers.0.downsample.norm.running_mean",
        "decoder.layers.0.Upsample.down.weight",
        "decoder.layers.0.blocks.0.mlp.weight",
        "final.0.up.scale",
    ],
)
def test_unknown_keys_are_named(key: str) -> None:
    state = {"model_down.norm0.weight": torch.ones(4), key: torch.ones(4)}
    with pytest.raises(DataError, match=f"1 of 2 keys .*{re.escape(key)}"):
        nnformer_from_original(state)


def test_many_unknown_keys_are_shortened() -> None:
    with pytest.raises(DataError, match=r"9 of 9 keys .*: k0, k1, k2, k3, k4, \.\.\.\."):
        nnformer_from_original({f"k{i}": torch.ones(1) for i in range(9)})
