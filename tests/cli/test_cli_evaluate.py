"""`unpaired evaluate --predictions`: every case that was not scored is said, and counts."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from nifti_files import save
from unpaired.cli.app import run

Output = pytest.CaptureFixture[str]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Six true labels, and the predictions of all."""
    truth, found = tmp_path / "truth", tmp_path / "found"
    truth.mkdir()
    for n in range(6):
        label = np.zeros((6, 6, 4), np.uint8)
        label[1:4, 1 : 3 + n % 2, 1:3] = 1
        save(truth / f"c{n}.nii.gz", label, np.eye(4))
    (truth / "dataset.json").write_text('{"labels": {"background": 0, "liver": 1}}')
    shutil.copytree(truth, found)
    return found, truth


def call(folders: tuple[Path, Path], *more: str) -> int:
    found, truth = map(str, folders)
    out = str(folders[0].parent / "out")
    return run(["evaluate", "--predictions", found, "--labels", truth, "--out", out, *more])


def test_all_cases_scored(folders: tuple[Path, Path], capsys: Output) -> None:
    assert call(folders) == 0
    assert "could not be scored" not in capsys.readouterr().err


def test_one_of_six_scored(folders: tuple[Path, Path], capsys: Output) -> None:
    for n in range(1, 6):
        (folders[0] / f"c{n}.nii.gz").unlink()
    assert call(folders) == 3
    said = capsys.readouterr()
    assert "5 cases could not be scored (5 without a prediction: c1, c2, c3, c4, c5)" in said.err
    assert "No prediction for: c1, c2, c3, c4, c5" in said.out
    assert call(folders, "--json") == 3
    assert json.loads(capsys.readouterr().out)["missing"] == [f"c{n}" for n in range(1, 6)]


def test_missing_and_damaged_are_both_named(folders: tuple[Path, Path], capsys: Output) -> None:
    (folders[0] / "c1.nii.gz").unlink()
    (folders[0] / "c2.nii.gz").write_bytes(b"")
    assert call(folders) == 3
    told = capsys.readouterr().err
    assert (
        "2 cases could not be scored (1 without a prediction: c1; 1 with a fault: all/c2)" in told
    )


def test_a_prediction_without_a_truth_is_said(folders: tuple[Path, Path], capsys: Output) -> None:
    (folders[1] / "c4.nii.gz").unlink()
    assert call(folders) == 0
    assert "no truth of the name: c4" in capsys.readouterr().out
