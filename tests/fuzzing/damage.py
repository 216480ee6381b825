"""Damage to files, drawn from a seeded generator: bytes, header fields, lengths, words."""

import gzip
import re
import struct
from collections.abc import Callable

import nibabel as nib
import numpy as np

from fuzzing.seeds import PACKED, TEXTS, Seed

Draw = np.random.Generator
Hurt = Callable[[bytes, Draw], bytes]
WHOLE = (0, 1, -1, 2, 3, 4, 7, 127, 128, 255, 256, 32767, -32768, 65535, 2**31 - 1, -(2**31))
REAL = (0.0, -0.0, 1.0, -1.0, np.nan, np.inf, -np.inf, 1e-30, 1e30, 352.5, 0.5, -3.0, 1e6)
WORDS = (
    "", "0", "-1", "1", "nan", "inf", "-inf", "1e999", "1e-320", "99999999999999999999", "0x10",
    "1_0", "٣", "²", "0.5", "true", "False", "None", "null", "LIST", "a b", "\x00", "\x85", "..",
    "/etc/passwd", "%03d", "[]", "{}", "[[[[", '"', "'", "\ud7ff", "none", "é" * 300, "1 2 3 4",
    "(1,0,0)", "unknown", "9" * 5000, "~nobody/x.nii", "0x" + "f" * 5000, "1e400", "\x1b[2J",
    "-0.0", "1e3",
)  # fmt: skip


def damage(seed: Seed, draw: Draw) -> tuple[dict[str, bytes], str]:
    """The files after one act of damage, and what was done."""
    files = dict(seed.files)
    name = seed.damaged[int(draw.integers(len(seed.damaged)))]
    if seed.kind == "dicom" and draw.random() < 0.08:
        return _series(files, name, draw)
    ways = _ways(seed, name)
    label = list(ways)[int(draw.integers(len(ways)))]
    files[name] = ways[label](files[name], draw)
    return files, label


def _ways(seed: Seed, name: str) -> dict[str, Hurt]:
    """What can be done to a file; header damage counts twice, since most is found there."""
    ways: dict[str, Hurt] = {
        "cut": cut, "bits": bits, "bytes": bytes_, "zeros": zeros, "insert": insert,
        "remove": remove, "repeat": repeat, "foreign": foreign,
    }  # fmt: skip
    own: dict[str, Hurt] = {}
    if seed.kind.startswith("nii"):
        own = {"field": nifti_field, "fields": _twice(nifti_field)}
    elif seed.kind.startswith("mg"):
        own = {"field": mgh_field}
    elif seed.kind.startswith("dicom"):
        own = {"value": dicom_value, "length": dicom_length}
    elif seed.kind in TEXTS or not name.endswith("raw"):
        own = {"word": word, "words": _twice(word), "line": line}
    if PACKED.get(seed.kind) == "gzip" and seed.kind != "nrrd-gzip":
        ways["bomb"] = bomb
        own = {
            label: _inside(way) for label, way in {**own, "inner cut": cut, "inner": bits}.items()
        }
    return {**ways, **own}


def _twice(way: Hurt) -> Hurt:
    return lambda data, draw: way(way(data, draw), draw)


def _inside(way: Hurt) -> Hurt:
    """Damage before the packing: checksum and length agree again."""
    return lambda data, draw: gzip.compress(way(gzip.decompress(data), draw), 1, mtime=0)


def _place(data: bytes, draw: Draw) -> int:
    """Anywhere, half of the time near the start."""
    reach = len(data) if draw.random() < 0.5 else min(len(data), 400)
    return int(draw.integers(max(1, reach)))


def cut(data: bytes, draw: Draw) -> bytes:
    return data[: int(draw.integers(len(data)))] if draw.random() < 0.7 else data[: -_few(draw)]


def _few(draw: Draw) -> int:
    return int(draw.integers(1, 9))


