"""One folder of DICOM slices -> a volume, strictly; needs the extra `dicom`.

A seam: what CHAOS needs and no more. Affine from DICOM PS3.3, C.7.6.2.1.1 (image position,
orientation and pixel spacing), turned from LPS to the RAS that NIfTI uses.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unpaired.data.geometry import Volume, check_affine
from unpaired.data.paths import shown
from unpaired.errors import DataError, UsageError

_SAME = 1e-3
_EVEN = 0.02  # of the distance between slices: rounded positions, not a missing slice
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def read_series(files: Sequence[Path]) -> Volume:
    """The slices as one volume [column row slice], along the normal of the slices.

    Integers when every slice has slope 1, else float32; NaN never occurs.

    Raises:
        UsageError: pydicom is not installed.
        DataError: slices are damaged, differ in size, orientation or spacing, lie twice in one
            place, unevenly, or oblique to their normal (a tilted gantry).
    """
    slices = [_read(file) for file in files]
    order = _order(files, slices)
    planes = [_pixels(files[i], slices[i]) for i in order]
    affine = _affine(files, slices, order)
    return Volume(np.stack(planes, axis=-1), affine, None, files[0].parent)


def slice_order(files: Sequence[Path]) -> list[int]:
    """For each slice of `read_series`, the index of its file in `files`.

    Raises:
        DataError: as `read_series`.
    """
    return _order(files, [_read(file, headers_only=True) for file in files])


def _read(file: Path, headers_only: bool = False) -> Any:
    try:
        import pydicom
    except ImportError as error:
        raise UsageError(
            "reading DICOM needs pydicom, which is not installed. "
            "Install the extra: pip install 'unpaired[dicom]'."
        ) from error
    try:
        found = pydicom.dcmread(file, stop_before_pixels=headers_only)
        found.Rows, found.Columns, found.ImagePositionPatient, found.PixelSpacing  # noqa: B018
        found.ImageOrientationPatient  # noqa: B018
    except Exception as error:  # pydicom raises many kinds
        raise DataError(f"cannot read the slice {shown(file)}: {error}; replace it.") from error
    return found


def _pixels(file: Path, found: Any) -> np.ndarray:
    """[column row], rescaled."""
    try:
        plane = np.asarray(found.pixel_array)
    except Exception as error:
        raise DataError(f"cannot read the voxels of {shown(file)}: {error}; replace it.") from error
    if plane.shape != (int(found.Rows), int(found.Columns)):
        raise DataError(f"{shown(file)} holds {plane.shape}, not one slice; export single slices.")
    slope = float(found.get("RescaleSlope", 1))
    intercept = float(found.get("RescaleIntercept", 0))
    if slope == 1 and intercept == int(intercept):
        return (plane.astype(np.int32) + int(intercept)).T
    return (plane * np.float32(slope) + np.float32(intercept)).astype(np.float32).T


def _order(files: Sequence[Path], slices: Sequence[Any]) -> list[int]:
    """Along the normal; refuses slices that do not make one even stack."""
    if len(slices) < 2:
        raise DataError(f"{shown(files[0].parent)} holds one slice; a volume needs two or more.")
    first = slices[0]
    for file, one in zip(files, slices, strict=True):
        same = (
            (one.Rows, one.Columns) == (first.Rows, first.Columns)
            and np.allclose(one.ImageOrientationPatient, first.ImageOrientationPatient, atol=_SAME)
            and np.allclose(one.PixelSpacing, first.PixelSpacing, atol=_SAME)
        )
        if not same:
            raise DataError(
                f"{shown(file)} and {shown(files[0])} differ in size, orientation or spacing; they "
                "are not one series."
            )
    at = _positions(slices) @ _normal(first)
    order = np.argsort(at, kind="stable")
    gaps = np.diff(at[order])
    if gaps.min() < _SAME:
        here = files[int(order[int(gaps.argmin())])]
        raise DataError(f"two slices lie in one place, {shown(here)} is one; remove the copy.")
    if gaps.max() - gaps.min() > _EVEN * np.median(gaps):
        here = files[int(order[int(gaps.argmax())])]
        raise DataError(
            f"the slices of {shown(files[0].parent)} lie {gaps.min():.3g} to {gaps.max():.3g} mm "
            f"apart, the widest gap after {here.name}; a slice is missing or they are uneven."
        )
    return [int(i) for i in order]


def _affine(files: Sequence[Path], slices: Sequence[Any], order: Sequence[int]) -> np.ndarray:
    first, at = slices[order[0]], _positions(slices)
    row, column = np.reshape(np.asarray(first.ImageOrientationPatient, np.float64), (2, 3))
    down, across = (float(value) for value in first.PixelSpacing)
    affine = np.eye(4)
    affine[:3, 0] = row * across
    affine[:3, 1] = column * down
    affine[:3, 2] = (at[order[-1]] - at[order[0]]) / (len(order) - 1)
    affine[:3, 3] = at[order[0]]
    affine = _LPS_TO_RAS @ affine
    check_affine(affine, shown(files[0].parent))
    return affine


def _positions(slices: Sequence[Any]) -> np.ndarray:
    return np.array([[float(v) for v in one.ImagePositionPatient] for one in slices])


def _normal(one: Any) -> np.ndarray:
    row, column = np.reshape(np.asarray(one.ImageOrientationPatient, np.float64), (2, 3))
    return np.cross(row, column)
