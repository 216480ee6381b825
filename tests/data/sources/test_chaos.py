"""CHAOS in miniature: DICOM by position, PNG by name, greys by range, one patient in t1 and t2."""

import json

import numpy as np
import pytest
from PIL import Image

from data.sources.abdomen import assert_true, grid, image, organs
from data.sources.dicom_slices import writer
from data.sources.importing import ids, imported
from unpaired.data.check import check
from unpaired.data.importing.run import import_source
from unpaired.data.sources import chaos
from unpaired.errors import DataError

__all__ = ["writer"]
MR_NAMES = [f"IMG-0004-{n:05d}.dcm" for n in range(1, 17)]
CT_NAMES = [f"i{n:04d},0000b.dcm" for n in range(16)]
T1 = 40  # its scans are brighter, so that no two images are the same
GREY = {"liver": 63, "right kidney": 126, "left kidney": 189, "spleen": 252}


def pictures(folder, label, names):
    """One PNG a slice, label [column row slice]."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.fromarray(label[..., number].T.astype(np.uint8)).save(folder / name)


def write_ct(writer, patient, number=0, axes="LPI", grey=255):
    """From head to feet by name, as CHAOS has it; DICOM_anon and Ground/liver_GT_000.png."""
    matrix = grid(number, axes)
    writer.volume(patient / "DICOM_anon", image(matrix), matrix, CT_NAMES, intercept=-1024)
    label = organs(matrix, {"liver": grey}, dtype=np.uint8)
    pictures(patient / "Ground", label, [f"liver_GT_{n:03d}.png" for n in range(16)])


def write_mr(writer, patient, number=0, axes="LPS", ground=True):
    """T2SPIR and T1DUAL (InPhase, OutPhase), whose greys scatter inside their ranges."""
    rng = np.random.default_rng(number)
    for scan, turn in (("T2SPIR", axes), ("T1DUAL", axes[:2] + "SI"["IS".index(axes[2])])):
        matrix = grid(number, turn)
        base = patient / scan / "DICOM_anon"
        phases = {"InPhase": T1, "OutPhase": T1 + 10} if scan == "T1DUAL" else {".": 0}
        for phase, offset in phases.items():
            writer.volume(base / phase, image(matrix, offset=offset), matrix, MR_NAMES)
        if ground:
            label = organs(matrix, GREY, dtype=np.int16)
            label = np.where(label > 0, label + rng.integers(-3, 3, label.shape), 0)
            names = [name.replace(".dcm", ".png") for name in MR_NAMES]
            pictures(patient / scan / "Ground", label, names)


def write_chaos(writer, root):
    train, test = root / "CHAOS_Train_Sets" / "Train_Sets", root / "CHAOS_Test_Sets" / "Test_Sets"
    write_ct(writer, train / "CT" / "2", 1)
    write_mr(writer, train / "MR" / "1", 2, "LPS")
    write_mr(writer, train / "MR" / "39", 3, "LPI")
    write_mr(writer, test / "MR" / "3", 4, "LPS", ground=False)
    return root


def test_chaos(tmp_path, writer):
    outcome, opened = imported("chaos", write_chaos(writer, tmp_path / "in"), tmp_path / "out")
    assert set(opened) == {"ct", "t1", "t2"}
    assert not outcome.failed
    assert ids(opened["ct"]) == ["chaos_ct_02"]
    for key in ("t1", "t2"):
        assert ids(opened[key]) == ["chaos_mr_01", "chaos_mr_39"]
        assert ids(opened[key], held_out=True) == ["chaos_mr_03"]
        assert opened[key].labels == chaos.MR_LABELS
    assert opened["t1"].channel_names == ("T1 in phase", "T1 out of phase")
    patients = [{c.patient for c in opened[key].cases} for key in ("ct", "t1", "t2")]
    assert patients[1] == patients[2]
    assert not patients[0] & patients[1]
    for case in opened["ct"].cases:
        assert_true(case, chaos.CT_LABELS)
    for key, offset in (("t1", T1), ("t2", 0)):
        for case in opened[key].cases:
            assert_true(case, GREY, offset)
    errors = [f for f in check(opened) if f.severity == "error"]
    assert not errors, errors
    record = json.loads((tmp_path / "out/t2/provenance.json").read_text())
    assert "grey 55 to 70 became 63" in record["merged"]
    originals = record["cases"]["chaos_mr_01"]["files"]["chaos_mr_01_0000.nii.gz"]["from"]
    assert len(originals) == 16


def test_chaos_literature(tmp_path, writer):
    archive = write_chaos(writer, tmp_path / "in")
    _, opened = imported("chaos", archive, tmp_path / "out", literature_split=True)
    for key in ("t1", "t2"):  # a patient is for testing in both, or in neither
        assert ids(opened[key], held_out=True) == ["chaos_mr_01", "chaos_mr_03"]


@pytest.mark.parametrize("axes", ["LPI", "LPS"])
@pytest.mark.parametrize("grey", [1, 255])
def test_pictures_follow_the_names_of_slices(tmp_path, writer, axes, grey):
    """Whether names run to the feet (CT) or to the head, the n-th picture is the n-th file's."""
    write_ct(writer, tmp_path / "in/Train_Sets/CT/5", axes=axes, grey=grey)
    _, opened = imported("chaos", tmp_path / "in", tmp_path / "out")
    assert_true(opened["ct"].cases[0], chaos.CT_LABELS)


