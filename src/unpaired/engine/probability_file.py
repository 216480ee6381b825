"""Class probabilities as one 4D NIfTI on the image's grid, written slice by slice.

16-bit integers with the slope 1/65535 (nibabel, 3D Slicer and ITK-SNAP show values from 0 to 1):
half the size of floats, right to 8e-6. Not compressed, so that it can be filled in any order
without ever being held in memory.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np

from unpaired.data.paths import shown
from unpaired.data.volume import Volume
from unpaired.errors import UsageError
from unpaired.files import atomic

SCALE = 65535
_OFFSET = 352


@contextmanager
def probability_file(path: Path, classes: int, like: Volume) -> Iterator[np.ndarray]:
    """Yield a uint16 array [Z i j k] that is the file's content; whole or not at all.

    Raises:
        UsageError: the name does not end in .nii.
        ResourceError: the file cannot be written.
    """
    if not path.name.endswith(".nii"):
        raise UsageError(f"{shown(path)}: probabilities are not compressed, end the name in .nii.")
    shape = (*like.array.shape, classes)
    with atomic(path) as temporary:
        with temporary.open("wb") as file:
            file.write(_header(shape, like))
            file.truncate(_OFFSET + 2 * int(np.prod(shape)))
        content = np.memmap(temporary, "<u2", "r+", _OFFSET, shape, order="F")
        yield np.moveaxis(content, 3, 0)
        content.flush()
        del content  # Windows renames no file that is mapped


def encode(probabilities: np.ndarray) -> np.ndarray:
    """[0, 1] -> uint16."""
    return np.rint(probabilities * SCALE).astype(np.uint16)


def _header(shape: tuple[int, ...], like: Volume) -> bytes:
    header = like.header
    if header is None:
        header = nib.Nifti1Image(np.empty((1, 1, 1), np.uint16), like.affine).header
        header.set_qform(like.affine, 1)
        header.set_xyzt_units("mm")
    header = header.as_byteswapped("<")
    header.set_data_dtype("<u2")
    pixdim = header["pixdim"].copy()
    pixdim[4] = 1
    header.set_data_shape(shape)
    header["pixdim"] = pixdim
    header["scl_slope"], header["scl_inter"] = 1 / SCALE, 0
    header["cal_min"] = header["cal_max"] = 0
    header["vox_offset"], header["magic"] = _OFFSET, b"n+1"
    return bytes(header.binaryblock) + bytes(_OFFSET - header.sizeof_hdr)