def bits(data: bytes, draw: Draw) -> bytes:
    out = bytearray(data)
    for _ in range(_few(draw)):
        if out:
            out[_place(data, draw)] ^= 1 << int(draw.integers(8))
    return bytes(out)


def bytes_(data: bytes, draw: Draw) -> bytes:
    out = bytearray(data)
    for _ in range(_few(draw)):
        if out:
            out[_place(data, draw)] = int(draw.integers(256))
    return bytes(out)


def zeros(data: bytes, draw: Draw) -> bytes:
    start, length = _place(data, draw), int(draw.integers(1, 600))
    stop = min(len(data), start + length)
    return data[:start] + bytes(stop - start) + data[stop:]


def insert(data: bytes, draw: Draw) -> bytes:
    start = _place(data, draw)
    return data[:start] + draw.bytes(_few(draw)) + data[start:]


def remove(data: bytes, draw: Draw) -> bytes:
    start = _place(data, draw)
    return data[:start] + data[start + _few(draw) :]


def repeat(data: bytes, draw: Draw) -> bytes:
    start, length = _place(data, draw), int(draw.integers(1, 200))
    return data[: start + length] + data[start:]


def foreign(data: bytes, draw: Draw) -> bytes:
    """Another file of that name, or another start."""
    others = (
        b"", draw.bytes(700), b"<!DOCTYPE html><html></html>", b"\x1f\x8b", b"PK\x03\x04" + data,
        gzip.compress(draw.bytes(900)), b"NRRD0004\n" + data, b"ObjectType = Image\n" + data,
        data + draw.bytes(50), data + bytes(300), data + data, bytes(len(data)),
        b"\xef\xbb\xbf" + data,
        gzip.compress(data), bytes(128) + b"DICM" + data,
    )  # fmt: skip
    return others[int(draw.integers(len(others)))]


def bomb(data: bytes, draw: Draw) -> bytes:
    """Far more behind the voxels than the header promises."""
    return gzip.compress(gzip.decompress(data) + bytes(1 << 24), 1, mtime=0)


def nifti_field(data: bytes, draw: Draw) -> bytes:
    """One number of the header at an odd or a random value."""
    form = nib.Nifti2Header if data[4:7] == b"n+2" else nib.Nifti1Header
    dtype = form.template_dtype
    if len(data) < dtype.itemsize:
        return bits(data, draw)
    big = data[:1] == b"\0"
    name = dtype.names[int(draw.integers(len(dtype.names)))]
    if draw.random() < 0.5:
        names = ("dim", "pixdim", "datatype", "bitpix", "vox_offset", "scl_slope", "sform_code")
        name = (*names, "srow_x", "quatern_b", "qform_code", "scl_inter")[int(draw.integers(11))]
    kind, at = dtype.fields[name][:2]
    base, count = kind.base, int(np.prod(kind.shape, dtype=int))
    at += int(draw.integers(count)) * base.itemsize
    value = _number(base.newbyteorder(">" if big else "<"), draw)
    return data[:at] + value + data[at + base.itemsize :]


def mgh_field(data: bytes, draw: Draw) -> bytes:
    """One number of the header at an odd or a random value."""
    index = int(draw.integers(23))
    at = 4 * index if index < 7 else 28 if index == 7 else 30 + 4 * (index - 8)
    kind = np.dtype(">i4" if index < 7 else ">i2" if index == 7 else ">f4")
    return data[:at] + _number(kind, draw) + data[at + kind.itemsize :]


def _number(kind: np.dtype, draw: Draw) -> bytes:
    if kind.kind not in "iuf" or draw.random() < 0.3:
        return draw.bytes(kind.itemsize)
    if kind.kind == "f":
        return np.array(REAL[int(draw.integers(len(REAL)))]).astype(kind).tobytes()
    value = WHOLE[int(draw.integers(len(WHOLE)))] if draw.random() < 0.7 else int(draw.integers(9))
    return np.array(value, np.int64).astype(kind).tobytes()


