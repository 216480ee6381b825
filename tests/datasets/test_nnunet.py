"""The nnU-Net layout: what is read, and each fault as one message."""

import json
from pathlib import Path

import numpy as np
import pytest

from nifti_files import affine, dataset, noise, save
from unpaired.datasets.dataset import Dataset, class_names, value_table
from unpaired.datasets.nnunet import check_ids
from unpaired.datasets.sources import SOURCES, open_dataset
from unpaired.errors import DataError


def plain(cases=("a", "b"), channels=1):
    label = np.zeros((9, 8, 7), np.uint8)
    return {case: ([noise(seed=i) for i in range(channels)], label, affine()) for case in cases}


def about(root, **changes):
    """Change dataset.json; None removes a key."""
    file = root / "dataset.json"
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    return root


def fake(root, *names, labels=()):
    """Empty files under the names, for tests that never read a voxel."""
    for folder, files in (("imagesTr", names), ("labelsTr", labels)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        for name in files:
            (root / folder / name).write_bytes(b"")
    (root / "dataset.json").write_text(
        json.dumps({"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}})
    )
    return root


@pytest.mark.parametrize("ending", [".nii.gz", ".nii"])
def test_cases_channels_and_labels(tmp_path, ending):
    dataset(tmp_path, plain("ba", 2), channels=("T1", "T2"), ending=ending)
    save(tmp_path / "imagesTs" / f"x_0000{ending}", noise())
    save(tmp_path / "imagesTs" / f"x_0001{ending}", noise())
    found = open_dataset("mr", tmp_path)
    assert found == SOURCES["nnunet"]("mr", tmp_path)
    assert found.channel_names == ("T1", "T2")
    assert found.labels == {"background": 0, "liver": 1, "spleen": 2}
    assert [case.id for case in found.cases] == ["a", "b", "x"]
    first, _, test = found.cases
    names = (f"a_0000{ending}", f"a_0001{ending}")
    assert first.images == tuple(tmp_path / "imagesTr" / name for name in names)
    assert first.label == tmp_path / "labelsTr" / f"a{ending}"
    assert (first.modality, first.patient) == ("mr", "a")
    assert test.label is None
    assert [case.held_out for case in found.cases] == [False, False, True]


def test_labels_of_the_test_cases(tmp_path):
    dataset(tmp_path, plain())
    save(tmp_path / "imagesTs" / "x_0000.nii.gz", noise())
    truth = save(tmp_path / "labelsTs" / "x.nii.gz", noise(dtype=np.uint8))
    cases = open_dataset("ct", tmp_path).cases
    assert cases[-1].label == truth
    assert [case.id for case in cases if case.held_out] == ["x"]


def test_old_json(tmp_path):
    dataset(tmp_path, plain())
    old = {"0": "background", "7": "liver", "3": "right kidney"}
    about(tmp_path, channel_names=None, modality={"0": "CT"}, labels=old)
    found = open_dataset("ct", tmp_path)
    assert found.channel_names == ("CT",)
    assert found.labels == {"background": 0, "liver": 7, "right kidney": 3}


def test_missing_background_is_added_and_text_numbers_are_read(tmp_path):
    about(dataset(tmp_path, plain()), labels={"liver": "1", "spleen": 205})
    assert open_dataset("ct", tmp_path).labels == {"background": 0, "liver": 1, "spleen": 205}


def test_hidden_files_are_ignored(tmp_path):
    dataset(tmp_path, plain())
    for folder in ("imagesTr", "labelsTr"):
        for name in ("._a_0000.nii.gz", ".DS_Store", "Thumbs.db", "notes.txt", ".a.12.nii.gz"):
            (tmp_path / folder / name).write_bytes(b"x")
    assert [case.id for case in open_dataset("ct", tmp_path).cases] == ["a", "b"]


def test_byte_order_mark(tmp_path):
    dataset(tmp_path, plain())
    file = tmp_path / "dataset.json"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert len(open_dataset("ct", tmp_path).cases) == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"channel_names": None}, "channel_names"),
        ({"channel_names": []}, "channel_names"),
        ({"channel_names": {"1": "CT"}}, "numbered 0, 1"),
        ({"labels": None}, '"labels"'),
        ({"labels": {"background": 0}}, "no class beside"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "'a' and 'b' share"),
        ({"labels": {"background": 0, "a": 1.5}}, "integer, not 1.5"),
        ({"labels": {"background": 0, "a": True}}, "integer, not True"),
        ({"labels": {"background": 0, "a": None}}, "integer, not None"),
        ({"labels": {"background": 0, "a": -1}}, "not in 0 to"),
        ({"labels": {"background": 0, "a": 10**9}}, "not in 0 to"),
        ({"labels": {"background": 0, "whole": [1, 2]}}, "region-based training is not supported"),
        ({"labels": {"background": 0, "ignore": 2}}, "no class beside"),
        ({"labels": {"a": 1, "ignore": 0}}, "'ignore' cannot have the value 0"),
        ({"labels": {"a": 1, "Ignore": 1}}, "'a' and 'Ignore' share"),
        ({"labels": {"0": "background", "1": "a", "2": "a"}}, "stands for two values"),
        (
            {"labels": {"background": 0, "Left kidney": 1, "left_kidney": 2}},
            "'Left kidney' and 'left_kidney' are one name",
        ),
        ({"labels": {"0": "background", "1": "a b", "2": "A-b"}}, "'a b' and 'A-b' are one"),
        ({"labels": {"Background": 2, "a": 1}}, "'Background' must have the value 0, not 2"),
        ({"labels": {"void": 0, "background": 1, "a": 2}}, "'background' must have the value 0"),
    ],
)
def test_faults_of_the_json(tmp_path, changes, words):
    about(dataset(tmp_path, plain()), **changes)
    with pytest.raises(DataError, match=words) as caught:
        open_dataset("ct", tmp_path)
    assert "dataset.json" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"labels": {}, "labels": {}}', "twice"),
        ('{"labels": {"a": NaN}}', "NaN"),
        ("[1, 2]", "one JSON object"),
        ("", "not valid JSON"),
    ],
)
def test_text_of_the_json(tmp_path, text, words):
    dataset(tmp_path, plain())
    (tmp_path / "dataset.json").write_text(text)
    with pytest.raises(DataError, match=words):
        open_dataset("ct", tmp_path)


