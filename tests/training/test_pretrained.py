"""`model.pretrained`: what starts from the file, in the network and in a training."""

import json
from pathlib import Path

import pytest
import torch
from test_train import losses, same, stop_after, weights

from small_joint import shake, small_backbone, small_joint
from swin_files import State, swin_classifier
from toy import toy_config
from unpaired.data.plan import Plan
from unpaired.errors import DataError, Interrupted, UsageError
from unpaired.files import read_json
from unpaired.methods import method_of
from unpaired.models import fold, gains_form
from unpaired.run import RunFolder
from unpaired.training.fit import train
from unpaired.training.pretrained import HEAD, fill, preview, read_pretrained
from unpaired.training.trainer import fix_numbers

WIDTH = {"width": 8, "heads": (1, 2, 2, 4), "window": 2, "patch": 2}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A Swin of the toy's three stages; its maps of 8, 4 and 2 have windows of at most 8."""
    path = tmp_path / "swin.pth"
    torch.save({"model": swin_classifier(8, (1, 1, 2), (1, 2, 2), 7)}, path)
    return path


def clones(state: State) -> State:
    return {name: tensor.clone() for name, tensor in state.items()}


def test_step_zero_sees_its_input_unchanged() -> None:
    """The stems are the identity: three slices reach the file's patches as they are."""
    joint = small_joint()
    state = swin_classifier(**WIDTH)
    fill(joint.segmenter, state, "x.pth")
    image = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    embed = joint.segmenter.backbone.encoder.embed
    assert embed.conv.weight.equal(state["patch_embed.proj.weight"].double())
    for stem in joint.segmenter.stems.values():
        assert embed(stem(image)).equal(embed(image))


def test_only_encoder_and_decoder_are_touched() -> None:
    joint = small_joint()
    before = clones(joint.state_dict())
    filling = fill(joint.segmenter, swin_classifier(**WIDTH), "x.pth")
    changed = {n for n, t in joint.state_dict().items() if not t.equal(before[n])}
    random = {f"segmenter.backbone.{name}" for name in filling.record()["random"]}
    backbone = {n for n in before if n.startswith("segmenter.backbone.")}
    assert changed == backbone - random
    assert random & backbone == random and random


def test_every_private_encoder_is_filled() -> None:
    joint, shared = small_joint("V1"), small_joint("V2")
    state = swin_classifier(**WIDTH)
    one, other = (fill(j.segmenter, state, "x.pth") for j in (joint, shared))
    expected = shared.segmenter.backbone.encoder.state_dict()
    for encoder in joint.segmenter.encoders.values():
        for name, tensor in encoder.state_dict().items():
            assert tensor.equal(expected[name])
    count = sum(p.numel() for p in shared.segmenter.backbone.encoder.parameters())
    assert one.filled == other.filled + count
    assert one.parameters == other.parameters + count
    assert isinstance(joint.segmenter.backbone.encoder, torch.nn.Identity)


def test_nothing_is_half_loaded() -> None:
    """The last weight of the file is wrong: all others stay."""
    joint = small_joint()
    before = clones(joint.state_dict())
    state = {**swin_classifier(**WIDTH), "norm.bias": torch.full((64,), float("inf"))}
    with pytest.raises(DataError, match=r"x\.pth: .*not finite numbers: encoder\.norm\.bias"):
        fill(joint.segmenter, state, "x.pth")
    with pytest.raises(UsageError, match=r"x\.pth: .*encoder\.norm\.bias \(\(2,\) there, \(64,\)"):
        fill(joint.segmenter, {**state, "norm.bias": torch.ones(2)}, "x.pth")
    assert same(joint.state_dict(), before)


def test_own_files_of_every_kind() -> None:
    """A training's state, an exported model, a folded one, a plain backbone: the same encoder."""
    source = small_joint("V3", channels={"a": 3})
    shake(source)
    plain = source.segmenter.backbone.state_dict()
    for state in (source.state_dict(), gains_form(source).state_dict(), plain):
        joint = small_joint("V3", channels={"a": 3})
        filling = fill(joint.segmenter, clones(state), "x")
        assert same(joint.segmenter.backbone.state_dict(), plain)
        assert filling.percent == 100
    folded = fold(gains_form(source), "a").state_dict()
    joint = small_joint("V3", channels={"a": 3})
    fill(joint.segmenter, folded, "x")
    assert same(joint.segmenter.backbone.state_dict(), folded)


def test_own_files_with_private_encoders() -> None:
    source = small_joint("V1")
    shake(source)
    joint = small_joint("V1")
    fill(joint.segmenter, clones(source.state_dict()), "x")
    for name, tensor in source.segmenter.encoders.state_dict().items():
        assert joint.segmenter.encoders.state_dict()[name].equal(tensor)
    with pytest.raises(UsageError, match=r"for each of a, b; this network needs a shared one"):
        fill(small_joint("V2").segmenter, source.state_dict(), "x")
    with pytest.raises(UsageError, match="needs one for c"):
        fill(small_joint("V1", ("a", "c")).segmenter, source.state_dict(), "x")
    shared = small_joint("V2")
    fill(joint.segmenter, shared.state_dict(), "x")
    for encoder in joint.segmenter.encoders.values():
        assert same(encoder.state_dict(), shared.segmenter.backbone.encoder.state_dict())