def test_numbers_without_zeros_sort_as_numbers(tmp_path, writer):
    patient = tmp_path / "in/Train_Sets/CT/5"
    write_ct(writer, patient)
    for folder, ending in (("DICOM_anon", ".dcm"), ("Ground", ".png")):
        for number, path in enumerate(sorted((patient / folder).iterdir())):
            path.rename(path.with_name(f"slice{number}{ending}"))
    _, opened = imported("chaos", tmp_path / "in", tmp_path / "out")
    assert_true(opened["ct"].cases[0], chaos.CT_LABELS)


def test_faults(tmp_path, writer):
    root = write_chaos(writer, tmp_path / "in")
    train = root / "CHAOS_Train_Sets" / "Train_Sets"
    ground = train / "MR/1/T2SPIR/Ground"
    (ground / "IMG-0004-00003.png").unlink()
    odd = np.zeros((20, 22), np.uint8)
    odd[0, :3] = 90
    Image.fromarray(odd).save(train / "CT/2/Ground/liver_GT_000.png")
    Image.fromarray(odd[:5]).save(train / "MR/39/T1DUAL/Ground/IMG-0004-00001.png")
    path = train / "MR/39/T2SPIR/Ground/IMG-0004-00001.png"
    path.write_bytes(path.read_bytes()[:30])
    for slice_ in (train / "MR/1/T1DUAL/DICOM_anon/OutPhase").iterdir():
        slice_.unlink()
    outcome = import_source("chaos", root, tmp_path / "out", workers=1)
    assert "15 pictures for 16 slices" in outcome.failed["t2/chaos_mr_01"]
    assert "cannot read" in outcome.failed["t2/chaos_mr_39"]
    assert "22 x 5 pixels, its slice 22 x 20" in outcome.failed["t1/chaos_mr_39"]
    assert outcome.dropped == ["chaos_mr_01: no DICOM slice in OutPhase"]


def test_greys_without_a_meaning_are_said(tmp_path, writer):
    patient = tmp_path / "in/Train_Sets/MR/1"
    write_mr(writer, patient)
    path = patient / "T2SPIR/Ground/IMG-0004-00001.png"
    grey = np.asarray(Image.open(path)).copy()
    grey[0, :3] = 90
    Image.fromarray(grey).save(path)
    outcome, _ = imported("chaos", tmp_path / "in", tmp_path / "out")
    text = "3 voxels of a grey without a meaning became background"
    assert outcome.notes["t2/chaos_mr_01"] == [text]


def test_layout(tmp_path, writer):
    write_ct(writer, tmp_path / "in/Train_Sets/CT/5")
    assert chaos.SOURCE.looks_like(tmp_path / "in")
    assert chaos.SOURCE.looks_like(tmp_path / "in/Train_Sets")
    with pytest.raises(DataError, match="It looks like chaos"):
        imported("btcv", tmp_path / "in", tmp_path / "out")
