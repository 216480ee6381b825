"""Plain readers, written from the formats' definitions: what a header says, without any question.

Each gives voxels and affine, or raises whatever it likes where it cannot.
"""

import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

Read = tuple[np.ndarray, np.ndarray]
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
_NIFTI_TYPES = {
    2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8",
    1280: "u8",
}  # fmt: skip


def plain(path: Path) -> Read:
    """Of one file, by its content."""
    data = path.read_bytes()
    if data.startswith(b"NRRD"):
        return _nrrd(path, data)
    if data[:2] == b"\x1f\x8b":
        data = unpack(data, 31)
    if data[344:347] == b"n+1" or data[4:7] == b"n+2":
        return _nifti(data)
    return _mgh(data) if data[:4] == b"\0\0\0\1" else _meta(path, data)


def unpack(data: bytes, bits: int) -> bytes:
    """Every member of a gzip stream (31), or one zlib stream (15), checksums verified."""
    out = b""
    while True:
        one = zlib.decompressobj(bits)
        out += one.decompress(data)
        assert one.eof, "cut short"
        data = one.unused_data
        if bits == 15 or data[:2] != b"\x1f\x8b":
            return out


def _nifti(data: bytes) -> Read:
    second = data[4:7] == b"n+2"
    end = "<" if data[0] else ">"

    def take(one: str, other: str, first: int, later: int) -> tuple[Any, ...]:
        return struct.unpack_from(
            end + (other if second else one), data, later if second else first
        )

    dim = take("8h", "8q", 40, 16)
    kind = np.dtype(_NIFTI_TYPES[take("h", "h", 70, 12)[0]]).newbyteorder(end)
    pixdim = np.array(take("8f", "8d", 76, 104), float)
    offset = int(take("f", "q", 108, 168)[0]) or (544 if second else 352)
    slope, inter = take("2f", "2d", 112, 176)
    qcode, scode = take("2h", "2i", 252, 344)
    b, c, d, *origin = take("6f", "6d", 256, 352)
    rows = np.array(take("12f", "12d", 280, 400), float).reshape(3, 4)
    shape = tuple(int(n) for n in dim[1:4])
    voxels = np.frombuffer(data, kind, int(np.prod(shape)), offset).reshape(shape, order="F")
    if slope not in (0, np.inf, -np.inf) and slope == slope and (slope, inter) != (1, 0):
        voxels = voxels.astype(float) * slope + inter
    affine = np.eye(4)
    if scode:
        affine[:3] = rows
    elif qcode:
        a = np.sqrt(max(0.0, 1 - b * b - c * c - d * d))
        n = 1 / np.sqrt(a * a + b * b + c * c + d * d)
        a, b, c, d = a * n, b * n, c * n, d * n
        turn = np.array(
            [
                [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
                [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
                [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
            ]
        )
        affine[:3, :3] = turn * (pixdim[1:4] * [1, 1, -1 if pixdim[0] == -1 else 1])
        affine[:3, 3] = origin
    else:  # nibabel's choice, which no header states
        steps = np.abs(pixdim[1:4])
        affine[:3, :3] = np.diag(steps * [-1, 1, 1])
        affine[:3, 3] = steps * [1, -1, -1] * (np.array(shape) - 1) / 2
        affine[0, 3] *= -1 if affine[0, 0] * affine[0, 3] > 0 else 1
        affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    affine[:3] *= {1: 1e3, 3: 1e-3}.get(take("B", "i", 123, 500)[0] & 7, 1.0)
    return voxels, affine


def _mgh(data: bytes) -> Read:
    head = struct.unpack_from(">7ih15f", data)
    shape, kind = head[1:4], {0: ">u1", 1: ">i4", 3: ">f4", 4: ">i2", 10: ">u2"}[head[5]]
    voxels = np.frombuffer(data, kind, int(np.prod(shape)), 284).reshape(shape, order="F")
    values = np.array(head[8:], float)
    if not head[7]:
        values = np.array([1, 1, 1, -1, 0, 0, 0, 0, -1, 0, 1, 0, 0, 0, 0], float)
    affine = np.eye(4)
    affine[:3, :3] = values[3:12].reshape(3, 3).T * values[:3]
    affine[:3, 3] = values[12:] - affine[:3, :3] @ (np.array(shape) / 2)
    return voxels, affine


def _body(path: Path, name: str | None, data: bytes, packed: int) -> bytes:
    body = data if name is None else (path.parent / name).read_bytes()
    return unpack(body, packed) if packed else body


def _floats(text: str) -> np.ndarray:
    return np.array([float(one) for one in re.findall(r"[^\s(),]+", text)])


_NRRD_TYPES = {
    "i1": "signed char|int8", "u1": "uchar|unsigned char|uint8", "i2": "short|int16",
    "u2": "ushort|uint16", "i4": "int|int32", "f4": "float", "f8": "double",
}  # fmt: skip


def _nrrd(path: Path, data: bytes) -> Read:
    head, _, rest = data.partition(b"\n\n")
    lines = head.decode("utf-8", "replace").split("\n")[1:]
    told = dict(one.split(": ", 1) for one in lines if ": " in one and one[0] != "#")
    told = {key.strip().lower(): value.strip() for key, value in told.items()}
    kind = next(k for k, names in _NRRD_TYPES.items() if told["type"].lower() in names.split("|"))
    big = told.get("endian", "little").lower() == "big"
    sizes = [int(n) for n in told["sizes"].split() if int(n) > 1 or len(told["sizes"].split()) == 3]
    packed = 31 if told["encoding"].lower() in ("gzip", "gz") else 0
    body = _body(path, told.get("data file", told.get("datafile")), rest, packed)
    dtype = np.dtype(kind).newbyteorder(">" if big else "<")
    voxels = np.frombuffer(body, dtype, int(np.prod(sizes))).reshape(sizes, order="F")
    affine, space = np.eye(4), told.get("space", "").lower()
    unit = told.get("space units", '"mm"').split('"')[1].strip()
    mm = {"m": 1e3, "cm": 10.0, "um": 1e-3, "nm": 1e-6}.get(unit, 1.0)
    if not space:
        steps = _floats(told["spacings"]) if "spacings" in told else np.ones(3)
        affine[:3, :3] = np.diag(steps * [-1, -1, 1]) * mm
        return voxels, affine
    affine[:3, :3] = _floats(told["space directions"]).reshape(3, 3).T
    affine[:3, 3] = _floats(told.get("space origin", "(0,0,0)"))
    affine[:3] *= mm
    left = space[0] == "l"
    back = "posterior" in space or space == "lps"
    return voxels, np.diag([-1.0 if left else 1.0, -1.0 if back else 1.0, 1, 1]) @ affine


_META_TYPES = {
    "CHAR": "i1", "UCHAR": "u1", "SHORT": "i2", "USHORT": "u2", "INT": "i4", "UINT": "u4",
    "LONG_LONG": "i8", "ULONG_LONG": "u8", "FLOAT": "f4", "DOUBLE": "f8",
}  # fmt: skip


def _meta(path: Path, data: bytes) -> Read:
    told: dict[str, str] = {}
    while "ElementDataFile" not in told:
        one, _, data = data.partition(b"\n")
        key, _, value = one.decode("utf-8", "replace").partition("=")
        told[key.strip()] = value.strip()
    shape = [int(n) for n in told["DimSize"].split()]
    name = told["ElementDataFile"]
    packed = 15 if told.get("CompressedData", "").lower() in ("true", "1") else 0
    body = _body(path, None if name.upper() == "LOCAL" else name, data, packed)
    big = told.get("BinaryDataByteOrderMSB", "").lower() in ("true", "1")
    kind = np.dtype(_META_TYPES[told["ElementType"].removeprefix("MET_")])
    dtype = kind.newbyteorder(">" if big else "<")
    voxels = np.frombuffer(body, dtype, int(np.prod(shape))).reshape(shape, order="F")
    affine = np.eye(4)
    turn = _floats(told["TransformMatrix"]) if "TransformMatrix" in told else np.eye(3)
    affine[:3, :3] = turn.reshape(3, 3).T * _floats(told["ElementSpacing"])
    affine[:3, 3] = _floats(told["Offset"]) if "Offset" in told else 0
    return voxels, LPS @ affine
