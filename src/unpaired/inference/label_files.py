"""What the numbers in a label file mean, for programs and for two viewers."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import nibabel as nib
import numpy as np

from unpaired.colours import class_rgb
from unpaired.errors import UsageError
from unpaired.files import atomic, printable, write_json, write_text
from unpaired.io.volume import Volume


def write_label_files(folder: Path, classes: Sequence[str], prefix: str = "") -> None:
    """Write `labels.json` (name -> value), `labels.txt` (for ITK-SNAP: Segmentation > Import Label
    Descriptions) and `labels.ctbl` (for 3D Slicer: a color table), each name after `prefix`.

    Raises:
        ResourceError: the folder cannot be written.
    """
    values = {name: value for value, name in enumerate(classes)}
    write_json(folder / f"{prefix}labels.json", {"labels": values})
    write_text(folder / f"{prefix}labels.txt", itksnap_table(classes))
    write_text(folder / f"{prefix}labels.ctbl", slicer_table(classes))


def itksnap_table(classes: Sequence[str]) -> str:
    """ITK-SNAP's label descriptions: value, R G B, opacity, shown, shown in 3D, name."""
    lines = ["# value R G B opacity visible mesh label"]
    for value, (name, (r, g, b)) in enumerate(zip(classes, class_rgb(classes), strict=True)):
        on = int(value > 0)
        lines.append(
            f'{value:5d} {r:5d} {g:4d} {b:4d} {on:8d} {on:2d} {on:2d}    "{_quoted(name)}"'
        )
    return "\n".join(lines) + "\n"


def slicer_table(classes: Sequence[str]) -> str:
    """3D Slicer's color table: value, name, R G B, opacity; a name holds no blank there."""
    lines = ["# value name R G B opacity"]
    for value, (name, (r, g, b)) in enumerate(zip(classes, class_rgb(classes), strict=True)):
        lines.append(
            f"{value} {'_'.join(printable(name).split())} {r} {g} {b} {255 if value else 0}"
        )
    return "\n".join(lines) + "\n"


def recipe_mark(*parts: str) -> str:
    """A short fingerprint of what a prediction depends on besides its image."""
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _quoted(name: str) -> str:
    return printable(name).replace('"', "'")


# Class probabilities as one 4D NIfTI on the image's grid, written slice by slice.
#
# 16-bit integers with the slope 1/65535 (nibabel, 3D Slicer and ITK-SNAP show values from 0 to 1):
# half the size of floats, right to 8e-6. Not compressed, so that it can be filled in any order
# without ever being held in memory.


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
        raise UsageError(
            f"{printable(path)}: probabilities are not compressed, end the name in .nii."
        )
    shape = (*like.array.shape, classes)
    with atomic(path) as temporary:
        with temporary.open("wb") as file:
            file.write(_header(shape, like))
            _reserve(file, _OFFSET + 2 * int(np.prod(shape)))
        content = np.memmap(temporary, "<u2", "r+", _OFFSET, shape, order="F")
        yield np.moveaxis(content, 3, 0)
        content.flush()
        del content  # Windows renames no file that is mapped


def _reserve(file: BinaryIO, size: int) -> None:
    """Take the space now: a map of a file that finds the disk full later kills the process."""
    file.flush()
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    else:
        file.truncate(size)


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
