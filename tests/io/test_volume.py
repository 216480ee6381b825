"""Reading: damage is an error, never a crash and never other data. Writing: the exact grid."""

import gzip
import itertools
import os
import re

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nifti_files import affine, noise, patch, save
from unpaired import inflate
from unpaired.errors import DataError, ResourceError, UsageError
from unpaired.files import printable
from unpaired.io.nifti import read_label, read_volume, write_volume
from unpaired.io.volume import Orientation, Volume, canonical_orientation, same_grid

TYPES = ("uint8", "int8", "int16", "uint16", "int32", "uint32", "int64", "float32", "float64")


def refused(path, words, reader=read_volume):
    """The reader refuses `path` in one line that names the file and holds `words`."""
    with pytest.raises(DataError, match=words) as caught:
        reader(path)
    text = str(caught.value)
    assert path.name[:20] in text or printable(path)[:20] in text
    assert "\n" not in text


# ---- reading what is good


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", TYPES)
def test_every_type_reads_as_nibabel_does(tmp_path, dtype, ending):
    array = noise(dtype=dtype)
    path = save(tmp_path / f"a{ending}", array)
    volume = read_volume(path)
    assert volume.array.dtype == array.dtype
    assert np.array_equal(volume.array, array)
    assert np.array_equal(volume.affine, nib.load(path).affine)
    np.testing.assert_allclose(volume.spacing_mm, (0.9, 1.1, 3.0), rtol=1e-6)
    assert volume.notes == ()
    volume.array[0, 0, 0] = 1  # the caller owns the memory
    torch.from_numpy(volume.array.astype(np.float32))


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_big_endian_and_nifti2(tmp_path, kind):
    array = noise()
    image = kind(array, affine(), kind.header_class(endianness=">"))
    image.header.set_data_dtype(">i2")
    nib.save(image, tmp_path / "a.nii")
    volume = read_volume(tmp_path / "a.nii")
    assert np.array_equal(volume.array, array)
    assert volume.array.dtype.isnative
    write_volume(tmp_path / "b.nii.gz", volume.array, volume)
    assert np.array_equal(read_volume(tmp_path / "b.nii.gz").affine, volume.affine)


@pytest.mark.parametrize(("slope", "inter"), [(1.0, -1024.0), (0.5, 3.0), (2.0, 0.0)])
def test_scaling_follows_the_header(tmp_path, slope, inter):
    path = patch(save(tmp_path / "a.nii", noise()), "scl_slope", slope)
    patch(path, "scl_inter", inter)
    expected = noise() * slope + inter
    volume = read_volume(path)
    assert volume.array.dtype == np.float32
    np.testing.assert_allclose(volume.array, expected, rtol=1e-6)
    np.testing.assert_allclose(volume.array, np.asanyarray(nib.load(path).dataobj), rtol=1e-6)


def test_several_gzip_members_are_one_file(tmp_path):
    plain = save(tmp_path / "a.nii", noise((40, 40, 40))).read_bytes()
    parts = [gzip.compress(plain[i : i + 5000]) for i in range(0, len(plain), 5000)]
    (tmp_path / "b.nii.gz").write_bytes(b"".join(parts))
    assert np.array_equal(read_volume(tmp_path / "b.nii.gz").array, noise((40, 40, 40)))
    (tmp_path / "c.nii.gz").write_bytes(b"".join(parts)[:-3])
    refused(tmp_path / "c.nii.gz", "ends too early")


def test_standard_library_when_isal_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(inflate, "igzip_lib", None)
    path = save(tmp_path / "a.nii.gz", noise((50, 40, 30)))
    volume = read_volume(path)
    assert np.array_equal(volume.array, noise((50, 40, 30)))
    write_volume(tmp_path / "b.nii.gz", volume.array, volume)
    assert np.array_equal(nib.load(tmp_path / "b.nii.gz").get_fdata(), volume.array)
    data = path.read_bytes()
    path.write_bytes(data[:-20])
    refused(path, "too early|damaged")
    path.write_bytes(data[:-6] + bytes([data[-6] ^ 4]) + data[-5:])
    refused(path, "damaged")


