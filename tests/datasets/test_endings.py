"""Names end as people and programs write them, .NII.GZ or .Nrrd; nothing is lost in silence."""

import json

import numpy as np
import pytest

from datasets.test_any_format import LABELS as NAMES
from datasets.test_any_format import folder, write
from nifti_files import save
from tiny_model import pointwise_predictor, smooth_image, tiny_plan, write_nifti
from toy import toy_config, write_toy
from unpaired.checks.check import examine_path, examine_roots
from unpaired.datasets.passed_over import remarks
from unpaired.datasets.sources import open_dataset
from unpaired.errors import DataError
from unpaired.evaluation.scores import evaluate_folder
from unpaired.inference.targets import targets_of
from unpaired.io.read import read_label_image
from unpaired.io.write import Writing
from unpaired.names import ending_of
from unpaired.run import RunFolder
from unpaired.training.prepare import prepare_run

GRID = np.diag([2.0, 2.0, 3.0, 1.0])
ENDINGS = (".NII.GZ", ".Nii.gz", ".NII", ".NRRD", ".Seg.Nrrd", ".Mha", ".MGZ")


def recase(root, change):
    """Every file of images and labels under another spelling of its ending."""
    for file in sorted((*root.glob("images*/*"), *root.glob("labels*/*"))):
        ending = ending_of(file.name, (".nii.gz", ".nrrd", ".mha", ".mgz"))
        file.rename(file.with_name(file.name.removesuffix(ending) + change(ending)))


def test_an_ending_is_found_in_any_case_and_given_as_it_is_written():
    known = (".nii.gz", ".nii", ".mgz")
    assert [ending_of(n, known) for n in ("a.NII.GZ", "b.Nii", "İ.nii.gz", "c.gz", "nii")] == [
        ".NII.GZ", ".Nii", ".nii.gz", "", "",
    ]  # fmt: skip


@pytest.mark.parametrize("ending", [".nii.gz", ".nrrd", ".mha", ".mgz"])
@pytest.mark.parametrize("change", [str.upper, str.title], ids=["upper", "title"])
def test_a_data_set_is_read_whole_whatever_the_case_of_its_endings(tmp_path, ending, change):
    root = folder(tmp_path / "ct", ending)
    whole = [case.id for case in open_dataset("ct", root).cases]
    recase(root, change)
    about = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps({**about, "file_ending": change(ending)}))
    assert [case.id for case in open_dataset("ct", root).cases] == whole
    done = examine_roots({"ct": root})
    assert len(done.scans) == 3 and all(scan.shape and scan.voxels for scan in done.scans)
    assert not [f for f in done.findings if f.kind in ("file-name", "passed-over", "case-count")]
    (root / "imagesTr" / "b.img").write_bytes(b"x")
    done = examine_path(root / "imagesTr")
    assert len(done.scans) == 3
    assert ["b.img" in f.what for f in done.findings if f.kind == "passed-over"] == [True]


def test_the_recipe_five_of_six_cases(tmp_path):
    """One ending in capitals used to drop its case; what cannot be a case is said, and counted."""
    root = write_toy(tmp_path, "ct", 6, bright=True, values=(1, 2))
    for part in ("imagesTr/ct_03_0000", "labelsTr/ct_03"):
        (root / f"{part}.nii.gz").rename(root / f"{part}.NII.GZ")
    assert len(open_dataset("ct", root).cases) == 6
    kinds = {f.kind for f in examine_roots({"ct": root}).findings}
    assert not kinds & {"passed-over", "case-count", "file-name"}

    for part in ("imagesTr/ct_03_0000", "labelsTr/ct_03"):
        (root / f"{part}.NII.GZ").rename(root / f"{part}.nii.zip")
    found = {f.kind: f for f in examine_roots({"ct": root}).findings if f.severity == "warning"}
    assert found["case-count"].what == (
        "dataset.json says numTraining 6, but 5 such cases are there"
    )
    assert "imagesTr/ct_03_0000.nii.zip, labelsTr/ct_03.nii.zip" in found["passed-over"].what
    lines = remarks(open_dataset("ct", root))
    said = prepare_run(toy_config(), {"ct": root}, RunFolder(tmp_path / "run"))
    assert len(lines) == 2 and said == lines


