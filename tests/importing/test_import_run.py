"""The import as a whole: restart, one bad case among good ones, records, sides, links."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from datasets import miniatures as mini
from datasets.abdomen import assert_true
from datasets.importing import ids, imported, tree
from nifti_files import save
from unpaired.datasets import mmwhs_btcv
from unpaired.datasets.sources import open_dataset
from unpaired.errors import DataError, UsageError
from unpaired.importing import run as module
from unpaired.importing.run import ImportOptions, import_source
from unpaired.importing.unpack import unpacked

LABEL = "RawData/Training/label/label0002.nii.gz"
IMAGE = "RawData/Training/img/img0002.nii.gz"


def test_files_that_stay_as_they_are_are_copied_byte_for_byte(tmp_path):
    archive = mini.write_btcv(tmp_path / "in")
    _, opened = imported("btcv", archive, tmp_path / "out")
    case = next(c for c in opened["ct"].cases if c.id == "btcv_0002")
    assert case.images[0].read_bytes() == (archive / IMAGE).read_bytes()
    assert case.label.read_bytes() == (archive / LABEL).read_bytes()
    assert case.images[0].stat().st_ino != (archive / IMAGE).stat().st_ino


def test_links_instead_of_copies(tmp_path):
    archive = mini.write_btcv(tmp_path / "in")
    _, opened = imported("btcv", archive, tmp_path / "out", link=True)
    case = next(c for c in opened["ct"].cases if c.id == "btcv_0002")
    assert case.images[0].stat().st_ino == (archive / IMAGE).stat().st_ino
    before = tree(archive)
    imported("btcv", archive, tmp_path / "out", link=True)
    assert tree(archive) == before


def test_the_record_names_every_original(tmp_path):
    archive = mini.write_mmwhs(tmp_path / "in")
    outcome, _ = imported("mmwhs", archive, tmp_path / "out")
    for key, folder in outcome.folders.items():
        record = json.loads((folder / "provenance.json").read_text())
        assert record["settings"]["source"] == "mmwhs"
        assert record["archive"] == str(archive)
        assert record["program"].startswith("unpaired ")
        assert record["merged"] == ["421 became 420"]
        for case, about in record["cases"].items():
            assert about["patient"] == f"mmwhs_{case}"
            for name, file in about["files"].items():
                written = (folder / file["folder"] / name).read_bytes()
                assert hashlib.sha256(written).hexdigest() == file["sha256"]
                for original, facts in file["from"].items():
                    content = (archive / original).read_bytes()
                    assert hashlib.sha256(content).hexdigest() == facts["sha256"]
        images = [p.name for p in (folder / "imagesTr").iterdir()]
        assert json.loads((folder / "dataset.json").read_text())["numTraining"] == len(images)
        assert key in str(folder)


def test_a_second_call_keeps_what_is_whole(tmp_path):
    archive = mini.write_btcv(tmp_path / "in")
    first, _ = imported("btcv", archive, tmp_path / "out")
    before = tree(tmp_path / "out")
    written = tmp_path / "out/ct/imagesTr/btcv_0001_0000.nii.gz"
    stamp = written.stat().st_mtime_ns
    second, _ = imported("btcv", archive, tmp_path / "out")
    assert (first.kept, second.kept) == (0, 4)
    assert tree(tmp_path / "out") == before
    assert written.stat().st_mtime_ns == stamp


def packed(root, archive):
    """The folder as a .zip."""
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(root.rglob("*")):
            file.write(path, path.relative_to(root))
    return archive


def test_a_whole_import_is_not_unpacked_again(tmp_path, monkeypatch):
    archive = packed(mini.write_amos(tmp_path / "in"), tmp_path / "amos22.zip")
    first, _ = imported("amos", archive, tmp_path / "out")
    calls = []

    def watched(*arguments, **more):
        calls.append(arguments)
        return unpacked(*arguments, **more)

    monkeypatch.setattr("unpaired.importing.run.unpacked", watched)
    again, _ = imported("amos", archive, tmp_path / "out")
    assert not calls
    assert again == replace(first, kept=sum(first.cases.values()))
    assert not list((tmp_path / "out").glob(".*"))
    # whatever is missing or changed, of the result or of the archive, is found and mended
    good = tree(tmp_path / "out")
    for name in ("ct/imagesTr/amos_0001_0000.nii.gz", "ct/dataset.json", "splits_final.json",
                 "mr/provenance.json"):  # fmt: skip
        (tmp_path / "out" / name).unlink()
        if name.startswith("mr/"):
            shutil.rmtree(tmp_path / "out" / "mr")
        calls.clear()
        imported("amos", archive, tmp_path / "out")
        assert len(calls) == 1, name
        assert tree(tmp_path / "out") == good
    os.utime(archive, ns=(1, 1))
    calls.clear()
    imported("amos", archive, tmp_path / "out")
    assert len(calls) == 1


def test_an_archive_with_a_bad_case_says_so_every_time(tmp_path):
    folder = mini.write_btcv(tmp_path / "in")
    mini.spoil(folder / "RawData/Training/img/img0002.nii.gz")
    archive = packed(folder, tmp_path / "RawData.zip")
    for _ in range(2):
        outcome, _ = imported("btcv", archive, tmp_path / "out")
        assert list(outcome.failed) == ["ct/btcv_0002"]
        assert outcome.cases == {"ct": 3}


@pytest.mark.parametrize("damage", ["cut", "gone", "flipped", "original", "new"])
def test_a_second_call_mends_what_is_not_whole(tmp_path, damage):
    archive = mini.write_btcv(tmp_path / "in")
    imported("btcv", archive, tmp_path / "out")
    written = tmp_path / "out/ct/labelsTr/btcv_0002.nii.gz"
    content = written.read_bytes()
    if damage == "cut":
        mini.spoil(written)
    elif damage == "gone":
        written.unlink()
    elif damage == "flipped":
        written.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    elif damage == "original":
        path = archive / LABEL
        found = nib.load(path)
        array = np.asarray(found.dataobj).copy()
        array[array == 1] = 4
        save(path, array, found.affine)
    else:
        mini.write_btcv(archive, (1, 2, 9, 10))
    outcome, opened = imported("btcv", archive, tmp_path / "out")
    assert outcome.kept == (4 if damage == "new" else 3)
    values = dict(mmwhs_btcv.BTCV_LABELS)
    if damage == "original":
        values["spleen"] = 4
    case = next(c for c in opened["ct"].cases if c.id == "btcv_0002")
    assert_true(case, values)
    assert len(opened["ct"].cases) == (5 if damage == "new" else 4)


def test_one_bad_case_does_not_stop_the_others(tmp_path):
    archive = mini.write_btcv(tmp_path / "in")
    mini.spoil(archive / IMAGE)
    outcome, opened = imported("btcv", archive, tmp_path / "out")
    assert set(outcome.failed) == {"ct/btcv_0002"}
    assert "img0002.nii.gz" in outcome.failed["ct/btcv_0002"]
    assert ids(opened["ct"]) == ["btcv_0001", "btcv_0009"]
    record = json.loads((tmp_path / "out/ct/provenance.json").read_text())
    assert set(record["failed"]) == {"btcv_0002"}
    assert not [p for p in (tmp_path / "out").rglob("*") if "0002" in p.name]
    mini.write_btcv(archive)  # downloaded again
    outcome, opened = imported("btcv", archive, tmp_path / "out")
    assert not outcome.failed
    assert outcome.kept == 3
    assert ids(opened["ct"]) == ["btcv_0001", "btcv_0002", "btcv_0009"]


def test_a_case_that_went_bad_is_taken_out(tmp_path):
    archive = mini.write_btcv(tmp_path / "in")
    imported("btcv", archive, tmp_path / "out")
    mini.spoil(archive / LABEL)
    outcome, opened = imported("btcv", archive, tmp_path / "out")
    assert set(outcome.failed) == {"ct/btcv_0002"}
    assert ids(opened["ct"]) == ["btcv_0001", "btcv_0009"]


def swap(path):
    """Exchange the kidneys."""
    found = nib.load(path)
    array = np.asarray(found.dataobj)
    other = np.where(array == 2, 3, np.where(array == 3, 2, array)).astype(np.uint8)
    save(path, other, found.affine)


def test_swapped_kidneys_are_refused(tmp_path):
    archive = mini.write_btcv(tmp_path / "in")
    swap(archive / LABEL)
    outcome, opened = imported("btcv", archive, tmp_path / "out")
    text = outcome.failed["ct/btcv_0002"]
    assert "the left kidney lies" in text
    assert "to the right of the right kidney" in text
    assert "--allow-swapped" in text
    assert ids(opened["ct"]) == ["btcv_0001", "btcv_0009"]
    outcome, opened = imported("btcv", archive, tmp_path / "out", allow_swapped=True)
    assert not outcome.failed
    assert "swapped" in outcome.notes["ct/btcv_0002"][0]
    assert len(ids(opened["ct"])) == 3


def test_a_mirrored_scan_is_refused(tmp_path):
    archive = mini.write_btcv(tmp_path / "in")
    for file in (IMAGE, LABEL):
        mini.mirror(archive / file)
    outcome, _ = imported("btcv", archive, tmp_path / "out")
    assert "mirrored" in outcome.failed["ct/btcv_0002"]


@pytest.mark.parametrize(
    ("shift", "shape", "words"),
    [(0.3, None, None), (3.0, None, "off the image's grid"), (0, (22, 20, 15), "22 x 20 x 15")],
)
def test_a_label_off_the_grid(tmp_path, shift, shape, words):
    """A rounded header is mended and noted; a label elsewhere is refused."""
    archive = mini.write_btcv(tmp_path / "in")
    found = nib.load(archive / LABEL)
    matrix = found.affine.copy()
    matrix[2, 3] += shift
    array = np.asarray(found.dataobj)
    save(archive / LABEL, array[..., : (shape or array.shape)[2]], matrix)
    outcome, opened = imported("btcv", archive, tmp_path / "out")
    if words is not None:
        assert words in outcome.failed["ct/btcv_0002"]
        return
    assert outcome.notes["ct/btcv_0002"] == [
        "the label's header was 0.3 mm off and now is the image's"
    ]
    case = next(c for c in opened["ct"].cases if c.id == "btcv_0002")
    assert_true(case, mmwhs_btcv.BTCV_LABELS)


def test_values_without_a_name(tmp_path):
    archive = mini.write_btcv(tmp_path / "in")
    found = nib.load(archive / LABEL)
    array = np.asarray(found.dataobj).copy()
    array[0, 0, :3] = 14, 15, 15
    save(archive / LABEL, array, found.affine)
    outcome, _ = imported("btcv", archive, tmp_path / "out")
    assert "holds the values 14, 15, which have no name" in outcome.failed["ct/btcv_0002"]


def test_folders_of_others_are_left_alone(tmp_path):
    archive = mini.write_btcv(tmp_path / "in")
    (tmp_path / "out" / "ct").mkdir(parents=True)
    mine = tmp_path / "out" / "ct" / "thesis.txt"
    mine.write_text("x")
    with pytest.raises(UsageError, match="is not empty and no import of ours"):
        imported("btcv", archive, tmp_path / "out")
    assert tree(tmp_path / "out") == {"ct/thesis.txt": b"x"}
    mine.unlink()
    imported("btcv", archive, tmp_path / "out")
    with pytest.raises(UsageError, match="import of other settings"):
        imported("btcv", archive, tmp_path / "out", literature_split=True)
    with pytest.raises(UsageError, match="import of other settings"):
        imported("totalsegmentator", mini.write_totalsegmentator(tmp_path / "b"), tmp_path / "out")


def test_several_processes_write_the_same(tmp_path):
    archive = mini.write_btcv(tmp_path / "in")
    import_source("btcv", archive, tmp_path / "one", ImportOptions(workers=1))
    seen = []
    import_source(
        "btcv", archive, tmp_path / "two", ImportOptions(workers=2), lambda *a: seen.append(a)
    )
    assert tree(tmp_path / "one") == tree(tmp_path / "two")
    assert [done for done, _, _ in seen] == [1, 2, 3, 4]


def test_an_interruption_leaves_no_half_case(tmp_path, monkeypatch):
    """Stopped while the second case is written: only whole cases, and the next call goes on."""
    archive = mini.write_btcv(tmp_path / "in")
    stage, calls = module.stage_case, []

    def interrupted(case, labels, root, place, *more):
        calls.append(case.id)
        if len(calls) == 2:
            (place / f"{case.id}_0000.nii.gz").write_bytes(b"half")
            raise KeyboardInterrupt
        return stage(case, labels, root, place, *more)

    monkeypatch.setattr(module, "stage_case", interrupted)
    with pytest.raises(KeyboardInterrupt):
        imported("btcv", archive, tmp_path / "out")
    there = {p.name for f in ("imagesTr", "labelsTr") for p in (tmp_path / "out/ct" / f).iterdir()}
    assert there == {"btcv_0001_0000.nii.gz", "btcv_0001.nii.gz"}
    monkeypatch.setattr(module, "stage_case", stage)
    outcome, opened = imported("btcv", archive, tmp_path / "out")
    assert outcome.kept == 1
    assert ids(opened["ct"]) == ["btcv_0001", "btcv_0002", "btcv_0009"]
    assert not list((tmp_path / "out/ct").glob(".*"))


@pytest.mark.unix
def test_killed_at_any_moment(tmp_path):
    """The process is killed in the middle; what lies in the folders is whole."""
    archive = mini.write_btcv(tmp_path / "in", tuple(range(1, 11)))
    out = tmp_path / "out"
    code = (
        "import sys; from pathlib import Path; from unpaired.importing.run import *; "
        "import_source('btcv', Path(sys.argv[1]), Path(sys.argv[2]), ImportOptions(workers=1))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(archive), str(out)])
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        if len(list(out.glob("ct/labelsTr/*.nii.gz"))) >= 3:
            os.kill(process.pid, signal.SIGKILL)
            break
        time.sleep(0.002)
    process.wait()
    for path in [*out.glob("ct/images*/*"), *out.glob("ct/labels*/*")]:
        assert nib.load(path).get_fdata().shape == (22, 20, 16)
    half = out / "ct" / ".importing" / ".btcv_0009.98433165.json"  # a record cut short
    half.parent.mkdir(parents=True, exist_ok=True)
    half.write_text("")
    _, opened = imported("btcv", archive, out)
    assert len(ids(opened["ct"])) == 10
    for case in opened["ct"].cases:
        assert_true(case, mmwhs_btcv.BTCV_LABELS)


def test_manifest(tmp_path):
    path = mini.write_manifest(tmp_path / "in")
    outcome, opened = imported("manifest", path, tmp_path / "out")
    assert ids(opened["ct"]) == ["a"]
    assert ids(opened["ct"], held_out=True) == ["d"]
    assert ids(opened["mr"]) == ["b", "c"]
    assert [c.patient for c in opened["mr"].cases] == ["p1", "p2"]
    for found in opened.values():
        for case in found.cases:
            assert_true(case, mini.MANIFEST)
    direct = open_dataset("mr", path)
    assert [(c.id, c.patient) for c in direct.cases] == [("b", "p1"), ("c", "p2")]
    assert direct.labels == opened["mr"].labels
    assert open_dataset("ct", path).cases[1].held_out
    assert outcome.splits is None
    with pytest.raises(UsageError, match="has no --classes"):
        imported("manifest", path, tmp_path / "no", ImportOptions(classes=("liver",)))


@pytest.mark.parametrize("between", [";", "\t"])
def test_manifests_of_other_separators(tmp_path, between):
    found = open_dataset("mr", mini.write_manifest(tmp_path, between=between))
    assert ids(found) == ["b", "c"]


def test_a_manifest_with_validation_becomes_a_split(tmp_path):
    lines = [
        "case,image,label,modality,patient,split",
        "a,images/a.nii.gz,masks/a.nii.gz,ct,p1,train",
        "b,images/b.nii.gz,masks/b.nii.gz,ct,p2,VAL",
        "c,images/c.nii.gz,masks/c.nii.gz,mr,p3,train",
        "d,images/d.nii.gz,,mr,p4,test",
    ]
    path = mini.write_manifest(tmp_path / "in", lines)
    with pytest.raises(DataError, match=r"splits_final\.json"):
        open_dataset("ct", path)
    outcome, opened = imported("manifest", path, tmp_path / "out")
    (fold,) = json.loads(outcome.splits.read_text())
    assert fold == {"train": ["ct/a", "mr/c"], "val": ["ct/b"], "test": []}
    assert opened["mr"].cases[1].label is None


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["case,image,modality,lable", "a,images/a.nii.gz,ct,x"], r"names case.*Did you mean"),
        (["case,image,label", "a,images/a.nii.gz,masks/a.nii.gz"], "must name the columns"),
        (["case,case,image,modality", "a,a,images/a.nii.gz,ct"], "must name the columns"),
        (["case,image,modality"], "lists no scan"),
        (["case,image,modality", "a,images/a.nii.gz"], "line 2: 2 cells for 3 columns"),
        (["case,image,modality", ",images/a.nii.gz,ct"], "line 2: the cell of 'case' is empty"),
        (["case,image,modality,split", "a,images/a.nii.gz,ct,tset"], "the split 'tset' is unknown"),
        (["case,image,modality", "a,images/z.nii.gz,ct"], "names images/z.nii.gz"),
        (["case,image,modality", *["a,images/a.nii.gz,ct"] * 2], "case 'a' of ct twice"),
        (["case,image,modality", "../a,images/a.nii.gz,ct"], "no safe file name"),
        (["case,image,modality", "a,images/a.nii.gz|images/b.nii.gz,ct"], "has 2 images for"),
        (["case,image,modality,split", "a,images/a.nii.gz,ct,train"], "has no label"),
        (["case,image,modality", "a,images/a.nii.gz,mr"], "no scan of the modality 'ct'"),
        (['case,image,modality', 'a,"images/a.nii.gz,ct'], "cannot read"),
    ],
)  # fmt: skip
def test_faults_of_a_manifest(tmp_path, lines, words):
    path = mini.write_manifest(tmp_path, lines)
    with pytest.raises(DataError, match=words):
        open_dataset("ct", path)


def test_a_manifest_needs_its_names(tmp_path):
    path = mini.write_manifest(tmp_path)
    about = json.loads((tmp_path / "scans.json").read_text())
    (tmp_path / "scans.json").write_text(json.dumps(about["mr"]))  # for all modalities
    assert open_dataset("ct", path).channel_names == ("T2",)
    (tmp_path / "scans.json").unlink()
    with pytest.raises(DataError, match=r"needs scans\.json beside it"):
        open_dataset("ct", path)


def test_the_real_pair_stands_right(shared, tmp_path):
    """Two real scans of the trunk, RAS and LPS, are sided; with swapped names they are not."""
    root = shared("data/torso")
    for key in ("ct", "mr"):
        outcome, opened = imported("nnunet", root / key, tmp_path / key)
        assert not outcome.failed
        assert opened
        work = tmp_path / f"swapped_{key}"
        for path in sorted((root / key).rglob("*")):
            if path.is_file():
                target = work / path.relative_to(root / key)
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(path.read_bytes())
        file = work / "dataset.json"
        about = json.loads(file.read_text())
        names = {n.replace("_", " "): n for n in about["labels"]}
        left, right = names["left kidney"], names["right kidney"]
        labels = about["labels"]
        labels[left], labels[right] = labels[right], labels[left]
        file.write_text(json.dumps(about))
        outcome = import_source("nnunet", work, tmp_path / f"no_{key}", ImportOptions(workers=1))
        assert len(outcome.failed) == 1
        assert "swapped" in next(iter(outcome.failed.values()))


def test_an_interruption_between_two_files_of_a_case(tmp_path, monkeypatch):
    """The image is in place, the label is not: neither stays."""
    archive = mini.write_btcv(tmp_path / "in")
    replace, moved = Path.replace, []

    def interrupted(self, target):
        moved.append(target)
        if Path(target).parent.name == "labelsTr" and len(moved) > 4:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        imported("btcv", archive, tmp_path / "out")
    monkeypatch.setattr(Path, "replace", replace)
    images = {p.name[:9] for p in (tmp_path / "out/ct/imagesTr").iterdir()}
    labels = {p.name[:9] for p in (tmp_path / "out/ct/labelsTr").iterdir()}
    assert images == labels
    assert len(images) >= 1