def test_trailing_fourth_axis_of_one_is_dropped(tmp_path):
    path = save(tmp_path / "a.nii.gz", noise((5, 4, 3, 1, 1)))
    volume = read_volume(path)
    assert np.array_equal(volume.array, noise((5, 4, 3, 1, 1))[..., 0, 0])
    assert "dropped" in volume.notes[0]


def test_one_slice_is_a_volume(tmp_path):
    assert read_volume(save(tmp_path / "a.nii", noise((5, 4, 1)))).array.shape == (5, 4, 1)


def test_plain_file_named_gz_and_the_reverse_are_read_and_noted(tmp_path):
    plain = save(tmp_path / "a.nii", noise()).rename(tmp_path / "a.nii.gz")
    assert np.array_equal(read_volume(plain).array, noise())
    assert any("plain NIfTI" in note for note in read_volume(plain).notes)
    packed = save(tmp_path / "b.nii.gz", noise()).rename(tmp_path / "b.nii")
    assert np.array_equal(read_volume(packed).array, noise())
    assert any("compressed" in note for note in read_volume(packed).notes)


def test_bytes_behind_the_stream_are_noted(tmp_path):
    path = save(tmp_path / "a.nii.gz", noise())
    path.write_bytes(path.read_bytes() + b"\0" * 300)
    assert read_volume(path).notes == ()
    path.write_bytes(path.read_bytes() + b"tail")
    assert "foreign" in read_volume(path).notes[0]


# ---- bad files


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"\x1f\x8b", "damaged|early|ends inside|not a NIfTI"),
        (b"  <!DOCTYPE html><html>Sign in</html>", "web page"),
        (b"<html><body>404</body></html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "LFS pointer"),
        (b"\x89PNG\r\n\x1a\n" + bytes(900), "PNG"),
        (b"\xff\xd8\xff\xe0" + bytes(900), "JPEG"),
        (b"PK\x03\x04" + bytes(900), "zip"),
        (bytes(128) + b"DICM" + bytes(900), "DICOM"),
        (bytes(4000), "not a NIfTI"),
    ],
)
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_not_nifti_at_all(tmp_path, content, words, ending):
    path = tmp_path / f"a{ending}"
    path.write_bytes(content)
    refused(path, words)
    if content:
        path.write_bytes(gzip.compress(content))
        refused(path, words)


def test_pair_is_refused(tmp_path):
    path = patch(save(tmp_path / "a.nii", noise()), "magic", b"ni1")
    refused(path, "half of a")


def test_header_promises_more_than_there_is(tmp_path):
    path = save(tmp_path / "a.nii", noise())
    path.write_bytes(path.read_bytes()[:-1])
    refused(path, "too short")
    packed = tmp_path / "b.nii.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    refused(packed, "promises")


def test_header_promises_less_than_there_is(tmp_path):
    path = patch(save(tmp_path / "a.nii", noise((40, 40, 9))), "dim", (3, 40, 40, 6, 1, 1, 1, 1))
    refused(path, "more data")
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(path.read_bytes()))
    refused(tmp_path / "b.nii.gz", "more data")