def test_test_cases_are_counted_and_files_that_describe_a_case_are_none(tmp_path):
    root = write_toy(tmp_path, "ct", 2, bright=True, values=(1, 2))
    save(root / "imagesTs" / "t_0000.NII", smooth_image((10, 12, 5)), GRID)
    for name in ("imagesTr/ct_00_0000.json", "imagesTr/.DS_Store"):
        (root / name).write_text("{}")
    about = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps({**about, "numTest": 3, "numTraining": "2"}))
    assert remarks(open_dataset("ct", root)) == [
        f"{root}: dataset.json says numTest 3, but 1 such case is there."
    ]


def test_one_case_under_two_spellings_is_refused(tmp_path):
    root = write_toy(tmp_path, "ct", 2, bright=True, values=(1, 2))
    save(root / "imagesTr" / "ct_00_0000.NII.GZ", smooth_image((10, 12, 5)), GRID)
    with pytest.raises(DataError, match=r"ct_00_0000\.NII\.GZ lies beside .*ct_00_0000\.nii\.gz"):
        open_dataset("ct", root)


def test_a_folder_is_predicted_whole_and_names_are_made_plain(tmp_path):
    plan = tiny_plan(modalities=("ct",))
    predictor = pointwise_predictor(plan)
    for seed, name in enumerate(("a.nii.gz", "B.NII.GZ", "c.Nii.gz", "d_0000.NII")):
        write_nifti(tmp_path / "scans" / f"plain{seed}.nii.gz", smooth_image((10, 12, 5)), GRID)
        packed = tmp_path / "scans" / f"plain{seed}.nii.gz"
        packed.rename(packed.with_name(name))
    (tmp_path / "scans" / "notes.txt").write_text("x")
    outcome = predictor.predict_folder(tmp_path / "scans", tmp_path / "out", "ct")
    assert {case: path.name for case, path in outcome.written.items()} == {
        "a": "a.nii.gz", "B": "B.nii.gz", "c": "c.nii.gz", "d": "d.nii.gz",
    }  # fmt: skip
    assert [path.name for path in outcome.passed_over] == ["notes.txt"]
    found = targets_of(tmp_path / "one", [tmp_path / "scans" / "B.NII.GZ"], Writing())
    assert found == (tmp_path / "one" / "B.nii.gz",)
    predictor.predict_file(tmp_path / "scans" / "B.NII.GZ", tmp_path / "X.NII.GZ", "ct")
    assert (tmp_path / "X.NII.GZ").read_bytes()[:2] == b"\x1f\x8b"  # packed, as its name says
    scans = tmp_path / "scans"
    write_nifti(scans / "b2.nii.gz", smooth_image((10, 12, 5)), GRID).rename(scans / "B.nii.gz")
    twice = predictor.predict_folder(scans, tmp_path / "again", "ct", strict=False)
    assert "B.NII.GZ and B.nii.gz are the same channel" in twice.failures["B"]


def test_label_files_are_scored_whatever_their_endings_case(tmp_path):
    label = np.zeros((6, 6, 6), np.uint8)
    label[2:4, 2:4, 2:4] = 1
    for number, ending in enumerate(ENDINGS):
        plain = write(tmp_path / f"{number}{ending.lower()}", label, GRID)
        for side, own in (("truth", ending), ("found", ending.lower())):
            target = tmp_path / side / f"case{number}{own}"
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(plain.read_bytes())
    (tmp_path / "found" / "case9.img").write_text("x")
    (tmp_path / "truth" / "dataset.json").write_text(json.dumps({"labels": NAMES}))
    done = evaluate_folder(tmp_path / "found", tmp_path / "truth")
    assert {one.case for one in done.scores} == {f"case{n}" for n in range(len(ENDINGS))}
    assert {one.dice for one in done.scores if one.cls == "liver"} == {1.0}
    assert done.passed_over == (str(tmp_path / "found" / "case9.img"),) and not done.missing
    assert read_label_image(tmp_path / "truth" / "case0.NII.GZ").notes == ()
