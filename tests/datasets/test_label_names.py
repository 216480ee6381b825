"""One reader of label names for every verb: value -> name, name -> value, and `ignore`."""

import json

import numpy as np
import pytest

from nifti_files import save
from unpaired.api.data import make_dataset
from unpaired.checks.check import examine_roots
from unpaired.datasets.dataset import IGNORED, class_names, foreground_values, value_table
from unpaired.datasets.dataset_json import LabelNames, label_names
from unpaired.datasets.sources import open_dataset
from unpaired.errors import DataError
from unpaired.evaluation.scores import evaluate_folder, read_label_names

GRID = np.diag([-2.0, -2.0, 2.0, 1.0])
FORMS = {
    "nnU-Net 2": {"background": 0, "liver": 1, "left kidney": 2, "ignore": 3},
    "nnU-Net 1": {"0": "background", "1": "liver", "2": "left kidney", "3": "ignore"},
    "no background": {"1": "liver", "2": "left_kidney", "3": "Ignore"},
    "one value in a list": {"background": 0, "liver": [1], "left-kidney": [2], "IGNORE": [3]},
    "texts": {"background": "0", "liver": "1", "left kidney": "2", "ignore": "3"},
}


def label():
    """Every value, in known numbers."""
    array = np.zeros((8, 8, 10), np.uint8)
    array[2:6, 2:6, 2:8] = 1
    array[6:8, 2:4, 2:8] = 2
    array[:, :, 8:] = 3
    return array


def nnunet(root, labels):
    rng = np.random.default_rng(5)
    for case in "ab":
        image = rng.integers(-900, 100, label().shape).astype(np.int16)
        save(root / "imagesTr" / f"{case}_0000.nii.gz", image, GRID)
        save(root / "labelsTr" / f"{case}.nii.gz", label(), GRID)
    write_about(root, labels)
    return root


def write_about(root, labels, **more):
    about = {"channel_names": {"0": "CT"}, "labels": labels, **more}
    (root / "dataset.json").write_text(json.dumps(about))


def decathlon(root, labels):
    folder = nnunet(root, labels)
    listed = []
    for case in "ab":
        (folder / "imagesTr" / f"{case}_0000.nii.gz").rename(folder / "imagesTr" / f"{case}.nii.gz")
        listed.append({"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"})
    write_about(root, labels, training=listed)
    return folder


def manifest(root, labels):
    folder = nnunet(root, labels)
    lines = ["case,image,label,modality"]
    lines += [f"{c},imagesTr/{c}_0000.nii.gz,labelsTr/{c}.nii.gz,ct" for c in "ab"]
    (folder / "scans.csv").write_text("\n".join(lines))
    (folder / "dataset.json").rename(folder / "scans.json")
    return folder / "scans.csv"


def bids(root, labels):
    folder = nnunet(root, labels)
    (folder / "dataset.json").unlink()
    for case in "ab":
        anat = folder / f"sub-{case}" / "anat"
        anat.mkdir(parents=True)
        (folder / "imagesTr" / f"{case}_0000.nii.gz").rename(anat / f"sub-{case}_T1w.nii.gz")
        (folder / "labelsTr" / f"{case}.nii.gz").rename(anat / f"sub-{case}_dseg.nii.gz")
    for name in ("imagesTr", "labelsTr"):
        (folder / name).rmdir()
    rows = ["index\tname", "1\tliver", "2\tleft kidney", "3\tignore"]
    (folder / "dseg.tsv").write_text("\n".join(rows))
    return folder


