"""The same scan in every format: one canonical volume, one prediction, results in that format."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicom_files import pydicom, turned, voxels, write_enhanced, write_series
from tiny_model import pointwise_model, pointwise_predictor, smooth_image, tiny_plan, write_nifti
from unpaired.errors import DataError, UsageError
from unpaired.inference.outcome import Options
from unpaired.inference.predictor import Predictor
from unpaired.io.read import Reading, read_image, read_label_image
from unpaired.io.volume import Volume, canonical_orientation, corner_offset
from unpaired.io.write import Writing

sitk = pytest.importorskip("SimpleITK", reason="writes NRRD and MetaImage here")
highdicom = pytest.importorskip("highdicom", reason="highdicom is an extra")

CLASSES = ("background", "liver", "right kidney")
SHAPE = (20, 16, 9)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def predictor() -> Predictor:
    """Sees which way rows and columns run."""
    return Predictor([pointwise_model(tiny_plan(CLASSES), kernel=3)], torch.device("cpu"))


def by_itk(path: Path, array: np.ndarray, affine: np.ndarray) -> Path:
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(array.transpose(2, 1, 0))
    image.SetSpacing(spacing.tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    sitk.WriteImage(image, str(path), True)
    return path


def in_every_format(folder: Path, array: np.ndarray, affine: np.ndarray) -> dict[str, Path]:
    folder.mkdir(exist_ok=True)
    nib.save(nib.MGHImage(array, affine), folder / "d.mgz")
    write_series(folder / "dicom", array, affine, slope=1, intercept=0)
    return {
        "nifti": write_nifti(folder / "a.nii.gz", array, affine),
        "nrrd": by_itk(folder / "b.nrrd", array, affine),
        "mha": by_itk(folder / "c.mha", array, affine),
        "mgh": folder / "d.mgz",
        "dicom": folder / "dicom",
        "multi-frame": write_enhanced(folder / "e" / "x.dcm", (array + 5) // 2, affine),
    }


def canonical(volume: Volume, array: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    turn = canonical_orientation(volume.affine)
    shown = volume.array if array is None else array
    return turn.apply(shown), turn.affine(volume.affine, volume.array.shape)


@settings(
    deadline=None, max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    degrees=st.tuples(*[st.floats(-20, 20)] * 3),
    order=st.permutations(range(3)),
    flips=st.tuples(*[st.sampled_from([1, -1])] * 3),
)
def test_the_same_scan_is_the_same_volume_and_prediction(
    tmp_path_factory: pytest.TempPathFactory,
    degrees: tuple[float, float, float],
    order: Sequence[int],
    flips: tuple[int, int, int],
) -> None:
    affine = turned((1.7, 2.2, 3.1), degrees, (-40.0, 30.0, -20.0))
    affine[:3, :3] = affine[:3, :3][:, order] * flips
    array = 2 * (smooth_image(SHAPE) // 2) - 5  # what the multi-frame file stores, doubled
    paths = in_every_format(tmp_path_factory.mktemp("formats"), array, affine)
    expected, place = canonical(Volume(array, affine))
    labels: np.ndarray | None = None
    for path in paths.values():
        found = predictor().predict(path, "ct")
        volume = read_image(path)
        values, where = canonical(volume)
        np.testing.assert_array_equal(values, expected)
        assert corner_offset(where, place, expected.shape) < 1e-4
        turned_labels = canonical(volume, found.labels)[0]
        labels = turned_labels if labels is None else labels
        np.testing.assert_array_equal(turned_labels, labels)
    assert labels is not None and len(np.unique(labels)) == 3


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("nifti", ["a.nii.gz"]),
        ("nrrd", ["b.seg.nrrd"]),
        ("mha", ["c.mha"]),
        ("mgh", ["d.mgz"]),
        ("dicom", ["dicom.nii.gz", "dicom_seg.dcm"]),
        ("multi-frame", ["x.nii.gz", "x_seg.dcm"]),
    ],
)
def test_results_come_in_the_images_own_format(tmp_path: Path, kind: str, names: list[str]) -> None:
    path = in_every_format(tmp_path / "in", smooth_image(SHAPE), turned((1.7, 2.2, 3.1)))[kind]
    found = predictor().predict_file(path, tmp_path / "out", "ct", probabilities=True)
    assert [one.name for one in found.files] == names
    volume = read_image(path)
    for one in found.files:
        if one.suffix == ".dcm":
            seen, instances = highdicom.seg.segread(one), [f.instance for f in volume.source.frames]
            assert [s.SegmentLabel for s in seen.SegmentSequence] == list(CLASSES[1:])
            if kind == "dicom":
                planes = seen.get_pixels_by_source_instance(instances, combine_segments=True)
                assert np.array_equal(planes, found.labels.transpose(2, 1, 0))
            continue
        label = read_label_image(one)
        assert np.array_equal(label.array, found.labels)
        from_dicom = kind in ("dicom", "multi-frame")  # NIfTI holds 32 bits
        assert corner_offset(label.affine, volume.affine, SHAPE) < (1e-4 if from_dicom else 1e-9)
    beside = nib.load(next((tmp_path / "out").glob("*_probabilities.nii")))
    assert corner_offset(beside.affine, volume.affine, SHAPE) < 1e-4
    assert np.array_equal(np.asarray(beside.dataobj).argmax(-1), found.labels)
    assert json.loads(next((tmp_path / "out").glob("*_labels.json")).read_text())["labels"]["liver"]


def test_any_format_can_be_asked_for(tmp_path: Path) -> None:
    paths = in_every_format(tmp_path / "in", smooth_image(SHAPE), turned((1.7, 2.2, 3.1)))
    every = ("nifti", "nrrd", "mha", "mgz", "dicom-seg")
    out = predictor().predict_file(paths["dicom"], tmp_path / "o", "ct", writing=Writing(every))
    assert len(out.files) == 5 and all(path.is_file() for path in out.files)
    for name in ("y.nii", "y.nii.gz", "y.nrrd", "y.mha", "y.mgz", "y.mgh"):
        found = predictor().predict_file(paths["mha"], tmp_path / name, "ct")
        assert np.array_equal(read_label_image(tmp_path / name).array, found.labels)
    with pytest.raises(UsageError, match="no DICOM series; write NIfTI"):
        predictor().predict_file(paths["mha"], tmp_path / "y.dcm", "ct")
    with pytest.raises(UsageError, match="there is no format 'png'"):
        Writing(("png",))
    with pytest.raises(UsageError, match="names a file, and so its format"):
        predictor().predict_file(paths["mha"], tmp_path / "z.mha", "ct", writing=Writing(every))
    with pytest.raises(UsageError, match="holds the image's slices"):
        predictor().predict_file(paths["dicom"], paths["dicom"], "ct")


def test_a_folder_of_everything_is_predicted_and_kept(tmp_path: Path) -> None:
    """Files and series folders are cases; a bad one does not stop the others; again: all kept."""
    folder, out = tmp_path / "in", tmp_path / "out"
    in_every_format(folder, smooth_image(SHAPE), turned((1.7, 2.2, 3.1)))
    bad = write_series(folder / "bad", voxels((5, 5, 5)), np.eye(4))
    bad[2].unlink()
    write_series(folder / "two" / "1", voxels(), np.eye(4))
    write_series(folder / "two" / "2", voxels(), np.eye(4), uid="1.2.3", number=3)
    first = predictor().predict_folder(folder, out, "ct", strict=False)
    assert set(first.written) == {"a", "b", "c", "d", "dicom", "e"}
    assert "slices are missing (1)" in first.failures["bad"]
    assert "choose one with --series" in first.failures["two"]
    stamps = {path: path.stat().st_mtime_ns for path in first.written.values()}
    again = predictor().predict_folder(folder, out, "ct", strict=False)
    assert again.kept == first.written and not again.written
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}
    (out / "dicom_seg.dcm").write_bytes((out / "dicom_seg.dcm").read_bytes()[:300])
    (out / "d.mgz").unlink()
    (folder / "e" / "x.dcm").touch()  # the same content
    third = predictor().predict_folder(folder, out, "ct", strict=False)
    assert set(third.written) == {"dicom", "d"} and set(third.kept) == {"a", "b", "c", "e"}
    other = pointwise_predictor(tiny_plan(CLASSES), 5)
    assert set(other.predict_folder(folder, out, "ct", strict=False).written) == set(first.written)
    chosen = predictor().predict_folder(
        folder / "two", tmp_path / "two", "ct", strict=False, reading=Reading("3", False)
    )
    assert "no series '3'" in chosen.failures["1"] and set(chosen.written) == {"2"}


def test_dicom_among_other_images_is_refused(tmp_path: Path) -> None:
    write_series(tmp_path, voxels(), np.eye(4))
    write_nifti(tmp_path / "a.nii.gz", voxels(), np.eye(4))
    with pytest.raises(DataError, match="side by side"):
        predictor().predict_folder(tmp_path, tmp_path / "out", "ct")


def test_a_series_of_another_modality_is_told(tmp_path: Path) -> None:
    """Only DICOM says what it is; a scan taken for another modality is not segmented silently."""
    for said in ("CT", "MR"):
        write_series(tmp_path / said, smooth_image(SHAPE), np.eye(4), modality=said)
    found = {
        (said, taken): predictor().predict_file(tmp_path / said, tmp_path / "out", taken).notes
        for said, taken in (("CT", "ct"), ("MR", "mr"), ("CT", "mr"), ("MR", "ct"))
    }
    odd = {pair for pair, notes in found.items() if any("see --modality" in n for n in notes)}
    assert odd == {("CT", "mr"), ("MR", "ct")}
    assert "the series says it is CT, and was predicted as mr" in found["CT", "mr"][-1]


def test_a_resampled_series_is_predicted_and_told(tmp_path: Path) -> None:
    def edit(one: pydicom.Dataset, k: int) -> None:
        one.ImagePositionPatient = ["0", f"{-0.9 * k:.6f}", f"{3 * k + 1.1 * (k > 3):.6f}"]

    write_series(tmp_path / "in", smooth_image(SHAPE), np.diag([2, 2, 3, 1.0]), edit=edit)
    with pytest.raises(DataError, match="tilted"):
        predictor().predict_file(tmp_path / "in", tmp_path / "out", "ct")
    found = predictor().predict_file(
        tmp_path / "in", tmp_path / "out", "ct", reading=Reading(None, True)
    )
    assert any("linearly between neighbours" in note for note in found.notes)
    label = read_label_image(found.files[0])
    assert np.array_equal(label.array, found.labels)
    assert highdicom.seg.segread(found.files[1]).NumberOfFrames > 3
    assert predictor().mark("ct") != predictor().mark("ct", Options(reading=Reading(None, True)))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ct_abdomen", "mr_abdomen_t2"])
def test_real_series_come_back_as_segmentations(
    shared: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    folder = shared(f"data/dicom/{name}")
    toy = pointwise_predictor(tiny_plan(CLASSES, spacing_mm=(8.0, 5.0, 5.0)))
    found = toy.predict_file(folder, tmp_path, name[:2])
    image, label = read_image(folder), nib.load(tmp_path / f"{name}.nii.gz")
    assert np.array_equal(np.asarray(label.dataobj), found.labels)
    assert corner_offset(label.affine, image.affine, image.array.shape) < 1e-4
    seen = highdicom.seg.segread(tmp_path / f"{name}_seg.dcm")
    source = pydicom.dcmread(image.source.frames[0].path, stop_before_pixels=True)
    assert seen.PatientID == source.PatientID and seen.StudyInstanceUID == source.StudyInstanceUID
    present = [value for value in (1, 2) if (found.labels == value).any()]
    assert present and len(seen.SegmentSequence) == len(present)
    instances = [frame.instance for frame in image.source.frames]
    for number, value in enumerate(present, 1):
        planes = seen.get_pixels_by_source_instance(instances, segment_numbers=[number])[..., 0]
        assert np.array_equal(planes, (found.labels == value).transpose(2, 1, 0))
