"""Lengths in metres, microns or centimetres become millimetres; what is written keeps its words."""

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from nifti_files import affine, noise, save
from tiny_model import pointwise_predictor, smooth_image, tiny_plan
from unpaired.checks.case import same_place
from unpaired.checks.check import check_path
from unpaired.checks.mend import mend_headers
from unpaired.data.measure import read_lattice
from unpaired.datasets.archive import NiftiChannel
from unpaired.datasets.sources import open_dataset
from unpaired.errors import DataError
from unpaired.io.nifti import read_volume
from unpaired.io.raw import Names
from unpaired.io.read import read_image
from unpaired.io.volume import Volume, corner_offset
from unpaired.io.write import write_labels

MICRON = np.diag([30.0, 30, 50, 1])
OBLIQUE = affine((0.9, 1.1, 3.0))
SHAPE = (9, 8, 7)


def scaled(matrix: np.ndarray, factor: float) -> np.ndarray:
    return np.vstack([matrix[:3] * factor, [0, 0, 0, 1]])


def units(space: str, time: str | None = None):
    return lambda header: header.set_xyzt_units(space, time)


@pytest.mark.parametrize("codes", [(0, 1), (1, 0), (1, 1), (0, 0)])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_microns_become_millimetres_exactly(tmp_path, codes, kind):
    edit = units("micron", "sec")  # of the same byte
    path = save(tmp_path / "a.nii", noise(), MICRON, codes=codes, kind=kind, edit=edit)
    found = read_volume(path)
    assert found.spacing_mm == (0.03, 0.03, 0.05)
    assert read_lattice(path).spacing_mm == (0.03, 0.03, 0.05)
    expected = nib.load(path).affine / 1000
    assert np.array_equal(found.affine[:3], expected[:3]) and found.affine[3, 3] == 1
    assert "lengths are stored in microns, and converted to mm" in found.notes


@pytest.mark.parametrize(("unit", "factor"), [("meter", 1e-3), ("micron", 1e3)])
def test_an_oblique_image_lies_where_it_lay(tmp_path, unit, factor):
    plain = read_volume(save(tmp_path / "a.nii", noise(), OBLIQUE))
    other = read_volume(
        save(tmp_path / "b.nii", noise(), scaled(OBLIQUE, factor), edit=units(unit))
    )
    assert corner_offset(plain.affine, other.affine, SHAPE) < 1e-5
    assert not plain.notes and len(other.notes) == 1


@pytest.mark.parametrize("code", [0, 2, 2 | 16, 5, 7])
def test_unknown_units_count_as_millimetres(tmp_path, code):
    def edit(header):
        header["xyzt_units"] = code

    found = read_volume(save(tmp_path / "a.nii", noise(), OBLIQUE, edit=edit))
    assert corner_offset(found.affine, OBLIQUE, SHAPE) < 1e-5 and not found.notes


def test_a_unit_that_makes_no_sense_is_refused_by_name(tmp_path):
    path = save(tmp_path / "a.nii", noise(), OBLIQUE, edit=units("meter"))
    with pytest.raises(
        DataError, match=r"900 x 1100 x 3000 mm.*the header says its units are metres"
    ):
        read_volume(path)


def test_qform_and_sform_are_compared_in_millimetres(tmp_path):
    def edit(header):
        header.set_xyzt_units("micron")
        header["qoffset_x"] = 90  # 0.09 mm: rounding, and no doubt about the patient

    assert len(read_volume(save(tmp_path / "a.nii", noise(), MICRON, edit=edit)).notes) == 1


