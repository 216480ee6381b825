"""Each official layout in miniature comes out voxel for voxel in patient millimetres."""

import gzip
import json
import re
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from datasets import miniatures as mini
from datasets.abdomen import assert_true, grid, image, organs
from datasets.importing import ids, imported
from nifti_files import dataset, save
from unpaired.checks.check import check
from unpaired.datasets import amos_total, mmwhs_btcv
from unpaired.datasets.dataset import class_names
from unpaired.datasets.locate import plain_name
from unpaired.datasets.sources import IMPORTS, open_dataset
from unpaired.errors import DataError, UsageError
from unpaired.importing.run import ImportOptions
from unpaired.io.read import read_label_image


def sound(opened):
    """`unpaired check` finds no error in what was imported."""
    found = [f for f in check(opened) if f.severity == "error"]
    assert not found, found


def test_mmwhs(tmp_path):
    outcome, opened = imported("mmwhs", mini.write_mmwhs(tmp_path / "in"), tmp_path / "out")
    assert set(opened) == {"ct", "mr"}
    for key, found in opened.items():
        assert ids(found) == [f"{key}_train_{n}" for n in (1001, 1003, 1007)]
        assert ids(found, held_out=True) == [f"{key}_test_2001"]
        assert found.labels == mmwhs_btcv.MMWHS_LABELS
        assert found.channel_names == ({"ct": "CT", "mr": "MR"}[key],)
        for case in found.cases:
            assert_true(case, mini.HEART)
    assert outcome.notes == {"mr/mr_train_1001": ["1 voxels of value 421 became 420"]}
    sound(opened)
    patients = [{c.patient for c in found.cases} for found in opened.values()]
    assert not patients[0] & patients[1]


def test_mmwhs_splits_as_the_literature_does(tmp_path):
    archive = mini.write_mmwhs(tmp_path / "in")
    _, opened = imported("mmwhs", archive, tmp_path / "out", literature_split=True)
    assert ids(opened["ct"], held_out=True) == ["ct_test_2001", "ct_train_1003"]
    assert ids(opened["mr"], held_out=True) == ["mr_test_2001", "mr_train_1007"]
    labelled = [c.id for c in opened["ct"].cases if c.held_out and c.label is not None]
    assert labelled == ["ct_train_1003"]
    assert (tmp_path / "out/mr/labelsTs/mr_train_1007.nii.gz").is_file()


def test_btcv(tmp_path):
    outcome, opened = imported("btcv", mini.write_btcv(tmp_path / "in"), tmp_path / "out")
    found = opened["ct"]
    assert ids(found) == ["btcv_0001", "btcv_0002", "btcv_0009"]
    assert ids(found, held_out=True) == ["btcv_0061"]
    assert found.labels == mmwhs_btcv.BTCV_LABELS
    for case in found.cases:
        assert_true(case, mmwhs_btcv.BTCV_LABELS)
    assert not outcome.notes
    sound(opened)


def test_btcv_names_what_has_no_partner(tmp_path):
    archive = mini.write_btcv(tmp_path / "in")
    (archive / "RawData/Training/label/label0002.nii.gz").unlink()
    (archive / "RawData/Training/img/img0009.nii.gz").unlink()
    outcome, opened = imported("btcv", archive, tmp_path / "out")
    assert outcome.dropped == [
        "img0002: no label0002 beside it",
        "label0009: no img0009 beside it",
    ]
    assert ids(opened["ct"]) == ["btcv_0001"]


def test_btcv_splits_as_the_literature_does(tmp_path):
    archive = mini.write_btcv(tmp_path / "in")
    _, opened = imported("btcv", archive, tmp_path / "out", literature_split=True)
    assert ids(opened["ct"]) == ["btcv_0002"]
    assert ids(opened["ct"], held_out=True) == ["btcv_0001", "btcv_0009", "btcv_0061"]


