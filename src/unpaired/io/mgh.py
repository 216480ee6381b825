"""FreeSurfer's MGH (.mgh, and .mgz packed by gzip): a header of 284 bytes, voxels, then tags."""

import gzip
import struct
from pathlib import Path

import numpy as np

from unpaired import inflate
from unpaired.errors import DataError
from unpaired.files import atomic, printable
from unpaired.io.nifti import MAX_VOXELS, refuse_not_finite
from unpaired.io.raw import FileSource, label_type, load, native, own_geometry, promised
from unpaired.io.volume import Volume, check_affine

_HEAD = struct.Struct(">7ih15f")  # version, 3 sizes, frames, type, dof, good flag, grid
_START = 284
_TYPES = {0: "u1", 1: ">i4", 3: ">f4", 4: ">i2", 10: ">u2"}
_SCAN = 20  # bytes of scan parameters behind the voxels
_COMMAND_TAG = 3
_TAGS_LIMIT = 1 << 22


def looks_like_mgh(head: bytes) -> bool:
    """Whether a file's first (unpacked) bytes are an MGH header: version 1, sizes, a known type."""
    if len(head) < _HEAD.size:
        return False
    version, *sizes, frames, kind, _ = struct.unpack(">7i", head[:28])
    return version == 1 and kind in _TYPES and all(0 < n < 1 << 20 for n in (*sizes, frames))


def read_mgh(path: Path, *, max_voxels: int = MAX_VOXELS) -> Volume:
    """Read one volume.

    Raises:
        DataError: damaged, cut short, or several frames.
    """
    name, data = printable(path), load(path, max_voxels)
    packed = data[:2] == inflate.MAGIC
    try:
        head = inflate.inflate_head(data, _START) if packed else data[:_START]
        if len(head) < _START:
            raise DataError(f"{name} ends inside its header; copy it again.")
        if not looks_like_mgh(head):
            raise DataError(f"{name} is not an MGH file, or its header is damaged; replace it.")
        _, i, j, k, frames, kind, _, good, *grid = _HEAD.unpack(head[: _HEAD.size])
        if frames != 1:
            raise DataError(
                f"{name} has {frames} frames ({i} x {j} x {k}), more than one volume; save each "
                "as a file of its own."
            )
        dtype = np.dtype(_TYPES[kind])
        packing = "gzip" if packed else "raw"
        size = promised((i, j, k), dtype, len(data), packing, name, max_voxels)  # type: ignore[arg-type]
        content = np.frombuffer(bytearray(data), np.uint8)
        if packed:
            content, _ = inflate.inflate(data, _START + size + _TAGS_LIMIT)
    except inflate.InflateError as error:
        raise DataError(f"{name}: {error}; copy or download it again.") from error
    if len(content) < _START + size:
        raise DataError(
            f"{name}: the header promises {size} bytes of voxels, there are "
            f"{len(content) - _START}; copy it again."
        )
    array = native(content[_START : _START + size], (i, j, k), dtype)
    refuse_not_finite(array, name)
    affine, notes = _affine((i, j, k), bool(good), grid)
    notes += check_affine(affine, name)
    tail = content[_START + size :].tobytes()
    geometry = {"head": head, "scan": tail[:_SCAN]}
    source = FileSource("mgh", geometry, affine, _mark(tail))
    return Volume(array, affine, None, path, tuple(notes), source)


def write_mgh(path: Path, labels: np.ndarray, like: Volume, mark: str = "") -> None:
    """Write labels [i j k] on the grid of `like`, packed if the name ends in .mgz.

    Raises:
        ResourceError: the file cannot be written.
    """
    labels = label_type(labels)
    kind = 0 if labels.dtype == np.uint8 else 1
    i, j, k = labels.shape
    grid, scan = _grid(like)
    head = _HEAD.pack(1, i, j, k, 1, kind, 0, 1, *grid)
    content = head.ljust(_START, b"\0") + labels.astype(np.dtype(_TYPES[kind])).tobytes("F")
    content += scan
    if mark:
        text = mark.encode() + b"\0"
        content += struct.pack(">iq", _COMMAND_TAG, len(text)) + text
    with atomic(path) as temporary:
        packed = path.suffix.lower() == ".mgz"
        temporary.write_bytes(gzip.compress(content, 4, mtime=0) if packed else content)


def _affine(
    shape: tuple[int, int, int], good: bool, grid: list[float]
) -> tuple[np.ndarray, list[str]]:
    """The header holds spacing, a direction an axis, and the place of the central voxel."""
    notes = []
    if not good:  # the format's rule: coronal slices of 1 mm
        notes.append("no orientation is stored: left and right are a guess")
        grid = [1.0, 1.0, 1.0, -1, 0, 0, 0, 0, -1, 0, 1, 0, 0, 0, 0]
    values = np.array(grid, np.float64)
    affine = np.eye(4)
    affine[:3, :3] = values[3:12].reshape(3, 3).T * values[:3]
    affine[:3, 3] = values[12:] - affine[:3, :3] @ (np.array(shape) / 2)
    return affine, notes


def _grid(like: Volume) -> tuple[list[float], bytes]:
    own = own_geometry(like, "mgh")
    values = _HEAD.unpack(own["head"][: _HEAD.size]) if own else ()
    if own and values[7]:
        return list(values[8:]), own["scan"].ljust(_SCAN, b"\0")
    spacing = np.linalg.norm(like.affine[:3, :3], axis=0)
    directions = (like.affine[:3, :3] / spacing).T.ravel()
    centre = like.affine[:3, 3] + like.affine[:3, :3] @ (np.array(like.array.shape) / 2)
    return [*spacing, *directions, *centre], bytes(_SCAN)


def _mark(tail: bytes) -> str:
    """The text of a first tag that names the command, as `write_mgh` leaves it."""
    start = _SCAN + 12
    if len(tail) < start:
        return ""
    tag, length = struct.unpack(">iq", tail[_SCAN:start])
    if tag != _COMMAND_TAG or not 0 < length <= len(tail) - start:
        return ""
    return tail[start : start + length].rstrip(b"\0").decode("utf-8", "replace")
