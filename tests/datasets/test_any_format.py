"""A data set whose images are NRRD, MetaImage, MGH or DICOM series is that of its NIfTI files."""

import gzip
import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from datasets.abdomen import assert_true, grid, image, organs
from datasets.importing import ids, imported
from dicom_files import write_series
from nifti_files import save
from unpaired.checks.check import examine_path, examine_roots
from unpaired.data.measure import lattices, turned
from unpaired.datasets.sources import open_dataset
from unpaired.errors import DataError
from unpaired.io.read import read_image, read_label_image
from unpaired.io.volume import canonical_orientation

sitk = pytest.importorskip("SimpleITK", reason="writes NRRD and MetaImage")
VALUES = {"liver": 1, "spleen": 2}
LABELS = {"background": 0, **VALUES}
CASES = "abc"


def write(path, array, matrix):
    """In the format that the name asks for."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.endswith((".nii", ".nii.gz")):
        return save(path, array, matrix)
    if path.suffix in (".mgz", ".mgh"):
        nib.save(nib.MGHImage(array.astype(np.int16), matrix), path)
        return path
    if not path.suffix:
        write_series(path, array, matrix, intercept=0)
        return path
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ matrix
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    made = sitk.GetImageFromArray(array.transpose(2, 1, 0))
    made.SetSpacing(spacing.tolist())
    made.SetOrigin(lps[:3, 3].tolist())
    made.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    sitk.WriteImage(made, str(path), True)
    return path


def folder(root, ending, label_ending=None):
    """An nnU-Net folder of three cases; `ending` "" writes a series a case."""
    for number, case in enumerate(CASES):
        matrix = grid(number, ("LPS", "RAS", "LAS")[number] if ending else "LPS")
        write(root / "imagesTr" / f"{case}_0000{ending}", image(matrix), matrix)
        own = ending if label_ending is None else label_ending
        write(root / "labelsTr" / f"{case}{own}", organs(matrix, VALUES), matrix)
    about = {"channel_names": {"0": "CT"}, "labels": LABELS}
    if ending:
        about["file_ending"] = ending
    (root / "dataset.json").write_text(json.dumps(about))
    return root


def stands_right(case):
    """Every voxel of image and label is what the body has at its place."""
    found, label = read_image(case.images[0]), read_label_image(case.label)
    expected = image(found.affine, found.array.shape)
    assert np.abs(found.array.astype(int) - expected).max() <= 1
    np.testing.assert_array_equal(label.array, organs(label.affine, VALUES, label.array.shape))
    assert label.array.any()


KINDS = [(".nrrd", None), (".mha", None), (".mhd", None), (".mgz", None), (".nii", None),
         ("", ".nii.gz"), (".nii.gz", ".seg.nrrd")]  # fmt: skip


@pytest.mark.parametrize(("ending", "label_ending"), KINDS)
def test_the_layout_in_every_format(tmp_path, ending, label_ending):
    root = folder(tmp_path / "in", ending, label_ending)
    opened = open_dataset("ct", root)
    assert ids(opened) == list(CASES)
    for case in opened.cases:
        stands_right(case)
    done = examine_roots({"ct": root})
    assert [f.case for f in done.scans if f.shape and f.voxels] == list(CASES)
    assert not [f for f in done.findings if f.severity == "error"], done.findings
    plain = {"ct": open_dataset("ct", folder(tmp_path / "plain", ".nii.gz"))}
    if ending:
        scans = zip(lattices({"ct": opened}), lattices(plain), strict=True)
        for pair in scans:
            ours, theirs = (turned(scan, canonical_orientation(scan.axes)) for scan in pair)
            assert ours.shape == theirs.shape
            np.testing.assert_allclose(ours.spacing_mm, theirs.spacing_mm, rtol=1e-5)
    _, sets = imported("nnunet", root, tmp_path / "out")
    for case in sets["ct"].cases:
        assert case.images[0].name.endswith("_0000.nii.gz")
        assert_true(case, VALUES)


def test_a_manifest_names_series_and_other_formats(tmp_path):
    folder(tmp_path / "nrrd", ".nrrd")
    folder(tmp_path / "dicom", "", ".nii.gz")
    lines = ["case,image,label,modality", "n,nrrd/imagesTr/a_0000.nrrd,nrrd/labelsTr/a.nrrd,ct",
             "d,dicom/imagesTr/b_0000,dicom/labelsTr/b.nii.gz,ct"]  # fmt: skip
    (tmp_path / "scans.csv").write_text("\n".join(lines))
    about = {"channel_names": {"0": "CT"}, "labels": LABELS}
    (tmp_path / "scans.json").write_text(json.dumps(about))
    opened = open_dataset("ct", tmp_path / "scans.csv")
    for case in opened.cases:
        stands_right(case)
    done = examine_roots({"ct": tmp_path / "scans.csv"})
    assert not [f for f in done.findings if f.severity == "error"], done.findings
    outcome, sets = imported("manifest", tmp_path / "scans.csv", tmp_path / "out")
    assert not outcome.failed
    for case in sets["ct"].cases:
        assert_true(case, VALUES)
    record = json.loads((tmp_path / "out" / "ct" / "provenance.json").read_text())
    assert len(record["cases"]["d"]["files"]["d_0000.nii.gz"]["from"]) == 16  # slices
    shutil.rmtree(tmp_path / "dicom" / "imagesTr" / "b_0000")
    with pytest.raises(DataError, match="which is not there"):
        open_dataset("ct", tmp_path / "scans.csv")
    lost = examine_roots({"ct": tmp_path / "scans.csv"}).findings
    assert ("d", "no-file") in {(f.case, f.kind) for f in lost}


def test_an_ending_that_is_not_read(tmp_path):
    root = folder(tmp_path / "in", ".nii.gz")
    about = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps(about | {"file_ending": ".png"}))
    with pytest.raises(DataError, match=r"end in '\.png' are not read; save .* as one of \.nii"):
        open_dataset("ct", root)
    (found,) = [f for f in examine_roots({"ct": root}).findings if f.severity == "error"]
    assert "are not read" in found.what


def test_one_case_in_two_formats_is_refused(tmp_path):
    root = folder(tmp_path / "in", ".nrrd")
    matrix = grid(0, "LPS")
    write(root / "imagesTr" / "a_0000.mha", image(matrix), matrix)
    with pytest.raises(DataError, match="one case, two files"):
        open_dataset("ct", root)
    assert [f.case for f in examine_roots({"ct": root}).findings if f.kind == "twins"] == ["a"]


def test_one_image_in_several_formats_is_a_copy(tmp_path):
    matrix = grid(2, "LPS")
    files = [write(tmp_path / name, image(matrix), matrix)
             for name in ("a.nii.gz", "b.nii", "c.nrrd", "d.mha", "e.mgz", "series")]  # fmt: skip
    packed = tmp_path / "f.nii.gz"
    packed.write_bytes(gzip.compress(files[1].read_bytes(), 1))
    assert packed.read_bytes() != files[0].read_bytes()
    write(tmp_path / "g.nrrd", image(matrix, offset=1), matrix)
    found = [f.case for f in examine_path(tmp_path).findings if f.kind == "copy"]
    assert found == ["b.nii", "c.nrrd", "d.mha", "e.mgz", "f.nii.gz", "series"]