@pytest.mark.parametrize("about", [True, False])
def test_amos(tmp_path, about):
    outcome, opened = imported("amos", mini.write_amos(tmp_path / "in", about), tmp_path / "out")
    assert ids(opened["ct"]) == ["amos_0001", "amos_0004", "amos_0008"]
    assert ids(opened["mr"]) == ["amos_0507", "amos_0554"]
    assert ids(opened["ct"], held_out=True) == ["amos_0500"]
    assert ids(opened["mr"], held_out=True) == ["amos_0600"]
    values = {name: value for value, name in enumerate(amos_total.NAMES)}
    for found in opened.values():
        assert found.labels == values
        for case in found.cases:
            assert_true(case, values)
    assert outcome.splits == tmp_path / "out" / "splits_final.json"
    (fold,) = json.loads(outcome.splits.read_text())
    assert fold["val"] == ["ct/amos_0008", "mr/amos_0554"]
    sound(opened)


def test_labelled_test_scans_are_for_testing(tmp_path):
    archive = mini.write_amos(tmp_path / "in")
    values = {name: value for value, name in enumerate(amos_total.NAMES)}
    mini.truth(archive / "amos22/labelsTs/amos_0500.nii.gz", grid(500, mini.TURNS[0]), values)
    outcome, _ = imported("amos", archive, tmp_path / "out")
    (fold,) = json.loads(outcome.splits.read_text())
    assert fold["test"] == ["ct/amos_0500"]


def test_values_as_published():
    """MM-WHS by its organisers, BTCV by nnU-Net's Task017."""
    assert {v: n for n, v in mmwhs_btcv.MMWHS_LABELS.items()} == {
        0: "background", 205: "myocardium", 420: "left atrium", 500: "left ventricle",
        550: "right atrium", 600: "right ventricle", 820: "ascending aorta",
        850: "pulmonary artery",
    }  # fmt: skip
    assert sorted(mmwhs_btcv.BTCV_LABELS, key=mmwhs_btcv.BTCV_LABELS.__getitem__) == [
        "background", "spleen", "right kidney", "left kidney", "gallbladder", "esophagus",
        "liver", "stomach", "aorta", "inferior vena cava", "portal vein and splenic vein",
        "pancreas", "right adrenal gland", "left adrenal gland",
    ]  # fmt: skip


def test_amos_shares_classes_with_btcv_and_totalsegmentator(tmp_path):
    _, one = imported("btcv", mini.write_btcv(tmp_path / "a"), tmp_path / "x")
    _, two = imported("amos", mini.write_amos(tmp_path / "b"), tmp_path / "y")
    archive = mini.write_totalsegmentator(tmp_path / "c")
    _, three = imported("totalsegmentator", archive, tmp_path / "z")
    shared = class_names({"a": one["ct"], "b": two["mr"]})
    assert {"gallbladder", "aorta", "inferior vena cava", "left kidney"} < set(shared)
    shared = class_names({"a": two["ct"], "b": three["ct"]})
    assert shared == ("background", "spleen", "right kidney", "left kidney", "liver")


def test_amos_is_never_opened_as_it_is(tmp_path):
    """Its dataset.json calls everything CT."""
    with pytest.raises(DataError, match="unpaired import amos"):
        open_dataset("ct", mini.write_amos(tmp_path) / "amos22")


@pytest.mark.parametrize(("name", "key"), [("ct.nii.gz", "ct"), ("mri.nii.gz", "mr")])
def test_totalsegmentator(tmp_path, name, key):
    archive = mini.write_totalsegmentator(tmp_path / "in", name)
    outcome, opened = imported("totalsegmentator", archive, tmp_path / "out")
    found = opened[key]
    assert found.labels == {
        "background": 0, "left kidney": 1, "liver": 2, "right kidney": 3, "spleen": 4,
    }  # fmt: skip
    assert ids(found) == ["s0000", "s0001", "s0002"]
    for case in found.cases:
        without = {"spleen"} if case.id == "s0001" else set()
        values = {n: v for n, v in found.labels.items() if n not in without}
        assert_true(case, values)
    (fold,) = json.loads(outcome.splits.read_text())
    assert fold == {"train": [f"{key}/s0000"], "val": [f"{key}/s0001"], "test": [f"{key}/s0002"]}
    sound(opened)


