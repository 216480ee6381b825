"""The blocks of docs/extend.md run, and do what they say."""

import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from unpaired.backbones import BACKBONES
from unpaired.config import Config, load_config
from unpaired.data.plan import Clip, ModalityPlan, Plan
from unpaired.datasets import sources
from unpaired.datasets.dataset import class_names
from unpaired.losses import Terms
from unpaired.methods import METHODS, Method, input_channels, method_of
from unpaired.metrics import EXTRA, score
from unpaired.models import Joint

DOCS = Path(__file__).resolve().parents[1] / "docs"


def blocks(language: str) -> list[str]:
    text = (DOCS / "extend.md").read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def run(marker: str) -> dict[str, Any]:
    """Run the one Python block that holds `marker`; returns its names."""
    (code,) = [block for block in blocks("python") if marker in block]
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, "extend.md", "exec"), names)
    return names


def test_a_backbone_of_ones_own_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, "plain", BACKBONES["swin_unet"])  # undone afterwards
    run("class Plain")
    settings = ["model.backbone=plain", "model.options.width=16", "model.variant=V2"]
    config = load_config(None, None, settings)
    joint, _ = one_step(method_of(config), config)
    assert all(p.grad is not None for p in joint.parameters())


def one_step(method: Method, config: Config) -> tuple[Joint, Terms]:
    """Forward, objective and backward on pictures of noise."""
    part = ModalityPlan(channel_names=("x",), clip=(Clip(kind="percentile", low=0.5, high=99.5),))
    size = (32, 64)
    plan = Plan(
        classes=("background", "liver"), modalities={"a": part, "b": part},
        spacing_mm=(1.0, 1.0, 1.0), slice_axis="S", patch=size,
    )  # fmt: skip
    joint = method.joint(config, plan)
    images = {m: torch.randn(2, k, *size) for m, k in input_channels(plan).items()}
    labels = {m: torch.randint(2, (2, *size)) for m in images}
    terms = method.objective(config, plan)(joint(images), labels)
    terms.total.backward()
    return joint, terms


SMALL = ["model.options.embed_dim=8", "model.options.heads=[1, 2, 2, 4]", "model.heads=4"]


def test_a_term_of_ones_own_is_weighed_and_named() -> None:
    mine = run("with_term")["mine"]
    _, terms = one_step(mine, load_config(None, None, SMALL))
    assert list(terms.terms)[-1] == "entropy"
    assert float(terms.terms["entropy"].detach()) > 0
    assert float(terms.weighted["entropy"]) == pytest.approx(0.01 * float(terms.terms["entropy"]))
    assert float(terms.total) == pytest.approx(sum(map(float, terms.weighted.values())))


def test_a_method_of_ones_own_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METHODS, "shared", METHODS["consistency"])  # undone afterwards
    run("class Shared")
    config = load_config(None, None, [*SMALL, "model.name=shared"])
    joint, terms = one_step(method_of(config), config)
    assert not joint.semantics and list(terms.terms) == ["seg/a", "seg/b"]
    assert all(p.grad is not None for p in joint.parameters())


def test_a_modality_is_a_table() -> None:
    (text,) = blocks("toml")
    assert Config.model_validate(tomllib.loads(text)).modalities["t1"].high == 99.0


def test_a_data_set_of_ones_own_opens(tmp_path: Path) -> None:
    names = run("def open_flat")
    for folder in ("scans", "masks"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "one.nii.gz").touch()
    assert names["recognise"](tmp_path)
    assert not names["recognise"](tmp_path / "scans")
    dataset = names["open_flat"]("mr", tmp_path)
    assert [case.id for case in dataset.cases] == ["one"]
    assert dataset.cases[0].label == tmp_path / "masks" / "one.nii.gz"
    assert class_names({"mr": dataset}) == ("background", "liver")
    assert "nnunet" in sources.SOURCES


def test_a_metric_of_ones_own_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(EXTRA, "volume_error_ml", lambda *_: 0.0)  # undone afterwards
    run("def volume_error_ml")
    truth = np.zeros((20, 20, 20), np.uint8)
    prediction = truth.copy()
    truth[5:10, 5:10, 5:10] = 1
    prediction[5:10, 5:10, 5:14] = 1
    (found,) = score(prediction, truth, ("background", "liver"), (2.0, 2.0, 1.0))
    assert found.extra["volume_error_ml"] == pytest.approx(5 * 5 * 4 * 4 / 1000)


def test_the_method_on_another_network() -> None:
    names = run("ExternalAttention(width")
    assert all(q.grad is not None for q in names["embeddings"].values())


def test_the_method_on_a_network_of_monai(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("monai", reason="MONAI is an extra")
    monkeypatch.chdir(tmp_path)
    names = run("attach, detach")
    network = names["network"]
    assert all(p.grad is not None for p in network.parameters())
    assert all(q.grad is not None for q in names["joint"].semantics.parameters())
    saved = torch.load(tmp_path / "segresnet_ct.pt", weights_only=True)
    plain = type(network)(spatial_dims=2, init_filters=16, in_channels=1, out_channels=5)
    plain.load_state_dict(saved)
    image = names["images"]["ct"]
    assert torch.equal(plain(image), names["found"]["ct"].logits)


def test_attaching_takes_ten_lines() -> None:
    """From the network to the saved file, the imports and the made-up batch beside them."""
    (code,) = [block for block in blocks("python") if "attach, detach" in block]
    lines = code.partition("\n\nnetwork =")[2].splitlines()
    assert lines[-1].startswith("torch.save")
    assert len(lines) <= 10


def test_every_block_of_python_is_run() -> None:
    assert len(blocks("python")) == 8  # one of them in tests/experiments/test_study.py