def test_padding_is_noted_and_anything_else_behind_the_voxels_refused(tmp_path):
    path = save(tmp_path / "a.nii", noise())
    data = path.read_bytes()
    path.write_bytes(data + bytes(160))
    assert np.array_equal(read_volume(path).array, noise())
    assert "160 bytes of zeros" in read_volume(path).notes[0]
    path.write_bytes(data + bytes(159) + b"x")
    refused(path, "more data")
    path.write_bytes(data + bytes(5000))
    refused(path, "more data")


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_huge_dimensions_never_allocate(tmp_path, ending, monkeypatch):
    path = patch(save(tmp_path / "a.nii", noise()), "dim", (3, 32767, 32767, 32767, 1, 1, 1, 1))
    small = patch(save(tmp_path / "b.nii", noise()), "dim", (3, 2000, 1000, 500, 1, 1, 1, 1))
    if ending == ".nii.gz":
        for file in (path, small):
            file.write_bytes(gzip.compress(file.read_bytes()))
    monkeypatch.setattr(inflate, "inflate", lambda *_: pytest.fail("allocated"))
    refused(path, "more than 2147483648")
    refused(small, "too short")
    with pytest.raises(DataError, match="more than 100"):
        read_volume(save(tmp_path / "c.nii", noise()), max_voxels=100)


def test_bomb_is_stopped_early(tmp_path):
    plain = save(tmp_path / "a.nii", noise()).read_bytes()
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(gzip.compress(plain + bytes(1 << 28), 1))
    given_out = []
    real = inflate.decompressor

    class Counting:
        def __init__(self, gzip):
            self.inner = real(gzip)

        def decompress(self, *args):
            given_out.append(len(out := self.inner.decompress(*args)))
            return out

        def __getattr__(self, name):
            return getattr(self.inner, name)

    with pytest.MonkeyPatch.context() as patcher:
        patcher.setattr(inflate, "decompressor", Counting)
        refused(path, "more data")
    assert 0 < sum(given_out) < 1 << 22


@pytest.mark.parametrize(
    "dtype", [np.complex64, np.complex128, np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])]
)
def test_colour_and_complex_are_refused(tmp_path, dtype):
    refused(save(tmp_path / "a.nii.gz", np.zeros((4, 4, 4), dtype)), "not supported")


@pytest.mark.parametrize("code", [0, 1, 3, 32767, -1, 1536])
def test_unknown_type_codes(tmp_path, code):
    refused(patch(save(tmp_path / "a.nii", noise()), "datatype", code), "unknown|not supported")


@pytest.mark.parametrize(
    ("shape", "words"), [((6, 5), "picture"), ((6, 5, 4, 3), "more than one"), ((7,), "picture")]
)
def test_wrong_number_of_axes(tmp_path, shape, words):
    refused(save(tmp_path / "a.nii.gz", noise(shape)), words)


@pytest.mark.parametrize("dim", [(3, 9, 0, 7, 1, 1, 1, 1), (3, 9, -8, 7, 1, 1, 1, 1)])
def test_axis_without_voxels(tmp_path, dim):
    refused(patch(save(tmp_path / "a.nii", noise()), "dim", dim), "no voxels")


@pytest.mark.parametrize("offset", [1.0, 352.5, np.nan, np.inf, -5.0, 1e30])
def test_wrong_offset(tmp_path, offset):
    refused(patch(save(tmp_path / "a.nii", noise()), "vox_offset", offset), "damaged")


@pytest.mark.unix
def test_paths_that_cannot_be_read(tmp_path):
    refused(tmp_path / "none.nii", "does not exist")
    refused(tmp_path, "is a folder")
    (tmp_path / "dangling.nii").symlink_to(tmp_path / "gone.nii")
    refused(tmp_path / "dangling.nii", "link to")
    (tmp_path / "loop.nii").symlink_to(tmp_path / "loop.nii")
    refused(tmp_path / "loop.nii", "cannot read|link")
    os.mkfifo(tmp_path / "pipe.nii")
    refused(tmp_path / "pipe.nii", "not an ordinary file")
    refused(tmp_path / ("x" * 300 + ".nii"), "cannot read")
    with pytest.raises(DataError):
        read_volume(tmp_path / "nul\0.nii")


def test_permission_is_named(tmp_path, monkeypatch):
    path = save(tmp_path / "a.nii", noise())

    def deny(_self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "read_bytes", deny)  # root may read anything
    refused(path, "may not be read")


