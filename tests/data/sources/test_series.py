"""DICOM series: patient coordinates of every voxel, and every stack that is no volume."""

import builtins

import numpy as np
import pytest

from data.sources.abdomen import image
from data.sources.dicom_slices import Writer, tiny, writer
from unpaired.data.sources.series import read_series, slice_order
from unpaired.errors import DataError, UsageError

__all__ = ["writer"]
NAMES = [f"i{n:04d},0000b.dcm" for n in range(16)]


def files(folder):
    return tuple(sorted(folder.glob("*.dcm")))


@pytest.mark.parametrize("axes", ["LPS", "LPI", "PIR", "RAS", "LIP"])
def test_voxels_lie_where_the_tags_say(tmp_path, writer, axes):
    array, matrix = tiny(axes)
    writer.volume(tmp_path, array, matrix, NAMES)
    found = read_series(files(tmp_path))
    expected = image(found.affine, found.array.shape)
    assert np.abs(found.array - expected).max() <= 1
    assert np.linalg.norm(found.array - expected) < 0.01 * np.linalg.norm(expected)
    assert found.array.dtype.kind == "i"
    order = slice_order(files(tmp_path))
    assert order in (list(range(16)), list(range(16))[::-1])
    np.testing.assert_array_equal(found.array, array[..., order])


def test_names_do_not_order_slices(tmp_path, writer):
    array, matrix = tiny()
    shuffled = [NAMES[i] for i in np.random.default_rng(0).permutation(16)]
    writer.volume(tmp_path, array, matrix, shuffled)
    found = read_series(files(tmp_path))
    assert np.abs(found.array - image(found.affine, found.array.shape)).max() <= 1


def test_rescaling(tmp_path, writer):
    array, matrix = tiny()
    writer.volume(tmp_path / "a", array, matrix, NAMES, intercept=-1024)
    found = read_series(files(tmp_path / "a"))
    assert found.array.min() == -1000
    assert found.array.dtype.kind == "i"
    writer.volume(tmp_path / "b", array * 0.5, matrix, NAMES, slope=0.5)
    half = read_series(files(tmp_path / "b"))
    assert half.array.dtype == np.float32
    np.testing.assert_array_equal(half.array, found.array * np.float32(0.5))


def _shift(key, change, only=5):
    def edit(number, tags):
        if number == only or only is None:
            tags[key] = change(tags[key])

    return edit


def _tilt(number, tags):
    x, y, z = tags["ImagePositionPatient"]
    tags["ImagePositionPatient"] = [x, y + 0.5 * number, z]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (_shift("ImageOrientationPatient", lambda v: [-a for a in v]), "not one series"),
        (_shift("PixelSpacing", lambda v: [v[0] + 0.1, v[1]]), "not one series"),
        (_shift("ImagePositionPatient", lambda v: [v[0], v[1], v[2] + 2]), "apart, the widest gap"),
        (_tilt, r"sheared by .* degrees"),
    ],
)
def test_stacks_that_are_no_volume(tmp_path, writer, edit, words):
    array, matrix = tiny()
    writer.volume(tmp_path, array, matrix, NAMES, edit=edit)
    with pytest.raises(DataError, match=words):
        read_series(files(tmp_path))


def test_missing_and_double_slices(tmp_path, writer):
    array, matrix = tiny()
    writer.volume(tmp_path, array, matrix, NAMES)
    (tmp_path / "copy.dcm").write_bytes((tmp_path / NAMES[3]).read_bytes())
    with pytest.raises(DataError, match="in one place"):
        read_series(files(tmp_path))
    (tmp_path / "copy.dcm").unlink()
    (tmp_path / NAMES[3]).unlink()
    with pytest.raises(DataError, match="a slice is missing"):
        read_series(files(tmp_path))
    with pytest.raises(DataError, match="holds one slice"):
        read_series(files(tmp_path)[:1])


def test_a_truncated_slice(tmp_path, monkeypatch):
    pytest.importorskip("pydicom", reason="pydicom is an extra")
    array, matrix = tiny()
    Writer(True, monkeypatch).volume(tmp_path, array, matrix, NAMES)
    path = tmp_path / NAMES[2]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError, match="i0002"):
        read_series(files(tmp_path))
    path.write_bytes(b"no dicom")
    with pytest.raises(DataError, match="cannot read the slice"):
        read_series(files(tmp_path))


def test_without_pydicom(tmp_path, monkeypatch):
    real = builtins.__import__

    def missing(name, *more):
        if name.startswith("pydicom"):
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(UsageError, match=r"pip install 'unpaired\[dicom\]'"):
        read_series((tmp_path / "a.dcm", tmp_path / "b.dcm"))


def test_real_series(shared):
    """Two real abdomens are even stacks; the head with tilt and uneven gaps is refused."""
    pytest.importorskip("pydicom", reason="pydicom is an extra")
    root = shared("data/dicom")
    for name, count in (("ct_abdomen", 41), ("mr_abdomen_t2", 33)):
        found = read_series(files(root / name))
        assert found.array.shape[2] == count
        assert found.spacing_mm[2] > 2
    with pytest.raises(DataError, match=r"apart|right angles"):
        read_series(files(root / "ct_head_tilt_uneven_gaps"))
