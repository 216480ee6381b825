"""Small DICOM series, single slices and enhanced multi-frame, written by pydicom for tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom", reason="pydicom is an extra")
from pydicom.dataset import Dataset, FileMetaDataset  # noqa: E402
from pydicom.uid import ExplicitVRLittleEndian  # noqa: E402

CLASSES = {
    "CT": "1.2.840.10008.5.1.4.1.1.2",
    "MR": "1.2.840.10008.5.1.4.1.1.4",
    "enhanced CT": "1.2.840.10008.5.1.4.1.1.2.1",
    "enhanced MR": "1.2.840.10008.5.1.4.1.1.4.1",
}
TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
STUDY = "1.2.826.0.1.3680043.8.498.7"
Edit = Callable[[Dataset, int], None]


def turned(spacing=(0.9, 1.1, 3.0), degrees=(10.0, -7.0, 25.0), origin=(-80.0, 33.0, 12.5)):
    """An oblique, right-angled affine [4 4]."""
    a, b, c = np.radians(degrees)
    x = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    y = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    z = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    out = np.eye(4)
    out[:3, :3] = x @ y @ z @ np.diag(spacing)
    out[:3, 3] = origin
    return out


def voxels(shape=(9, 8, 7), seed=0, dtype=np.int16):
    """Random voxels of -1000 to 2000 (from 0 where there is no sign)."""
    low = -1000 if np.dtype(dtype).kind == "i" else 0
    return np.random.default_rng(seed).integers(low, 2000, shape).astype(dtype)


def _base(sop: str, modality: str, kind: str, uid: str, number: int) -> Dataset:
    one = Dataset()
    one.file_meta = FileMetaDataset()
    one.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    one.file_meta.MediaStorageSOPClassUID = one.SOPClassUID = CLASSES[kind]
    one.file_meta.MediaStorageSOPInstanceUID = one.SOPInstanceUID = sop
    one.Modality, one.SeriesInstanceUID, one.SeriesNumber = modality, uid, number
    one.StudyInstanceUID, one.FrameOfReferenceUID = STUDY, f"{STUDY}.1"
    one.PatientName, one.PatientID, one.PatientSex = "Doe^Jane", "P 7", "F"
    one.PatientBirthDate, one.StudyDate, one.StudyTime = "19700102", "20240305", "101112"
    one.StudyID, one.AccessionNumber, one.ReferringPhysicianName = "S1", "A1", "Roe^R"
    one.PositionReferenceIndicator, one.SeriesDescription = "", f"series {number}"
    one.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL"]
    one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
    return one


def _pixels(one: Dataset, array: np.ndarray) -> None:
    """`array` [column row] or [column row frame]."""
    bits = 8 * array.dtype.itemsize
    one.Columns, one.Rows = array.shape[:2]
    one.BitsAllocated = one.BitsStored = bits
    one.HighBit, one.PixelRepresentation = bits - 1, int(array.dtype.kind == "i")
    raw = array.T.astype(array.dtype.newbyteorder("<")).tobytes()
    one.PixelData = raw + b"\0" * (len(raw) % 2)
    one["PixelData"].VR = "OW" if bits > 8 else "OB"


def _texts(values: np.ndarray) -> list[str]:
    return [f"{value:.10g}"[:16] for value in values]


def write_series(
    folder: Path,
    array: np.ndarray,
    affine: np.ndarray,
    *,
    modality: str = "CT",
    uid: str = f"{STUDY}.2",
    number: int = 2,
    slope: float = 1,
    intercept: float = 0,
    edit: Edit | None = None,
    name: Callable[[int], str] = lambda k: f"{k:03d}.dcm",
    save: Callable[[Dataset, Path], None] | None = None,
) -> list[Path]:
    """One file a slice of stored values [i j k]; `edit(data set, k)` may spoil each."""
    folder.mkdir(parents=True, exist_ok=True)
    lps = TO_LPS @ affine
    across, down, step = np.linalg.norm(lps[:3, :3], axis=0)
    paths = []
    for k in range(array.shape[2]):
        one = _base(f"{uid}.{k + 1}", modality, modality, uid, number)
        one.InstanceNumber = k + 1
        one.ImagePositionPatient = _texts(lps[:3, 3] + k * lps[:3, 2])
        one.ImageOrientationPatient = _texts(np.r_[lps[:3, 0] / across, lps[:3, 1] / down])
        one.PixelSpacing, one.SliceThickness = _texts(np.array([down, across])), f"{step:.10g}"
        one.RescaleSlope, one.RescaleIntercept = f"{slope:g}", f"{intercept:g}"
        _pixels(one, array[..., k])
        if edit is not None:
            edit(one, k)
        paths.append(folder / name(k))
        if save is not None:
            save(one, paths[-1])
        else:
            one.save_as(paths[-1], enforce_file_format=True)
    return paths


def write_enhanced(
    path: Path, array: np.ndarray, affine: np.ndarray, *, order=None, edit: Any = None
) -> Path:
    """One multi-frame file of stored values [i j k]; frames in `order` of k."""
    lps = TO_LPS @ affine
    across, down, step = np.linalg.norm(lps[:3, :3], axis=0)
    order = list(range(array.shape[2])) if order is None else order
    one = _base(f"{STUDY}.9.1", "MR", "enhanced MR", f"{STUDY}.9", 9)
    one.NumberOfFrames, one.InstanceNumber = len(order), 1
    measures, turn, values = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = _texts(np.array([down, across]))
    measures.SliceThickness = f"{step:.10g}"
    turn.ImageOrientationPatient = _texts(np.r_[lps[:3, 0] / across, lps[:3, 1] / down])
    values.RescaleSlope, values.RescaleIntercept, values.RescaleType = "2", "-5", "US"
    shared = Dataset()
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [turn]
    shared.PixelValueTransformationSequence = [values]
    one.SharedFunctionalGroupsSequence = [shared]
    items = []
    for k in order:
        place, item, content = Dataset(), Dataset(), Dataset()
        place.ImagePositionPatient = _texts(lps[:3, 3] + k * lps[:3, 2])
        content.DimensionIndexValues = [k + 1]
        item.PlanePositionSequence, item.FrameContentSequence = [place], [content]
        items.append(item)
    one.PerFrameFunctionalGroupsSequence = items
    _pixels(one, array[..., order])
    if edit is not None:
        edit(one)
    path.parent.mkdir(parents=True, exist_ok=True)
    one.save_as(path, enforce_file_format=True)
    return path


def in_place(volume: Any, affine: np.ndarray, array: np.ndarray, mm: float = 1e-4) -> None:
    """Every voxel of `array` under `affine` is found by the volume's own affine, to `mm`."""
    index = np.stack(np.meshgrid(*map(range, array.shape), indexing="ij"), -1).reshape(-1, 3)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    back = np.linalg.inv(volume.affine)
    found = world @ back[:3, :3].T + back[:3, 3]
    whole = np.rint(found).astype(int)
    assert np.abs((found - whole) * volume.spacing_mm).max() < mm
    assert volume.array.shape == tuple(whole.max(0) + 1)
    assert np.array_equal(volume.array[tuple(whole.T)], array.reshape(-1))
