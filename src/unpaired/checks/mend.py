"""Mended copies of files whose header is at fault: elsewhere, never in place, with a list."""

import gzip
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from unpaired import files, inflate
from unpaired.checks.mend_header import Mending, mend_geometry, mend_layout, move_onto
from unpaired.datasets.dataset import Case, Dataset
from unpaired.errors import DataError, UsageError
from unpaired.files import printable, read_bytes
from unpaired.leftovers import sweep

LIST = "mended.json"
_LIMIT = 1 << 34


@dataclass(frozen=True)
class Mended:
    """What was done to one file.

    Attributes:
        file, copy: its path, and the copy's; empty where nothing was done.
        done: what was changed. left: what was not, and why.
    """

    modality: str
    case: str
    file: str
    copy: str
    done: tuple[str, ...]
    left: tuple[str, ...]


@dataclass(frozen=True)
class _File:
    """A NIfTI file taken apart: the header to mend, everything behind it as it is."""

    path: Path
    mending: Mending
    rest: memoryview
    packed: bool
    slack: bool

    @property
    def renamed(self) -> str:
        """The name that fits the content."""
        name = self.path.name
        return f"{name}.gz" if self.packed and not _named_packed(self.path) else name


def mend_headers(datasets: Mapping[str, Dataset], out: Path) -> list[Mended]:
    """Write OUT/<modality>/... copies of what can be mended without touching a voxel.

    Mended: a qform that is not the sform, a label or channel that lies off its image by rounding,
    pixdim, bits, offset and number of axes that the rest of the file settles, names that do not
    fit the compression, bytes behind the voxels. OUT/mended.json lists what was done, and left.

    Raises:
        UsageError: `out` is not empty, or inside a data set.
        ResourceError: a copy cannot be written.
    """
    sweep(out, deep=True)
    check_out([dataset.root for dataset in datasets.values()], out)
    listed = [
        one
        for modality, dataset in datasets.items()
        for case in dataset.cases
        for one in _case(case, dataset.root, out / modality)
    ]
    files.write_json(out / LIST, [asdict(one) for one in listed])
    return listed


def check_out(roots: Iterable[Path], out: Path) -> None:
    """Refuse a folder where copies could be taken for originals.

    Raises:
        UsageError: `out` is not empty, or inside a data set.
    """
    place = out.resolve()
    for root in roots:
        if root.resolve() in (place, *place.parents):
            raise UsageError(
                f"{printable(out)} lies in the data set {printable(root)}; choose another."
            )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{printable(out)} is not an empty folder; choose another.")


def _case(case: Case, root: Path, out: Path) -> Iterator[Mended]:
    paths = [*case.images, *([case.label] if case.label else [])]
    opened = [file for path in paths if (file := _open(path)) is not None]
    image: _File | None = None
    affine: np.ndarray | None = None
    for number, file in enumerate(opened):
        mending = file.mending
        other = opened[1 if number == 0 else 0] if len(opened) > 1 else None
        if mend_layout(mending, len(file.rest) + _head_bytes(mending.header)):
            own = mend_geometry(mending, None if other is None else other.mending.header)
            if number == 0:
                image, affine = file, own
            elif own is not None and image is not None and affine is not None:
                move_onto(mending, own, image.mending, affine)
            _names(file)
        if mending.done or mending.left:
            yield _write(file, case, root, out)


def _named_packed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"


def _names(file: _File) -> None:
    done = file.mending.done
    if file.packed and not _named_packed(file.path):
        done.append("compressed, so its name ends in .gz now")
    if not file.packed and _named_packed(file.path):
        done.append("plain though named .gz, is compressed now")
    if file.slack or len(file.rest) > _voxel_end(file) - _head_bytes(file.mending.header):
        done.append("the bytes behind the voxels are dropped")


def _write(file: _File, case: Case, root: Path, out: Path) -> Mended:
    place = (case.modality, case.id, printable(file.path))
    mending = file.mending
    if not mending.done:
        return Mended(*place, "", (), tuple(mending.left))
    try:
        inside = file.path.relative_to(root).parent
    except ValueError:  # a manifest may name files anywhere
        inside = Path(case.id)
    target = out / inside / file.renamed
    head = bytes(mending.header.binaryblock)
    payload = head + bytes(file.rest[: _voxel_end(file) - len(head)])
    if _named_packed(target):
        payload = gzip.compress(payload, 4, mtime=0)
    with files.atomic(target) as temporary:
        temporary.write_bytes(payload)
    return Mended(*place, printable(target), tuple(mending.done), tuple(mending.left))


def _open(path: Path) -> _File | None:
    """None for other formats, and for files whose content is damaged: no header mends those."""
    try:
        data = read_bytes(path, limit=_LIMIT) if path.is_file() else b""
        packed, slack = data[:2] == inflate.MAGIC, False
        content: memoryview = memoryview(data)
        if packed:
            size = min(int.from_bytes(data[-4:], "little"), len(data) * inflate.MAX_RATIO)
            array, slack = inflate.inflate(data, size)
            content = array.data
    except (DataError, OSError, ValueError, MemoryError):
        return None
    head = bytes(content[:544])
    if head[344:348] == b"n+1\0":
        kind, size = nib.Nifti1Header, 348
    elif head[4:8] == b"n+2\0":
        kind, size = nib.Nifti2Header, 540
    else:
        return None
    # By the header's size; nibabel asks the number of axes, which may be what is wrong.
    order = "<" if int.from_bytes(head[:4], "little") == size else ">"
    header = kind(head[:size], endianness=order, check=False)
    return _File(path, Mending(header), content[size:], packed, slack)


def _head_bytes(header: nib.Nifti1Header) -> int:
    return len(header.binaryblock)


def _voxel_end(file: _File) -> int:
    """Where the voxels end in the file."""
    header = file.mending.header
    start = max(int(header["vox_offset"]), int(header.single_vox_offset))
    count = int(np.prod(file.mending.sizes, dtype=object))
    return start + count * int(header.get_data_dtype().itemsize)