def test_missing_json_or_images(tmp_path):
    (tmp_path / "imagesTr").mkdir()
    with pytest.raises(DataError, match=r"dataset\.json does not exist"):
        open_dataset("ct", tmp_path)
    with pytest.raises(DataError, match="holds no <case>_0000"):
        open_dataset("ct", fake(tmp_path))


@pytest.mark.parametrize(
    ("images", "labels", "words"),
    [
        (["a_0000.nii", "a_0000.nii.gz"], ["a.nii"], "lies beside"),
        (["a_0000.nii"], ["a.nii", "a.nii.gz"], "lies beside"),
        (["a_0000.nii", "b_0000.nii"], ["a.nii"], "no label in labelsTr for b"),
        (["a_0000.nii"], ["a.nii", "b.nii", "c.nii"], "labelsTr has b, c without an image"),
        (["a.nii"], ["a.nii"], "must end in the channel's number"),
        (["a_0001.nii"], ["a.nii"], "a has 0001"),
        (["a_0000.nii", "a_0001.nii"], ["a.nii"], "a has 0000, 0001"),
        (["a_0000.nii", "A_0000.nii"], ["a.nii", "A.nii"], "differ only"),
        (["CON_0000.nii"], ["CON.nii"], "no safe file name"),
        ([".._0000.nii"], [], "holds no <case>_0000"),
        (["nul.x_0000.nii"], ["nul.x.nii"], "no safe file name"),
        (["a\\b_0000.nii"], ["a\\b.nii"], "no safe file name"),
        (["c:x_0000.nii"], ["c:x.nii"], "no safe file name"),
    ],
)
def test_faults_of_the_files(tmp_path, images, labels, words):
    with pytest.raises(DataError, match=words):
        open_dataset("ct", fake(tmp_path, *images, labels=labels))


