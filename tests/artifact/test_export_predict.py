"""Predictions from every export equal those of the run; what is written says what it is."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from small_export import MIXED

from tiny_model import smooth_image, write_model, write_nifti
from unpaired.artifact.export import Exported, export
from unpaired.cli.app import run as unpaired
from unpaired.inference.predictor import Predictor

Make = Callable[[str, str], Exported]
DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def all_of(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The trained run, gains form, every format."""
    out = tmp_path_factory.mktemp("all") / "out"
    export(trained, out, "gains", ["safetensors", "onnx", "bundle"], fixed_size=True)
    return out


def scans(run: Path, modality: str) -> list[Path]:
    return sorted((run.parent / "data" / modality / "imagesTr").iterdir())[:2]


def labels(model: Path, image: Path, modality: str) -> np.ndarray:
    return Predictor.from_folder(model, device="cpu").predict(image, modality).labels


def test_every_export_labels_as_the_run_does(trained: Path, all_of: Path, tmp_path: Path) -> None:
    folded = export(trained, tmp_path / "folded", "folded").out
    models = [all_of, *(all_of / name for name in ("safetensors", "onnx", "bundle")), folded]
    for m in ("aa", "bb"):
        for scan in scans(trained, m):
            expected = labels(trained, scan, m)
            assert len(np.unique(expected)) > 1
            for model in [*models, folded / m]:
                found = labels(model, scan, m)
                assert np.array_equal(found, expected), (model, m)


def test_a_prepared_slice_of_the_run_is_compared(all_of: Path) -> None:
    record = json.loads((all_of / "onnx" / "export.json").read_text())
    assert record["parity"]["prepared_images"] == 2  # one a modality
    assert 0 < record["parity"]["largest_difference"] < 1e-4
    assert record["formats"] == ["onnx"] and record["form"] == "gains"


def test_the_card_tells_the_facts(all_of: Path, trained: Path) -> None:
    card = (all_of / "safetensors" / "README.md").read_text()
    head = card.split("---\n")[1]
    assert "library_name: unpaired" in head and '- "aa"' in head
    assert not re.search(r"^license:", head, re.M)  # the user's to choose
    assert "| aa | 2 | 1 | 1 |" in card
    evaluation = json.loads((trained / "evaluation" / "evaluation.json").read_text())
    assert len(evaluation["cases"]) == 4
    assert re.search(r"\| bb \| box \| 1 \| [\d.]+ \(0\.0\) \|", card)
    assert "Not a medical device" in card and "| steps | 2 |" in card
    record = json.loads((all_of / "safetensors" / "export.json").read_text())
    assert record["facts"]["config_sha256"] in card
    (row,) = [s for s in evaluation["cases"] if s["modality"] == "aa" and s["cls"] == "ball"]
    kept = record["facts"]["scores"]["aa"]["classes"]["ball"]["dice"]["mean"]
    assert kept == pytest.approx(row["dice"], abs=1e-4)


def test_nothing_written_tells_where_it_was_made(all_of: Path, trained: Path) -> None:
    for path in all_of.rglob("*"):
        if path.is_file():
            assert str(trained.parent).encode() not in path.read_bytes(), path


def bundle_run(folder: Path, images: Path, out: Path, modality: str) -> None:
    from monai.bundle import run

    run(
        config_file=str(folder / "configs" / "inference.json"),
        meta_file=str(folder / "configs" / "metadata.json"),
        bundle_root=str(folder),
        dataset_dir=str(images),
        output_dir=str(out),
        modality=modality,
        device="cpu",
    )


def test_the_bundle_runs_in_monai_and_gives_the_same_labels(
    trained: Path, all_of: Path, tmp_path: Path
) -> None:
    from monai.bundle import ConfigParser, verify_net_in_out

    folder, (scan, _) = all_of / "bundle", scans(trained, "bb")
    images = tmp_path / "images"
    images.mkdir()
    (images / scan.name).write_bytes(scan.read_bytes())
    bundle_run(folder, images, tmp_path / "out", "bb")
    (made,) = (tmp_path / "out").glob("*.nii.gz")
    assert np.array_equal(np.asarray(nib.load(made).dataobj), labels(trained, scan, "bb"))
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(folder / "configs" / "metadata.json"),
        config_file=str(folder / "configs" / "inference.json"),
        device="cpu",
        bundle_root=str(folder),
    )
    parser = ConfigParser()
    parser.read_config(str(folder / "configs" / "inference.json"))
    parser["bundle_root"] = str(folder)
    parser["modality"] = "bb"
    network = parser.get_parsed_content("network_def")
    live = Predictor.from_folder(trained, device="cpu").models[0].segmenter
    image = torch.randn(1, 3, 32, 32)
    assert torch.equal(network(image), live(image, "bb").logits)
    state = torch.load(folder / "models" / "model.pt", weights_only=True)
    network.load_state_dict(state)
    assert (folder / "LICENSE").read_text().startswith("No licence has been chosen")


