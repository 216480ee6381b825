"""Damaged NRRD, MetaImage and MGH files: what the libraries read, and what we do.

A small file of each kind is cut short at every length, has bits flipped in its compressed voxels, a
header that promises one slice more, or a stream of 64 MiB where 240 bytes are promised. Counted are
the files that are read without an error although their voxels are not the true ones, and the most
memory that the stream took.
"""

import gzip
import logging
import tempfile
import tracemalloc
import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import SimpleITK as sitk  # noqa: N813

from _report import record
from unpaired.io.read import read_image

SHAPE = (6, 5, 4)
TRUE = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.int16)
Read = Callable[[Path], np.ndarray]


def by_itk(path: Path) -> np.ndarray:
    """SimpleITK's array, [i j k]."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path))).transpose()


READERS: dict[str, dict[str, Read]] = {
    "packed.nrrd": {"pynrrd": lambda path: nrrd.read(str(path))[0], "SimpleITK": by_itk},
    "raw.nrrd": {"pynrrd": lambda path: nrrd.read(str(path))[0], "SimpleITK": by_itk},
    "packed.mha": {"SimpleITK": by_itk},
    "raw.mha": {"SimpleITK": by_itk},
    "packed.mgz": {"nibabel": lambda path: np.asarray(nib.load(path).dataobj)},
}


def ours(path: Path) -> np.ndarray:
    """Our array."""
    return read_image(path).array


def write(folder: Path, name: str) -> Path:
    """The true file."""
    path = folder / name
    if name.endswith(".mgz"):
        nib.save(nib.MGHImage(TRUE, np.eye(4)), path)
    else:
        image = sitk.GetImageFromArray(TRUE.transpose())
        sitk.WriteImage(image, str(path), useCompression=name.startswith("packed"))
    return path


def damaged(name: str, data: bytes) -> Iterator[tuple[str, bytes]]:
    """Kind of damage and the bytes."""
    for length in range(len(data)):
        yield "cut short", data[:length]
    if name.startswith("packed"):
        for at in range(len(data) - 60, len(data)):
            yield "bit flipped", data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :]
    longer = data.replace(b"DimSize = 6 5 4", b"DimSize = 6 5 5")
    longer = longer.replace(b"sizes: 6 5 4", b"sizes: 6 5 5")
    if longer != data:
        yield "slice missing", longer
    bomb = bytes(1 << 26)
    if name == "packed.mha":
        head = data.split(b"LOCAL\n")[0].replace(b"CompressedDataSize", b"Comment")
        yield "bomb", head + b"LOCAL\n" + zlib.compress(bomb)
    if name == "packed.nrrd":
        yield "bomb", data.split(b"\n\n")[0] + b"\n\n" + gzip.compress(bomb)


def count(read: Read, path: Path, cases: list[tuple[str, bytes]]) -> dict[str, int]:
    """Kind -> files that were read and are not the true image."""
    wrong: dict[str, int] = {}
    for kind, data in cases:
        path.write_bytes(data)
        wrong.setdefault(kind, 0)
        try:
            found = read(path)
        except Exception:
            continue
        # A file cut after its last voxel is whole in all that counts.
        whole = found.shape == SHAPE and np.array_equal(found, TRUE)
        wrong[kind] += kind == "bomb" or not whole
    return wrong


def main() -> None:
    """Print and record a row per kind of file and reader."""
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name, peers in READERS.items():
            path = write(Path(folder), name)
            cases = list(damaged(name, path.read_bytes()))
            for reader, read in {**peers, "ours": ours}.items():
                tracemalloc.start()
                wrong = count(read, path, cases)
                peak = tracemalloc.get_traced_memory()[1] / 2**20
                tracemalloc.stop()
                counts = {
                    kind: f"{n} of {sum(k == kind for k, _ in cases)}" for kind, n in wrong.items()
                }
                kinds = ("cut short", "bit flipped", "slice missing", "bomb")
                row = {"file": name, "reader": reader, **{k: counts.get(k, "") for k in kinds}}
                rows.append({**row, "most MiB in Python": peak})
                print(rows[-1])
    record("damaged_files", rows, ("nibabel", "pynrrd", "simpleitk", "numpy"))


if __name__ == "__main__":
    main()