def test_totalsegmentator_takes_some_organs_and_its_own_test_part(tmp_path):
    archive = mini.write_totalsegmentator(tmp_path / "in")
    options = ImportOptions(classes=("spleen", "kidney_left"))
    _, opened = imported(
        "totalsegmentator", archive, tmp_path / "out", options, literature_split=True
    )
    assert opened["ct"].labels == {"background": 0, "left kidney": 1, "spleen": 2}
    assert ids(opened["ct"], held_out=True) == ["s0002"]
    with pytest.raises(UsageError, match="Did you mean 'spleen'"):
        imported("totalsegmentator", archive, tmp_path / "no", ImportOptions(classes=("splen",)))


def test_overlapping_masks_are_counted(tmp_path):
    archive = mini.write_totalsegmentator(tmp_path / "in", subjects=("s0000",))
    masks = archive / "s0000" / "segmentations"
    liver = nib.load(masks / "liver.nii.gz")
    save(masks / "aorta.nii.gz", np.asarray(liver.dataobj), liver.affine)
    outcome, opened = imported("totalsegmentator", archive, tmp_path / "out")
    count = int(np.count_nonzero(np.asarray(liver.dataobj)))
    text = f"{count} voxels lay in two organs; the later one stays"
    assert outcome.notes == {"ct/s0000": [text]}
    (case,) = opened["ct"].cases
    assert_true(case, opened["ct"].labels)  # aorta comes before liver


def test_decathlon(tmp_path):
    archive = mini.write_decathlon(tmp_path / "in")
    _, opened = imported("decathlon", archive, tmp_path / "out")
    direct = open_dataset("ct", archive / "Task09_Toy")
    for found in (opened["ct"], direct):
        assert ids(found) == ["toy_1", "toy_2"]
        assert ids(found, held_out=True) == ["toy_3"]
        assert found.labels == {"background": 0, **mini.DECATHLON}
        assert found.channel_names == ("CT",)
        for case in found.cases:
            assert_true(case, mini.DECATHLON)
    assert direct.cases[0].images[0] == archive / "Task09_Toy/imagesTr/toy_1.nii.gz"
    sound(opened)


def test_decathlon_parts_four_dimensions_into_channels(tmp_path):
    archive = mini.write_decathlon(tmp_path / "in", ("FLAIR", "T1w", "T2w"))
    _, opened = imported("decathlon", archive, tmp_path / "out")
    found = opened["flair"]
    assert found.channel_names == ("FLAIR", "T1w", "T2w")
    for case in found.cases:
        assert len(case.images) == 3
        assert_true(case, mini.DECATHLON)
    sound(opened)
    with pytest.raises(DataError, match=r"3 channels.*unpaired import decathlon"):
        open_dataset("mr", archive / "Task09_Toy")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda a: a["training"][0].pop("label"), "needs an image and a label"),
        (lambda a: a["training"][1].update(image="./imagesTr/no.nii.gz"), "is not in that folder"),
        (lambda a: a["training"][1].update(label="../../x.nii.gz"), "is not in that folder"),
        (lambda a: a["training"].append(a["training"][0]), "'toy_1' twice"),
        (lambda a: a.update(test={"a": 1}), "must be a list"),
    ],
)
def test_faults_of_a_decathlon(tmp_path, spoil, words):
    base = mini.write_decathlon(tmp_path) / "Task09_Toy"
    about = json.loads((base / "dataset.json").read_text())
    spoil(about)
    (base / "dataset.json").write_text(json.dumps(about))
    with pytest.raises(DataError, match=words):
        open_dataset("ct", base)


