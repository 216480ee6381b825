"""The parts of benchmarks/nnunet that need no nnU-Net: its raw layout, the jobs, MONAI's judgement,
and the table of the stored records."""

import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from unpaired.datasets.dataset import Case, Dataset
from unpaired.datasets.split_file import Split
from unpaired.errors import DataError
from unpaired.files import read_json
from unpaired.metrics import score

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "benchmarks" / "nnunet"
sys.path.insert(0, str(FOLDER))
import monai_scores  # noqa: E402
import raw  # noqa: E402
import rows  # noqa: E402
import table  # noqa: E402

sys.path.remove(str(FOLDER))

NUMBERS = {
    "ct": {"background": 0, "liver": 7, "spleen": 3},
    "mr": {"background": 0, "spleen": 200, "liver": 90},
}
AFFINE = np.diag([1.5, 2.0, 3.0, 1.0])
SPLIT = Split(
    train={"ct": ("a",), "mr": ("a",)}, val={"ct": (), "mr": ("b",)}, test={"ct": ("b",), "mr": ()}
)


@pytest.fixture
def datasets(tmp_path: Path) -> dict[str, Dataset]:
    """Two cases a modality, of one anatomy under two numberings; equal ids in both."""
    found = {}
    for m, numbers in NUMBERS.items():
        cases = []
        for place, name in enumerate("ab"):
            values = np.zeros((4, 5, 3), np.int16)
            values[1, 1 : 3 + place], values[2, 2] = numbers["liver"], numbers["spleen"]
            paths = tmp_path / m / f"{name}_0000.nii.gz", tmp_path / m / f"{name}.nii.gz"
            paths[0].parent.mkdir(exist_ok=True)
            for path in paths:
                nib.save(nib.Nifti1Image(values, AFFINE), path)
            cases.append(Case(name, m, (paths[0],), paths[1], patient=f"{m}{name}"))
        found[m] = Dataset(m, tmp_path / m, (m.upper(),), numbers, tuple(cases))
    return found


def test_modalities_are_mixed_under_one_numbering_and_one_channel(datasets, tmp_path):
    mixed = raw.raw_sets(["ct", "mr"])[raw.MIXED]
    root = raw.write_raw(mixed, datasets, SPLIT, tmp_path / "raw")
    about = read_json(root / "dataset.json")
    assert about["labels"] == {"background": 0, "spleen": 1, "liver": 2}
    assert about["channel_names"] == {"0": "mixed"} and about["numTraining"] == 3
    assert read_json(root / "splits_final.json") == [
        {"train": ["ct__a", "mr__a"], "val": ["mr__b"]}
    ]
    ct, mr = (nib.load(root / "labelsTr" / f"{m}__a.nii.gz") for m in ("ct", "mr"))
    assert np.array_equal(np.asarray(ct.dataobj), np.asarray(mr.dataobj))
    assert np.allclose(ct.affine, AFFINE)
    assert np.asarray(ct.dataobj)[1, 1, 0] == 2 and np.asarray(ct.dataobj)[2, 2, 0] == 1
    assert not list(root.rglob("*ct__b*")), "a test case among the training cases"


def test_one_modality_keeps_the_channel_that_nnunet_normalises_by(datasets, tmp_path):
    root = raw.write_raw(raw.raw_sets(["ct", "mr"])["ct"], datasets, SPLIT, tmp_path / "raw")
    assert read_json(root / "dataset.json")["channel_names"] == {"0": "CT"}
    assert [p.name for p in (root / "imagesTr").iterdir()] == ["ct__a_0000.nii.gz"]


def test_voxels_that_nobody_annotated_have_nnunets_last_label(datasets, tmp_path):
    ct = datasets["ct"]
    marked = Dataset(
        "ct", ct.root, ct.channel_names, {"background": 0, "liver": 7}, ct.cases, ignore=3
    )
    root = raw.write_raw(raw.raw_sets(["ct"])["ct"], {"ct": marked}, SPLIT, tmp_path / "raw")
    assert read_json(root / "dataset.json")["labels"] == {"background": 0, "liver": 1, "ignore": 2}
    assert np.asarray(nib.load(root / "labelsTr" / "ct__a.nii.gz").dataobj)[2, 2, 0] == 2


def test_every_row_costs_the_same():
    jobs = rows.jobs_of("d", ["ct", "mr"], [*rows.ROWS], 2, 10, "test", {"nnunet": {}, "ours": {}})
    for row in rows.ROWS:
        for seed in (0, 1):
            own = [job for job in jobs if job.row.name == row and job.seed == seed]
            assert sum(job.minutes for job in own) == 20
            assert sorted(m for job in own for m in job.modalities) == ["ct", "mr"]
    assert len({job.name for job in jobs}) == len({job.identity for job in jobs}) == len(jobs)


