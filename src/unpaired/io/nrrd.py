"""NRRD (.nrrd, and .nhdr with its voxels beside it), as Teem defines it.

Labels are written as 3D Slicer writes segmentations (.seg.nrrd): names and colours of the classes
are key-value pairs of the header.
"""

import re
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
    Names,
    Packing,
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

MAGIC = re.compile(rb"NRRD000[1-5]\r?\n")
MARK = "unpaired"
_TYPES = {
    "i1": "signed char|int8|int8_t",
    "u1": "uchar|unsigned char|uint8|uint8_t",
    "i2": "short|short int|signed short|signed short int|int16|int16_t",
    "u2": "ushort|unsigned short|unsigned short int|uint16|uint16_t",
    "i4": "int|signed int|int32|int32_t",
    "u4": "uint|unsigned int|uint32|uint32_t",
    "i8": "longlong|long long|long long int|signed long long|signed long long int|int64|int64_t",
    "u8": "ulonglong|unsigned long long|unsigned long long int|uint64|uint64_t",
    "f4": "float",
    "f8": "double",
}
_TYPE_OF = {name: kind for kind, names in _TYPES.items() for name in names.split("|")}
_PACKINGS: Mapping[str, Packing] = {"raw": "raw", "gzip": "gzip", "gz": "gzip"}
_SPACES = {
    "right-anterior-superior": (1, 1, 1),
    "ras": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
    "las": (-1, 1, 1),
    "left-posterior-superior": (-1, -1, 1),
    "lps": (-1, -1, 1),
}
_VECTOR = r"none|\([^()]*\)"
_GEOMETRY = ("space", "space directions", "space origin")
_UNITS = "space units"


def read_nrrd(path: Path, *, max_voxels: int = MAX_VOXELS) -> Volume:
    """Read a volume of one grey channel.

    Raises:
        DataError: damaged, cut short, several channels, an encoding other than raw and gzip, a
            space that is not the patient's, or voxels in several files.
    """
    name, data = printable(path), load(path, max_voxels)
    fields, start = _header(data, name)
    axes = int(whole_numbers(_need(fields, "dimension", name), 1, "dimension", name)[0])
    sizes = (
        whole_numbers(_need(fields, "sizes", name), axes, "sizes", name) if 0 < axes <= 16 else ()
    )
    spatial = _spatial_axes(fields, sizes, name)
    dtype, packing = _dtype(fields, name), _packing(fields, name)
    where = fields.get("data file", fields.get("datafile"))
    body = memoryview(data)[start:] if where is None else memoryview(b"")
    if where is not None:
        body = memoryview(load(beside(path, where), max_voxels))
    if any(
        fields.get(key, "0") != "0" for key in ("line skip", "byte skip", "lineskip", "byteskip")
    ):
        raise DataError(f"{name}: skipped bytes before the voxels are not read; save it again.")
    shape = [sizes[axis] for axis in spatial]
    array = voxels(body, packing, shape, dtype, name, max_voxels)
    refuse_not_finite(array, name)
    affine, notes, units = _affine(fields, axes, spatial, name)
    notes += check_affine(affine, name, units)
    verbatim = axes == 3 and all(key in fields for key in _GEOMETRY)
    own = [key for key in (*_GEOMETRY, _UNITS) if key in fields]
    geometry = {key: fields[key] for key in own} if verbatim else {}
    source = FileSource("nrrd", geometry, affine, fields.get(f"{MARK}:", ""))
    return Volume(array, affine, None, path, tuple(notes), source)


def write_nrrd(path: Path, labels: np.ndarray, like: Volume, names: Names | None = None) -> None:
    """Write labels [i j k] on the grid of `like`, whole or not at all.

    Raises:
        ResourceError: the file cannot be written.
    """
    labels, names = label_type(labels), names or Names()
    kind = "uint8" if labels.dtype == np.uint8 else "int32"
    head = ["NRRD0004", "# Written by unpaired", f"type: {kind}", "dimension: 3"]
    place = _place(like)
    head += [f"space: {place['space']}", f"sizes: {' '.join(map(str, labels.shape))}"]
    head += [f"space directions: {place['space directions']}", "kinds: domain domain domain"]
    head += ["endian: little", "encoding: gzip", f"space origin: {place['space origin']}"]
    head += [f"{_UNITS}: {place[_UNITS]}"] if _UNITS in place else []
    head += [f"{key}:={_escaped(text)}" for key, text in _segments(labels, names)]
    head += [f"{MARK}:={_escaped(names.mark)}"] if names.mark else []
    packer = zlib.compressobj(4, zlib.DEFLATED, 31)
    little = labels.astype(labels.dtype.newbyteorder("<"), copy=False)
    body = packer.compress(little.tobytes("F")) + packer.flush()
    with atomic(path) as temporary:
        temporary.write_bytes("\n".join([*head, "", ""]).encode() + body)


