"""Mended copies: the voxels' bytes are the same, the geometry is one, nothing is done in place."""

import gzip
import json

import nibabel as nib
import numpy as np
import pytest

from bad_inputs import GRID, INPUTS, ct, image_of, label_of, moved, mr, organs, scan
from nifti_files import patch, save
from unpaired.checks.check import examine_roots
from unpaired.checks.mend import mend_headers
from unpaired.datasets.sources import open_dataset
from unpaired.errors import DataError, UsageError
from unpaired.io.nifti import read_label, read_volume
from unpaired.io.volume import same_grid


def mend(base, out, modality="ct"):
    return mend_headers({modality: open_dataset(modality, base)}, out)


def spoil(base, tmp_path, changes, array=None, codes=(1, 1), matrix=GRID, file=None):
    """c1's image (or `file`) with other header fields."""
    plain = save(tmp_path / "plain.nii", scan(1) if array is None else array, matrix, codes=codes)
    for name, value in changes.items():
        patch(plain, name, value)
    (file or image_of(base)).write_bytes(gzip.compress(plain.read_bytes()))


def voxel_bytes(path, count):
    data = path.read_bytes()
    return (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data)[352:][:count]


def one(listed):
    (found,) = listed
    return found


def test_sound_files_are_left_alone(tmp_path):
    base = ct(tmp_path)
    assert mend(base, tmp_path / "out") == []
    assert json.loads((tmp_path / "out" / "mended.json").read_text()) == []
    assert not list((tmp_path / "out").rglob("*.nii*"))


@pytest.mark.parametrize(
    ("changes", "words", "refused"),
    [
        ({"dim": (0, 24, 20, 17, 1, 1, 1, 1)}, "the number of axes was 0, is 3", True),
        ({"dim": (9, 24, 20, 17, 1, 1, 1, 1)}, "the number of axes was 9, is 3", True),
        ({"dim": (4, 24, 20, 17, 1, 1, 1, 1)}, "trailing axes of size 1", False),
        ({"bitpix": 8}, "bitpix was 8, is 16", True),
        ({"vox_offset": 7.0}, "the offset of the voxels was 7, is 352", True),
        ({"pixdim": (1, 3, 0, 3, 0, 0, 0, 0)}, "pixdim was 3 x 0 x 3, is 3 x 3 x 3", False),
        ({"pixdim": (1, -3, 3, 3, 0, 0, 0, 0)}, "pixdim was -3 x 3 x 3, is 3 x 3 x 3", False),
        ({"quatern_b": 9.0}, "the qform could not be used, is now the sform's", False),
        ({"qoffset_x": 0.2}, "the qform lay 0.2 mm off, is now the sform's", False),
        ({"qoffset_x": 9.0}, "the qform lay 9 mm off, is now the sform's", False),
    ],
)
def test_header_fields(tmp_path, changes, words, refused):
    base = ct(tmp_path)
    codes = (0, 1) if "pixdim" in changes else (1, 1)
    spoil(base, tmp_path, changes, codes=codes)
    before = image_of(base).read_bytes()
    if refused:
        with pytest.raises(DataError):
            read_volume(image_of(base))
    found = one(mend(base, tmp_path / "out"))
    assert words in found.done[0]
    assert found.left == ()
    copy = tmp_path / "out" / "ct" / "imagesTr" / "c1_0000.nii.gz"
    assert found.copy == str(copy)
    assert image_of(base).read_bytes() == before
    assert voxel_bytes(copy, 16320) == voxel_bytes(image_of(base), 16320)
    volume = read_volume(copy)
    assert volume.notes == ()
    assert np.array_equal(volume.array, scan(1))
    np.testing.assert_allclose(volume.affine, GRID, atol=1e-5)
    header = nib.load(copy).header
    if int(header["qform_code"]):
        np.testing.assert_allclose(header.get_qform(), header.get_sform(), atol=1e-4)


def test_label_takes_the_images_geometry_where_it_is_rounding(tmp_path):
    base = ct(tmp_path)
    save(label_of(base), organs(1), moved(0.02))
    found = one(mend(base, tmp_path / "out"))
    assert found.done == ("it lay 0.02 mm off the image, has the image's geometry now",)
    label = read_label(tmp_path / "out" / "ct" / "labelsTr" / "c1.nii.gz")
    assert same_grid(read_volume(image_of(base)), label) == 0
    assert np.array_equal(label.array, organs(1))


