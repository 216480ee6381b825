"""What is no even stack is refused with numbers, and resampled on request to the right place."""

import numpy as np
import pytest

from dicom_files import turned, voxels, write_series
from unpaired.errors import DataError
from unpaired.io.dicom import read_series

OBLIQUE = turned((0.8, 0.7, 2.5))
NORMAL = OBLIQUE[:3, 2] / 2.5  # the slices' own, in RAS
TO_LPS = np.array([-1, -1, 1])


def moved(offset):
    """An edit that moves slice k by `offset(k)` [3] in RAS mm."""

    def edit(one, k):
        here = np.array([float(v) for v in one.ImagePositionPatient])
        one.ImagePositionPatient = [f"{v:.8f}" for v in here + TO_LPS * offset(k)]

    return edit


def along(distance):
    return moved(lambda k: distance(k) * NORMAL)


def at(number, value):
    return lambda k: value if k == number else 0.0


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (along(lambda k: 2.5 * (k > 3)), r"slices are missing \(1\), the first after slice 3 "
         r"\(003.dcm\): the next, 004.dcm, lies 5.00 mm on instead of 2.50 mm"),
        (along(lambda k: 5 * (k > 1) + 2.5 * (k > 4)), r"slices are missing \(3\), the first after "
         "slice 1"),
        (along(lambda k: 0.8 * (k > 2)), r"uneven, 2.50 to 3.30 mm \(usually 2.50\), the oddest "
         r"3.30 mm after slice 2 \(002.dcm\)"),
        (along(at(4, 0.3)), "uneven, 2.20 to 2.80 mm"),
        (along(lambda k: 0.04 * k * k / 2), "uneven"),
        (moved(lambda k: k * np.tan(np.radians(12)) * 2.5 * OBLIQUE[:3, 1] / 0.7),
         r"tilted by 12.0 degrees \(the slices drift 3.2 mm sideways\)"),
        (moved(lambda k: (k == 3) * OBLIQUE[:3, 0]), r"slice 3 \(003.dcm\) lies 0.80 mm sideways"),
    ],
)  # fmt: skip
def test_uneven_stacks_are_refused_with_numbers(tmp_path, edit, words):
    write_series(tmp_path, voxels(), OBLIQUE, edit=edit)
    with pytest.raises(DataError, match=words) as error:
        read_series(tmp_path)
    assert "--resample-slices" in str(error.value)
    volume = read_series(tmp_path, resample_slices=True)
    assert any("linearly between neighbours" in note for note in volume.notes)


def test_both_faults_of_a_stack_are_told(tmp_path):
    edit = moved(lambda k: k * OBLIQUE[:3, 1] + 2 * (k > 3) * NORMAL)
    write_series(tmp_path, voxels(), OBLIQUE, edit=edit)
    with pytest.raises(DataError, match=r"tilted by .*; the gaps between slices are uneven"):
        read_series(tmp_path)


def turn(one, k):
    if k == 4:
        one.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]


def spread(one, k):
    one.PixelSpacing = ["0.7", "0.8"] if k < 5 else ["0.71", "0.8"]


def smaller(one, k):
    if k == 6:
        one.Rows, one.PixelData = 4, one.PixelData[: 4 * 9 * 2]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (turn, "different directions: 004.dcm is turned against 000.dcm"),
        (spread, "different spacings: 000.dcm has 0.8, 0.7 mm, 005.dcm has 0.8, 0.71 mm"),
        (smaller, "different sizes: 000.dcm has 9 x 8, 006.dcm has 9 x 4"),
        (along(at(5, -2.5)), r"slices lie where another one lies \(1\), such as 00[45]"),
        (along(lambda k: -2.5 * (k % 2)), "lie where another one lies"),
    ],
)  # fmt: skip
def test_what_no_resampling_can_mend_is_always_refused(tmp_path, edit, words):
    write_series(tmp_path, voxels(), OBLIQUE, edit=edit)
    for resample in (False, True):
        with pytest.raises(DataError, match=words):
            read_series(tmp_path, resample_slices=resample)