def word(data: bytes, draw: Draw) -> bytes:
    """One word or number of a text (of a text header) replaced."""
    head = data[:1500]
    found = list(re.finditer(rb"[-+.\w]+", head))
    if not found:
        return data
    one = found[int(draw.integers(len(found)))]
    if draw.random() < 0.25:
        other = found[int(draw.integers(len(found)))][0]
    else:
        other = WORDS[int(draw.integers(len(WORDS)))].encode("utf-8", "surrogatepass")
    return data[: one.start()] + other + data[one.end() :]


def line(data: bytes, draw: Draw) -> bytes:
    """A line left out, doubled, or moved to the front."""
    head, rest = data[:1500], data[1500:]
    lines = head.split(b"\n")
    index = int(draw.integers(len(lines)))
    how = int(draw.integers(3))
    changed = lines[:index] + lines[index + 1 :]
    if how:
        changed.insert(0 if how == 1 else index, lines[index])
        changed = [*lines[:index], lines[index], *lines[index:]] if how == 2 else changed
    return b"\n".join(changed) + rest


def elements(data: bytes) -> list[tuple[int, int, int, bool]]:
    """Elements of an explicit little-endian DICOM file: (start, value start, length, long)."""
    at, found = 132, []
    while at + 8 <= len(data):
        long = data[at + 4 : at + 6] in (b"OB", b"OW", b"SQ", b"UN", b"UT", b"OF", b"UC", b"UR")
        start = at + 12 if long else at + 8
        (length,) = struct.unpack_from("<I" if long else "<H", data, start - (4 if long else 2))
        inside = long and data[at + 4 : at + 6] == b"SQ"
        found.append((at, start, length, long))
        if length == 0xFFFFFFFF or inside:
            at = start + (8 if inside else 0)
            if length == 0xFFFFFFFF and not inside:
                break
            continue
        at = start + length
    return [one for one in found if one[1] <= len(data)]


def dicom_value(data: bytes, draw: Draw) -> bytes:
    """The value of one element replaced, in its length or with its length put right."""
    found = elements(data)
    if not found:
        return bits(data, draw)
    _, start, length, long = found[int(draw.integers(len(found)))]
    if long or length > 64:
        return data[:start] + draw.bytes(min(length, 8)) + data[start + min(length, 8) :]
    text = WORDS[int(draw.integers(len(WORDS)))].encode("utf-8", "surrogatepass")[:64]
    if draw.random() < 0.4:
        text = draw.bytes(length)
    text += b" " * (len(text) % 2)
    return data[: start - 2] + struct.pack("<H", len(text)) + text + data[start + length :]


def dicom_length(data: bytes, draw: Draw) -> bytes:
    """The length of one element at an odd value."""
    found = elements(data)
    if not found:
        return bits(data, draw)
    _, start, length, long = found[int(draw.integers(len(found)))]
    odd = (0, 1, 2, length + 2, max(0, length - 2), 0xFFFFFFFF, 0xFFFFFFF0, 0x7FFFFFFE, 65534)
    value = odd[int(draw.integers(len(odd)))]
    if long:
        return data[: start - 4] + struct.pack("<I", value) + data[start:]
    return data[: start - 2] + struct.pack("<H", value & 0xFFFF) + data[start:]


def _series(files: dict[str, bytes], name: str, draw: Draw) -> tuple[dict[str, bytes], str]:
    """Files of a series missing, doubled, or beside others."""
    how = ("missing", "doubled", "stranger", "empty")[int(draw.integers(4))]
    if how == "missing":
        del files[name]
    elif how == "doubled":
        files["series/copy.dcm"] = files[name]
    elif how == "stranger":
        files["series/notes.txt"] = draw.bytes(40)
    else:
        files["series/none.dcm"] = b""
    return files, f"series {how}"
