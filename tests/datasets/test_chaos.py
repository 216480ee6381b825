"""CHAOS in miniature: DICOM by position, PNG by name, greys by range, one patient in t1 and t2."""

import json

import numpy as np
import pytest
from PIL import Image

from datasets.abdomen import assert_true, grid, image
from datasets.chaos_files import GREY, T1, write_chaos, write_ct, write_mr
from datasets.dicom_slices import write_slices
from datasets.importing import ids, imported
from unpaired.checks.check import check
from unpaired.datasets import chaos
from unpaired.errors import DataError
from unpaired.importing.run import ImportOptions, import_source


def test_chaos(tmp_path):
    outcome, opened = imported("chaos", write_chaos(tmp_path / "in"), tmp_path / "out")
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


def test_chaos_literature(tmp_path):
    archive = write_chaos(tmp_path / "in")
    _, opened = imported("chaos", archive, tmp_path / "out", literature_split=True)
    for key in ("t1", "t2"):  # a patient is for testing in both, or in neither
        assert ids(opened[key], held_out=True) == ["chaos_mr_01", "chaos_mr_03"]


@pytest.mark.parametrize("axes", ["LPI", "LPS"])
@pytest.mark.parametrize("grey", [1, 255])
def test_pictures_follow_the_names_of_slices(tmp_path, axes, grey):
    """Whether names run to the feet (CT) or to the head, the n-th picture is the n-th file's."""
    write_ct(tmp_path / "in/Train_Sets/CT/5", axes=axes, grey=grey)
    _, opened = imported("chaos", tmp_path / "in", tmp_path / "out")
    assert_true(opened["ct"].cases[0], chaos.CT_LABELS)


@pytest.mark.parametrize("bare", ["DICOM_anon", "Ground"])
def test_numbers_without_zeros_sort_as_numbers(tmp_path, bare):
    patient = tmp_path / "in/Train_Sets/CT/5"
    write_ct(patient)
    for number, path in enumerate(sorted((patient / bare).iterdir())):
        path.rename(path.with_name(f"slice{number}{path.suffix}"))
    _, opened = imported("chaos", tmp_path / "in", tmp_path / "out")
    assert_true(opened["ct"].cases[0], chaos.CT_LABELS)


def test_faults(tmp_path):
    root = write_chaos(tmp_path / "in")
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
    outcome = import_source("chaos", root, tmp_path / "out", ImportOptions(workers=1))
    assert "15 pictures for 16 slices" in outcome.failed["t2/chaos_mr_01"]
    assert "cannot read" in outcome.failed["t2/chaos_mr_39"]
    assert "22 x 5 pixels, its slice 22 x 20" in outcome.failed["t1/chaos_mr_39"]
    assert outcome.dropped == ["chaos_mr_01: no DICOM slice in OutPhase"]


def test_greys_without_a_meaning_are_said(tmp_path):
    patient = tmp_path / "in/Train_Sets/MR/1"
    write_mr(patient)
    path = patient / "T2SPIR/Ground/IMG-0004-00001.png"
    grey = np.asarray(Image.open(path)).copy()
    grey[0, :3] = 90
    Image.fromarray(grey).save(path)
    outcome, _ = imported("chaos", tmp_path / "in", tmp_path / "out")
    text = "3 voxels of a grey without a meaning became background"
    assert outcome.notes["t2/chaos_mr_01"] == [text]


SEVERAL = {
    "echoes": lambda n: {"EchoTime": 4.6 if n % 2 else 2.3},
    "phase beside magnitude": lambda n: {"ImageType": ["ORIGINAL", "PRIMARY", "MP"[n % 2]]},
    "parts of the body": lambda n: {"FlipAngle": 80 if n < 8 else 90},
    "frames of reference": lambda n: {"FrameOfReferenceUID": f"1.2.{n % 2}"},
}


@pytest.mark.parametrize("what", SEVERAL)
def test_several_images_in_a_folder_are_not_read_as_one(tmp_path, what):
    """Their places interleave or follow each other: an even stack of slices of two images."""
    matrix = grid(0, "LPS")
    names = [f"{n:02d}.dcm" for n in range(16)]
    edit = lambda n, tags: tags.update(SEVERAL[what](n))  # noqa: E731
    write_slices(tmp_path / "s", image(matrix), matrix, names, edit=edit)
    files = sorted((tmp_path / "s").iterdir())
    (field,) = SEVERAL[what](0)
    with pytest.raises(DataError, match=rf"holds 2 images in one series .*{field}.*of one into a"):
        chaos.read_folder(files)
    one = chaos.read_folder(
        [f for n, f in enumerate(files) if SEVERAL[what](n) == SEVERAL[what](0)]
    )
    assert one.array.shape[2] == 8


def test_what_differs_from_slice_to_slice_is_one_image(tmp_path):
    """Anonymised: a study, a series and a frame of reference each; and a localizer beside them."""
    matrix = grid(0, "LPS")
    names = [f"{n:02d}.dcm" for n in range(16)]

    def edit(n, tags):
        tags.update(StudyInstanceUID=f"1.5.{n + 1}", FrameOfReferenceUID=f"1.6.{n + 1}")
        tags.update(AcquisitionNumber=1 + n // 8, TriggerTime=10 * n)

    write_slices(tmp_path / "s", image(matrix), matrix, names, edit=edit)
    scout = lambda n, tags: tags.update(ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])  # noqa: E731
    write_slices(tmp_path / "s", image(matrix) + 9, matrix, ["scout.dcm"], edit=scout)
    volume = chaos.read_folder(sorted((tmp_path / "s").iterdir()))
    assert np.array_equal(volume.array, image(matrix))
    assert any("AcquisitionNumber differs" in note for note in volume.notes)


def test_layout(tmp_path):
    write_ct(tmp_path / "in/Train_Sets/CT/5")
    assert chaos.SOURCE.looks_like(tmp_path / "in")
    assert chaos.SOURCE.looks_like(tmp_path / "in/Train_Sets")
    with pytest.raises(DataError, match="It looks like chaos"):
        imported("btcv", tmp_path / "in", tmp_path / "out")