def test_several_images_of_every_slice_are_told_apart(tmp_path):
    def echo(one, k):
        one.EchoTime = str(2.3 + 2.3 * (k % 2))
        one.AcquisitionNumber = 1

    edit = along(lambda k: -2.5 * (k // 2 + k % 2))
    write_series(tmp_path, voxels((9, 8, 6)), OBLIQUE, edit=lambda o, k: (edit(o, k), echo(o, k)))
    with pytest.raises(DataError, match=r"2 images of every slice \(they differ in EchoTime\)"):
        read_series(tmp_path)


def test_a_copy_of_a_slice_is_called_a_copy(tmp_path):
    paths = write_series(tmp_path, voxels(), OBLIQUE)
    (tmp_path / "copy").write_bytes(paths[2].read_bytes())
    with pytest.raises(DataError, match="one a copy of the other; remove the doubles"):
        read_series(tmp_path)


def test_rounded_positions_are_accepted_and_told(tmp_path):
    """1.25 mm written as 1.2 and 1.3, as some scanners do; the error does not add up."""
    flat = np.diag([1, 1, 1.25, 1.0])

    def edit(one, k):
        one.ImagePositionPatient = ["0", "0", f"{np.floor(12.5 * k + 0.5) / 10:.1f}"]

    write_series(tmp_path, voxels((5, 5, 30)), flat, edit=edit)
    volume = read_series(tmp_path)
    assert abs(volume.spacing_mm[2] - 1.25) < 0.01
    assert any("rounded positions" in note for note in volume.notes)


def linear(world):
    """A field that linear interpolation must reproduce; world [... 3] in mm."""
    return 300 + world @ np.array([7.0, -5.0, 9.0])


def sampled(affine, shape, offset):
    """The field at the voxels of slices that are moved by `offset(k)`."""
    index = np.stack(np.meshgrid(*map(range, shape), indexing="ij"), -1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    return linear(world + np.stack([offset(k) for k in range(shape[2])]))


@pytest.mark.parametrize(
    "offset",
    [
        lambda k: 2.5 * (k > 4) * NORMAL,  # missing
        lambda k: (0.9 * (k > 2) - 0.7 * (k > 5)) * NORMAL,  # uneven
        lambda k: k * 1.3 * OBLIQUE[:3, 1],  # tilted, by parts of a voxel
        lambda k: -k * 0.9 * OBLIQUE[:3, 1] + 0.9 * (k > 3) * NORMAL + k * 0.4 * OBLIQUE[:3, 0],
    ],
    ids=["missing", "uneven", "tilted", "all"],
)
def test_resampling_reproduces_a_linear_field(tmp_path, offset):
    shape = (14, 16, 9)
    true = sampled(OBLIQUE, shape, offset)

    def edit(one, k):
        moved(offset)(one, k)
        one.RescaleSlope = "0.01"
        one.BitsAllocated = one.BitsStored = 32
        one.HighBit = 31
        one.PixelData = np.rint(true[..., k].T * 100).astype("<i4").tobytes()

    write_series(tmp_path, np.zeros(shape, np.int16), OBLIQUE, edit=edit)
    volume = read_series(tmp_path, resample_slices=True)
    step = volume.affine[:3, :3]
    assert np.abs(step.T @ step - np.diag(np.square(volume.spacing_mm))).max() < 1e-6
    assert np.allclose(volume.spacing_mm, (0.8, 0.7, 2.5), atol=0.01)
    expected = sampled(volume.affine, volume.array.shape, lambda k: np.zeros(3))
    known = covered(volume.affine, volume.array.shape, shape, offset)
    assert known.mean() > 0.3 and known.any((0, 1)).all()
    assert np.abs(volume.array - expected)[known].max() < 0.02
    in_plane = {round(float(offset(k) @ OBLIQUE[:3, 1]), 6) for k in range(9)} == {0.0}
    assert known.all() == in_plane


def covered(affine, size, shape, offset):
    """[size] of bool: whether both neighbouring slices reach the voxel."""
    index = np.stack(np.meshgrid(*map(range, size), indexing="ij"), -1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    to_slices = np.linalg.inv(OBLIQUE)
    depth = (world - OBLIQUE[:3, 3]) @ NORMAL
    starts = np.array([offset(k) + k * OBLIQUE[:3, 2] for k in range(shape[2])])
    after = np.clip(np.searchsorted(starts @ NORMAL, depth - 1e-6), 1, shape[2] - 1)
    known = np.ones(size, bool)
    for k in (after - 1, after):
        moved_back = world - starts[k]
        at = moved_back @ to_slices[:3, :3].T + to_slices[:3, 3]
        for axis in (0, 1):
            known &= (at[..., axis] > -1e-3) & (at[..., axis] < shape[axis] - 1 + 1e-3)
    return known


def test_resampling_an_even_stack_changes_nothing(tmp_path):
    write_series(tmp_path, voxels(), OBLIQUE)
    one, other = read_series(tmp_path), read_series(tmp_path, resample_slices=True)
    assert np.array_equal(one.array, other.array) and np.array_equal(one.affine, other.affine)
    assert not one.notes and not other.notes


def test_a_shear_below_a_degree_is_kept_in_the_affine(tmp_path):
    edit = moved(lambda k: k * 0.02 * OBLIQUE[:3, 0])
    write_series(tmp_path, voxels(), OBLIQUE, edit=edit)
    volume = read_series(tmp_path)
    expected = OBLIQUE[:3, 2] + 0.02 * OBLIQUE[:3, 0]
    assert np.abs(volume.affine[:3, 2] - expected).max() < 1e-5
    assert any("drift sideways" in note for note in volume.notes)


def test_real_series(shared):
    folder = shared("data/dicom")
    body = read_series(folder / "ct_abdomen")
    assert body.array.shape == (512, 512, 41) and body.array.dtype == np.int16
    assert np.allclose(body.spacing_mm, (0.796875, 0.796875, 5.0))
    assert np.array_equal(np.sign(np.diag(body.affine)), [-1, -1, 1, 1])
    assert body.padding.mean() > 0.1  # outside the round field of view, -3024 as a value
    assert body.array.min() == body.measured.min() >= -1024
    centre = body.array[200:312, 200:312]
    assert -150 < np.median(centre) < 150 and (body.array == -1000).any()
    tissue = read_series(folder / "mr_abdomen_t2")
    assert tissue.array.shape == (584, 512, 33)
    assert np.allclose(tissue.spacing_mm, (0.6836, 0.6836, 8.0), atol=1e-4)
    assert any("7 mm thick and 8 mm apart, with gaps" in note for note in tissue.notes)


def test_the_tilted_head_is_refused_with_the_reason_and_mended_on_request(shared):
    folder = shared("data/dicom/ct_head_tilt_uneven_gaps")
    with pytest.raises(DataError) as error:
        read_series(folder)
    for words in ("tilted by 18.5 degrees", "uneven, 1.08 to 7.00 mm", "--resample-slices"):
        assert words in str(error.value)
    mended = read_series(folder, resample_slices=True)
    assert np.allclose(mended.spacing_mm, (0.488, 0.488, 4.0), atol=0.01)
    across = mended.affine[:3, :3] / mended.spacing_mm
    assert np.abs(across.T @ across - np.eye(3)).max() < 1e-6
    assert any("18.5 degrees" in note for note in mended.notes)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("MR_truncated.dcm", "cut short: the header promises 8192 bytes of voxels, there are 8130"),
        ("badVR.dcm", "is a DICOM RTDOSE, not an image"),
        ("no_meta.dcm", "no whole DICOM file"),
    ],
)
def test_odd_files_are_refused(shared, name, words):
    with pytest.raises(DataError, match=words):
        read_series(shared("data/odd/dicom") / name)


def test_odd_files_that_are_whole_are_read(shared):
    for name, low, high in (("CT_small.dcm", -896, 1167), ("MR_small.dcm", 127, 2145)):
        volume = read_series(shared("data/odd/dicom") / name)
        assert (volume.array.min(), volume.array.max()) == (low, high)
        assert "one slice" in volume.notes[0]
