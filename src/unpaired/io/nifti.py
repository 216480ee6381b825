"""Reading NIfTI so that damage is never silent; writing it on exactly the grid of an image."""

import gzip
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np

from unpaired import files, inflate
from unpaired.errors import DataError, UsageError
from unpaired.files import printable, read_bytes
from unpaired.io import nifti_header
from unpaired.io.nifti_header import Layout, affine_of
from unpaired.io.volume import SAME_GRID_MM, Volume, corner_offset
from unpaired.names import ending_of

MAX_VOXELS = 2**31
LABEL_TOLERANCE = 1e-3
# Some writers pad the end with zeros; anything else there means that the header is wrong.
_SLACK = 4096
_WRITABLE = ("uint8", "uint16", "int16", "int32", "float32")


def read_volume(path: Path, *, max_voxels: int = MAX_VOXELS) -> Volume:
    """Read a .nii or .nii.gz file, whole and verified (CRC and length).

    Integers without scaling keep their type; scaled voxels become float32 (float64 from 32-bit
    integers on). The byte order is always this machine's.

    Raises:
        DataError: the file is missing, damaged, cut short, larger than `max_voxels`, not one grey
            volume, without a usable geometry, or holds NaN or infinity.
    """
    name = printable(path)
    buffer, layout, notes = _load(path, name, max_voxels)
    affine, more = nifti_header.affine_of(layout, name)
    array = _voxels(buffer, layout, name)
    refuse_not_finite(array, name)
    return Volume(array, affine, layout.header, path, (*layout.notes, *notes, *more))


def read_label(path: Path) -> Volume:
    """Read a label: an integer array, not negative. Floats within 1e-3 of an integer round.

    Raises:
        DataError: as `read_volume`, or fractions, or negative values.
    """
    return as_label(read_volume(path), printable(path))


def as_label(volume: Volume, name: str) -> Volume:
    """The volume as a label, see `read_label`."""
    array, notes = volume.array, volume.notes
    if array.dtype.kind == "f":
        rounded = np.rint(array)
        off = float(np.abs(array - rounded).max())
        if off > LABEL_TOLERANCE:
            worst = np.unravel_index(int(np.abs(array - rounded).argmax()), array.shape)
            raise DataError(
                f"{name}: a label holds fractions (such as {array[worst]:.4g}); it was resampled "
                "or is a probability map. Save whole numbers, one a class."
            )
        if float(np.abs(rounded).max()) > np.iinfo(np.int32).max:
            raise DataError(
                f"{name}: label values reach {np.abs(rounded).max():.3g}; use 0 to 65535."
            )
        array = rounded.astype(np.int32)
        if off:
            notes = (*notes, f"float labels, rounded by up to {off:.1g}")
    if array.dtype.kind == "i" and array.min() < 0:
        raise DataError(
            f"{name}: a label holds negative values (down to {array.min()}); "
            "give each class a value from 0 on."
        )
    return replace(volume, array=array, notes=notes)


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
    if not ending_of(path.name, (".nii", ".nii.gz")):
        raise UsageError(f"{printable(path)}: the name must end in .nii or .nii.gz.")
    array = _narrow(array)
    payload = _header_for(array, like) + array.astype(
        array.dtype.newbyteorder("<"), copy=False
    ).tobytes("F")
    with files.atomic(path) as temporary:
        temporary.write_bytes(_deflate(payload) if _named_packed(path) else payload)


def _named_packed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def refuse_not_finite(array: np.ndarray, name: str) -> None:
    """Raise DataError if a voxel is NaN or infinite, or would be as a 32-bit number."""
    # One sum needs no mask, and is finite only if every voxel is.
    if array.dtype.kind != "f":
        return
    with np.errstate(over="ignore", invalid="ignore"):
        total = array.sum(dtype=np.float64)
    if np.isfinite(total):
        _refuse_beyond(array, name)
        return
    bad = ~np.isfinite(array)
    count = int(bad.sum())
    if count:
        first = tuple(int(i) for i in np.unravel_index(int(bad.argmax()), array.shape))
        raise DataError(
            f"{name}: {count} of {array.size} voxels are NaN or infinite, the first at {first}; "
            "replace them by the background's value."
        )
    _refuse_beyond(array, name)


def fresh_header(like: Volume) -> nib.Nifti1Header:
    """A NIfTI header with the volume's geometry, qform and sform in scanner coordinates."""
    image = nib.Nifti1Image(np.empty(like.array.shape, np.uint8), like.affine)
    image.set_qform(like.affine, 1)
    image.set_sform(like.affine, 1)
    image.header.set_xyzt_units("mm")
    return image.header.as_byteswapped("<")