def _header(data: bytes, name: str) -> tuple[dict[str, str], int]:
    """Fields by lower-case name (key-value pairs end in a colon), and where the voxels start."""
    if not MAGIC.match(data):
        raise DataError(f"{name} is not an NRRD file of version 1 to 5; replace it.")
    fields: dict[str, str] = {}
    start = data.index(b"\n") + 1
    while start < len(data):
        stop = data.find(b"\n", start, HEADER_LIMIT)
        if stop < 0:
            if len(data) < HEADER_LIMIT:
                stop = len(data)
            else:
                raise DataError(f"{name}: the header does not end; the file is damaged.")
        line = data[start:stop].decode("utf-8", "replace").rstrip("\r")
        start = stop + 1
        if not line:
            return fields, start
        if line.startswith("#"):
            continue
        pair = re.match(r"([^:]+):(=| )(.*)", line)
        if pair is None:
            raise DataError(f"{name}: the header is damaged (line {printable(line[:40])!r}).")
        key = pair[1] + ":" if pair[2] == "=" else pair[1].strip().lower()
        if key in fields:
            raise DataError(f"{name}: the header is damaged ({printable(key)} stands twice).")
        fields[key] = pair[3].strip()
    return fields, min(start, len(data))


def _need(fields: Mapping[str, str], key: str, name: str) -> str:
    if key not in fields:
        raise DataError(f"{name}: the header lacks {key!r}; the file is damaged or cut short.")
    return fields[key]


def _spatial_axes(fields: Mapping[str, str], sizes: Sequence[int], name: str) -> list[int]:
    """The three axes in space; others must have one element."""
    text = " x ".join(map(str, sizes))
    spatial = list(range(len(sizes)))
    if len(sizes) > 3:
        directions = re.findall(r"none|\([^)]*\)", fields.get("space directions", "").lower())
        known = len(directions) == len(sizes)
        spatial = [a for a in spatial if (directions[a] != "none" if known else sizes[a] > 1)]
    if len(spatial) != 3 or any(n != 1 for a, n in enumerate(sizes) if a not in spatial):
        raise DataError(
            f"{name} has {len(sizes)} axes ({text}), not one volume of one channel; save each as "
            "a file of its own."
        )
    return spatial


def _dtype(fields: Mapping[str, str], name: str) -> np.dtype:
    kind = _need(fields, "type", name).lower()
    if kind not in _TYPE_OF:
        raise DataError(f"{name}: voxels of type {printable(kind)!r} are not read; save int16.")
    dtype = np.dtype(_TYPE_OF[kind])
    order = fields.get("endian", "little" if dtype.itemsize == 1 else "").lower()
    if order not in ("little", "big"):
        raise DataError(f"{name}: the header lacks the byte order (endian); save it again.")
    return dtype.newbyteorder("<" if order == "little" else ">")


def _packing(fields: Mapping[str, str], name: str) -> Packing:
    encoding = _need(fields, "encoding", name).lower()
    if encoding not in _PACKINGS:
        raise DataError(
            f"{name}: the encoding {printable(encoding)!r} is not read; save the file as raw or "
            "gzip."
        )
    return _PACKINGS[encoding]