@pytest.mark.parametrize("unit", ["micron", "meter", "unknown", "mm"])
def test_a_prediction_keeps_the_headers_words(tmp_path, unit):
    factor = {"micron": 1e3, "meter": 1e-3}.get(unit, 1.0)
    straight = np.diag([-1.7, -2.2, 3.1, 1])
    edit = units(unit, "msec")
    path = save(tmp_path / "x.nii.gz", smooth_image(SHAPE), scaled(straight, factor), edit=edit)
    same = save(tmp_path / "mm.nii.gz", smooth_image(SHAPE), straight)
    predictor = pointwise_predictor(tiny_plan())
    out = tmp_path / "y.nii.gz"
    labels = predictor.predict_file(path, out, "ct", probabilities=True).labels
    x = nib.load(path).header
    for written in (out, tmp_path / "y_probabilities.nii"):
        y = nib.load(written).header
        for name in ("qform_code", "sform_code", "xyzt_units", "quatern_b", "quatern_c",
                     "quatern_d", "qoffset_x", "srow_x", "srow_y", "srow_z"):  # fmt: skip
            assert np.array_equal(x[name], y[name]), name
        assert np.array_equal(x["pixdim"][:4], y["pixdim"][:4])
    assert len(np.unique(labels)) > 1
    assert np.array_equal(labels, predictor.predict(same, "ct").labels)


def nrrd(path: Path, fields: str) -> Path:
    head = "NRRD0004\ntype: uint8\ndimension: 3\nsizes: 9 8 7\nencoding: raw\n" + fields + "\n"
    path.write_bytes(head.encode() + noise(dtype=np.uint8).tobytes("F"))
    return path


SPACE = "space: LPS\nspace directions: (30,0,0) (0,30,0) (0,0,50)\nspace origin: (-60,10,20)\n"


@pytest.mark.parametrize(
    ("fields", "spacing"),
    [
        (SPACE + 'space units: "um" "um" "um"\n', (0.03, 0.03, 0.05)),
        (SPACE + 'space units: "microns" "microns" "microns"\n', (0.03, 0.03, 0.05)),
        (SPACE + 'space units: "\u00b5m" "\u00b5m" "\u00b5m"\n', (0.03, 0.03, 0.05)),
        (SPACE + 'space units: "mm" "mm" "mm"\n', (30, 30, 50)),
        (SPACE, (30, 30, 50)),
        ('spacings: 0.1 0.1 0.5\nunits: "cm" "cm" "cm"\n', (1, 1, 5)),
        ('spacings: 0.001 0.001 0.005\nunits: "m" "m" "m"\n', (1, 1, 5)),
        ('spacings: 1 1 5\nunits: "" "" ""\n', (1, 1, 5)),
    ],
)  # fmt: skip
def test_units_of_nrrd(tmp_path, fields, spacing):
    found = read_image(nrrd(tmp_path / "a.nrrd", fields))
    assert np.allclose(found.spacing_mm, spacing, rtol=1e-12)
    write_labels(tmp_path / "b.nrrd", noise(dtype=np.uint8), found, Names())
    again = read_image(tmp_path / "b.nrrd")
    assert corner_offset(again.affine, found.affine, SHAPE) < 1e-9
    if "space units" in fields:
        assert fields[fields.index("space units") :].encode() in (tmp_path / "b.nrrd").read_bytes()


@pytest.mark.parametrize("unit", ["furlong", "s", 'mm" "um'])
def test_units_of_nrrd_that_are_no_length_are_refused(tmp_path, unit):
    with pytest.raises(DataError, match=r"the units are .*; save it in mm"):
        read_image(nrrd(tmp_path / "a.nrrd", SPACE + f'space units: "{unit}" "mm"\n'))


def meta_image(path: Path, unit: str) -> Path:
    fields = ["NDims = 3", "TransformMatrix = 1 0 0 0 1 0 0 0 1", "Offset = -60 10 20"]
    fields += ["ElementSpacing = 30 30 50", "DimSize = 9 8 7", "ElementType = MET_UCHAR"]
    fields += [f"DistanceUnits = {unit}"] * bool(unit) + ["ElementDataFile = LOCAL", ""]
    path.write_bytes("\n".join(fields).encode() + noise(dtype=np.uint8).tobytes("F"))
    return path


