"""Every form and format, read back by its own reader, answers as the live network does."""

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.torch import load_file
from small_export import MIXED, mixed_plan, small_config
from torch import Tensor

from tiny_model import tiny_config, tiny_plan, tiny_segmenter
from unpaired.artifact import graph
from unpaired.artifact.bundle import load_network
from unpaired.artifact.export import Exported, export
from unpaired.artifact.model import Model
from unpaired.backbones import BACKBONES, ResEncUnet
from unpaired.backbones.base import Backbone
from unpaired.errors import UsageError
from unpaired.methods import input_channels, method_of
from unpaired.models import Segmenter, fold

pytestmark = pytest.mark.slow

Make = Callable[[str, str], Exported]


def reader(folder: Path, kind: str, form: str) -> Callable[[Tensor, str], Tensor]:
    """Logits by the format's own reader, with nothing of ours for graphs."""
    if kind == "safetensors":
        return lambda x, m: Model.load(folder).segmenter(x, m).logits
    if kind == "bundle":
        return lambda x, m: load_network(folder / "models", m)(x)

    def padded(x: Tensor) -> Tensor:
        return torch.cat([x, torch.full_like(x, 5)], 1) if form == "gains" and len(x[0]) == 3 else x

    def index(m: str) -> tuple[Tensor, ...]:
        return (torch.tensor([MIXED.index(m)]),) if form == "gains" else ()

    if kind == "pt2":
        program = torch.export.load(folder / "model.pt2").module()
        return lambda x, m: program(padded(x), *index(m))
    session = onnxruntime.InferenceSession(folder / "model.onnx")

    def run(x: Tensor, m: str) -> Tensor:
        given = (t.numpy() for t in (padded(x), *index(m)))
        names = (i.name for i in session.get_inputs())
        return torch.from_numpy(session.run(None, dict(zip(names, given, strict=True)))[0])

    return run


@pytest.mark.parametrize("kind", ["safetensors", "pt2", "onnx", "bundle"])
@pytest.mark.parametrize("form", ["gains", "folded"])
def test_what_is_read_back_is_the_live_network(
    mixed: Path, made: Make, form: str, kind: str
) -> None:
    model = Model.load(mixed / "model")
    live, plan = model.segmenter, model.plan
    done = made(form, kind)
    modalities = [p.name for p in done.out.iterdir() if p.is_dir()] if form == "folded" else MIXED
    assert modalities and set(modalities) <= set(MIXED)
    for m in modalities:
        folder = done.out / m if form == "folded" else done.out
        read = reader(folder, kind, form)
        for batch, size in [(2, plan.patch), (1, plan.patch), (3, (8, 28))]:
            image = torch.randn(batch, input_channels(plan)[m], *size)
            expected = live(image, m).logits
            torch.testing.assert_close(read(image, m), expected, atol=5e-5, rtol=0)
    a, b = (live(torch.ones(1, 3, 16, 24), "t1").logits, live(torch.ones(1, 6, 16, 24), "flair"))
    assert not torch.allclose(a, b.logits, atol=1e-2)  # the modality matters


def test_the_folded_weights_are_those_of_the_plain_backbone(mixed: Path, made: Make) -> None:
    model = Model.load(mixed / "model")
    live, plan, config = model.segmenter, model.plan, model.config
    for m, channels in input_channels(plan).items():
        plain = ResEncUnet(plan.patch, channels, len(plan.classes), **config.model.options).eval()
        plain.load_state_dict(
            load_file(made("folded", "safetensors").out / m / "model.safetensors")
        )
        image = torch.randn(1, channels, *plan.patch)
        torch.testing.assert_close(
            plain(image).logits, live(image, m).logits, atol=5e-5, rtol=0
        )  # fmt: skip


