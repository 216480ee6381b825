"""MetaImage (.mha, and .mhd with its voxels beside it), in ITK's reading: the space is LPS."""

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from unpaired.errors import DataError
from unpaired.files import atomic, printable
from unpaired.io.nifti import MAX_VOXELS, refuse_not_finite
from unpaired.io.raw import (
    HEADER_LIMIT,
    LPS_TO_RAS,
    FileSource,
    beside,
    label_type,
    length_in_mm,
    load,
    numbers,
    own_geometry,
    units_note,
    voxels,
    whole_numbers,
    words,
)
from unpaired.io.volume import Volume, check_affine

_TYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
_MATRIX = ("TransformMatrix", "Rotation", "Orientation")
_OFFSET = ("Offset", "Position", "Origin")
_UNITS = "DistanceUnits"
_LAST = "ElementDataFile"


def looks_like_meta_image(head: bytes) -> bool:
    """Whether a file's first bytes are a MetaImage header."""
    start = head.lstrip()[:64]
    key = start.split(b"=", 1)[0].strip()
    return b"=" in start and key in (b"ObjectType", b"NDims", b"Comment", b"ObjectSubType")


def read_meta_image(path: Path, *, max_voxels: int = MAX_VOXELS) -> Volume:
    """Read a volume of one grey channel.

    Raises:
        DataError: damaged, cut short, several channels, voxels as text or in several files.
    """
    name, data = printable(path), load(path, max_voxels)
    fields, start = _header(data, name)
    axes = whole_numbers(_need(fields, "NDims", name), 1, "NDims", name)[0]
    sizes = whole_numbers(_need(fields, "DimSize", name), min(axes, 16), "DimSize", name)
    if axes < 3 or any(n != 1 for n in sizes[3:]):
        text = " x ".join(map(str, sizes))
        raise DataError(f"{name} has {axes} axes ({text}), not one volume; save one [i j k].")
    _refuse_foreign(fields, name)
    dtype = _dtype(fields, name)
    packed = _true(fields, "CompressedData")
    body = _body(path, data[start:], fields, packed, name, max_voxels)
    array = voxels(body, "zlib" if packed else "raw", sizes[:3], dtype, name, max_voxels)
    refuse_not_finite(array, name)
    affine, notes = _affine(fields, axes, name)
    notes += check_affine(affine, name)
    geometry = _own_words(fields) if axes == 3 else {}
    source = FileSource("mha", geometry, affine, fields.get("Comment", ""))
    return Volume(array, affine, None, path, tuple(notes), source)


def write_meta_image(path: Path, labels: np.ndarray, like: Volume, mark: str = "") -> None:
    """Write labels [i j k] on the grid of `like` as one .mha file, whole or not at all.

    Raises:
        ResourceError: the file cannot be written.
    """
    labels = label_type(labels)
    body = zlib.compress(labels.astype(labels.dtype.newbyteorder("<")).tobytes("F"), 4)
    fields = {
        "ObjectType": "Image",
        "NDims": "3",
        **({"Comment": mark} if mark else {}),
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "True",
        "CompressedDataSize": str(len(body)),
        **_place(like),
        "DimSize": " ".join(map(str, labels.shape)),
        "ElementType": "MET_UCHAR" if labels.dtype == np.uint8 else "MET_INT",
        _LAST: "LOCAL",
    }
    head = "".join(f"{key} = {text}\n" for key, text in fields.items())
    with atomic(path) as temporary:
        temporary.write_bytes(head.encode() + body)


def _header(data: bytes, name: str) -> tuple[dict[str, str], int]:
    """Fields, and where the voxels start."""
    fields: dict[str, str] = {}
    start = 0
    while _LAST not in fields:
        stop = data.find(b"\n", start, HEADER_LIMIT)
        if stop < 0 and start < len(data) < HEADER_LIMIT:
            stop = len(data)
        line = data[start:stop].decode("utf-8", "replace").strip() if stop >= 0 else ""
        key, separator, value = (part.strip() for part in line.partition("="))
        if stop < 0 or (line and not separator):
            raise DataError(
                f"{name}: the header is damaged or cut short (no {_LAST}); copy it again."
            )
        start = min(stop + 1, len(data))
        if key in fields:
            raise DataError(f"{name}: the header is damaged ({printable(key)} stands twice).")
        if key:
            fields[key] = value
    return fields, start


def _need(fields: Mapping[str, str], key: str, name: str) -> str:
    if key not in fields:
        raise DataError(f"{name}: the header lacks {key}; the file is damaged.")
    return fields[key]


def _true(fields: Mapping[str, str], *keys: str) -> bool:
    return any(fields.get(key, "False").strip().lower() in ("true", "1") for key in keys)