@pytest.mark.parametrize(("unit", "mm"), [("um", 1e-3), ("mm", 1), ("?", 1), ("", 1)])
def test_units_of_meta_image(tmp_path, unit, mm):
    found = read_image(meta_image(tmp_path / "a.mha", unit))
    assert np.allclose(found.spacing_mm, np.array([30, 30, 50]) * mm, rtol=1e-12)
    write_labels(tmp_path / "b.mha", noise(dtype=np.uint8), found, Names())
    assert np.array_equal(read_image(tmp_path / "b.mha").affine, found.affine)
    # Into another format the grid goes in millimetres.
    write_labels(tmp_path / "b.nii", noise(dtype=np.uint8), found, Names())
    assert corner_offset(read_image(tmp_path / "b.nii").affine, found.affine, SHAPE) < 1e-5


def test_an_unknown_unit_of_meta_image_is_refused(tmp_path):
    with pytest.raises(DataError, match="the unit of length is ell; save it in mm"):
        read_image(meta_image(tmp_path / "a.mha", "ell"))


def data_set(root: Path, image_unit: str, label_unit: str, label_mm: np.ndarray) -> Path:
    for k in range(3):
        name, label = f"imagesTr/c{k}_0000.nii.gz", np.zeros(SHAPE, np.uint8)
        label[3:6, 3:6, 3:6] = 1
        save(root / name, noise(seed=k), MICRON, edit=units(image_unit))
        save(root / f"labelsTr/c{k}.nii.gz", label, label_mm, edit=units(label_unit))
    about = {"channel_names": {"0": "T1"}, "labels": {"background": 0, "liver": 1}}
    (root / "dataset.json").write_text(json.dumps({**about, "file_ending": ".nii.gz"}))
    return root


def test_check_says_it_once_and_accepts_labels_in_other_units(tmp_path):
    root = data_set(tmp_path / "t1", "micron", "mm", scaled(MICRON, 1e-3))
    found = check_path(root)
    assert not [f for f in found if f.severity == "error"], found
    (said,) = (f for f in found if f.kind == "units")
    assert said.what == "lengths are stored in microns, and converted to mm (3 files)"
    assert said.severity == "note"


def test_a_label_that_lacks_its_images_unit_is_told_so(tmp_path):
    root = data_set(tmp_path / "t1", "micron", "unknown", MICRON)
    wrong = [f for f in check_path(root) if f.kind == "label-grid"]
    assert len(wrong) == 3 and "its lengths are in another unit" in wrong[0].what
    assert "write the image's unit" in wrong[0].mend
    here = Volume(np.zeros(SHAPE), OBLIQUE)
    away = OBLIQUE.copy()
    away[0, 3] += 1
    (moved,) = same_place(here, Volume(np.zeros(SHAPE), away), "label")
    assert "unit" not in moved.what


def test_mended_headers_are_compared_in_millimetres(tmp_path):
    """A label in mm beside an image in microns, off by rounding: it takes the image's words."""
    off = scaled(MICRON, 1e-3)
    off[0, 3] += 2e-3
    root = data_set(tmp_path / "t1", "micron", "mm", off)
    mended = mend_headers({"t1": open_dataset("t1", root)}, tmp_path / "out")
    assert len(mended) == 3 and all("0.002 mm off the image" in m.done[0] for m in mended)
    image = read_volume(root / "imagesTr/c0_0000.nii.gz")
    label = read_volume(Path(mended[0].copy))
    assert np.array_equal(image.affine, label.affine)


def test_a_channel_of_a_4d_file_is_in_millimetres(tmp_path):
    array = noise((9, 8, 7, 2))
    image = nib.Nifti1Image(array, MICRON)
    image.header.set_xyzt_units("micron", "sec")
    nib.save(image, tmp_path / "a.nii.gz")
    assert NiftiChannel(tmp_path / "a.nii.gz", 1).read().spacing_mm == (0.03, 0.03, 0.05)
