"""`unpaired check`: its options, exit codes and files."""

import json

import numpy as np
import pytest

from bad_inputs import GRID, ct, image_of, label_of, moved, mr, organs, scan, split_file
from nifti_files import save
from unpaired.cli.app import run


@pytest.fixture
def roots(tmp_path):
    return ct(tmp_path), mr(tmp_path)


def call(roots, *more):
    return run(["check", "--data", f"ct={roots[0]}", "--data", f"mr={roots[1]}", *map(str, more)])


def table(capsys):
    return json.loads(capsys.readouterr().out)


def test_sound_data_and_what_preparing_takes(roots, capsys):
    assert call(roots, "--json") == 0
    found = table(capsys)
    assert {f["kind"] for f in found} == {"needs", "patients"}
    assert "preparing 8 cases takes about" in next(f for f in found if f["kind"] == "needs")["what"]


def test_warnings_are_no_failure_and_errors_are(roots, capsys):
    save(label_of(roots[0]), np.zeros_like(organs(1)), GRID)
    assert call(roots) == 0
    assert "0 errors" in capsys.readouterr().out
    save(label_of(roots[0]), organs(1), moved(7.5))
    assert call(roots, "--json") == 3
    worst = table(capsys)[0]
    assert (worst["kind"], worst["amount"], worst["severity"]) == ("label-grid", "7.5 mm", "error")


def test_splits_and_folds(roots, tmp_path, capsys):
    file = split_file(tmp_path, {"train": ["ct/c0"], "val": ["ct/c1", "mr/c2"]})
    assert call(roots, "--splits", file, "--folds", 5, "--json") == 3
    kinds = {f["kind"] for f in table(capsys)}
    assert {"split-empty", "split-left", "folds"} <= kinds
    assert run(["check", str(roots[0]), "--folds", "3"]) == 2
    assert call(roots, "--splits", tmp_path / "none.json") == 3


def test_page_and_copies(roots, tmp_path, capsys):
    save(label_of(roots[0]), organs(1), moved(0.02))
    page, out = tmp_path / "x.html", tmp_path / "out"
    assert call(roots, "--html", page, "--fix-headers", out) == 3
    said = capsys.readouterr().out
    assert "has the image's geometry now" in said
    assert "Mended copies: 1" in said
    assert f"The page is {page}" in said
    assert "0.02 mm off" in page.read_text()
    (one,) = json.loads((out / "mended.json").read_text())
    assert one["copy"] == str(out / "ct" / "labelsTr" / "c1.nii.gz")
    assert call(roots, "--fix-headers", out) == 2  # not empty any more
    assert call(roots, "--fix-headers", roots[0] / "new") == 2
    # with the copy in place nothing is wrong any more
    label_of(roots[0]).write_bytes((out / "ct" / "labelsTr" / "c1.nii.gz").read_bytes())
    assert call(roots) == 0


def test_training_is_told_before(roots, tmp_path, capsys):
    config = tmp_path / "run.toml"
    config.write_text(
        '[data]\ncontext = 1\npatch = [32, 64]\n[model]\nbackbone = "swin_unet"\n'
        "[model.options]\nembed_dim = 8\ndepths = [1, 1]\nheads = [1, 2]\n"
        '[train]\nsteps = 40\nbatch_size = 2\ndevice = "cpu"\n'
    )
    image_of(roots[1]).write_bytes(b"")
    assert call(roots, "--config", config, "--json") == 3
    found = table(capsys)
    told = [f["what"] for f in found if f["kind"] == "needs"]
    assert any("training takes about" in what and "40 steps" in what for what in told)
    patch = next(f for f in found if f["kind"] == "patch" and f["modality"] == "ct")
    assert patch["amount"] == "38 %"  # 24 columns of 64


def test_settings_for_other_modalities_are_refused_before_anything_is_read(roots, tmp_path, capsys):
    config = tmp_path / "run.toml"
    config.write_text('[modalities.PET]\nclip = "window"\nlow = 0\nhigh = 9\n')
    image_of(roots[1]).write_bytes(b"")  # would be found, with exit code 3
    assert call(roots, "--config", config) == 2
    said = capsys.readouterr()
    assert "the settings of the preset or file are for PET, the data are" in said.err
    assert not said.out


def test_other_paths(tmp_path, capsys):
    assert run(["check", str(tmp_path / ("x" * 300))]) == 3
    assert "name too long" in capsys.readouterr().err.lower()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert run(["check", str(tmp_path / "loop")]) == 3
    file = save(tmp_path / "new\nline.nii.gz", scan(1), GRID)
    assert run(["check", str(file)]) == 0
