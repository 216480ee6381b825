"""A run that commit a154ab3 wrote is read, scored, reported and gone on with (README.md)."""

import csv
import json
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from safetensors.numpy import load_file

from unpaired.cli import main

HERE = Path(__file__).resolve().parent
TIES = 2e-4
"""Share of voxels that another processor's rounding may give to another class."""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The folder unpacked; the places of the scans are those of today."""
    with tarfile.open(HERE / "old_run.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    data = tmp_path / "run" / "data.json"
    data.write_text(data.read_text().replace("HERE", tmp_path.as_posix()))
    return tmp_path


@pytest.fixture
def program(old: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`program("evaluate", "run")`, as on the command line, in the unpacked folder."""
    monkeypatch.chdir(old)

    def call(*arguments: str) -> None:
        monkeypatch.setattr(sys, "argv", ["unpaired", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        assert not end.value.code, arguments

    return call


def labels_in(folder: Path) -> dict[str, np.ndarray]:
    return {p.name: np.asarray(nib.load(p).dataobj) for p in sorted(folder.rglob("*.nii.gz"))}


def assert_same_labels(now: Path, then: Path) -> None:
    found, wanted = labels_in(now), labels_in(then)
    assert wanted and found.keys() == wanted.keys()
    for name, labels in wanted.items():
        assert found[name].shape == labels.shape and len(np.unique(labels)) > 2
        assert (found[name] != labels).mean() <= TIES, name


def test_predicts_as_it_did(old, program):
    scans = ("--modality", "mr", "scans/mr/imagesTr")
    program("predict", "--model", "run/model", "--out", "now", "--device", "cpu", *scans)
    assert_same_labels(old / "now", old / "predicted")


@pytest.mark.slow
def test_is_scored_and_reported_as_it_was(old, program):
    scores = old / "run" / "evaluation"
    (old / "run" / "predictions").rename(old / "then")
    scores.rename(old / "scores")
    program("evaluate", "run")
    assert_same_labels(old / "run" / "predictions", old / "then")
    tables = [
        list(csv.DictReader((folder / "evaluation.csv").open()))
        for folder in (scores, old / "scores")
    ]
    assert len(tables[0]) == len(tables[1]) == 8
    for now, then in zip(*tables, strict=True):
        assert now.keys() == then.keys()
        for key, value in then.items():
            try:
                assert float(now[key]) == pytest.approx(float(value), rel=0.02, abs=1e-3), key
            except ValueError:
                assert now[key] == value
    program("report", "run")
    page = (old / "run" / "report" / "report.html").read_text()
    mean = json.loads((old / "scores" / "evaluation.json").read_text())["summary"]["ct"]["mean"]
    assert f"{100 * mean['dice']['mean']:.1f}" in page
    assert all(organ in page for organ in ("spleen", "right kidney", "left kidney", "liver"))


@pytest.mark.slow
def test_goes_on_as_it_did(old, program):
    """Stopped at step 226 of 240 by the old program; the steps after that are the same."""
    run = old / "run"
    then = load_file(run / "model" / "model.safetensors")
    lines = (run / "log.jsonl").read_text().splitlines()
    for name in ("last.pt", "kept.pt"):
        (old / "stopped" / name).replace(run / "checkpoints" / name)
    (run / "model" / "model.safetensors").unlink()
    data = ("--data", "ct=scans/ct", "--data", "mr=scans/mr")
    program("train", "--out", "run", *data, "--config", "run/config.toml")
    now = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    wanted = [json.loads(line) for line in lines]
    assert [line["step"] for line in now] == [line["step"] for line in wanted]
    again = [n for n, line in enumerate(wanted) if line["kind"] == "step" and line["step"] > 226]
    assert len(again) == 14
    for n in again:
        assert now[n]["terms"] == pytest.approx(wanted[n]["terms"], rel=5e-4, abs=2e-5)
    found = load_file(run / "model" / "model.safetensors")
    assert found.keys() == then.keys()
    for name, values in then.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-4, atol=2e-5, err_msg=name)
