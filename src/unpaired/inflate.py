"""Gzip (and zlib) inflate into one buffer of bounded size, with checksum and length checked.

isal (about 3x the standard library) when it can be imported, else zlib. A small piece at a time
keeps the working set in the processor's cache and lets a decompression bomb be stopped.
"""

import zlib
from typing import Any

import numpy as np

igzip_lib: Any
try:
    from isal import igzip_lib
except ImportError:  # isal has no wheel for this machine
    igzip_lib = None

MAGIC = b"\x1f\x8b"
# Deflate cannot shrink further than this (RFC 1951: 258 bytes in at least 2 bits).
MAX_RATIO = 1032
# Memory that is taken before a byte came out: scans shrink to a half, labels to a hundredth.
_TRUSTED_RATIO = 8
_PIECE_IN, _PIECE_OUT = 1 << 16, 1 << 20


class InflateError(ValueError):
    """The gzip stream is damaged, cut short, or larger than allowed."""


class _Zlib:
    """zlib's decompressor with the interface of isal's."""

    def __init__(self, gzip: bool) -> None:
        self._inner = zlib.decompressobj(31 if gzip else 15)

    def decompress(self, data: bytes | memoryview, max_length: int) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + bytes(data), max_length)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail


def decompressor(gzip: bool = True) -> Any:
    """isal's or zlib's; `decompress(data, max_length)`, `eof`, `unused_data`, `needs_input`."""
    if igzip_lib is None:
        return _Zlib(gzip)
    flag = igzip_lib.DECOMP_GZIP if gzip else igzip_lib.DECOMP_ZLIB
    return igzip_lib.IgzipDecompressor(flag=flag)


def inflate_head(data: bytes, length: int) -> bytes:
    """Up to `length` first bytes of the stream; nothing is verified.

    Raises:
        InflateError: the stream is damaged so early that not a byte comes out.
    """
    inner = zlib.decompressobj(31)
    try:
        return inner.decompress(data[: length + (1 << 16)], length)
    except zlib.error as error:
        raise InflateError(str(error)) from error


def inflate(data: bytes | memoryview, limit: int, *, gzip: bool = True) -> tuple[np.ndarray, bool]:
    """All of the stream as writable uint8 [n], and whether foreign bytes follow its end.

    Several gzip members in a row (bgzip) are one stream; `gzip=False` reads one zlib stream. Never
    more than `limit` bytes are kept.

    Raises:
        InflateError: a wrong CRC or length, a stream that is cut short, more than `limit` bytes.
    """
    source = memoryview(data)
    # The trailer's size is right for one honest member; promises alone take no memory.
    promised = int.from_bytes(source[-4:], "little") if gzip else 0
    first = max(min(promised, _TRUSTED_RATIO * len(source)), _PIECE_OUT)
    out = np.empty(min(limit, first), np.uint8)
    filled = start = 0
    while True:
        out, filled, start = _member(source, start, out, filled, limit, gzip)
        if not gzip or source[start : start + 2] != MAGIC:
            return out[:filled], any(source[start:])


def _member(
    source: memoryview, start: int, out: np.ndarray, filled: int, limit: int, gzip: bool
) -> tuple[np.ndarray, int, int]:
    """Inflate one member; `out`, larger if need be, its new fill, the place behind the member."""
    inner = decompressor(gzip)
    while not inner.eof:
        piece = source[start : start + _PIECE_IN] if inner.needs_input else b""
        start += len(piece)
        try:
            got = inner.decompress(piece, _PIECE_OUT)
        except Exception as error:  # isal's error class differs between its versions
            raise InflateError(f"the compressed data is damaged ({error})") from error
        if not got and not inner.eof and inner.needs_input and start >= len(source):
            raise InflateError("the compressed data ends too early")
        if filled + len(got) > limit:
            raise InflateError("there is more data than the header promises")
        if filled + len(got) > len(out):
            out = _larger(out, filled, min(limit, 2 * len(out)))
        out[filled : filled + len(got)] = np.frombuffer(got, np.uint8)
        filled += len(got)
    return out, filled, start - len(inner.unused_data)


def _larger(out: np.ndarray, filled: int, length: int) -> np.ndarray:
    grown = np.empty(length, np.uint8)
    grown[:filled] = out[:filled]
    return grown