def _refuse_foreign(fields: Mapping[str, str], name: str) -> None:
    if fields.get("ObjectType", "Image") != "Image":
        raise DataError(f"{name} is a {printable(fields['ObjectType'])}, not an image.")
    if fields.get("ElementNumberOfChannels", "1") != "1":
        raise DataError(f"{name} has several channels; save each as a file of its own.")
    if fields.get("BinaryData", "True").lower() not in ("true", "1"):
        raise DataError(f"{name} keeps its voxels as text, which is not read; save it as binary.")
    if fields.get("HeaderSize", "0") != "0":
        raise DataError(f"{name}: skipped bytes before the voxels are not read; save it again.")
    for key, usual in (
        ("ElementToIntensityFunctionSlope", 1.0),
        ("ElementToIntensityFunctionOffset", 0.0),
    ):
        if key in fields and numbers(fields[key], 1, key, name)[0] != usual:
            raise DataError(f"{name}: {key} is not {usual:g}; save the true values.")


def _dtype(fields: Mapping[str, str], name: str) -> np.dtype:
    kind = _need(fields, "ElementType", name)
    if kind not in _TYPES:
        raise DataError(f"{name}: voxels of type {printable(kind)!r} are not read; save MET_SHORT.")
    big = _true(fields, "BinaryDataByteOrderMSB", "ElementByteOrderMSB")
    return np.dtype(_TYPES[kind]).newbyteorder(">" if big else "<")


def _body(
    path: Path, rest: bytes, fields: Mapping[str, str], packed: bool, name: str, most: int
) -> bytes:
    where = fields[_LAST]
    body = rest if where.upper() == "LOCAL" else load(beside(path, where), most)
    promised = fields.get("CompressedDataSize")
    if (
        packed
        and promised is not None
        and whole_numbers(promised, 1, "CompressedDataSize", name)[0] > len(body)
    ):
        raise DataError(
            f"{name}: the header promises {promised} bytes of compressed voxels, there are "
            f"{len(body)}; copy it again."
        )
    return body


def _first(fields: Mapping[str, str], keys: Sequence[str]) -> str | None:
    return next((fields[key] for key in keys if key in fields), None)


def _affine(fields: Mapping[str, str], axes: int, name: str) -> tuple[np.ndarray, list[str]]:
    notes: list[str] = []
    affine, turn = np.eye(4), np.eye(3)
    matrix, origin = _first(fields, _MATRIX), _first(fields, _OFFSET)
    if matrix is None:
        notes.append("no orientation is stored: left and right are a guess")
    else:
        # Each axis is a run of numbers in the file.
        turn = numbers(matrix, axes * axes, _MATRIX[0], name).reshape(axes, axes)[:3, :3].T
        length = np.linalg.norm(turn, axis=0)
        if np.abs(length - 1).max() > 1e-3:
            raise DataError(f"{name}: the directions of {_MATRIX[0]} are not of length 1.")
    if origin is not None:
        affine[:3, 3] = numbers(origin, axes, _OFFSET[0], name)[:3]
    spacing = fields.get("ElementSpacing", fields.get("ElementSize"))
    if spacing is None:
        raise DataError(f"{name}: the header lacks ElementSpacing; save the image again.")
    affine[:3, :3] = turn * numbers(spacing, axes, "ElementSpacing", name)[:3]
    unit = fields.get(_UNITS, "?")
    mm = 1.0 if unit in ("", "?") else length_in_mm(unit)
    if mm is None:
        raise DataError(f"{name}: the unit of length is {printable(unit)}; save it in mm.")
    affine[:3] *= mm
    return LPS_TO_RAS @ affine, notes if mm == 1 else [*notes, units_note(unit)]


def _own_words(fields: Mapping[str, str]) -> dict[str, str]:
    matrix, origin = _first(fields, _MATRIX), _first(fields, _OFFSET)
    spacing = fields.get("ElementSpacing", fields.get("ElementSize"))
    own = {"TransformMatrix": matrix, "Offset": origin, "ElementSpacing": spacing}
    complete = all(text is not None for text in own.values())
    own[_UNITS] = fields.get(_UNITS)
    return {key: text for key, text in own.items() if text is not None} if complete else {}


def _place(like: Volume) -> Mapping[str, str]:
    """The grid in the header's own words where `like` was read from a MetaImage."""
    own = own_geometry(like, "mha")
    if own is not None:
        return own
    lps = LPS_TO_RAS @ like.affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    return {
        "TransformMatrix": words((lps[:3, :3] / spacing).T.ravel()),
        "Offset": words(lps[:3, 3]),
        "ElementSpacing": words(spacing),
    }