def _refuse_beyond(array: np.ndarray, name: str) -> None:
    """Networks see 32-bit numbers, in which 1e300 is infinite."""
    if array.dtype.itemsize <= 4:
        return
    low, high = float(array.min()), float(array.max())
    if max(-low, high) > float(np.finfo(np.float32).max):
        raise DataError(
            f"{name}: voxels reach from {low:.3g} to {high:.3g}, beyond 32-bit numbers; the file "
            "is damaged, or its values must be scaled down."
        )


def _load(
    path: Path, name: str, max_voxels: int
) -> tuple[np.ndarray, nifti_header.Layout, list[str]]:
    """The file's bytes uint8 [n] as long as its header promises, the layout, and notes."""
    data = read_bytes(path, limit=nifti_header.HEAD_BYTES + 8 * max_voxels + (1 << 26))
    if not data:
        raise DataError(f"{name} is empty; copy it again.")
    packed = data[:2] == inflate.MAGIC
    try:
        head = inflate.inflate_head(data, nifti_header.HEAD_BYTES) if packed else data
        layout = nifti_header.parse(head[: nifti_header.HEAD_BYTES], name)
        _refuse_impossible(layout, len(data), packed, name, max_voxels)
        if not packed:
            note = [] if not _named_packed(path) else ["plain NIfTI, though the name ends in .gz"]
            # A copy, since bytes cannot be written to and callers may work in place.
            buffer = np.frombuffer(bytearray(data), np.uint8)
            return _trim(buffer, layout, name, note), layout, note
        buffer, foreign = inflate.inflate(data, layout.end + _SLACK)
    except inflate.InflateError as error:
        raise DataError(f"{name}: {error}; copy or download it again.") from error
    note = ["foreign bytes follow the end of the compressed data"] if foreign else []
    if not _named_packed(path):
        note.append("compressed, though the name does not end in .gz")
    return _trim(buffer, layout, name, note), layout, note


def _refuse_impossible(
    layout: nifti_header.Layout, size: int, packed: bool, name: str, max_voxels: int
) -> None:
    """Refuse before anything is allocated."""
    text = " x ".join(map(str, layout.shape))
    if layout.voxels > max_voxels:
        raise DataError(
            f"{name}: the header promises {text} voxels, more than {max_voxels}; the header is "
            "damaged, or the image must be cropped."
        )
    if layout.end > size * (inflate.MAX_RATIO if packed else 1):
        raise DataError(
            f"{name}: the header promises {text} voxels, the file is too short for them; "
            "copy it again."
        )


def _trim(
    buffer: np.ndarray, layout: nifti_header.Layout, name: str, notes: list[str]
) -> np.ndarray:
    """The bytes the header promises; zeros behind them are noted, anything else is refused."""
    if len(buffer) < layout.end:
        raise DataError(
            f"{name}: the header promises {layout.end} bytes, there are {len(buffer)}; "
            "copy it again."
        )
    rest = buffer[layout.end :]
    if len(rest) > _SLACK or rest.any():
        raise DataError(
            f"{name}: there is more data ({len(buffer)} bytes) than the header promises "
            f"({layout.end}); the header is damaged."
        )
    if len(rest):
        notes.append(f"{len(rest)} bytes of zeros follow the voxels")
    return buffer[: layout.end]


def _voxels(buffer: np.ndarray, layout: nifti_header.Layout, name: str) -> np.ndarray:
    raw = buffer[layout.offset :].view(layout.dtype).reshape(layout.shape, order="F")
    if not (raw.dtype.isnative and raw.flags.aligned):
        raw = raw.astype(raw.dtype.newbyteorder("="))
    try:
        slope, inter = layout.header.get_slope_inter()
    except Exception as error:  # nibabel: a slope without a usable intercept
        raise DataError(f"{name}: the intensity scaling is damaged ({error}).") from error
    if slope is None or (slope == 1 and inter == 0):
        return raw
    wide = raw.dtype.itemsize > (4 if raw.dtype.kind == "f" else 2)
    scaled: np.ndarray = raw.astype(np.float64 if wide else np.float32)
    with np.errstate(all="ignore"):  # what is not finite is refused by the caller
        np.multiply(scaled, slope, out=scaled)
        return np.add(scaled, inter, out=scaled)


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
    stored = affine_of(layout, "the grid")[0]
    return corner_offset(stored, like.affine, sizes) <= SAME_GRID_MM


def _deflate(payload: bytes) -> bytes:
    if inflate.igzip_lib is None:
        return gzip.compress(payload, 4, mtime=0)
    return inflate.igzip_lib.compress(payload, 2, inflate.igzip_lib.COMP_GZIP)