def test_the_table_adds_up() -> None:
    backbone = small_backbone(channels=6)
    joint = small_joint(channels={"a": 6})
    filling = fill(joint.segmenter, swin_classifier(**{**WIDTH, "window": 7}), "x")
    rows = [dict(zip(HEAD, row, strict=True)) for row in filling.rows()]
    numbers = [
        {k: int(row[k].replace(",", "")) for k in HEAD if k not in {"part", "%", "note"}}
        for row in rows
    ]
    for row in numbers:
        kinds = ("filled", "interpolated", "averaged", "random")
        assert row["parameters"] == sum(row[kind] for kind in kinds)
    for kind, total in numbers[-1].items():
        assert total == sum(row[kind] for row in numbers[:-1])
    tables = sum(p.numel() for n, p in backbone.named_parameters() if n.endswith("bias_table"))
    assert numbers[-1]["interpolated"] == tables
    assert numbers[-1]["averaged"] == 8 * 6 * 2 * 2
    assert numbers[-1]["parameters"] == sum(p.numel() for p in backbone.parameters())
    assert filling.percent == pytest.approx(float(rows[-1]["%"]), abs=0.05)
    assert {"input layer", "encoder stage 4", "decoder stage 3", "bias tables", "head"} <= {
        row["part"] for row in rows
    }
    json.dumps(filling.record(), allow_nan=False)


def begin(file: Path, data: dict[str, Path], run: Path, *more: str) -> None:
    train(toy_config(f"model.pretrained={file}", *more), data, run)


def test_a_training_starts_from_the_file(data: dict[str, Path], tmp_path: Path, file: Path) -> None:
    still = ("train.steps=1", "train.learning_rate=1e-12", "train.warmup_steps=0")
    begin(file, data, tmp_path / "run", *still)
    after = weights(tmp_path / "run/checkpoints/last.pt")
    state = torch.load(file, weights_only=True)["model"]
    for ours, theirs in (
        ("encoder.stages.0", "layers.0"),
        ("encoder.stages.2", "layers.2"),
        ("decoder.stages.0", "layers.1"),
        ("decoder.stages.1", "layers.0"),
    ):
        name = f"segmenter.backbone.{ours}.0.feed_forward.widen.weight"
        expected = state[f"{theirs}.blocks.0.mlp.fc1.weight"]
        torch.testing.assert_close(after[name], expected, rtol=0, atol=1e-9)
    plan = Plan.read(tmp_path / "run/plan.json")
    config = toy_config(f"model.pretrained={file}", *still)
    record = read_json(tmp_path / "run/pretrained.json")
    found = preview(config, plan, read_pretrained(config) or {})
    assert record == json.loads(json.dumps(found.record()))
    assert record["file"] == str(file) and "Swin-T" in record["layout"]
    fix_numbers(config.train)
    # What is not filled is drawn as ever.
    fresh = method_of(config).joint(config, plan).state_dict()
    for name in record["random"]:
        torch.testing.assert_close(
            after[f"segmenter.backbone.{name}"], fresh[f"segmenter.backbone.{name}"],
            rtol=0, atol=1e-9,
        )  # fmt: skip


@pytest.mark.slow
def test_a_resumed_run_does_not_read_it_again(
    data: dict[str, Path], tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin(file, data, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(3, patch)
        with pytest.raises(Interrupted):
            begin(file, data, tmp_path / "broken")
    file.unlink()
    begin(file, data, tmp_path / "broken")
    assert losses(tmp_path / "broken") == losses(tmp_path / "whole")
    ends = [weights(tmp_path / n / "checkpoints/last.pt") for n in ("broken", "whole")]
    assert same(*ends)
    assert (tmp_path / "broken/pretrained.json").is_file()


def test_a_run_begun_anew_without_a_file_forgets_the_last_one(
    data: dict[str, Path], tmp_path: Path, file: Path
) -> None:
    config, folder = toy_config("train.steps=1"), RunFolder(tmp_path / "run")
    folder.root.mkdir()
    folder.files.pretrained.write_text("{}")
    train(config, data, folder.root)
    assert not folder.files.pretrained.exists()


def test_two_sources_are_refused(data: dict[str, Path], tmp_path: Path, file: Path) -> None:
    config = toy_config(f"model.pretrained={file}", f"train.init_from={tmp_path}")
    with pytest.raises(UsageError, match=r"model\.pretrained and train\.init_from both"):
        read_pretrained(config)
    train(toy_config("train.steps=2"), data, tmp_path / "first")
    both = toy_config(f"model.pretrained={file}", f"train.init_from={tmp_path / 'first'}")
    with pytest.raises(UsageError, match=r"model\.pretrained and train\.init_from both"):
        train(both, data, tmp_path / "second")


def test_an_exported_model_serves_as_a_file(
    data: dict[str, Path], tmp_path: Path, file: Path
) -> None:
    train(toy_config("train.steps=2"), data, tmp_path / "first")
    exported = tmp_path / "first/model/model.safetensors"
    config = toy_config("train.steps=1", "train.learning_rate=1e-12", "train.warmup_steps=0",
                        f"model.pretrained={exported}")  # fmt: skip
    train(config, data, tmp_path / "second")
    before, after = (weights(tmp_path / n / "checkpoints/kept.pt") for n in ("first", "second"))
    name = "segmenter.backbone.decoder.classify.weight"
    torch.testing.assert_close(after[name], before[name], rtol=0, atol=1e-9)
    assert read_json(tmp_path / "second/pretrained.json")["percent"] == 100
