"""From file to file, however the same anatomy is stored: the same labels in the same places.

The network is a Swin-Unet with random weights, which sees the order of slices, rows and columns.
`in_place` looks every voxel up by its millimetres (to 1e-3 mm, what 32-bit headers hold).
"""

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.test_geometry_laws import oblique, stored
from dicom_files import in_place, write_enhanced, write_series
from fuzzing.seeds import write_detached
from tiny_model import pointwise_model, smooth_image, tiny_plan, write_model
from unpaired.inference.predictor import Predictor
from unpaired.io.meta_image import write_meta_image
from unpaired.io.nrrd import write_nrrd
from unpaired.io.read import read_image
from unpaired.io.volume import Volume, corner_offset

MM = 1e-3
SHAPE, SPACING = (13, 12, 7), (1.7, 2.2, 3.1)
SIGNED = list(
    itertools.product(itertools.permutations(range(3)), itertools.product((1, -1), repeat=3))
)


@pytest.fixture(scope="module")
def swin(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("model")
    write_model(folder)
    return Predictor.from_folder(folder, device="cpu")


def quick() -> Predictor:
    """One convolution, three voxels wide, with the two neighbouring slices."""
    return Predictor([pointwise_model(tiny_plan(), kernel=3)], torch.device("cpu"))


def save(path: Path, array: np.ndarray, affine: np.ndarray, form=nib.Nifti1Image) -> Path:
    image = form(array, affine)
    image.set_sform(affine, 2)
    image.set_qform(affine, 1)
    nib.save(image, path)
    return path


def labels_of(predictor: Predictor, path: Path, out: Path) -> Volume:
    """The label file that prediction writes; on exactly the input's grid."""
    (written,) = predictor.predict_file(path, out, "ct", label_files=False).files
    image, label = read_image(path), read_image(written)
    assert label.array.shape == image.array.shape
    assert corner_offset(label.affine, image.affine, image.array.shape) < 1e-4
    return label


def test_all_48_ways_to_store_an_oblique_scan(swin: Predictor, tmp_path: Path) -> None:
    array, affine = smooth_image(SHAPE), oblique((12.0, -21.0, 33.0), SPACING)
    first = labels_of(swin, save(tmp_path / "x.nii.gz", array, affine), tmp_path / "y.nii.gz")
    assert len(np.unique(first.array)) > 1
    for signed in SIGNED:
        path = save(tmp_path / "x.nii.gz", *stored(array, affine, *signed))
        label = labels_of(swin, path, tmp_path / "y.nii.gz")
        in_place(label, first.affine, first.array, MM)


angles = st.one_of(st.floats(-180, 180), st.sampled_from([45.0, -45.0, 135.0, 90.0]))


@settings(
    deadline=None, max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    degrees=st.tuples(angles, angles, angles),
    shape=st.tuples(st.integers(5, 12), st.integers(5, 12), st.integers(1, 7)),
    spacing=st.tuples(*[st.sampled_from([0.7, 1.0, 1.9, 5.0])] * 3),
    signed=st.sampled_from(SIGNED),
)
def test_any_direction_size_and_spacing(tmp_path, degrees, shape, spacing, signed) -> None:
    array, affine = smooth_image(shape), oblique(degrees, spacing)
    one, other = tmp_path / "one.nii", tmp_path / "other.nii"
    first = labels_of(quick(), save(one, array, affine), tmp_path / "a.nii")
    second = labels_of(quick(), save(other, *stored(array, affine, *signed)), tmp_path / "b.nii")
    in_place(second, first.affine, first.array, MM)


def in_every_format(folder: Path, array: np.ndarray, affine: np.ndarray) -> dict[str, Path]:
    """The image as every kind of file that is read, written by this package and others."""
    like = Volume(array, affine)
    small = array.astype(np.int32)  # our writers store labels: uint8 or int32
    write_nrrd(folder / "b.nrrd", small, like)
    write_meta_image(folder / "c.mha", small, like)
    for name in ("d.mgh", "e.mgz"):
        nib.save(nib.MGHImage(array, affine.astype(np.float32)), folder / name)
    write_series(folder / "series", array, affine)
    return {
        "nii.gz": save(folder / "a.nii.gz", array, affine),
        "nii": save(folder / "a.nii", array, affine),
        "nii-2": save(folder / "a2.nii", array, affine, nib.Nifti2Image),
        "nrrd": folder / "b.nrrd",
        "nhdr": write_detached(folder, "nhdr", array, affine),
        "mha": folder / "c.mha",
        "mhd": write_detached(folder, "mhd", array, affine),
        "mgh": folder / "d.mgh",
        "mgz": folder / "e.mgz",
        "dicom": folder / "series",
        "dicom-frames": write_enhanced(folder / "frames" / "x.dcm", (array + 5) // 2, affine),
    }


@pytest.mark.parametrize(
    ("spacing", "target"),
    [(SPACING, (3.0, 2.0, 2.0)), ((0.7, 0.7, 1.1), (1.0, 1.0, 2.0))],
    ids=["plain", "sizes at a half"],
)
def test_every_file_format(tmp_path: Path, spacing, target) -> None:
    """The second spacings bring the target's sizes to a half, where a last digit decides."""
    array = 2 * (smooth_image((15, 25, 15)) // 2) - 5  # what the multi-frame file stores, doubled
    predictor = Predictor(
        [pointwise_model(tiny_plan(spacing_mm=target), kernel=3)], torch.device("cpu")
    )
    paths = in_every_format(tmp_path, array, oblique((8.0, -5.0, 14.0), spacing))
    labels = {
        name: Volume(predictor.predict(path, "ct").labels, read_image(path).affine)
        for name, path in paths.items()
    }
    first = labels["nii.gz"]
    assert len(np.unique(first.array)) == 3
    for found in labels.values():
        in_place(found, first.affine, first.array, MM)


QFORM, SFORM = oblique((5.0, 10.0, -15.0), SPACING), oblique((40.0, 0.0, 8.0), SPACING)


@pytest.mark.parametrize(
    ("qcode", "scode", "expected"),
    [
        *[(code, 0, QFORM) for code in (1, 2, 3, 4, 5)],
        *[(0, code, SFORM) for code in (1, 2, 3, 4, 5)],
        (1, 1, SFORM), (1, 4, SFORM), (2, 1, SFORM), (4, 2, SFORM),
    ],
)  # fmt: skip
def test_the_sform_wins_and_else_the_qform_whatever_the_codes(
    tmp_path: Path, qcode: int, scode: int, expected: np.ndarray
) -> None:
    array = smooth_image(SHAPE)
    image = nib.Nifti1Image(array, None)
    image.header.set_zooms(SPACING)
    image.set_qform(QFORM, qcode)
    image.set_sform(SFORM, scode)
    image.header["qform_code"], image.header["sform_code"] = qcode, scode
    nib.save(image, tmp_path / "x.nii")
    label = labels_of(quick(), tmp_path / "x.nii", tmp_path / "y.nii")
    plain = labels_of(quick(), save(tmp_path / "z.nii", array, expected), tmp_path / "w.nii")
    assert corner_offset(label.affine, expected, SHAPE) < MM
    np.testing.assert_array_equal(label.array, plain.array)
    written = nib.load(tmp_path / "y.nii").header
    for name in (
        "qform_code",
        "sform_code",
        "quatern_b",
        "qoffset_x",
        "srow_x",
        "srow_y",
        "pixdim",
    ):
        assert np.array_equal(written[name], image.header[name], equal_nan=True), name


def test_neither_form_is_the_spacing_alone(tmp_path: Path) -> None:
    array = smooth_image(SHAPE)
    image = nib.Nifti1Image(array, None)
    image.header.set_zooms(SPACING)
    image.header["qform_code"] = image.header["sform_code"] = 0
    nib.save(image, tmp_path / "x.nii")
    label = labels_of(quick(), tmp_path / "x.nii", tmp_path / "y.nii")
    plain = save(tmp_path / "z.nii", array, np.diag([-1.7, 2.2, 3.1, 1]))
    np.testing.assert_array_equal(label.array, labels_of(quick(), plain, tmp_path / "w.nii").array)


STORAGE = [
    *[(kind, 1.0, 0.0) for kind in ("<i2", ">i2", "<i4", "<i8", "<f4", ">f4", "<f8")],
    ("<u2", 1.0, -1024.0), ("<i2", 0.5, -3.0), ("<i2", -1.0, 0.0), ("<i4", 0.25, 7.0),
    ("<u4", 0.5, -2048.0), (">f8", 2.0, 101.0), ("<i2", 0.0, 99.0), ("<u2", 2.0, -1025.0),
]  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "slope", "inter", "form"),
    [
        *[(*one, nib.Nifti1Image) for one in STORAGE],
        *[(*one, nib.Nifti2Image) for one in STORAGE[1::5]],
    ],
)
def test_the_type_and_scale_of_storage_do_not_matter(tmp_path, kind, slope, inter, form) -> None:
    """Scales that are exact in 32 bits: the same true values, the same labels to the voxel."""
    array, affine = (
        2 * (smooth_image(SHAPE).astype(np.float64) // 2) - 5,
        oblique((3, 4, 5), SPACING),
    )
    expected = labels_of(quick(), save(tmp_path / "x.nii", array, affine), tmp_path / "y.nii")
    raw = (array - inter) / slope if slope else array
    assert np.array_equal(raw, np.rint(raw)) and raw.min() >= (0 if "u" in kind else -(2**15))
    image = form(raw.astype(kind), affine, form.header_class(endianness=kind[0]))
    image.set_data_dtype(kind)
    data = bytearray(image.to_bytes())
    fields = np.frombuffer(data, form.header_class.template_dtype.newbyteorder(kind[0]), 1)
    fields["scl_slope"][0], fields["scl_inter"][0] = slope, inter
    (tmp_path / "z.nii").write_bytes(data)
    found = labels_of(quick(), tmp_path / "z.nii", tmp_path / "w.nii")
    in_place(found, expected.affine, expected.array, MM)