@pytest.mark.parametrize(
    "case", ["../a", "/etc/x", "..", ".", "", "a/b", "COM1", "lpt9.old", "a\0"]
)
def test_unsafe_ids(case):
    with pytest.raises(DataError, match="no safe file name"):
        check_ids([case], Path("x"))
    check_ids(["a.b", "case-01", "con1", "Ärzte", "a b"], Path("x"))


def test_the_same_case_in_training_and_test(tmp_path):
    fake(tmp_path, "a_0000.nii", labels=["a.nii"])
    (tmp_path / "imagesTs").mkdir()
    (tmp_path / "imagesTs" / "A_0000.nii").write_bytes(b"")
    with pytest.raises(DataError, match="in imagesTr and in imagesTs"):
        open_dataset("ct", tmp_path)


def test_folder_that_is_not_there(tmp_path):
    (tmp_path / "abdomen_ct").mkdir()
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match="Did you mean 'abdomen_ct'"):
        open_dataset("ct", tmp_path / "abdomen_c")
    with pytest.raises(DataError, match="holds: abdomen_ct, other"):
        open_dataset("ct", tmp_path / "zzz")
    with pytest.raises(DataError, match="does not exist"):
        open_dataset("ct", tmp_path / "zzz" / "deep" / "er")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="is a file"):
        open_dataset("ct", tmp_path / "file")


def test_a_relative_folder_that_is_not_there(tmp_path, monkeypatch):
    (tmp_path / "abdomen_ct").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="Did you mean 'abdomen_ct'"):
        open_dataset("ct", Path("abdomen-ct"))


def test_a_folder_of_data_sets_or_of_nothing(tmp_path):
    with pytest.raises(DataError, match=r"neither dataset\.json nor imagesTr"):
        open_dataset("ct", tmp_path)
    dataset(tmp_path / "ct", plain())
    dataset(tmp_path / "mr", plain())
    with pytest.raises(DataError, match=r"Did you mean .*ct, .*mr"):
        open_dataset("ct", tmp_path)


# ---- classes shared by data sets


def labelled(modality, **labels):
    return Dataset(modality, Path(modality), ("x",), {"background": 0, **labels}, ())


def test_shared_names_and_values():
    ct = labelled("ct", liver=6, spleen=2, Left_Kidney=9)
    mr = labelled("mr", **{"left-kidney": 1, "LIVER": 63, "aorta": 4})
    classes = class_names({"ct": ct, "mr": mr})
    assert classes == ("background", "liver", "left kidney")
    assert value_table(ct, classes) == {0: 0, 6: 1, 2: 0, 9: 2}
    assert value_table(mr, classes) == {0: 0, 1: 2, 63: 1, 4: 0}


def test_one_data_set_keeps_all_its_classes_by_value():
    assert class_names({"ct": labelled("ct", b=9, a=4)}) == ("background", "a", "b")


def test_nothing_shared_says_what_was_meant():
    with pytest.raises(DataError, match="mr's 'livr' and 'liver'"):
        class_names({"ct": labelled("ct", liver=1), "mr": labelled("mr", livr=1)})
    with pytest.raises(DataError, match=r"ct: liver; mr: heart"):
        class_names({"ct": labelled("ct", liver=1), "mr": labelled("mr", heart=1)})
    with pytest.raises(DataError, match="no data set"):
        class_names({})


def test_real_data_sets(shared):
    root = shared("data/torso")
    found = {m: open_dataset(m, root / m) for m in ("ct", "mr")}
    assert class_names(found) == ("background", "liver", "right kidney", "left kidney", "spleen")
    sts = open_dataset("mr", shared("data/sts") / "mr")
    assert len(sts.cases) == 20
    assert all(case.label is not None and case.label.is_file() for case in sts.cases)