def test_bids(tmp_path):
    archive = mini.write_bids(tmp_path / "in")
    _, opened = imported("bids", archive, tmp_path / "out")
    direct = open_dataset("anything", archive)
    for found in (opened["t1w"], direct):
        assert ids(found) == ["sub-01", "sub-02_ses-a", "sub-02_ses-b"]
        assert [c.patient for c in found.cases] == ["sub-01", "sub-02", "sub-02"]
        assert found.labels == {"background": 0, **mini.BIDS}
        assert found.channel_names == ("T1w",)
        for case in found.cases:
            assert_true(case, mini.BIDS)
    sound(opened)


def test_bids_kinds_are_chosen_by_the_name_of_the_modality(tmp_path):
    archive = mini.write_bids(tmp_path / "in", ("T1w", "T2w"))
    second = open_dataset("t2w", archive)
    assert {c.images[0].name for c in second.cases} >= {"sub-01_T2w.nii.gz"}
    for case in second.cases:
        assert_true(case, mini.BIDS, offset=10)
    with pytest.raises(DataError, match="T1w, T2w; name the modality after"):
        open_dataset("mr", archive)


def test_a_single_kind_of_bids_can_be_named(tmp_path):
    outcome, _ = imported("bids", mini.write_bids(tmp_path / "a"), tmp_path / "x",
                          ImportOptions(modality="mr"))  # fmt: skip
    assert outcome.folders == {"mr": tmp_path / "x" / "mr"}
    two = mini.write_bids(tmp_path / "b", ("T1w", "T2w"))
    with pytest.raises(UsageError, match="kinds T1w, T2w"):
        imported("bids", two, tmp_path / "y", ImportOptions(modality="mr"))


def test_bids_tables(tmp_path):
    archive = mini.write_bids(tmp_path / "in")
    derived = archive / "derivatives" / "manual"
    beside = derived / "sub-01" / "anat" / "sub-01_dseg.tsv"
    beside.write_text("index\tname\n100\tliver\n102\theart\n")
    with pytest.raises(DataError, match="different label tables"):
        open_dataset("t1w", archive)
    beside.write_text("number\tname\n1\tliver\n")
    with pytest.raises(DataError, match="columns index and name"):
        open_dataset("t1w", archive)
    beside.unlink()
    (derived / "dseg.tsv").unlink()
    assert open_dataset("t1w", archive).labels["gray matter"] == 1


def test_bids_refuses_two_segmentations(tmp_path):
    archive = mini.write_bids(tmp_path / "in")
    folder = archive / "derivatives/manual/sub-01/anat"
    (folder / "sub-01_seg-other_dseg.nii.gz").write_bytes(b"")
    with pytest.raises(DataError, match="several segmentations"):
        open_dataset("t1w", archive)


def regions(root, labels, cases):
    """An nnU-Net folder whose dataset.json names regions."""
    values = {"liver": 1, "spleen": 2, "right kidney": 3, "left kidney": 4}
    made = {}
    for number, name in enumerate(cases):
        matrix = grid(number, "RAS")
        made[name] = ([image(matrix)], organs(matrix, values), matrix)
    return dataset(root, made, labels=labels)


def test_regions_without_overlap_are_merged(tmp_path):
    labels = {"background": 0, "liver": [1], "spleen": 2, "kidneys": [3, 4]}
    archive = regions(tmp_path / "in", labels, "ab")
    with pytest.raises(DataError, match=r"'kidneys' is a region.*unpaired import nnunet"):
        open_dataset("ct", archive)
    outcome, opened = imported("nnunet", archive, tmp_path / "out")
    assert opened["ct"].labels == {"background": 0, "liver": 1, "spleen": 2, "kidneys": 3}
    merged = {"liver": 1, "spleen": 2, "right kidney": 3, "left kidney": 3}
    for case in opened["ct"].cases:
        assert_true(case, merged)
    assert any("became 3" in note for note in outcome.notes["ct/a"])