def test_folding_a_model_gives_a_plain_network(mixed: Path, made: Make) -> None:
    model = Model.load(mixed / "model")
    plain, image = model.fold("flair"), torch.randn(2, 6, 16, 24)
    assert isinstance(plain, ResEncUnet) and not plain.training
    expected = model.segmenter(image, "flair").logits
    torch.testing.assert_close(plain(image).logits, expected, atol=5e-5, rtol=0)
    assert model.form == "gains" and model.folded("t1").modalities == ("t1",)
    with pytest.raises(UsageError, match="Did you mean 'flair'"):
        model.fold("flar")
    with pytest.raises(UsageError, match="is ONNX"):
        Model.load(made("gains", "onnx").out).fold("t1")


def test_shifted_windows_have_a_fixed_size(tmp_path: Path) -> None:
    options = {"embed_dim": 8, "depths": [2, 1], "heads": [1, 2], "window": 4}
    config = tiny_config("V3", *(f"model.options.{k}={v}" for k, v in options.items()))
    plan = tiny_plan()
    live = tiny_segmenter(config, plan)
    assert any(any(getattr(x, "shift", ())) for x in live.modules())
    Model(live, plan, config).save(tmp_path / "model", {})
    done = export(tmp_path, tmp_path / "out", "gains", ["pt2"])
    about = json.loads((done.out / "preprocessing.json").read_text())
    assert about["image"]["shape"] == ["batch", 3, 32, 32]
    assert about["image"]["fixed_axes"] == ["row", "column"]
    program = torch.export.load(done.out / "model.pt2").module()
    image = torch.randn(5, 3, 32, 32)
    for i, m in enumerate(plan.modalities):
        expected = live(image, m).logits
        torch.testing.assert_close(program(image, torch.tensor([i])), expected, atol=5e-5, rtol=0)


def test_volumes(tmp_path: Path) -> None:
    config, plan = small_config(), mixed_plan((4, 8, 8), 1)
    live = tiny_segmenter(config, plan)
    Model(live, plan, config).save(tmp_path / "model", {})
    for form, kind in (("folded", "safetensors"), ("gains", "pt2")):
        done = export(tmp_path, tmp_path / form, form, [kind], fixed_size=True)
        assert max(p.largest_difference for p in done.parity.values()) < 5e-5
    about = json.loads((tmp_path / "gains" / "preprocessing.json").read_text())
    assert about["image"]["axes"] == ["batch", "channel", "depth", "row", "column"]
    assert about["image"]["shape"] == ["batch", 2, 4, 8, 8]
    assert about["logits"]["shape"] == ["batch", 3, 4, 8, 8]
    found = Model.load(tmp_path / "folded" / "t1").segmenter
    image = torch.randn(1, 1, 4, 8, 8)
    torch.testing.assert_close(
        found(image, "t1").logits, live(image, "t1").logits, atol=5e-5, rtol=0
    )


class Unbiased(Backbone):
    """One pointwise layer without bias and without padding: a stem's bias must find room."""

    def __init__(self, image_size: tuple[int, ...], in_channels: int, classes: int) -> None:
        super().__init__()
        self.dims, self.in_channels, self.classes = 2, in_channels, classes
        self.levels, self.multiple, self.input_layers = (), (1, 1), ("encoder",)
        self.pads_input = False
        self.encoder = torch.nn.Conv2d(in_channels, classes, 1, bias=False)
        self.decoder = torch.nn.Identity()

    def forward(self, image: Tensor, gains: object = None, encoder: object = None) -> object:
        from unpaired.backbones.base import Decoded

        return Decoded(self.encoder(image), ())


def test_a_bias_that_folding_adds_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BACKBONES, "unbiased", Unbiased)
    config = small_config("V2").model_copy(deep=True)
    config = config.model_copy(
        update={"model": config.model.model_copy(update={"backbone": "unbiased", "options": {}})}
    )
    plan = mixed_plan()
    live: Segmenter = method_of(config).segmenter(config, plan).eval()
    with torch.no_grad():
        for p in live.parameters():
            p.add_(torch.randn_like(p))
    Model(live, plan, config).save(tmp_path / "model", {})
    assert fold(live, "t1").get_submodule("encoder").bias is not None
    export(tmp_path, tmp_path / "out", "folded")
    found = Model.load(tmp_path / "out" / "flair").segmenter
    image = torch.randn(2, 6, 16, 24)
    torch.testing.assert_close(found(image, "flair").logits, live(image, "flair").logits)