@pytest.mark.parametrize(
    "target", ["unpaired.load_network", "unpaired.engine.export.bundle.load_network"]
)
def test_bundles_of_this_and_of_the_first_version_open(
    trained: Path, all_of: Path, tmp_path: Path, target: str
) -> None:
    """The name of the loader is part of the file format."""
    from monai.bundle import ConfigParser

    path = all_of / "bundle" / "configs" / "inference.json"
    content = json.loads(path.read_text())
    assert content["network_def"]["_target_"] == "unpaired.load_network"
    content["network_def"]["_target_"] = target
    content.update(bundle_root=str(all_of / "bundle"), modality="aa")
    network = ConfigParser(content).get_parsed_content("network_def")
    live = Predictor.from_folder(trained, device="cpu").models[0].segmenter
    image = torch.randn(1, 3, 32, 32)
    assert torch.equal(network(image), live(image, "aa").logits)


def test_the_metadata_has_what_the_specification_asks_for(all_of: Path) -> None:
    found = json.loads((all_of / "bundle" / "configs" / "metadata.json").read_text())
    assert found.keys() >= {
        *("version", "changelog", "monai_version", "pytorch_version", "numpy_version"),
        *("required_packages_version", "task", "description", "authors", "copyright"),
        "network_data_format",
    }
    pred = found["network_data_format"]["outputs"]["pred"]
    assert pred["channel_def"] == {"0": "background", "1": "ball", "2": "box"}
    image = found["network_data_format"]["inputs"]["image"]
    assert image["num_channels"] == len(image["channel_def"]) == 3
    assert image["spatial_shape"] == [32, 32]


def code_of(page: str) -> str:
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.S)
    return code


@pytest.mark.parametrize("form", ["gains", "folded"])
def test_the_example_of_the_docs_gives_the_same_labels(
    made: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    if form == "gains":
        folder = made("gains", "onnx").out
    else:
        folder = tmp_path / "made"
        export(
            made("gains", "safetensors").out, folder, "folded", ["onnx"], ["t1"], fixed_size=True
        )
        folder /= "t1"
    # The axes of a NIfTI file grow to Right, Anterior and Superior, i before j before k.
    image = smooth_image((24, 16, 6)) + np.int16(1000)
    image[0, 0, 0] = 0  # corners differ: there is no constant border to cut away
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    path = write_nifti(tmp_path / "scan.nii.gz", image, affine)
    expected = labels(folder, path, "t1").T[:, ::-1, ::-1]
    np.save(tmp_path / "volume.npy", image.T[:, ::-1, ::-1])
    (tmp_path / "exported").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(compile(code_of("export.md"), "export.md", "exec"), names)
    assert len(np.unique(expected)) > 1
    assert np.array_equal(names["labels"], expected)


def test_the_command(mixed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    call = ["export", str(mixed), str(out), "--form", "folded", "--modality", "flair"]
    assert unpaired(call) == 0
    said = capsys.readouterr().out
    assert f"{out / 'flair'}: scores within" in said and f"Exported to {out}." in said
    assert [p.name for p in out.iterdir() if p.is_dir()] == ["flair"]
    assert unpaired(call) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert unpaired([*call, "--overwrite", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["form"] == "folded" and found["formats"] == ["safetensors"]
    assert found["parity"]["flair"]["largest_difference"] < 1e-4
    assert unpaired(["export", str(tmp_path / "none"), str(tmp_path / "x")]) == 3
    image = write_nifti(tmp_path / "a.nii.gz", smooth_image((20, 18, 5)), np.diag([2.0, 2, 3, 1]))
    label = tmp_path / "label.nii.gz"
    call = ["predict", str(image), str(image), "--model", str(out), "--out", str(label)]
    assert unpaired(call) == 0  # its only modality needs no name
    found_labels = np.asarray(nib.load(label).dataobj)
    expected = Predictor.from_folder(mixed, device="cpu").predict([image, image], MIXED[1]).labels
    assert np.array_equal(found_labels, expected)


def test_an_ensemble_may_hold_exports(tmp_path: Path) -> None:
    for n in range(2):
        write_model(tmp_path / f"run{n}" / "model", seed=n)
        export(tmp_path / f"run{n}", tmp_path / f"out{n}", "folded")
    image = write_nifti(tmp_path / "a.nii.gz", smooth_image((30, 28, 5)), np.diag([2.0, 2, 3, 1]))
    runs = [tmp_path / "run0", tmp_path / "run1"]
    mixed = [tmp_path / "run0", tmp_path / "out1"]
    found = [
        Predictor.from_folder(m, device="cpu").predict(image, "mr").labels for m in (runs, mixed)
    ]
    assert np.array_equal(*found)