def test_regions_that_overlap_are_refused(tmp_path):
    labels = {"background": 0, "organs": [1, 2, 3, 4], "kidneys": [3, 4]}
    archive = regions(tmp_path / "in", labels, "a")
    with pytest.raises(DataError, match="'organs' and 'kidneys' share the value 3"):
        imported("nnunet", archive, tmp_path / "out")


def test_a_region_of_one_value_is_a_class(tmp_path):
    labels = {"background": 0, "liver": [1], "spleen": [2], "right kidney": 3, "left kidney": 4}
    assert open_dataset("ct", regions(tmp_path, labels, "a")).labels["spleen"] == 2


def test_the_ignore_label_is_imported_as_it_is(tmp_path):
    labels = {"background": 0, "liver": 1, "spleen": 2, "right kidney": 3, "left kidney": 4}
    archive = regions(tmp_path / "in", {**labels, "ignore": 5}, "ab")
    path = archive / "labelsTr" / "a.nii.gz"
    found = nib.load(path)
    array = np.asarray(found.dataobj).copy()
    array[0, 0, 0] = 5
    save(path, array, found.affine)
    assert open_dataset("ct", archive).ignore == 5
    outcome, opened = imported("nnunet", archive, tmp_path / "out")
    assert ids(opened["ct"]) == ["a", "b"] and not outcome.failed
    assert opened["ct"].labels == labels and opened["ct"].ignore == 5
    assert read_label_image(opened["ct"].cases[0].label).array[0, 0, 0] == 5


@pytest.mark.parametrize("other", [{"spleen": 3}, {"ignore": 3}])
def test_a_region_must_not_share_a_value_with_a_class_or_with_ignore(tmp_path, other):
    labels = {"background": 0, "kidneys": [2, 3], **other}
    archive = regions(tmp_path / "in", labels, "a")
    (name,) = other
    with pytest.raises(DataError, match=f"'kidneys' and '{name}' share the value 3"):
        imported("nnunet", archive, tmp_path / "out")


def test_the_modality_of_one_set_can_be_named(tmp_path):
    archive = regions(tmp_path / "in", {"liver": 1, "spleen": 2, "kidneys": [3, 4]}, "a")
    outcome, _ = imported("nnunet", archive, tmp_path / "out", ImportOptions(modality="portal"))
    assert outcome.folders == {"portal": tmp_path / "out" / "portal"}
    with pytest.raises(UsageError, match="says its modalities itself"):
        imported("btcv", archive, tmp_path / "no", ImportOptions(modality="portal"))


def test_patients_of_an_imported_set_are_read(tmp_path):
    archive = regions(tmp_path, {"liver": 1, "spleen": 2, "kidney": 3, "other kidney": 4}, "ab")
    file = archive / "dataset.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"patients": {"a": "p", "b": "p"}}))
    assert [case.patient for case in open_dataset("ct", archive).cases] == ["p", "p"]
    file.write_text(json.dumps(json.loads(file.read_text()) | {"patients": ["p"]}))
    with pytest.raises(DataError, match='"patients" must map'):
        open_dataset("ct", archive)


def test_an_archive_is_read_as_downloaded(tmp_path):
    mini.write_btcv(tmp_path / "in")
    with zipfile.ZipFile(tmp_path / "RawData.zip", "w") as packed:
        for path in sorted((tmp_path / "in").rglob("*")):
            packed.write(path, path.relative_to(tmp_path / "in"))
    outcome, opened = imported("btcv", tmp_path / "RawData.zip", tmp_path / "out")
    for case in opened["ct"].cases:
        assert_true(case, mmwhs_btcv.BTCV_LABELS)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["ct"]
    record = json.loads((outcome.folders["ct"] / "provenance.json").read_text())
    image_file = record["cases"]["btcv_0001"]["files"]["btcv_0001_0000.nii.gz"]
    assert list(image_file["from"]) == ["RawData/Training/img/img0001.nii.gz"]