@pytest.mark.parametrize(
    "name", ["with space", "new\nline", "\U0001fac0", "tab\t", "q\"u'o", "%s{0}"]
)
def test_odd_names_work(tmp_path, name):
    path = tmp_path / f"{name}.nii.gz"
    path.write_bytes(save(tmp_path / "a.nii.gz", noise()).read_bytes())
    volume = read_volume(path)
    write_volume(path, volume.array, volume)
    assert np.array_equal(read_volume(path).array, noise())
    path.write_bytes(b"")
    with pytest.raises(DataError) as caught:
        read_volume(path)
    assert str(caught.value).isprintable()


def test_name_that_is_not_utf8(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.nii")
    path.write_bytes(b"")
    with pytest.raises(DataError) as caught:
        read_volume(path)
    str(caught.value).encode("utf-8")


# ---- geometry


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_affine_not_finite(tmp_path, bad):
    refused(patch(save(tmp_path / "a.nii", noise()), "srow_x", (bad, 0, 0, 0)), "NaN or infinity")


def test_singular_affine(tmp_path):
    path = patch(save(tmp_path / "a.nii", noise()), "srow_x", (0, 0, 0, 0))
    refused(path, "sheared|spacing")
    matrix = np.diag([1.0, 1.0, 0.0, 1.0])
    for row, field in enumerate(("srow_x", "srow_y", "srow_z")):
        patch(path, field, matrix[row])
    refused(path, "spacing")


@pytest.mark.parametrize("spacing", [1e-6, 5000.0, np.nan, 0.0, -0.0])
def test_absurd_spacing_in_the_affine(tmp_path, spacing):
    path = save(tmp_path / "a.nii", noise(), codes=(0, 0))
    patch(path, "pixdim", (1, 1, spacing, 1, 0, 0, 0, 0))
    refused(path, "spacing|NaN")


def test_negative_pixdim_in_the_qform(tmp_path):
    path = save(tmp_path / "a.nii", noise(), codes=(1, 0))
    patch(path, "pixdim", (1, -1, 1, 1, 0, 0, 0, 0))
    refused(path, "qform cannot be used")


def test_pixdim_that_disagrees_is_noted_and_the_sform_wins(tmp_path):
    path = save(tmp_path / "a.nii", noise(), codes=(0, 1))
    patch(path, "pixdim", (1, 0, -3, np.nan, 0, 0, 0, 0))
    volume = read_volume(path)
    np.testing.assert_allclose(volume.affine, affine(), atol=1e-5)
    assert any("pixdim" in note for note in volume.notes)


@pytest.mark.parametrize(("degrees", "ok"), [(0.01, True), (0.5, True), (3.0, False), (20, False)])
def test_shear(tmp_path, degrees, ok):
    matrix = np.diag([1.0, 1.0, 3.0, 1.0])
    matrix[1, 2] = 3 * np.tan(np.radians(degrees))
    path = save(tmp_path / "a.nii", noise(), matrix, codes=(0, 1))
    if not ok:
        refused(path, f"sheared by {degrees:.1f}")
    else:
        assert any("sheared" in n for n in read_volume(path).notes) == (degrees > 0.1)


def test_qform_and_sform_disagree(tmp_path):
    moved = affine(origin=(0, 0, 0))
    path = save(tmp_path / "a.nii", noise(), edit=lambda h: h.set_qform(moved, 1))
    volume = read_volume(path)
    assert np.array_equal(volume.affine, nib.load(path).affine)
    expected = np.linalg.norm([-80, 33, 12.5])
    assert any(f"{expected:.3g} mm" in note for note in volume.notes)


def test_qform_only_and_no_code(tmp_path):
    path = save(tmp_path / "a.nii", noise(), codes=(2, 0))
    np.testing.assert_allclose(read_volume(path).affine, affine(), atol=1e-4)
    assert read_volume(path).notes == ()
    path = save(tmp_path / "b.nii", noise(), codes=(0, 0))
    volume = read_volume(path)
    assert "no orientation" in volume.notes[0]
    np.testing.assert_allclose(volume.affine, nib.load(path).affine, atol=1e-5)


def test_same_grid_measures_millimetres():
    a = Volume(np.zeros((11, 5, 5)), np.eye(4))
    moved = np.eye(4)
    moved[0, 3] = 5e-4
    assert same_grid(a, Volume(a.array, moved)) == pytest.approx(5e-4)
    turned = np.diag([1.1, 1, 1, 1])  # 10 steps of 0.1 mm more
    assert same_grid(a, Volume(a.array, turned)) == pytest.approx(1.0)
    assert same_grid(a, Volume(np.zeros((11, 5, 6)), np.eye(4))) == float("inf")


# ---- intensities and labels


def test_nan_and_infinity_are_counted(tmp_path):
    array = noise(dtype=np.float32)
    array[2, 3, 4], array[5, 0, 0] = np.nan, np.inf
    refused(
        save(tmp_path / "a.nii.gz", array),
        re.escape("2 of 504 voxels") + ".*" + re.escape("(2, 3, 4)"),
    )
    huge = np.full((4, 4, 4), 1e308)
    refused(save(tmp_path / "b.nii.gz", huge), "from 1e\\+308 to 1e\\+308, beyond 32-bit")
    refused(save(tmp_path / "c.nii.gz", huge[:2] * -1e-100), "beyond 32-bit")
    assert read_volume(save(tmp_path / "d.nii.gz", huge * 1e-270)).array.max() == pytest.approx(
        1e38
    )


def test_float_labels_round_and_fractions_do_not(tmp_path):
    array = noise(dtype=np.uint8).astype(np.float64)
    near = array - 1e-7
    label = read_label(save(tmp_path / "a.nii.gz", near))
    assert np.array_equal(label.array, array)
    assert label.array.dtype.kind == "i"
    assert any("rounded" in note for note in label.notes)
    assert read_label(save(tmp_path / "b.nii.gz", array)).notes == ()
    array[1, 1, 1] = 0.5
    refused(save(tmp_path / "c.nii.gz", array), "fractions .such as 0.5", read_label)
    refused(save(tmp_path / "d.nii.gz", array * 0 + 1e300), "1e\\+300", read_label)


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_negative_labels(tmp_path, dtype):
    array = np.zeros((4, 4, 4), dtype)
    array[0, 0, 0] = -3
    refused(save(tmp_path / "a.nii.gz", array), "negative values .down to -3", read_label)


# ---- fuzzing: the same data, or a DataError


def outcome(path, data, expected):
    """Read altered bytes: a `DataError`, or the very same voxels and affine."""
    path.write_bytes(data)
    try:
        volume = read_volume(path)
    except DataError:
        return "refused"
    assert np.array_equal(volume.array, expected.array)
    assert np.array_equal(volume.affine, expected.affine)
    return "same"


def test_every_truncation_of_a_packed_file_is_refused(tmp_path):
    path = save(tmp_path / "a.nii.gz", noise((6, 5, 4)))
    data, expected = path.read_bytes(), read_volume(path)
    assert {outcome(path, data[:n], expected) for n in range(len(data))} == {"refused"}


def test_flipped_bits_of_a_packed_file_never_change_the_data(tmp_path):
    path = save(tmp_path / "a.nii.gz", noise((6, 5, 4)))
    data, expected = path.read_bytes(), read_volume(path)
    results = []
    for n in range(len(data)):
        changed = bytearray(data)
        changed[n] ^= 1 << (n % 8)
        results.append(outcome(path, bytes(changed), expected))
    # The gzip header's time and system, and bits deflate never uses, may change unnoticed.
    assert results.count("refused") > 0.9 * len(data)
    assert set(results[-8:]) == {"refused"}  # CRC and length


def test_damaged_header_of_a_plain_file_never_crashes(tmp_path):
    path = save(tmp_path / "a.nii", noise((6, 5, 4)))
    data = path.read_bytes()
    for n in range(352):
        for value in (data[n] ^ 0xFF, data[n] ^ 0x01):
            path.write_bytes(data[:n] + bytes([value]) + data[n + 1 :])
            try:
                volume = read_volume(path)
            except DataError:
                continue
            # Fewer voxels than were written are never taken silently.
            assert volume.array.size == 120 or "zeros follow" in str(volume.notes)
            assert np.isfinite(volume.affine).all()
            assert np.isfinite(volume.array).all()


@settings(deadline=None, max_examples=60)
@given(st.binary(max_size=800))
def test_random_bytes_never_crash(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("fuzz") / "a.nii.gz"
    for content in (data, gzip.compress(data)):
        path.write_bytes(content)
        with pytest.raises(DataError):
            read_volume(path)


# ---- writing


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("codes", [(1, 1), (2, 4), (0, 2), (1, 0), (0, 0)])
def test_writing_keeps_the_grid_exactly(tmp_path, codes, ending):
    source = save(tmp_path / "a.nii.gz", noise(), codes=codes)
    volume = read_volume(source)
    label = noise(dtype=np.uint8, seed=1)
    write_volume(tmp_path / f"b{ending}", label, volume)
    old, new = nib.load(source), nib.load(tmp_path / f"b{ending}")
    assert np.array_equal(np.asanyarray(new.dataobj), label)
    assert new.get_data_dtype() == np.uint8
    assert np.array_equal(old.affine, new.affine)
    fields = ("qform_code", "sform_code", "xyzt_units", "pixdim", "dim", "quatern_b", "quatern_c")
    for field in (*fields, "quatern_d", "qoffset_x", "srow_x", "srow_y", "srow_z"):
        assert np.array_equal(old.header[field], new.header[field]), field


def test_writing_drops_the_scaling_of_the_source(tmp_path):
    source = patch(save(tmp_path / "a.nii", noise()), "scl_slope", 2.5)
    patch(source, "scl_inter", 7.0)
    label = noise(dtype=np.uint8)
    write_volume(tmp_path / "b.nii", label, read_volume(source))
    assert np.array_equal(nib.load(tmp_path / "b.nii").get_fdata(), label)


@pytest.mark.parametrize(
    ("array", "stored"),
    [
        (np.ones((3, 3, 3), bool), "uint8"),
        (np.full((3, 3, 3), 255), "uint8"),
        (np.full((3, 3, 3), 256), "uint16"),
        (np.full((3, 3, 3), -1), "int16"),
        (np.full((3, 3, 3), 0.25), "float32"),
    ],
)
def test_stored_types(tmp_path, array, stored):
    write_volume(tmp_path / "a.nii.gz", array, Volume(array, affine()))
    image = nib.load(tmp_path / "a.nii.gz")
    assert image.get_data_dtype() == stored
    assert np.array_equal(image.get_fdata(), array)
    np.testing.assert_allclose(image.affine, affine(), atol=1e-4)


def test_header_of_another_grid_is_not_used(tmp_path):
    volume = read_volume(save(tmp_path / "a.nii", noise()))
    other = Volume(volume.array, affine(origin=(1, 2, 3)), volume.header)
    write_volume(tmp_path / "b.nii", volume.array, other)
    np.testing.assert_allclose(nib.load(tmp_path / "b.nii").affine[:3, 3], (1, 2, 3), atol=1e-5)


def test_writing_refuses(tmp_path):
    volume = Volume(noise(), affine())
    with pytest.raises(UsageError, match="shape"):
        write_volume(tmp_path / "a.nii", noise((2, 2, 2)), volume)
    with pytest.raises(UsageError, match="end in"):
        write_volume(tmp_path / "a.png", volume.array, volume)
    with pytest.raises(UsageError, match="do not fit"):
        write_volume(tmp_path / "a.nii", np.full((9, 8, 7), 2**40), volume)
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError):
        write_volume(tmp_path / "file" / "a.nii", volume.array, volume)
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


# ---- orientation

ALL_48 = [
    Orientation(axes, flips)
    for axes in itertools.permutations(range(3))
    for flips in itertools.product((False, True), repeat=3)
]


@pytest.mark.parametrize("orientation", ALL_48)
def test_apply_and_undo(orientation):
    array = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    turned = orientation.apply(array)
    assert np.shares_memory(turned, array)
    assert np.array_equal(orientation.undo(turned), array)
    assert orientation.spacing([3.0, 4.0, 5.0]) == turned.shape[1:]
    tensor = torch.from_numpy(array)
    assert torch.equal(orientation.apply(tensor), torch.from_numpy(turned.copy()))
    assert torch.equal(orientation.undo(orientation.apply(tensor)), tensor)


@pytest.mark.parametrize("slice_axis", ["S", "P", "L"])
@pytest.mark.parametrize("file_order", ALL_48)
def test_canonical_positions_in_millimetres(file_order, slice_axis):
    """However a scan is stored, the canonical array is the same and means the same places."""
    reference = noise((6, 5, 4))
    matrix = affine(degrees=(12.0, -9.0, 20.0))
    stored = file_order.apply(reference)
    stored_affine = file_order.affine(matrix, reference.shape)
    turn = canonical_orientation(stored_affine, slice_axis)
    array = turn.apply(stored)
    result = turn.affine(stored_affine, stored.shape)
    expected = canonical_orientation(matrix, slice_axis)
    assert np.array_equal(array, expected.apply(reference))
    np.testing.assert_allclose(result, expected.affine(matrix, reference.shape), atol=1e-9)
    letters = "".join(nib.aff2axcodes(result))
    assert letters == {"S": "SPL", "P": "PSL", "L": "LSP"}[slice_axis]
    spacing = np.linalg.norm(result[:3, :3], axis=0)
    np.testing.assert_allclose(turn.spacing(Volume(stored, stored_affine).spacing_mm), spacing)


# ---- real files


def test_real_odd_files(shared):
    odd = shared("data/odd")
    big = read_volume(odd / "anatomical.nii")
    assert big.array.dtype == np.int16
    assert np.array_equal(big.array, np.asanyarray(nib.load(odd / "anatomical.nii").dataobj))
    refused(odd / "functional.nii", "20")
    refused(odd / "example4d.nii.gz", "128 x 96 x 24 x 2")
    refused(odd / "test.mgz", "not a NIfTI")


def test_real_pir_pair_lies_on_one_grid(shared, tmp_path):
    folder = shared("data/odd/pir") / "sample_ct"
    image = read_volume(folder / "sub-ct_label-22_ct.nii.gz")
    label = read_label(folder / "sub-ct_seg-vert_label-22_msk.nii.gz")
    assert same_grid(image, label) <= 1e-3
    turn = canonical_orientation(image.affine)
    assert turn == Orientation((1, 0, 2), (True, False, True))
    bright = turn.apply(image.array)[turn.apply(label.array) > 0].mean()
    assert bright > image.array.mean() + 100  # a vertebra is bone
    write_volume(tmp_path / "out.nii.gz", label.array, image)
    assert np.array_equal(nib.load(tmp_path / "out.nii.gz").affine, image.affine)


def test_real_torso_ras_and_lps_agree(shared):
    """The liver lies on the patient's right: small indices of the axis that grows to the left."""
    root = shared("data/torso")
    for modality in ("ct", "mr"):
        label = read_label(root / modality / "labelsTr" / "torso_001.nii.gz")
        array = canonical_orientation(label.affine).apply(label.array)
        column = [np.argwhere(array == value)[:, 2].mean() for value in (1, 4)]
        assert column[0] < column[1]