def _affine(
    fields: Mapping[str, str], axes: int, spatial: Sequence[int], name: str
) -> tuple[np.ndarray, list[str], str]:
    """[4 4] to Right, Anterior, Superior, in mm; notes; the header's units of length."""
    affine = np.eye(4)
    space = fields.get("space", "").lower()
    mm, units = _unit_in_mm(fields, axes, spatial, name)
    notes = [] if mm == 1 else [units_note(units.split(", ")[0])]
    if not space:
        spacing = np.ones(axes)
        if "spacings" in fields:
            text = fields["spacings"].lower().replace("nan", "1")
            spacing = numbers(text, axes, "spacings", name)
        affine[:3, :3] = np.diag(np.array([-1, -1, 1]) * spacing[list(spatial)] * mm)
        return affine, [*notes, "no orientation is stored: left and right are a guess"], units
    if space not in _SPACES:
        raise DataError(
            f"{name}: the space {printable(space)!r} does not say where left and right are; save "
            "it as left-posterior-superior."
        )
    directions = _need(fields, "space directions", name).lower()
    vectors = re.findall(_VECTOR, directions)
    well_formed = re.fullmatch(rf"\s*(({_VECTOR})\s*)*", directions)
    if not well_formed or len(vectors) != axes or any(vectors[axis] == "none" for axis in spatial):
        raise DataError(f"{name}: the header is damaged (space directions).")
    for column, axis in enumerate(spatial):
        affine[:3, column] = _vector(vectors[axis], "space directions", name)
    if "space origin" in fields:
        affine[:3, 3] = _vector(fields["space origin"], "space origin", name)
    else:
        notes.append("no origin is stored: the first voxel is taken as 0 0 0")
    affine[:3] *= mm
    return np.diag([*_SPACES[space], 1.0]) @ affine, notes, units


def _unit_in_mm(
    fields: Mapping[str, str], axes: int, spatial: Sequence[int], name: str
) -> tuple[float, str]:
    """How many mm the header's unit of length is, and its words; without one it is mm.

    A header with a space names the units of the space's axes, one without those of the array's.
    """
    units = re.findall(r'"([^"]*)"', fields.get(_UNITS, ""))
    if "space" not in fields:
        own = re.findall(r'"([^"]*)"', fields.get("units", ""))
        units += [own[axis] for axis in spatial] if len(own) == axes else own
    named = [unit.strip() for unit in units if unit.strip() not in ("", "???")]
    known = {length_in_mm(unit) for unit in named}
    words_of = printable(", ".join(named)) or "mm"
    if len(known) > 1 or None in known:
        raise DataError(f"{name}: the units are {words_of}; save it in mm.")
    mm = known.pop() if known else 1.0
    assert mm is not None
    return mm, "mm" if mm == 1 else words_of


def _vector(text: str, key: str, name: str) -> np.ndarray:
    plain = re.fullmatch(r"\(([^(),]*),([^(),]*),([^(),]*)\)", text.strip())
    return numbers(" ".join(plain.groups()) if plain else "", 3, key, name)


def _place(like: Volume) -> Mapping[str, str]:
    """The grid in the header's own words where `like` was read from an NRRD file, else in LPS."""
    own = own_geometry(like, "nrrd")
    if own is not None:
        return own
    lps = LPS_TO_RAS @ like.affine
    columns = [f"({words(lps[:3, axis]).replace(' ', ',')})" for axis in range(4)]
    return {
        "space": "left-posterior-superior",
        "space directions": " ".join(columns[:3]),
        "space origin": columns[3],
    }


def _segments(labels: np.ndarray, names: Names) -> list[tuple[str, str]]:
    if not names.classes:
        return []
    pairs = [
        ("Segmentation_ContainedRepresentationNames", "Binary labelmap|"),
        ("Segmentation_MasterRepresentation", "Binary labelmap"),
        ("Segmentation_ReferenceImageExtentOffset", "0 0 0"),
    ]
    extent = " ".join(f"0 {n - 1}" for n in labels.shape)
    for number, value in enumerate(range(1, len(names.classes))):
        colour = names.colours[value] if value < len(names.colours) else (255, 255, 255)
        about = {
            "ID": f"Segment_{value}",
            "Name": names.classes[value],
            "NameAutoGenerated": "0",
            "Color": words([round(part / 255, 4) for part in colour]),
            "ColorAutoGenerated": "1",
            "Extent": extent,
            "LabelValue": str(value),
            "Layer": "0",
        }
        pairs += [(f"Segment{number}_{key}", text) for key, text in about.items()]
    return pairs


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")