def test_an_encoder_per_modality_is_folded(tmp_path: Path) -> None:
    config, plan = small_config("V1"), mixed_plan()
    live = tiny_segmenter(config, plan)
    with torch.no_grad():  # the encoders start alike
        for p in live.encoders["flair"].parameters():
            p.add_(0.3 * torch.randn_like(p))
    Model(live, plan, config).save(tmp_path / "model", {})
    export(tmp_path, tmp_path / "out", "folded", ["safetensors"])
    for m, channels in input_channels(plan).items():
        image = torch.randn(1, channels, *plan.patch)
        found = Model.load(tmp_path / "out" / m).segmenter(image, m).logits
        torch.testing.assert_close(found, live(image, m).logits, atol=5e-5, rtol=0)


def test_an_export_can_be_exported(mixed: Path, made: Make, tmp_path: Path) -> None:
    first = made("folded", "safetensors").out
    again = export(first, tmp_path / "again", "folded", ["bundle"])
    for m in MIXED:
        a = load_file(first / m / "model.safetensors")
        b = load_file(again.out / m / "models" / "model.safetensors")
        assert a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)
    card = (again.out / "t1" / "docs" / "README.md").read_text()
    assert "| steps | 7 |" in card  # known from the first


def test_the_preprocessing_says_what_the_graph_takes(made: Make) -> None:
    about = json.loads((made("gains", "onnx").out / "preprocessing.json").read_text())
    session = onnxruntime.InferenceSession(made("gains", "onnx").out / "model.onnx")
    image, modality = session.get_inputs()
    assert (image.name, modality.name) == ("image", "modality")
    assert about["modality"] == {
        "name": "modality",
        "dtype": "int64",
        "shape": modality.shape,
        "index": {"t1": 0, "flair": 1},
    }
    assert about["image"]["shape"] == ["batch", 6, "2*row", "2*column"]
    assert image.shape[:2] == ["batch", 6] and image.type == "tensor(float)"
    assert about["image"]["channels"] == {"t1": 3, "flair": 6}
    assert about["image"]["smallest_free"] == [4, 4]
    assert about["plan"]["classes"] == ["background", "liver", "spleen"]
    smallest = np.zeros((1, 6, 4, 4), np.float32)
    assert session.run(None, {"image": smallest, "modality": np.array([1])})[0].shape == (
        1,
        3,
        4,
        4,
    )


@pytest.mark.parametrize("how", ["raises", "is wrong"])
def test_where_sizes_cannot_be_free_they_are_fixed(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    traced, asked = graph._trace, []

    def trace(model: Model, sizes: graph.Sizes) -> Any:
        asked.append(sizes.free)
        if not any(sizes.free):
            return traced(model, sizes)
        if how == "raises":
            raise RuntimeError("a size is a constant")
        other = deepcopy(model.segmenter)
        with torch.no_grad():
            next(other.parameters()).add_(1)
        return traced(replace(model, segmenter=other), sizes)

    monkeypatch.setattr(graph, "_trace", trace)
    done = export(mixed, tmp_path / "out", "folded", ["pt2"], ["t1"])
    assert asked == [(True, True), (False, False)]
    about = json.loads((done.out / "t1" / "preprocessing.json").read_text())
    assert about["image"]["shape"] == ["batch", 3, 16, 24]
    assert about["image"]["smallest_free"] == [None, None]


def test_a_network_that_cannot_be_traced_is_told(
    mixed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trace(*_: object) -> None:
        raise RuntimeError("no fake tensors here")

    monkeypatch.setattr(graph, "_trace", trace)
    with pytest.raises(UsageError, match=r"no fake tensors here.*--format safetensors"):
        export(mixed, tmp_path / "out", "gains", ["pt2"])
    assert not list(tmp_path.iterdir())
