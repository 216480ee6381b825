"""Writing NIfTI on exactly the grid of another image."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np

from unpaired import files
from unpaired.data import inflate
from unpaired.data.geometry import SAME_GRID_MM, Volume, corner_offset
from unpaired.data.nifti_header import Layout, affine_of
from unpaired.data.paths import shown
from unpaired.errors import UsageError

_WRITABLE = ("uint8", "uint16", "int16", "int32", "float32")


def write_volume(path: Path, array: np.ndarray, like: Volume) -> None:
    """Write `array` [i j k] on exactly the grid of `like`: shape, affine, qform, sform, codes,
    units. Booleans become uint8, large integers the smallest type that holds them. Atomic.

    Raises:
        UsageError: the shape is not that of `like`, or the name ends in neither .nii nor .nii.gz.
        ResourceError: the file cannot be written.
    """
    if array.shape != like.array.shape:
        raise UsageError(
            f"cannot write an array of shape {array.shape} on a grid of {like.array.shape}."
        )
    if not path.name.endswith((".nii", ".nii.gz")):
        raise UsageError(f"{shown(path)}: the name must end in .nii or .nii.gz.")
    array = _narrow(array)
    payload = _header_for(array, like) + array.astype(
        array.dtype.newbyteorder("<"), copy=False
    ).tobytes("F")
    with files.atomic(path) as temporary:
        temporary.write_bytes(_deflate(payload) if path.name.endswith(".gz") else payload)


def _narrow(array: np.ndarray) -> np.ndarray:
    if array.dtype == bool:
        return array.astype(np.uint8)
    if array.dtype.kind == "f":
        return array.astype(np.float32, copy=False)
    if array.dtype.name in _WRITABLE:
        return array
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    for kind in (np.uint8, np.uint16, np.int16, np.int32):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            return array.astype(kind)
    raise UsageError(f"values from {low} to {high} do not fit a NIfTI label.")


def _header_for(array: np.ndarray, like: Volume) -> bytes:
    # A header whose geometry is not the volume's (an array resampled by the caller) is of no use.
    header = fresh_header(like)
    if like.header is not None and _lies_here(like, like.header):
        header = like.header.as_byteswapped("<")
    header.set_data_dtype(array.dtype.newbyteorder("<"))
    header.set_data_shape(array.shape)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    header["vox_offset"] = header.single_vox_offset
    return bytes(header.binaryblock) + bytes(4)


def _lies_here(like: Volume, header: nib.Nifti1Header) -> bool:
    """Whether the header means the volume's affine, up to its 32-bit numbers."""
    sizes = (like.array.shape[0], like.array.shape[1], like.array.shape[2])
    layout = Layout(header, sizes, like.array.dtype, 0, ())
    told = affine_of(layout, "the grid")[0]
    return corner_offset(told, like.affine, sizes) <= SAME_GRID_MM


def fresh_header(like: Volume) -> nib.Nifti1Header:
    """A NIfTI header with the volume's geometry, qform and sform in scanner coordinates."""
    image = nib.Nifti1Image(np.empty(like.array.shape, np.uint8), like.affine)
    image.set_qform(like.affine, 1)
    image.set_sform(like.affine, 1)
    image.header.set_xyzt_units("mm")
    return image.header.as_byteswapped("<")


def _deflate(payload: bytes) -> bytes:
    if inflate.igzip_lib is None:
        return gzip.compress(payload, 4, mtime=0)
    return inflate.igzip_lib.compress(payload, 2, inflate.igzip_lib.COMP_GZIP)