def test_plain_nifti_is_packed_without_a_change(tmp_path):
    archive = mini.write_btcv(tmp_path / "in", (1,))
    path = archive / "RawData/Training/img/img0001.nii.gz"
    content = gzip.decompress(path.read_bytes())
    path.with_suffix("").write_bytes(content)
    path.unlink()
    _, opened = imported("btcv", archive, tmp_path / "out")
    written = opened["ct"].cases[0].images[0]
    assert written.name == "btcv_0001_0000.nii.gz"
    assert gzip.decompress(written.read_bytes()) == content


LAYOUTS = {
    "mmwhs": mini.write_mmwhs,
    "btcv": mini.write_btcv,
    "amos": mini.write_amos,
    "totalsegmentator": mini.write_totalsegmentator,
    "decathlon": mini.write_decathlon,
    "bids": mini.write_bids,
}


@pytest.mark.parametrize("real", LAYOUTS)
def test_a_wrong_layout_is_told_apart(tmp_path, real):
    """Asked to read another layout, the message says what fits."""
    LAYOUTS[real](tmp_path / "in")
    fits = [name for name, source in IMPORTS.items() if source.looks_like(tmp_path / "in")]
    assert real in fits
    assert set(fits) <= {real, "decathlon"} | ({"nnunet"} if real == "amos" else set())
    other = "chaos"
    with pytest.raises(DataError, match=rf"looked for Train_Sets.*looks like .*{real}"):
        imported(other, tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_empty_folder_and_an_unknown_source(tmp_path):
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match="there is nothing in it"):
        imported("mmwhs", tmp_path / "in", tmp_path / "out")
    with pytest.raises(UsageError, match="Did you mean 'mmwhs'"):
        imported("mm-whs", tmp_path / "in", tmp_path / "out")
    with pytest.raises(UsageError, match="no split of bids is known"):
        imported("bids", tmp_path / "in", tmp_path / "out", literature_split=True)


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("kidney_left", "left kidney"),
        ("adrenal_gland_right", "right adrenal gland"),
        ("gall bladder", "gallbladder"),
        ("arota", "aorta"),
        ("rib_left_1", "rib left 1"),
        ("Left-Kidney", "left kidney"),
        ("left", "left"),
    ],
)
def test_names(name, plain):
    assert plain_name(name) == plain


def test_the_documentation_names_every_source():
    """Layouts, literature's test cases and commands of docs/data.md are those of the code."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \|", text, re.M)
    assert {name for name, _ in rows} == set(IMPORTS)
    assert set(re.findall(r"^unpaired import (\w+)", text, re.M)) == {*IMPORTS, "phantom"}
    literature = dict(rows[len(IMPORTS) :])
    known = {name for name, one in IMPORTS.items() if one.literature or one.says_parts}
    assert set(literature) == known
    for name, cell in literature.items():
        for tested in IMPORTS[name].literature.values():
            assert tested <= set(re.findall(r"\d+", cell))


def test_the_manifest_of_the_documentation_opens(tmp_path):
    text = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text()
    (table,) = re.findall(r"```\n(case,image.*?)```", text, re.S)
    (about,) = re.findall(r'```json\n(\{"ct": \{.*?)```', text, re.S)
    (tmp_path / "scans.csv").write_text(table)
    (tmp_path / "scans.json").write_text(about)
    for name in re.findall(r"(?:scans|masks)/\w+\.nii\.gz", table):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    ct, mr = (open_dataset(key, tmp_path / "scans.csv") for key in ("ct", "mr"))
    assert (ids(ct), ids(ct, held_out=True), ids(mr)) == (["a1"], ["b1"], ["a2"])
    assert ct.cases[0].patient == mr.cases[0].patient != ct.cases[1].patient
    assert mr.labels["liver"] == 4