def test_monai_and_we_judge_alike_on_cropped_classes(tmp_path):
    rng = np.random.default_rng(0)
    truth = np.zeros((20, 18, 9), np.uint8)
    truth[2:9, 3:12, 0:5], truth[10:16, 4:9, 2:8] = 1, 2
    found = np.where(rng.random(truth.shape) < 0.1, 0, np.roll(truth, 1, axis=1))
    path = tmp_path / "found.nii.gz"
    nib.save(nib.Nifti1Image(found.astype(np.uint8), AFFINE), path)
    classes = ("background", "one", "two", "three")
    theirs = monai_scores.score_case(path, truth, AFFINE, classes)
    for one, ours in zip(theirs, score(found, truth, classes, (1.5, 2.0, 3.0)), strict=True):
        mine = ours.dice, ours.asd_mm, ours.hd95_mm, ours.nsd
        np.testing.assert_allclose(one[1:], mine, atol=1e-5, err_msg=one.cls)


def test_a_prediction_on_another_grid_is_refused(tmp_path):
    path = tmp_path / "found.nii.gz"
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4)), path)
    with pytest.raises(DataError, match="grid of its own"):
        monai_scores.score_case(path, np.zeros((3, 3, 3), np.uint8), AFFINE, ("background", "a"))


def stored(folder: Path, row: str, network: str, own: tuple[str, ...], dice: float) -> rows.Job:
    """Three cases; a class is found in them, one is missed, and one is not there."""
    job = rows.Job("toy", rows.ROWS[row], network, own, 0, 1.0 * len(own), "test", {})
    rest = {"missed": [0.0, None, None, 0.0], "absent": [None] * 4}
    scores = {m: {c: {"liver": [dice + 0.01 * i, 1.0, 2.0, 0.9], **rest}
                  for i, c in enumerate("abc")} for m in own}  # fmt: skip
    found = {"steps": 5, "parameters": 10, "training_seconds": 60.0, "plan": None,
             "versions": {"torch": "1"}, "scores": scores}  # fmt: skip
    rows.store(job, found, folder)
    return job


def test_the_table_pairs_ours_with_every_row_by_case(tmp_path):
    job = stored(tmp_path, "nnunet-alone", "ct", ("ct",), 0.70)
    stored(tmp_path, "nnunet-alone", "mr", ("mr",), 0.75)
    stored(tmp_path, "ours-joint", raw.MIXED, ("ct", "mr"), 0.80)
    table.write_page(tmp_path, tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert "| nnU-Net, one a modality | 35.5 " in text, (
        "mean over a, b and c and both classes, absent class left out"
    )
    assert "| nnU-Net, one a modality | ct | +5.0 | +5.0 to +5.0 | 3 | 1 |" in text
    assert "| nnU-Net, one a modality | mr | +2.5 |" in text
    table.write_page(tmp_path, tmp_path / "page.md")
    assert (tmp_path / "page.md").read_text() == text, "a second writing changes the page"
    assert rows.is_done(job, tmp_path)


def test_a_record_of_other_settings_is_not_taken_for_this_one(tmp_path):
    job = stored(tmp_path, "nnunet-alone", "ct", ("ct",), 0.70)
    other = rows.Job(*(*vars(job).values(),)[:-1], {"batch": 2})
    with pytest.raises(DataError, match="other settings"):
        rows.is_done(other, tmp_path)


def test_the_section_of_the_benchmarks_page_is_that_of_the_stored_records(tmp_path):
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    stored_section = table.section(table.read_records(table.STORE))
    assert f"<!-- begin nnunet -->\n{stored_section}\n<!-- end nnunet -->" in page


@pytest.mark.parametrize("name", ["phantom", "mscmr", "sts"])
def test_no_test_case_was_read_when_the_recipe_was_chosen(name, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    from default_recipe import PARTS, make_folds

    (fold,) = read_json(FOLDER / "splits" / f"{name}.json")
    cases: dict[str, list[str]] = {}
    for text in sorted(text for part in fold.values() for text in part):
        modality, case = text.split("/")
        cases.setdefault(modality, []).append(case)
    (chosen,) = make_folds(cases, PARTS[name], 1)
    assert {part: sorted(ids) for part, ids in chosen.items()} == fold