def test_what_is_not_certain_is_left_and_said(tmp_path):
    base = ct(tmp_path)
    save(label_of(base), organs(1), moved(7.5))
    found = one(mend(base, tmp_path / "a"))
    assert (found.copy, found.done) == ("", ())
    assert found.left == ("it lies 7.5 mm off the image, too far to be rounding",)
    # two geometries in both files: nothing tells which is right
    spoil(base, tmp_path, {"qoffset_x": 9.0})
    spoil(base, tmp_path, {"qoffset_x": 9.0}, organs(1), file=label_of(base))
    both = mend(base, tmp_path / "b")
    assert [f.done for f in both] == [(), ()]
    assert all("9 mm apart, and nothing tells" in f.left[0] for f in both)
    # the label lies where the image's qform, not its sform, says
    spoil(base, tmp_path, {"qoffset_x": 9.0})
    away = GRID.copy()
    away[0, 3] = 9.0
    save(label_of(base), organs(1), away)
    image, label = mend(base, tmp_path / "c")
    assert "nothing tells" in image.left[0]
    assert "too far to be rounding" in label.left[0]
    # no orientation at all
    spoil(base, tmp_path, {}, codes=(0, 0))
    save(label_of(base), organs(1), GRID)
    assert "no orientation is stored" in one(mend(base, tmp_path / "d")).left[0]
    # a type nobody knows; a header that fits no file
    spoil(base, tmp_path, {"datatype": 3})
    assert "type 3 is unknown" in one(mend(base, tmp_path / "e")).left[0]
    spoil(base, tmp_path, {"dim": (3, 24, 20, 99, 1, 1, 1, 1)})
    assert "shorter than its header" in one(mend(base, tmp_path / "f")).left[0]


def test_names_follow_the_content(tmp_path):
    base = ct(tmp_path, ending=".nii")
    plain = base / "imagesTr" / "c1_0000.nii"
    plain.write_bytes(gzip.compress(plain.read_bytes()))
    found = one(mend(base, tmp_path / "a"))
    copy = tmp_path / "a" / "ct" / "imagesTr" / "c1_0000.nii.gz"
    assert found.copy == str(copy)
    assert read_volume(copy).notes == ()
    other = mr(tmp_path)
    packed = image_of(other)
    packed.write_bytes(gzip.decompress(packed.read_bytes()) + bytes(64))
    found = one(mend(other, tmp_path / "b", "mr"))
    assert found.done == (
        "plain though named .gz, is compressed now", "the bytes behind the voxels are dropped",
    )  # fmt: skip
    copy = tmp_path / "b" / "mr" / "imagesTr" / "c1_0000.nii.gz"
    assert copy.read_bytes()[:2] == b"\x1f\x8b"
    assert read_volume(copy).notes == ()


def test_big_endian_and_nifti2(tmp_path):
    base = ct(tmp_path)
    for kind in (nib.Nifti2Image, nib.Nifti1Image):
        made = kind(scan(1).astype(">i2"), GRID, header=kind.header_class(endianness=">"))
        made.set_qform(moved(0.2), 1)
        made.set_sform(GRID, 1)
        nib.save(made, image_of(base))
        out = tmp_path / kind.__name__
        assert "the qform lay 0.2 mm off" in one(mend(base, out)).done[0]
        copy = read_volume(out / "ct" / "imagesTr" / "c1_0000.nii.gz")
        assert np.array_equal(copy.array, scan(1))
        assert copy.header["dim"][0] == 3
        assert copy.notes == ()


def test_never_in_place(tmp_path):
    base = ct(tmp_path)
    spoil(base, tmp_path, {"bitpix": 8})
    before = image_of(base).read_bytes()
    for out in (base, base / "mended", tmp_path):
        with pytest.raises(UsageError, match="choose another"):
            mend(base, out)
    assert image_of(base).read_bytes() == before
    assert not (base / "mended").exists()


@pytest.mark.parametrize("bad", INPUTS, ids=[bad.id for bad in INPUTS])
def test_no_input_is_worse_for_mending(tmp_path, bad):
    made = bad.build(tmp_path)
    if not made.roots:
        return
    done = examine_roots(made.roots)
    listed = mend_headers(done.datasets, tmp_path / "out")
    for copy in (tmp_path / "out").rglob("*.nii*"):
        assert not read_volume(copy).notes, (bad, listed)
