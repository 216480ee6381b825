"""A preparation that is stopped says every case that is at fault, as the check does."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import unpaired.api.data as memory
from toy import toy_config, write_toy
from unpaired.api.run import train as train_in_python
from unpaired.cli.app import run
from unpaired.config import to_toml
from unpaired.datasets.sources import open_dataset
from unpaired.errors import CasesError, DataError, UsageError
from unpaired.files import read_json
from unpaired.run import RunFolder
from unpaired.training.folds import fold_configs
from unpaired.training.prepare import prepare_run

SAID = {
    "a/a_00": "the compressed data ends too early",
    "a/a_01": "3 of 14400 voxels are NaN or infinite",
    "a/a_02": "label values that dataset.json does not name: 9 (2 voxels)",
    "a/a_03": "the label has 40 x 36 x 9 voxels, the image 40 x 36 x 10",
    "a/a_04": "there is no label in labelsTr",
    "a/a_05": "a label holds fractions",
    "b/b_01": "the label lies up to 3 mm off the image's grid",
}


def change(path: Path, edit, dtype=None) -> None:
    """Write a file again with other voxels."""
    image = nib.load(path)
    array = edit(np.asarray(image.dataobj).astype(dtype or image.get_data_dtype()))
    nib.save(nib.Nifti1Image(array, image.affine), path)


def put(value, *where):
    def edit(array):
        array[where] = value
        return array

    return edit


@pytest.fixture
def data(tmp_path: Path) -> dict[str, Path]:
    """Of seven cases and four, all but a_06 and three of b are at fault, each in another way."""
    a = write_toy(tmp_path / "data", "a", 7, True, (1, 2))
    b = write_toy(tmp_path / "data", "b", 4, False, (7, 3))
    cut = a / "imagesTr" / "a_00_0000.nii.gz"
    cut.write_bytes(cut.read_bytes()[:-200])
    change(a / "imagesTr" / "a_01_0000.nii.gz", put(np.nan, 4, 5, slice(1, 4)), np.float32)
    change(a / "labelsTr" / "a_02.nii.gz", put(9, 0, 0, slice(2)))
    change(a / "labelsTr" / "a_03.nii.gz", lambda array: array[:, :, :-1])
    (a / "labelsTr" / "a_04.nii.gz").unlink()
    change(a / "labelsTr" / "a_05.nii.gz", put(0.5, 3, 3, 3), np.float32)
    moved = nib.load(b / "labelsTr" / "b_01.nii.gz")
    affine = moved.affine.copy()
    affine[2, 3] += 3
    nib.save(nib.Nifti1Image(np.asarray(moved.dataobj), affine), b / "labelsTr" / "b_01.nii.gz")
    return {"a": a, "b": b}


def assert_all_said(text: str, said: dict[str, str]) -> None:
    lines = text.splitlines()
    assert f"{len(said)} faults in the data:" in lines[0]
    assert len(lines) == 1 + len(said)
    for case, words in said.items():
        assert any(line.startswith(f"  {case}: ") and words in line for line in lines), case


@pytest.mark.parametrize("verb", ["prepare", "train"])
def test_the_command_line_says_all_at_once(data, tmp_path, capsys, verb) -> None:
    (tmp_path / "toy.toml").write_text(to_toml(toy_config()))
    options = [f"--data={m}={path}" for m, path in data.items()]
    code = run([verb, *options, f"--config={tmp_path / 'toy.toml'}", f"--out={tmp_path / 'out'}"])
    said = capsys.readouterr().err.rstrip()
    assert code == DataError.exit_code
    assert_all_said(said[said.index("unpaired: ") :].removeprefix("unpaired: "), SAID)


def test_python_says_all_at_once(data, tmp_path) -> None:
    with pytest.raises(DataError) as caught:
        train_in_python(data, toy_config(), out=tmp_path / "run")
    assert_all_said(str(caught.value), SAID)
    with pytest.raises(DataError) as caught:
        fold_configs(toy_config(), data, tmp_path / "folds", 2)
    assert_all_said(str(caught.value), SAID)


@pytest.mark.parametrize("workers", [0, 2])
def test_faults_that_only_reading_finds_are_said_at_once_too(data, tmp_path, workers) -> None:
    """Layout and headers are whole here: the first to stop used to be the sample of intensities."""
    label = data["a"] / "labelsTr" / "a_04.nii.gz"
    label.write_bytes((data["a"] / "labelsTr" / "a_06.nii.gz").read_bytes())
    left = {case: words for case, words in SAID.items() if case != "a/a_04"}
    sets = {m: open_dataset(m, path) for m, path in data.items()}
    config = toy_config(f"data.workers={workers}")
    for given in (data, sets):
        with pytest.raises(CasesError) as caught:
            prepare_run(config, given, RunFolder(tmp_path / "run"))
        assert_all_said(str(caught.value), left)


def test_a_decathlon_set_too(tmp_path) -> None:
    """It lists its files: those that are not there, and what is wrong with the others."""
    root = write_toy(tmp_path, "a", 4, True, (1, 2))
    listed = []
    for n in range(4):
        plain = root / "imagesTr" / f"a_{n:02d}.nii.gz"
        (root / "imagesTr" / f"a_{n:02d}_0000.nii.gz").rename(plain)
        listed.append({"image": f"imagesTr/{plain.name}", "label": f"labelsTr/{plain.name}"})
    about = {**read_json(root / "dataset.json"), "training": listed}
    (root / "dataset.json").write_text(json.dumps(about))
    assert len(open_dataset("a", root).cases) == 4
    (root / "imagesTr" / "a_00.nii.gz").unlink()
    (root / "labelsTr" / "a_01.nii.gz").unlink()
    with pytest.raises(DataError, match=r"names imagesTr/a_00.*, labelsTr/a_01.*which are not"):
        open_dataset("a", root)
    change(root / "labelsTr" / "a_02.nii.gz", put(9, 0, 0, slice(2)))
    said = {
        "a/a_00": "names imagesTr/a_00.nii.gz, which is not in that folder",
        "a/a_01": "names labelsTr/a_01.nii.gz, which is not in that folder",
        "a/a_02": SAID["a/a_02"],
    }
    with pytest.raises(DataError) as caught:
        prepare_run(toy_config(), {"a": root}, RunFolder(tmp_path / "run"))
    assert_all_said(str(caught.value), said)


def test_a_folder_that_is_no_data_set_is_said_before_scans_are_read(data, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError) as caught:
        prepare_run(toy_config(), {**data, "b": tmp_path / "empty"}, RunFolder(tmp_path / "run"))
    first, *lines = str(caught.value).splitlines()
    assert "their scans are looked at when these are mended" in first
    assert any(f"  b: {tmp_path / 'empty'}: is not a data set" in line for line in lines)
    assert any("a/a_04: a_04_0000.nii.gz: there is no label" in line for line in lines)
    assert "NaN" not in str(caught.value)


def test_other_errors_are_said_as_they_are(data, tmp_path) -> None:
    with pytest.raises(UsageError, match="no data"):
        prepare_run(toy_config(), {}, RunFolder(tmp_path / "run"))


def test_scans_in_memory_are_judged_together() -> None:
    rng = np.random.default_rng(0)
    images = {case: rng.normal(size=(6, 6, 4)) for case in "abcde"}
    labels = {case: np.ones((6, 6, 4), int) for case in "abcd"}
    images["a"][0, 0, 0] = np.nan
    labels["b"][0, 0, 0] = 4
    labels["c"] = labels["c"][:-1]
    with pytest.raises(DataError) as caught:
        memory.make_dataset(images, labels, classes={"box": 1}, spacing_mm=(1, 1, 3))
    first, *lines = str(caught.value).splitlines()
    assert first == "4 faults in the data:" and len(lines) == 4
    for case, words in (("e", "no partner"), ("a", "NaN"), ("b", "holds 4"), ("c", "one grid")):
        assert any(f"'{case}'" in line and words in line for line in lines)
