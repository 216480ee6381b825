"""Classes that vanish on the plan's grid: named, with cases and the spacing that keeps them."""

import json

import numpy as np
import pytest

from nifti_files import dataset
from small_sets import plan, straight
from unpaired.checks.check import examine_roots
from unpaired.checks.grid import MAX_CASES, default_plan, lost_classes
from unpaired.cli.app import run
from unpaired.config import load_config
from unpaired.data.lost import Volumes, losses, spacing_that_keeps
from unpaired.data.preprocess import place, preprocess_label
from unpaired.datasets.dataset import Case
from unpaired.io.volume import Volume
from unpaired.run import RunFolder
from unpaired.training.prepare import prepare_run

LABELS = {"background": 0, "block": 1, "rod": 2}
QUICK = ["data.patch=[32,32]", "data.workers=0", "data.split=[0.6,0.2,0.2]"]


def thin(mm, seed, rod=True):
    """A block of 24 mm and a rod of one voxel, in a body of 64 mm whose border is noise."""
    n = round(64 / mm)
    image = np.random.default_rng(seed).integers(-900, 100, (n, n, n)).astype(np.int16)
    label = np.zeros((n, n, n), np.uint8)
    block = slice(n // 8, n // 2)
    label[block, block, block] = 1
    if rod:
        at = 3 * n // 4 + seed
        label[at, at, 2:-2] = 2
    return [image], label, straight((mm, mm, mm))


@pytest.fixture
def data(tmp_path):
    """Three MR of 4 mm and two CT of 1 mm, so that the median is 4 mm; the rod is a voxel wide."""
    mr = {f"m{n}": thin(4, n) for n in range(3)}
    ct = {f"c{n}": thin(1, n) for n in range(2)}
    return {
        "ct": dataset(tmp_path / "ct", ct, labels=LABELS),
        "mr": dataset(tmp_path / "mr", mr, labels=LABELS, channels=("T1",)),
    }


def config(*more):
    return load_config(None, None, [*QUICK, *more])


WORDS = (
    "on the grid of 4 x 4 x 4 mm all or nearly all voxels vanish of 'rod' in 2 of 2 labels of ct"
)


def test_prepare_names_class_modality_cases_and_spacing(data, tmp_path, capsys):
    folder = RunFolder(tmp_path / "run")
    (line,) = prepare_run(config(), data, folder)
    assert line == f"{WORDS} (c0, c1); data.spacing_mm=[1, 1, 1] keeps it."
    assert all(2 not in case.slices for case in folder.prepared["ct"].values())
    # The advice is sound.
    better = RunFolder(tmp_path / "better")
    assert prepare_run(config("data.spacing_mm=[1,1,1]"), data, better) == []
    for case in better.prepared["ct"].values():
        label = case.label()
        assert (label == 2).sum() == 60
    # The same call again, with nothing left to prepare, still says it.
    assert prepare_run(config(), data, folder) == [line]


def test_the_command_line_says_it_before_and_while_preparing(data, tmp_path, capsys):
    options = [f"--data={m}={path}" for m, path in data.items()]
    assert run(["check", *options, "--workers", "0", "--json"]) == 0
    found = {f["kind"]: f for f in json.loads(capsys.readouterr().out)}
    one = found["lost-class"]
    assert (one["modality"], one["case"], one["severity"]) == ("ct", "c0", "warning")
    assert one["what"].startswith(WORDS) and one["amount"] == "2 of 2 cases"
    assert one["mend"] == "data.spacing_mm=[1, 1, 1] keeps it"
    assert run(["prepare", *options, *QUICK, f"--out={tmp_path / 'out'}"]) == 0
    assert f"warning: {WORDS}" in capsys.readouterr().err
    assert run(["prepare", *options, *QUICK, f"--out={tmp_path / 'out'}", "--json"]) == 0
    assert WORDS in json.loads(capsys.readouterr().out)["warnings"][0]


def test_the_check_uses_the_settings_it_is_asked_about(data, tmp_path, capsys):
    (tmp_path / "fine.toml").write_text("[data]\nspacing_mm = [1.0, 1.0, 1.0]\npatch = [32, 32]\n")
    options = [f"--data={m}={path}" for m, path in data.items()]
    run(["check", *options, "--workers", "0", "--json", "--config", str(tmp_path / "fine.toml")])
    assert "lost-class" not in {f["kind"] for f in json.loads(capsys.readouterr().out)}


def test_the_check_and_the_preparation_agree(data):
    """Also where the scan has a border that preparation crops, so that the grid lies elsewhere."""
    done = examine_roots(data)
    chosen = default_plan(done.datasets, done.scans)
    assert chosen.spacing_mm == (4.0, 4.0, 4.0)
    found = list(lost_classes(done.datasets, done.scans, chosen))
    assert [(f.modality, f.case) for f in found] == [("ct", "c0")]
    # On a grid of the whole file the rod would lie in the middle of a voxel, and stay.
    image = np.full((66, 66, 66), -1000, np.int16)
    label = np.zeros(image.shape, np.uint8)
    (inner,), truth, affine = thin(1, 0)
    image[:64, :64, :64], label[:64, :64, :64] = inner, truth
    for name, array in (("imagesTr/c0_0000", image), ("labelsTr/c0", label)):
        from nifti_files import save

        save(data["ct"] / f"{name}.nii.gz", array, affine)
    done = examine_roots(data)
    assert next(s for s in done.scans if s.case == "c0").box == ((0, 64),) * 3
    again = list(lost_classes(done.datasets, done.scans, chosen))
    assert [f.what for f in again] == [f.what for f in found]


def test_the_spacing_is_no_luck():
    """On 1.4 mm this rod happens to lie in the middle of voxels; a voxel further on it is lost."""
    array = np.zeros((48, 48, 48), np.uint8)
    array[20, 20, :] = 5
    label = Volume(array, straight((1.0, 1.0, 1.0)))
    noise = np.random.default_rng(0).integers(0, 100, array.shape)
    chosen = plan(spacing=(4.0, 4.0, 4.0))
    where = place([Volume(noise, label.affine)], "ct", chosen)
    table = {0: 0, 5: 1}
    lucky = place([Volume(noise, label.affine)], "ct", plan(spacing=(1.4, 1.4, 1.4)))
    assert (preprocess_label(label, lucky, table, 2) == 1).any()
    assert not preprocess_label(label, where, table, 2).any()
    assert spacing_that_keeps(1, [(label, where, table)], (4.0, 4.0, 4.0)) == (1.0, 1.0, 1.0)


def test_a_class_that_is_kept_or_that_no_label_holds_is_no_loss():
    kept, thin_, cut = Volumes(9, 8, 8), Volumes(100, 9, 9), Volumes(100, 90, 5)
    cases = {"a": {1: kept, 2: thin_}, "b": {1: kept, 2: kept}, "c": {1: cut}}
    grid, crop = losses("ct", cases, ("background", "liver", "rod"))[::-1]
    assert (grid.cls, grid.cases, grid.held, grid.by) == ("rod", ("a",), 2, "grid")
    assert (crop.cls, crop.cases, crop.held, crop.by) == ("liver", ("c",), 3, "crop")
    assert "plane" in crop.mend() and "leave the class out" in grid.mend()


def test_the_crop_may_leave_a_class_out(data, tmp_path):
    (one, *_) = prepare_run(
        config("data.plane=[16,16]", "data.spacing_mm=[1,1,1]"),
        data, RunFolder(tmp_path / "run"),
    )  # fmt: skip
    assert one.startswith("the crop leaves out all or nearly all of 'rod' in 2 of 2 labels of ct")


def test_the_check_reads_a_bounded_number_of_labels(tmp_path, monkeypatch):
    from unpaired.checks import grid

    cases = [Case(str(n), "ct", (), None, "") for n in range(3 * MAX_CASES + 1)]
    assert len(grid._some(cases)) <= MAX_CASES and len(grid._some(cases[:5])) == 5
