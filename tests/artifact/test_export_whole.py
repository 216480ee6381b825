"""An export is whole, right and named, or it is not there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load_file
from small_export import mixed_plan, small_config

from tiny_model import tiny_segmenter, write_model
from unpaired.artifact import export as write
from unpaired.artifact import formats, graph
from unpaired.artifact import model as model_file
from unpaired.artifact import onnx as onnx_file
from unpaired.artifact.export import Exported, export
from unpaired.artifact.model import Model
from unpaired.artifact.parity import ParityError, check_parity
from unpaired.artifact.safetensors import write_safetensors
from unpaired.backbones.base import Decoded
from unpaired.errors import DataError, ResourceError, UsageError
from unpaired.inference.predictor import Predictor

Make = Callable[[str, str], Exported]
Patch = pytest.MonkeyPatch


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def nudged_safetensors(monkeypatch: Patch) -> None:
    def save(network: torch.nn.Module, *more: Any) -> None:
        value = next(p for p in network.parameters() if p.ndim > 1)
        with torch.no_grad():
            before = value.clone()
            value.view(-1)[0] += 0.5
        write_safetensors(network, *more)
        with torch.no_grad():
            value.copy_(before)

    monkeypatch.setattr(model_file, "write_safetensors", save)


def nudged_pt2(monkeypatch: Patch) -> None:
    save = torch.export.save

    def nudged(program: Any, path: Path) -> None:
        name = next(n for n in program.state_dict if n.endswith("classify.weight"))
        program.state_dict[name].view(-1)[0] += 0.5
        save(program, path)

    monkeypatch.setattr(torch.export, "save", nudged)


def nudged_onnx(monkeypatch: Patch) -> None:
    written = graph.write_onnx

    def nudged(program: Any, path: Path) -> None:
        written(program, path)
        model = onnx.load(path)
        weight = next(t for t in model.graph.initializer if t.name.endswith("classify.weight"))
        changed = numpy_helper.to_array(weight).copy()
        changed.flat[0] += 0.5
        weight.CopyFrom(numpy_helper.from_array(changed, weight.name))
        onnx.save(model, path)

    monkeypatch.setattr(formats, "write_onnx", nudged)


def nudged_model_pt(monkeypatch: Patch) -> None:
    save = torch.save

    def nudged(state: dict[str, torch.Tensor], path: Path) -> None:
        changed = {n: t.clone() for n, t in state.items()}
        next(iter(changed.values())).view(-1)[0] += 0.5
        save(changed, path)

    monkeypatch.setattr(torch, "save", nudged)


@pytest.mark.parametrize("what", ["safetensors", "folded", "pt2", "onnx", "bundle", "model.pt"])
def test_a_weight_changed_in_the_file_is_found(
    mixed: Path, tmp_path: Path, monkeypatch: Patch, what: str
) -> None:
    if what == "model.pt":
        nudged_model_pt(monkeypatch)
    elif what in ("pt2", "onnx"):
        {"pt2": nudged_pt2, "onnx": nudged_onnx}[what](monkeypatch)
    else:
        nudged_safetensors(monkeypatch)
    kind = {"folded": "safetensors", "model.pt": "bundle"}.get(what, what)
    with pytest.raises(ParityError, match=r"differs|off by"):
        export(
            mixed,
            tmp_path / "out",
            "folded" if what == "folded" else "gains",
            [kind],
            fixed_size=True,
        )
    assert not list(tmp_path.iterdir())


def test_the_tolerance_is_held(mixed: Path, tmp_path: Path, monkeypatch: Patch) -> None:
    monkeypatch.setattr("unpaired.artifact.parity.TOLERANCE", 1e-9)
    with pytest.raises(ParityError, match="off by"):  # folding rounds by 1e-6
        export(mixed, tmp_path / "out", "folded")


@pytest.mark.parametrize(
    ("scores", "words"),
    [
        ((0.8e-4, 0.7e-4), "labels 384 positions otherwise"),
        ((float("nan"), 0.0), "off by nan"),
        ((0.0, 1.5e-4, 0.0), "off by inf"),
    ],
)
def test_close_scores_with_another_label_are_refused(
    mixed: Path, scores: tuple[float, ...], words: str
) -> None:
    """The live network says class 1 by 1.5e-4: no tie, though each score is within 1e-4."""
    model = Model.load(mixed / "model")

    def maps(values: tuple[float, ...], image: torch.Tensor) -> torch.Tensor:
        return torch.tensor(values)[:, None, None].expand(len(image), -1, *image.shape[2:])

    class Live(torch.nn.Module):
        def forward(self, image: torch.Tensor, _: str) -> Decoded:
            return Decoded(maps((0.0, 1.5e-4), image), ())

    check_parity(Live(), model, lambda x, m: maps((0.4e-4, 1.1e-4), x), [(16, 24)], "file")
    with pytest.raises(ParityError, match=words):
        check_parity(Live(), model, lambda x, m: maps(scores, x), [(16, 24)], "file")


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError, OSError])
@pytest.mark.parametrize("there", [False, True])
def test_stopped_in_the_middle_nothing_changes(
    mixed: Path, tmp_path: Path, monkeypatch: Patch, error: type[BaseException], there: bool
) -> None:
    out = tmp_path / "out"
    if there:
        export(mixed, out)
    before = content(tmp_path)

    def stop(*_: object) -> None:
        raise error

    monkeypatch.setattr(write, "check_parity", stop)
    with pytest.raises(ResourceError if error is OSError else error):
        export(mixed, out, formats=["safetensors", "bundle"], overwrite=there)
    assert content(tmp_path) == before
    assert out.exists() == there and len(list(tmp_path.iterdir())) == there


def test_stopped_while_it_takes_the_name_the_old_one_is_back(
    mixed: Path, tmp_path: Path, monkeypatch: Patch
) -> None:
    out = tmp_path / "out"
    export(mixed, out)
    before, rename, calls = content(tmp_path), Path.rename, []

    def second_fails(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", second_fails)
    with pytest.raises(KeyboardInterrupt):
        export(mixed, out, "folded", overwrite=True)
    assert content(tmp_path) == before


def test_what_is_there_is_replaced_only_when_asked_and_only_if_ours(
    mixed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    (out / "notes").mkdir(parents=True)
    (out / "notes" / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="--overwrite"):
        export(mixed, out)
    with pytest.raises(UsageError, match="not written by an export"):
        export(mixed, out, overwrite=True)
    assert (out / "notes" / "mine.txt").read_text() == "mine"
    export(mixed, tmp_path / "other")
    with pytest.raises(UsageError, match="exists"):
        export(mixed, tmp_path / "other", "folded")
    export(mixed, tmp_path / "other", "folded", overwrite=True)
    assert sorted(p.name for p in (tmp_path / "other").iterdir()) == [
        "README.md",
        "export.json",
        "flair",
        "t1",
    ]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["other", "out"]
    with pytest.raises(UsageError, match="holds the model"):
        export(tmp_path / "other", tmp_path / "other", "folded", overwrite=True)
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "other")
    with pytest.raises(UsageError, match="not replaced"):
        export(mixed, link, overwrite=True)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"form": "flat"}, "gains or folded"),
        ({"formats": ["onxx"]}, "safetensors, pt2, onnx, bundle"),
        ({"form": "folded", "modalities": ["flar"]}, "Did you mean 'flair'"),
        ({"modalities": ["t1"]}, "--form folded"),
    ],
)
def test_what_does_not_exist_is_refused(
    mixed: Path, tmp_path: Path, asked: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        export(mixed, tmp_path / "out", **asked)
    assert not list(tmp_path.iterdir())


def test_an_encoder_per_modality_has_no_single_graph(tmp_path: Path) -> None:
    config, plan = small_config("V1"), mixed_plan()
    Model(tiny_segmenter(config, plan), plan, config).save(tmp_path / "run" / "model", {})
    with pytest.raises(UsageError, match="--form folded"):
        export(tmp_path / "run", tmp_path / "out", "gains", ["safetensors", "pt2"])
    assert not (tmp_path / "out").exists()


def test_folds_are_exported_one_by_one(tmp_path: Path) -> None:
    for n in range(2):
        write_model(tmp_path / f"fold_{n}" / "model", seed=n)
    with pytest.raises(UsageError, match=r"one at a time: .*fold_0, .*fold_1"):
        export(tmp_path, tmp_path / "out")


@pytest.mark.slow
def test_what_is_folded_cannot_be_unfolded(made: Make, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="folded already"):
        export(made("folded", "safetensors").out, tmp_path / "out")
    with pytest.raises(UsageError, match="is ONNX"):
        export(made("gains", "onnx").out, tmp_path / "out")


def test_a_missing_extra_is_named(
    mixed: Path, made: Make, tmp_path: Path, monkeypatch: Patch
) -> None:
    there = made("gains", "onnx").out
    monkeypatch.setattr(
        onnx_file, "find_spec", lambda name: None if name == "onnxruntime" else object()
    )
    with pytest.raises(UsageError, match=r"onnxruntime.*unpaired\[onnx\]"):
        export(mixed, tmp_path / "out", formats=["onnx"])
    with pytest.raises(UsageError, match=r"onnxruntime.*unpaired\[onnx\]"):
        Predictor.from_folder(there)


def test_damage_is_refused(made: Make, tmp_path: Path) -> None:
    source = made("gains", "onnx").out
    for name, change in {
        "model.onnx": lambda b: b[:-1] + bytes([b[-1] ^ 1]),
        "preprocessing.json": lambda b: b.replace(b'"form": "gains"', b'"form": "folded"'),
    }.items():
        folder = tmp_path / name
        for path, data in content(source).items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(change(data) if path == name else data)
        with pytest.raises(DataError):
            Predictor.from_folder(folder)
    folded = tmp_path / "folded"
    for path, data in content(made("folded", "safetensors").out).items():
        if not path.startswith("flair"):
            (folded / path).parent.mkdir(parents=True, exist_ok=True)
            (folded / path).write_bytes(data)
    with pytest.raises(DataError, match="should hold the folder flair"):
        Predictor.from_folder(folded)
    assert Predictor.from_folder(folded / "t1").modalities == ("t1",)


def test_parts_of_different_exports_are_not_joined(made: Make, tmp_path: Path) -> None:
    config, plan = small_config(), mixed_plan().model_copy(update={"spacing_mm": (9.0, 1.0, 1.0)})
    Model(tiny_segmenter(config, plan), plan, config).save(tmp_path / "run" / "model", {})
    other = export(tmp_path / "run", tmp_path / "other", "folded").out
    for path, data in content(made("folded", "safetensors").out / "t1").items():
        (other / "t1" / path).write_bytes(data)
    with pytest.raises(DataError, match="different exports"):
        Predictor.from_folder(other)


def test_the_gains_form_is_the_runs_own_weights(mixed: Path, made: Make) -> None:
    a = load_file(mixed / "model" / "model.safetensors")
    b = load_file(made("gains", "safetensors").out / "model.safetensors")
    assert a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)