@pytest.mark.parametrize("labels", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("layout", [nnunet, decathlon, manifest, bids])
def test_every_layout_reads_every_form(tmp_path, layout, labels):
    dataset = open_dataset("ct", layout(tmp_path, labels))
    classes = class_names({"ct": dataset})
    assert classes == ("background", "liver", "left kidney") and dataset.ignore == 3
    assert value_table(dataset, classes) == {0: 0, 1: 1, 2: 2, 3: IGNORED}
    assert sorted(foreground_values(dataset, classes)) == [1, 2]


@pytest.mark.parametrize("labels", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("where", ["truth", "truth/labelsTr", "found"])
def test_evaluate_reads_what_train_reads(tmp_path, labels, where):
    """The folder's own names, those beside it, or those of the predictions."""
    truth = tmp_path / "truth" / "labelsTr"
    for folder in (truth, tmp_path / "found"):
        save(folder / "a.nii.gz", label(), GRID)
    write_about(tmp_path / where, labels)
    done = evaluate_folder(tmp_path / "found", truth)
    assert {(one.cls, one.dice) for one in done.scores} == {("liver", 1.0), ("left kidney", 1.0)}
    assert {one.cls: one.truth_voxels for one in done.scores} == {"liver": 96, "left kidney": 24}


def test_the_recipe_the_ignore_label_is_no_organ(tmp_path):
    """Truth: liver in slices 2-7, ignore in 8-9; prediction: liver in 2-9."""
    truth = np.zeros((8, 8, 10), np.uint8)
    truth[2:6, 2:6, 2:8] = 1
    found = truth.copy()
    found[2:6, 2:6, 8:] = 1
    truth[:, :, 8:] = 3
    save(tmp_path / "set" / "labelsTr" / "a.nii.gz", truth, GRID)
    save(tmp_path / "found" / "a.nii.gz", found, GRID)
    write_about(tmp_path / "set", {"background": 0, "liver": 1, "ignore": 3})
    (one,) = evaluate_folder(tmp_path / "found", tmp_path / "set" / "labelsTr").scores
    assert (one.cls, one.dice, one.asd_mm, one.hd95_mm, one.nsd) == ("liver", 1.0, 0.0, 0.0, 1.0)
    assert one.prediction_voxels == one.truth_voxels == 4 * 4 * 6


def test_a_prediction_that_says_ignore_says_no_class(tmp_path):
    """Between two readers: what the second did not annotate is missed, not left out."""
    truth, found = label(), label()
    found[2:4, 2:6, 2:8] = 3
    for folder, array in (("truth", truth), ("found", found)):
        save(tmp_path / folder / "a.nii.gz", array, GRID)
        write_about(tmp_path / folder, FORMS["nnU-Net 2"])
    liver, kidney = evaluate_folder(tmp_path / "found", tmp_path / "truth").scores
    assert liver.dice == pytest.approx(2 * 48 / (48 + 96)) and kidney.dice == 1.0


@pytest.mark.parametrize(
    ("about", "words"),
    [
        ({"labels": {"liver": 1, "whole": [1, 2]}}, "is a region"),
        ({"labels": {"liver": 1.5}}, "must be an integer, not 1.5"),
        ({"name": "x"}, 'add "labels"'),
        ([], "must be one JSON object"),
    ],
)
def test_evaluate_refuses_what_train_refuses(tmp_path, about, words):
    (tmp_path / "dataset.json").write_text(json.dumps(about))
    with pytest.raises(DataError, match=words):
        read_label_names(tmp_path)


def test_names_are_written_as_they_are_read(tmp_path):
    names = label_names({"labels": FORMS["nnU-Net 1"]}, tmp_path)
    assert names == LabelNames({"background": 0, "liver": 1, "left kidney": 2}, 3)
    assert label_names({"labels": names.as_written}, tmp_path) == names
    assert LabelNames({"a": 1}).as_written == {"a": 1}


def test_check_knows_the_value_and_says_how_much_it_marks(tmp_path):
    root = nnunet(tmp_path / "ct", FORMS["nnU-Net 2"])
    all_of_it = np.full_like(label(), 3)
    save(root / "labelsTr" / "b.nii.gz", all_of_it, GRID)
    found = {f.kind: f for f in examine_roots({"ct": root}).findings}
    assert "label-value" not in found
    assert found["ignore"].what == "`ignore` marks 60 % of the voxels, in 2 of 2 labels"
    assert found["label-empty"].what == "every voxel of the label is `ignore`"
    assert not [f for f in found.values() if "ignore'" in f.what]


def test_scans_in_memory_may_have_it_too(tmp_path):
    image = np.random.default_rng(0).normal(size=label().shape).astype(np.float32)
    made = make_dataset(
        {"a": image},
        {"a": label()},
        classes={"liver": 1, "left kidney": 2, "ignore": 3},
        spacing_mm=(1, 1, 1),
    )
    dataset = open_dataset("mr", made.write(tmp_path / "mr"))
    assert dataset.labels == {"background": 0, "liver": 1, "left kidney": 2}
    assert dataset.ignore == 3 and "ignore" not in repr(made)
