"""What the formats share: voxels as the header promises them, text headers, detached files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from unpaired import inflate
from unpaired.errors import DataError
from unpaired.files import is_file, printable, read_bytes
from unpaired.io.nifti import MAX_VOXELS
from unpaired.io.volume import SAME_GRID_MM, Volume, corner_offset

Packing = Literal["raw", "gzip", "zlib"]
HEADER_LIMIT = 1 << 20
SLACK = 4096
_MM = {
    "mm": 1.0, "millimetre": 1.0, "um": 1e-3, "micron": 1e-3, "micrometre": 1e-3,
    "cm": 10.0, "centimetre": 10.0, "m": 1e3, "metre": 1e3, "nm": 1e-6, "nanometre": 1e-6,
}  # fmt: skip
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class FileSource:
    """What is written back unchanged beside a result on the same grid.

    Attributes:
        format: "nrrd", "mha" or "mgh".
        geometry: the header's own words (or bytes) on the grid.
        affine: [4 4] that these mean, so that they are used for this grid only.
        mark: the file's description, as `unpaired predict` writes it.
    """

    format: str
    geometry: Mapping[str, Any]
    affine: np.ndarray
    mark: str = ""


@dataclass(frozen=True)
class Names:
    """What the values of a label map mean.

    Attributes:
        classes: names, background first.
        colours: red, green, blue from 0 to 255, one a class; empty: none.
        mark: what the result depends on besides the image, kept in the file.
    """

    classes: Sequence[str] = ()
    colours: Sequence[tuple[int, int, int]] = ()
    mark: str = ""


def own_geometry(like: Volume, form: str) -> Mapping[str, Any] | None:
    """The header's own words on the grid, if `like` was read from this format and still lies where
    the file said."""
    source = like.source
    if not isinstance(source, FileSource) or source.format != form or not source.geometry:
        return None
    offset = corner_offset(source.affine, like.affine, like.array.shape)
    return source.geometry if offset <= SAME_GRID_MM else None


def load(path: Path, max_voxels: int = MAX_VOXELS) -> bytes:
    """The file's bytes, not empty; see `unpaired.files.read_bytes`."""
    data = read_bytes(path, limit=8 * max_voxels + (1 << 26))
    if not data:
        raise DataError(f"{printable(path)} is empty; copy it again.")
    return data


def beside(path: Path, name: str) -> Path:
    """The file of voxels that a header names: only one in the header's own folder.

    Raises:
        DataError: a list, a pattern, or a path that leads elsewhere.
    """
    first = name.split()[0] if name.split() else ""
    if first.upper() == "LIST" or "%" in name:
        raise DataError(
            f"{printable(path)} keeps its voxels in several files ({printable(name)}), which is "
            "not read; save it as one file."
        )
    if not first or Path(name).name != name or name in (".", ".."):
        raise DataError(
            f"{printable(path)} keeps its voxels in {printable(name)!r}; only a file beside the "
            "header is read. Put both into one folder, or save the image as one file."
        )
    there = path.with_name(name)
    if not is_file(there):
        raise DataError(
            f"{printable(path)} keeps its voxels in {printable(name)}, which is not beside it; put "
            "both into one folder."
        )
    return there


def voxels(
    data: bytes | memoryview,
    packing: Packing,
    shape: Sequence[int],
    dtype: np.dtype,
    name: str,
    max_voxels: int = MAX_VOXELS,
) -> np.ndarray:
    """[i j k], the first axis fastest, in this machine's byte order.

    Raises:
        DataError: more than `max_voxels`, too few or too many bytes, damaged compression.
    """
    size = promised(shape, dtype, len(data), packing, name, max_voxels)
    buffer = np.frombuffer(bytearray(data), np.uint8) if packing == "raw" else None
    if buffer is None:
        try:
            buffer, foreign = inflate.inflate(data, size + SLACK, gzip=packing == "gzip")
        except inflate.InflateError as error:
            raise DataError(f"{name}: {error}; copy or download it again.") from error
        if foreign:
            raise DataError(f"{name}: foreign bytes follow the voxels; copy it again.")
    if len(buffer) < size:
        raise DataError(
            f"{name}: the header promises {size} bytes of voxels, there are {len(buffer)}; "
            "copy it again."
        )
    rest = buffer[size:]
    if len(rest) > SLACK or rest.any():
        raise DataError(
            f"{name}: there are {len(buffer)} bytes of voxels, the header promises {size}; "
            "the header is damaged."
        )
    return native(buffer[:size], shape, dtype)


def promised(
    shape: Sequence[int], dtype: np.dtype, available: int, packing: Packing, name: str, most: int
) -> int:
    """Bytes of voxels the header promises, refused before anything is allocated."""
    text = " x ".join(map(str, shape))
    if len(shape) != 3 or min(shape) < 1:
        raise DataError(f"{name}: an image of {text} voxels is not a volume; save one [i j k].")
    count = int(np.prod(shape, dtype=object))
    if count > most:
        raise DataError(
            f"{name}: the header promises {text} voxels, more than {most}; the header is "
            "damaged, or the image must be cropped."
        )
    size = count * dtype.itemsize
    if size > available * (1 if packing == "raw" else inflate.MAX_RATIO):
        raise DataError(
            f"{name}: the header promises {text} voxels, the file is too short for them; "
            "copy it again."
        )
    return size


def native(buffer: np.ndarray, shape: Sequence[int], dtype: np.dtype) -> np.ndarray:
    """Bytes uint8 [n] -> voxels [i j k]."""
    raw = buffer.view(dtype) if buffer.ctypes.data % dtype.itemsize == 0 else None
    if raw is None:
        raw = np.frombuffer(bytearray(buffer.tobytes()), dtype)
    return raw.reshape(shape, order="F").astype(dtype.newbyteorder("="), copy=False)


def numbers(text: str, count: int, key: str, name: str) -> np.ndarray:
    """`count` finite numbers, separated by blanks."""
    try:
        values = np.array([float(one) for one in text.split()])
    except ValueError:
        values = np.empty(0)
    if len(values) != count or not np.isfinite(values).all():
        raise DataError(
            f"{name}: the header is damaged ({key} is {printable(text[:60])!r}, not {count} "
            "numbers)."
        )
    return values


def whole_numbers(text: str, count: int, key: str, name: str) -> tuple[int, ...]:
    """`count` whole numbers from 0 on."""
    parts = text.split()
    if len(parts) != count or not all(p.isascii() and p.isdigit() and len(p) < 19 for p in parts):
        raise DataError(
            f"{name}: the header is damaged ({key} is {printable(text[:60])!r}, not {count} whole "
            "numbers)."
        )
    return tuple(int(part) for part in parts)


def label_type(array: np.ndarray) -> np.ndarray:
    """Labels as uint8 where they fit, else int32."""
    if array.dtype == bool or array.max(initial=0) < 256:
        return array.astype(np.uint8, copy=False)
    return array.astype(np.int32, copy=False)


def length_in_mm(unit: str) -> float | None:
    """How many millimetres a unit is, by its symbol or name; None where it is no length."""
    plain = unit.strip().replace("\u00b5", "u").replace("\u03bc", "u")  # the two signs for micro
    plain = plain if len(plain) < 3 else plain.lower().removesuffix("s").replace("meter", "metre")
    return _MM.get(plain)


def units_note(unit: str) -> str:
    """What a reader says of a file in another unit than mm."""
    return f"lengths are stored in {printable(unit)}, and converted to mm"


def words(values: Sequence[float] | np.ndarray) -> str:
    """Numbers in full, separated by blanks."""
    return " ".join(repr(float(value)) for value in values)
