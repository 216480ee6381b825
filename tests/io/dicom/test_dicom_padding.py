"""Declared padding becomes the lowest value that was measured, and counts in no statistic."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from dicom_files import turned, voxels, write_enhanced, write_series
from tiny_model import pointwise_predictor, smooth_image, tiny_plan
from unpaired.checks.check import check_path
from unpaired.checks.intensity import intensities, sample
from unpaired.checks.labels import body
from unpaired.data.measure import foreground
from unpaired.data.plan import Clip, ModalityPlan
from unpaired.data.preprocess import preprocess
from unpaired.datasets.sources import open_dataset
from unpaired.errors import DataError
from unpaired.io.dicom import read_series
from unpaired.io.volume import Volume

FLAT = np.diag([-2.0, -2.0, 3.0, 1.0])
SHAPE = (24, 20, 6)
RADIUS = np.hypot(*np.meshgrid(np.linspace(-1, 1, 24), np.linspace(-1, 1, 20), indexing="ij"))
CORNERS = np.repeat((RADIUS > 1)[..., None], 6, 2)


def scan(seed=0):
    """An MR: noise around a body, signed."""
    return voxels(SHAPE, seed) // 4 + 400 * (RADIUS < 0.7)[..., None].astype(np.int16)


def declared(value, limit=None, *, vr="SS"):
    def edit(one, k=0):
        one.add_new("PixelPaddingValue", vr, value)
        if limit is not None:
            one.add_new("PixelPaddingRangeLimit", vr, limit)

    return edit


def padded(array, value, where=CORNERS):
    return np.where(where, array.dtype.type(value), array)


@pytest.mark.parametrize("value", [-32768, -2000])
@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (1, -1024), (2, 3), (0.5, -7.25)])
def test_padding_becomes_the_lowest_measured_value(tmp_path, value, slope, intercept):
    array = scan()
    write_series(tmp_path, padded(array, value), FLAT, modality="MR", edit=declared(value),
                 slope=slope, intercept=intercept)  # fmt: skip
    found = read_series(tmp_path)
    true = array * slope + intercept
    assert np.array_equal(found.padding, CORNERS)
    assert np.array_equal(found.array[~CORNERS], true[~CORNERS])
    assert (found.array[CORNERS] == true[~CORNERS].min()).all()
    assert found.array.dtype == (np.int16 if slope != 0.5 else np.float32)
    assert found.measured.size == (~CORNERS).sum()
    (note,) = found.notes
    assert (
        note == f"{100 * CORNERS.mean():.2g} % of the voxels are declared padding, and are left out"
    )
    (said,) = (f for f in check_path(tmp_path) if f.kind == "padding")
    assert said.severity == "note"


@pytest.mark.parametrize(
    ("dtype", "stored", "value", "limit", "vr"),
    [
        (np.int16, -2000, 63536, None, "US"),  # the sign is lost on the way
        (np.int16, -32768, 32768, None, "US"),
        (np.int16, -1990, -2000, -1900, "SS"),  # a range
        (np.int16, -1990, -1900, -2000, "SS"),  # from its other end
        (np.uint16, 65535, 65535, None, "US"),
        (np.uint16, 65535, -1, None, "SS"),
        (np.uint16, 60000, 65535, 59000, "US"),
        (np.uint8, 255, 255, None, "US"),
        (np.int16, -2000, b"\x30\xf8", None, "UN"),
    ],
)
def test_the_value_is_taken_as_the_voxels_are_stored(tmp_path, dtype, stored, value, limit, vr):
    array = (scan() + 1000).clip(0, 200).astype(dtype)
    array[0, 0] = 0
    edit = declared(value, limit, vr=vr)
    write_series(tmp_path, padded(array, stored), FLAT, modality="MR", edit=edit)
    found = read_series(tmp_path)
    assert np.array_equal(found.padding, CORNERS)
    assert (found.array[CORNERS] == array[~CORNERS].min()).all()


@pytest.mark.parametrize(("signed", "vr"), [(0, "US"), (1, "SS"), (1, "UN")])
def test_a_value_of_more_bits_than_a_voxel_is_found_in_the_file(tmp_path, signed, vr):
    """12 bits are voxels; -32768 or 63536 needs 16, and comes out of a decoder as 0 or 2096."""
    value = -32768 if signed else 63536
    array = (scan() % 1000 - 500 * signed).astype(np.int64)
    array[10:14, 8:12] = 0 if signed else 2096
    words = np.where(CORNERS, value & 0xFFFF, array & 0xFFF).astype("<u2")

    def edit(one, k):
        one.BitsStored, one.HighBit, one.PixelRepresentation = 12, 11, signed
        one.PixelData = words[..., k].T.tobytes()
        known = np.int16(value).tobytes() if vr == "UN" else value
        one.add_new("PixelPaddingValue", vr, known)

    write_series(tmp_path, scan(), FLAT, modality="MR", edit=edit)
    found = read_series(tmp_path)
    assert np.array_equal(found.padding, CORNERS)
    assert np.array_equal(found.array[~CORNERS], array[~CORNERS])


def test_what_declares_nothing_and_what_holds_none_stay_as_they_are(tmp_path):
    array = padded(scan(), -2000)
    write_series(tmp_path / "a", array, FLAT, modality="MR")
    write_series(tmp_path / "b", scan(), FLAT, modality="MR", edit=declared(-2000))
    for name, expected in (("a", array), ("b", scan())):
        found = read_series(tmp_path / name)
        assert found.padding is None and np.array_equal(found.array, expected)
        assert found.measured is found.array and not found.notes


def test_frames_of_a_file_and_slices_that_are_padding_alone(tmp_path):
    array, where = scan(), CORNERS.copy()
    where[..., 0] = where[..., 5] = True
    path = write_enhanced(tmp_path / "a.dcm", padded(array, -2000, where), turned(),
                          edit=declared(-2000))  # fmt: skip
    found = read_series(path)
    assert np.array_equal(found.padding, where)
    assert (found.array[where] == 2 * array[~where].min() - 5).all()
    assert np.array_equal(found.array[~where], 2 * array[~where] - 5)

    def scaled(one, k):  # each slice by its own slope, as PET; one slice is padding alone
        declared(-2000)(one)
        one.RescaleSlope = f"{k + 1}"

    write_series(tmp_path / "b", padded(array, -2000, where), FLAT, modality="MR", edit=scaled)
    found, true = read_series(tmp_path / "b"), array * np.arange(1, 7)
    assert (found.array[where] == true[~where].min()).all()
    assert np.array_equal(found.array[~where], true[~where])


def test_slices_may_declare_it_each_for_itself(tmp_path):
    def edit(one, k):
        if k == 2:
            declared(-2000)(one)

    write_series(tmp_path, padded(scan(), -2000), FLAT, modality="MR", edit=edit)
    found = read_series(tmp_path)
    assert np.array_equal(found.padding.any((0, 1)), np.arange(6) == 2)


def test_padding_alone_is_refused(tmp_path):
    write_series(tmp_path, np.full(SHAPE, -2000, np.int16), FLAT, edit=declared(-2000))
    with pytest.raises(DataError, match="every voxel is padding"):
        read_series(tmp_path)


def test_padding_is_resampled_with_the_slices(tmp_path):
    def edit(one, k):
        declared(-2000)(one)
        x, y, z = one.ImagePositionPatient
        one.ImagePositionPatient = [x, y, str(float(z) + 3 * (k > 2))]

    write_series(tmp_path, padded(scan(), -2000), FLAT, modality="MR", edit=edit)
    found = read_series(tmp_path, resample_slices=True)
    assert found.array.shape == (24, 20, 7)
    assert np.array_equal(found.padding, np.repeat(CORNERS[..., :1], 7, 2))
    assert found.array.min() >= scan()[~CORNERS].min()


# ---- normalisation


def volume_with_padding(spacing=(2.0, 2.0, 3.0)):
    """The padded volume as it is read, and the same with air in its place."""
    image = smooth_image(SHAPE)
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    low = image[~CORNERS].min()
    return Volume(np.where(CORNERS, low, image), affine, padding=CORNERS), Volume(image, affine)


@pytest.mark.parametrize("kind", ["percentile", "window"])
def test_percentiles_and_moments_are_of_what_was_measured(kind):
    clip = Clip(kind=kind, low=2.0, high=95.0) if kind == "percentile" else Clip(
        kind=kind, low=20, high=300)  # fmt: skip
    plan = tiny_plan(spacing_mm=(3.0, 2.0, 2.0))
    recipe = ModalityPlan(channel_names=("t1",), clip=(clip,))
    plan = plan.model_copy(update={"modalities": {"mr": recipe}})
    volume, _ = volume_with_padding()
    found = preprocess([volume], "mr", plan).array[0]
    values = volume.array[~CORNERS].astype(np.float32)
    low, high = np.percentile(values, (2, 95)) if kind == "percentile" else (20, 300)
    expected = np.clip(values, low, high)
    turned_corners = CORNERS.transpose(2, 1, 0)[:, 1:-1, 1:-1]
    scaled = (np.clip(volume.array, low, high) - expected.mean()) / expected.std()
    assert found.shape == (6, 18, 22)  # rows of padding alone are cropped
    assert np.allclose(found, scaled.transpose(2, 1, 0)[:, 1:-1, 1:-1], atol=1e-4)
    measured = found[~turned_corners]
    assert abs(measured.mean()) < 1e-4 and abs(measured.std() - 1) < 1e-4
    assert (found[turned_corners] == found.min()).all()


def test_on_another_grid_padding_counts_for_nothing_either():
    """The network sees what it would see if the corners held anything else."""
    plan = tiny_plan(spacing_mm=(4.0, 3.1, 2.7))
    volume, _ = volume_with_padding()
    found = preprocess([volume], "mr", plan).array[0]
    bright = replace(volume, padding=None)
    plain = preprocess([bright], "mr", plan).array[0]
    middle = (slice(1, -1), slice(4, -4), slice(4, -4))
    # One line through both: the same image on another scale.
    slope, offset = np.polyfit(plain[middle].ravel(), found[middle].ravel(), 1)
    assert np.allclose(found[middle], slope * plain[middle] + offset, atol=0.05)
    assert found.mean() < -0.05 and abs(plain.mean()) < 1e-4  # the corners pull it down


def test_a_prediction_does_not_hang_on_the_padding_value(tmp_path):
    image = smooth_image(SHAPE)
    where = CORNERS & (image < np.percentile(image, 60))
    predictor = pointwise_predictor(tiny_plan(spacing_mm=(3.0, 2.0, 2.0)))
    found = []
    for name, value in (("a", -32768), ("b", -2000), ("c", 30000)):
        array = padded(image.astype(np.int16), value, where)
        write_series(tmp_path / name, array, FLAT, modality="MR", edit=declared(value))
        found.append(predictor.predict(tmp_path / name, "mr").labels)
    assert np.array_equal(found[0], found[1]) and np.array_equal(found[0], found[2])
    assert len(np.unique(found[0][~where])) > 1
    write_series(tmp_path / "d", padded(image.astype(np.int16), -32768, where), FLAT, modality="MR")
    spoilt = predictor.predict(tmp_path / "d", "mr").labels
    assert (spoilt != found[0])[~where].mean() > 0.05  # undeclared, it is tissue


def test_two_channels_have_their_own_padding():
    volume, plain = volume_with_padding()
    plan = tiny_plan(spacing_mm=(3.0, 2.0, 2.0), channels=2)
    found = preprocess([volume, plain], "mr", plan).array
    alone = preprocess([plain, plain], "mr", plan).array
    assert np.array_equal(found[1], alone[1]) and not np.allclose(found[0], alone[0])


def test_intensities_of_a_plan_leave_padding_out(tmp_path):
    label = np.zeros(SHAPE, np.uint8)
    label[:12, :10] = 1
    for k in range(2):
        folder = tmp_path / "imagesTr" / f"c{k}_0000"
        write_series(folder, padded(scan(k), -2000), FLAT, modality="MR", edit=declared(-2000))
        lps_of = read_series(folder)
        (tmp_path / "labelsTr").mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(label, lps_of.affine), tmp_path / "labelsTr" / f"c{k}.nii.gz")
    about = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "liver": 1}}
    (tmp_path / "dataset.json").write_text(json.dumps({**about, "file_ending": ".nii.gz"}))
    dataset = open_dataset("mr", tmp_path)
    (values,) = foreground(dataset, [1], dataset.cases, 0)
    inside = (label == 1) & ~CORNERS
    expected = np.concatenate([scan(k)[inside] for k in range(2)])
    assert np.array_equal(np.sort(values), np.sort(expected))


def test_the_checks_percentiles_leave_padding_out():
    """A CT of the round field of view: its corners are no air, and no doubt about its units."""
    image = np.where((RADIUS < 0.77)[..., None], 80, -900).repeat(6, 2).astype(np.int16)
    image[..., ::2] += 3
    volume = Volume(np.where(CORNERS, image.min(), image), FLAT, padding=CORNERS)
    assert len(sample(volume.measured)) == (~CORNERS).sum()
    assert not [r for r in intensities(volume, "CT") if r.kind == "hounsfield"]
    plain = np.where(CORNERS, 0, 100).astype(np.int16)
    plain[:12] += 5
    inside = body(plain.transpose(2, 1, 0), plain[~CORNERS])
    assert not np.array_equal(inside, body(plain.transpose(2, 1, 0)))
