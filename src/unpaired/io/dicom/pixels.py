"""Stored values of DICOM files -> one array, with lengths checked before anything is allocated."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unpaired.errors import DataError, UsageError
from unpaired.files import printable
from unpaired.inflate import MAX_RATIO
from unpaired.io.dicom.headers import Frame
from unpaired.io.dicom.library import damage_named, library, read_dataset

_SLACK = 4096
_DECODERS = {
    "JPEG 2000": "pylibjpeg pylibjpeg-openjpeg",
    "High-Throughput JPEG 2000": "pylibjpeg pylibjpeg-openjpeg",
    "JPEG-LS": "pyjpegls",
    "JPEG": "pylibjpeg pylibjpeg-libjpeg",
}


def read_planes(
    frames: Sequence[Frame], max_voxels: int, name: str
) -> tuple[np.ndarray, np.ndarray | None]:
    """The slices' true values [column row slice]: integers where every slope and intercept is
    whole (int16 where they fit), else float32, each slice by its own slope.

    Returns:
        the values; bool of the same shape, True where a slice declares padding, which holds the
        lowest value of all that is not; None where there is none.

    Raises:
        DataError: more than `max_voxels`, voxels cut short, a damaged file, or padding alone.
        UsageError: compressed in a way for which no decoder is installed.
    """
    rows, columns = frames[0].rows, frames[0].columns
    if rows * columns * len(frames) > max_voxels:
        raise DataError(
            f"{name}: the headers promise {columns} x {rows} x {len(frames)} voxels, more than "
            f"{max_voxels}; a header is damaged, or the image must be cropped."
        )
    stored: np.ndarray | None = None
    declared = any(frame.padding for frame in frames)
    padding = np.zeros((len(frames), rows, columns), bool) if declared else None
    for path, wanted in _by_file(frames).items():
        planes, words = _decode(path, (rows, columns))
        for k, index in wanted.items():
            plane = planes[index]
            if stored is None:
                stored = np.empty((len(frames), rows, columns), plane.dtype)
            if plane.dtype != stored.dtype:  # signed and unsigned slices in one series
                stored = stored.astype(np.promote_types(stored.dtype, plane.dtype), copy=False)
            stored[k] = plane
            if padding is not None and (limits := frames[k].padding):
                low, high = limits
                padding[k] = (words[index] >= low) & (words[index] <= high)
    assert stored is not None
    if padding is None or not padding.any():
        return _rescale(stored, frames).transpose(2, 1, 0), None
    whole = np.flatnonzero(~padding.all(axis=(1, 2)))
    if not len(whole):
        raise DataError(
            f"{name}: every voxel is padding (PixelPaddingValue), nothing was measured; export "
            "the scan again."
        )
    values = _rescale(*_without(stored, padding, frames, int(whole[0])))
    values[padding] = values.min()
    return values.transpose(2, 1, 0), padding.transpose(2, 1, 0)


def _without(
    stored: np.ndarray, padding: np.ndarray, frames: Sequence[Frame], whole: int
) -> tuple[np.ndarray, list[Frame]]:
    """Padding takes a value that was measured, so that it widens no range: in its own slice, or for
    a slice that holds nothing else as in the slice `whole`."""
    scales = list(frames)
    order = [whole, *(k for k in range(len(frames)) if k != whole)]
    for k in order:
        if padding[k].all():
            stored[k], scales[k] = stored[whole].min(), frames[whole]
        elif padding[k].any():
            stored[k][padding[k]] = stored[k][~padding[k]].min()
    return stored, scales


def _by_file(frames: Sequence[Frame]) -> Mapping[Path, dict[int, int]]:
    """File -> {slice of the stack: slice of the file}."""
    slices_of: dict[Path, dict[int, int]] = {}
    for k, frame in enumerate(frames):
        slices_of.setdefault(frame.path, {})[k] = frame.index
    return slices_of


def _decode(path: Path, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """All stored planes of a file [n row column], and these with the bits that hold no voxel."""
    with damage_named(path, "read the voxels"):
        dataset = read_dataset(path)
        if "PixelData" not in dataset:
            raise DataError(
                f"{printable(path)} ends before its voxels, or has none; copy it again."
            )
        count = int(dataset.get("NumberOfFrames") or 1)
        bits = int(dataset.BitsAllocated)
        if bits not in (8, 16, 32):
            raise DataError(f"{printable(path)} stores {bits} bits a voxel; export it with 16.")
        if (int(dataset.Rows), int(dataset.Columns)) != size:
            raise DataError(f"{printable(path)} changed while it was read; try again.")
        expected = count * size[0] * size[1] * bits // 8
        _refuse_impossible(path, dataset, expected)
        planes = np.asarray(dataset.pixel_array).reshape(count, *size)
        return planes, _words(dataset, planes)


def _words(dataset: Any, planes: np.ndarray) -> np.ndarray:
    """The planes as they are in the file where the padding value takes more bits than a voxel has:
    there alone it can be told from the voxels."""
    bits, value = int(dataset.get("BitsStored") or 16), dataset.get("PixelPaddingValue")
    signed, wide = planes.dtype.kind == "i", 8 * planes.dtype.itemsize
    if value is None or bits == wide or dataset.file_meta.TransferSyntaxUID.is_compressed:
        return planes
    number = int.from_bytes(value[:4], "little") if isinstance(value, bytes) else int(value)
    number &= (1 << wide) - 1
    number -= (1 << wide) * (signed and number >> wide - 1)
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    if low <= number <= high:
        return planes
    little = planes.dtype.newbyteorder("<")
    kind = little if dataset.file_meta.TransferSyntaxUID.is_little_endian else little.newbyteorder()
    words = np.frombuffer(dataset.PixelData, kind, planes.size)
    return words.reshape(planes.shape)


def _refuse_impossible(path: Path, dataset: Any, expected: int) -> None:
    """Lengths must agree before a decoder allocates what a header says."""
    syntax = dataset.file_meta.get("TransferSyntaxUID") if hasattr(dataset, "file_meta") else None
    there = len(dataset.PixelData)
    if syntax is None:
        syntax = dataset.file_meta.TransferSyntaxUID = library("pydicom").uid.ImplicitVRLittleEndian
    if syntax.is_compressed:
        if expected > MAX_RATIO * there:
            raise DataError(
                f"{printable(path)}: the header promises {expected} bytes, far more than "
                f"{there} compressed ones can hold; copy it again."
            )
        _need_decoder(path, syntax)
        return
    if there < expected:
        raise DataError(
            f"{printable(path)} is cut short: the header promises {expected} bytes of voxels, "
            f"there are {there}; copy it again."
        )
    if there > expected + _SLACK:
        raise DataError(
            f"{printable(path)}: there are {there} bytes of voxels, the header promises "
            f"{expected}; the header is damaged."
        )


def _need_decoder(path: Path, syntax: Any) -> None:
    try:
        decoder = library("pydicom.pixels").get_decoder(syntax)
    except RuntimeError as error:  # unknown to pydicom
        raise DataError(
            f"{printable(path)} is compressed as {syntax.name}, which is not read; convert it "
            "first."
        ) from error
    if decoder.is_available:
        return
    package = next((p for kind, p in _DECODERS.items() if syntax.name.startswith(kind)), None)
    mend = f"pip install {package}, or convert" if package else "convert"
    raise UsageError(
        f"{printable(path)} is compressed as {syntax.name}, and no decoder for it is installed; "
        f"{mend} the series to uncompressed DICOM."
    )


def _rescale(stored: np.ndarray, frames: Sequence[Frame]) -> np.ndarray:
    """[slice row column]."""
    slopes = np.array([frame.slope for frame in frames])
    offsets = np.array([frame.intercept for frame in frames])
    if np.all(slopes == np.rint(slopes)) and np.all(offsets == np.rint(offsets)):
        low = min(int(s * p.min() + o) for p, s, o in zip(stored, slopes, offsets, strict=True))
        high = max(int(s * p.max() + o) for p, s, o in zip(stored, slopes, offsets, strict=True))
        low, high = min(low, high), max(low, high)
        kind = next((t for t in (np.int16, np.uint16, np.int32) if _fits(low, high, t)), None)
        if kind is not None and (slopes > 0).all():
            return _scaled(stored, slopes.astype(np.int64), offsets.astype(np.int64), kind)
    return _scaled(stored, slopes, offsets, np.float32)


def _fits(low: int, high: int, kind: Any) -> bool:
    return bool(np.iinfo(kind).min <= low and high <= np.iinfo(kind).max)


def _scaled(stored: np.ndarray, slopes: np.ndarray, offsets: np.ndarray, kind: Any) -> np.ndarray:
    if (slopes == 1).all() and (offsets == 0).all():
        return stored.astype(kind, copy=False)
    out = np.empty(stored.shape, kind)
    for plane, into, slope, offset in zip(stored, out, slopes, offsets, strict=True):
        into[:] = plane * slope + offset  # int64 or float64, so nothing overflows
    return out
