"""Mended copies of files whose header is at fault: elsewhere, never in place, with a list."""

import gzip
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np

from unpaired import files
from unpaired.datasets.dataset import Case, Dataset
from unpaired.errors import DataError, UsageError
from unpaired.files import read_bytes, shown
from unpaired.io import inflate
from unpaired.io.volume import SAME_GRID_MM, check_affine, corner_offset

# What can be mended in a NIfTI header without a doubt, and what is left, with the reason.
#
# The voxels' bytes are never touched; only fields that the others, or the file's length, settle.


Sizes = tuple[int, int, int]
# Programs round a geometry by less than this share of a voxel; what is further off was meant.
ROUNDING = 0.1
_QFORM_MM = 0.05


@dataclass
class Mending:
    """A header on its way to sense.

    Attributes:
        done: what was changed, one sentence each.
        left: what looks wrong but could be mended in more than one way.
    """

    header: nib.Nifti1Header
    done: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def sizes(self) -> Sizes:
        """Voxels along the three axes of space."""
        i, j, k = (int(n) for n in self.header["dim"][1:4])
        return i, j, k


def mend_layout(mending: Mending, length: int) -> bool:
    """Dimensions, bits and offset, where a file of `length` bytes can only be read one way.

    Returns:
        whether the header now fits the file.
    """
    header = mending.header
    try:
        itemsize = header.get_data_dtype().itemsize
    except Exception:  # nibabel raises many kinds
        code = int(header["datatype"])
        mending.left.append(f"the voxel type {code} is unknown: several types have that size")
        return False
    sizes, single = mending.sizes, int(header.single_vox_offset)
    if min(sizes) < 1 or any(int(n) > 1 for n in header["dim"][4:8]):
        mending.left.append("the dimensions are those of no single volume")
        return False
    need = int(np.prod(sizes, dtype=object)) * itemsize
    if length < need + single:
        mending.left.append("the file is shorter than its header says")
        return False
    offset = float(header["vox_offset"])
    if offset != 0 and not single <= offset <= length - need:
        if length != need + single:
            mending.left.append(f"the offset of the voxels is {offset:g}, the right one unknown")
            return False
        mending.done.append(f"the offset of the voxels was {offset:g}, is {single}")
        header["vox_offset"] = single
    _count(mending, length == need + max(int(header["vox_offset"]), single))
    bits = int(header["bitpix"])
    if bits not in (0, itemsize * 8):
        mending.done.append(f"bitpix was {bits}, is {itemsize * 8} as the voxel type says")
        header["bitpix"] = itemsize * 8
    return True


def _count(mending: Mending, exact: bool) -> None:
    """The number of axes: three, where the file's length says so."""
    axes = int(mending.header["dim"][0])
    if axes == 3:
        return
    if 4 <= axes <= 7 or exact:
        what = "trailing axes of size 1 are dropped" if 4 <= axes <= 7 else "by the file's length"
        mending.done.append(f"the number of axes was {axes}, is 3 ({what})")
        mending.header["dim"][0] = 3
        mending.header["dim"][4:8] = 1
    else:
        mending.left.append(f"the number of axes is {axes}, and the file's length fits no volume")


def mend_geometry(mending: Mending, witness: nib.Nifti1Header | None) -> np.ndarray | None:
    """One geometry in the header: qform and pixdim follow the sform where that is certain.

    Args:
        witness: the header of the case's other file, to tell which of two geometries is right.

    Returns:
        the affine [4 4], or None where there is none to rely on.
    """
    header = mending.header
    if int(header["sform_code"]) == 0:
        if int(header["qform_code"]) == 0:
            mending.left.append("no orientation is stored; only who made the file knows it")
            return None
        return _usable(_qform(header), mending)
    sform = _usable(np.asarray(header.get_sform(), np.float64), mending)
    if sform is None:
        return None
    qform = _qform(header) if int(header["qform_code"]) else sform
    offset = np.inf if qform is None else corner_offset(sform, qform, mending.sizes)
    voxel = float(np.linalg.norm(sform[:3, :3], axis=0).min())
    if qform is not None and offset > ROUNDING * voxel and not _decides(sform, qform, mending,
                                                                        witness):  # fmt: skip
        mending.left.append(
            f"qform and sform lie {offset:.3g} mm apart, and nothing tells which is right"
        )
        return sform
    if offset > _QFORM_MM:
        what = "could not be used" if qform is None else f"lay {offset:.3g} mm off"
        _set(mending, sform, f"the qform {what}, is now the sform's")
    _pixdim(mending, sform)
    return sform


def _decides(
    sform: np.ndarray, qform: np.ndarray, mending: Mending, witness: nib.Nifti1Header | None
) -> bool:
    """Whether the other file has only one geometry, and it is this sform."""
    if witness is None or int(witness["sform_code"]) == 0:
        return False
    told = np.asarray(witness.get_sform(), np.float64)
    other = _qform(witness) if int(witness["qform_code"]) else told
    if other is None or not np.isfinite(told).all():
        return False
    sizes = mending.sizes
    agrees = corner_offset(told, sform, sizes) <= SAME_GRID_MM
    return agrees and corner_offset(other, told, sizes) < corner_offset(other, qform, sizes)


def move_onto(mending: Mending, own: np.ndarray, image: Mending, affine: np.ndarray) -> None:
    """Take over the image's geometry where the two differ by rounding only."""
    if mending.sizes != image.sizes:
        mending.left.append("its shape is not the image's")
        return
    offset = corner_offset(own, affine, mending.sizes)
    if offset <= SAME_GRID_MM:
        return
    voxel = float(np.linalg.norm(affine[:3, :3], axis=0).min())
    if offset > ROUNDING * voxel:
        mending.left.append(f"it lies {offset:.3g} mm off the image, too far to be rounding")
        return
    _set(mending, affine, f"it lay {offset:.3g} mm off the image, has the image's geometry now")
    # Bit for bit, so that no rounding is left.
    for name in ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z",
                 "srow_x", "srow_y", "srow_z", "pixdim", "qform_code", "sform_code"):  # fmt: skip
        mending.header[name] = image.header[name]


def _set(mending: Mending, affine: np.ndarray, said: str) -> None:
    header = mending.header
    code = int(header["sform_code"]) or int(header["qform_code"]) or 1
    header.set_qform(affine, code)
    header.set_sform(affine, code)
    mending.done.append(said)


def _pixdim(mending: Mending, affine: np.ndarray) -> None:
    header = mending.header
    old = np.asarray(header["pixdim"][1:4], np.float64)
    new = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.allclose(old, new, rtol=1e-3, atol=1e-4):
        texts = [" x ".join(f"{value:.4g}" for value in values) for values in (old, new)]
        mending.done.append(f"pixdim was {texts[0]}, is {texts[1]} as in the affine")
        header["pixdim"][1:4] = new
    if float(header["pixdim"][0]) not in (-1.0, 1.0) and int(header["qform_code"]):
        header["pixdim"][0] = 1  # the standard's meaning of 0
    for index in range(4, 8):
        if not np.isfinite(header["pixdim"][index]):
            header["pixdim"][index] = 0


def _qform(header: nib.Nifti1Header) -> np.ndarray | None:
    header = header.copy()
    if float(header["pixdim"][0]) not in (-1.0, 1.0):
        header["pixdim"][0] = 1
    try:
        qform = np.asarray(header.get_qform(), np.float64)
    except Exception:  # nibabel raises HeaderDataError or ValueError
        return None
    return qform if np.isfinite(qform).all() else None


def _usable(affine: np.ndarray | None, mending: Mending) -> np.ndarray | None:
    try:
        if affine is not None:
            check_affine(affine, "the affine")
            return affine
        mending.left.append("the qform cannot be used, and there is no sform")
    except DataError as error:
        mending.left.append(str(error).rstrip("."))
    return None


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
        return f"{name}.gz" if self.packed and not name.endswith(".gz") else name


def mend_headers(datasets: Mapping[str, Dataset], out: Path) -> list[Mended]:
    """Write OUT/<modality>/... copies of what can be mended without touching a voxel.

    Mended: a qform that is not the sform, a label or channel that lies off its image by rounding,
    pixdim, bits, offset and number of axes that the rest of the file settles, names that do not
    fit the compression, bytes behind the voxels. OUT/mended.json lists what was done, and left.

    Raises:
        UsageError: `out` is not empty, or inside a data set.
        ResourceError: a copy cannot be written.
    """
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
            raise UsageError(f"{shown(out)} lies in the data set {shown(root)}; choose another.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(f"{shown(out)} is not an empty folder; choose another.")


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


def _names(file: _File) -> None:
    done = file.mending.done
    if file.packed and not file.path.name.endswith(".gz"):
        done.append("compressed, so its name ends in .gz now")
    if not file.packed and file.path.name.endswith(".gz"):
        done.append("plain though named .gz, is compressed now")
    if file.slack or len(file.rest) > _voxel_end(file) - _head_bytes(file.mending.header):
        done.append("the bytes behind the voxels are dropped")


def _write(file: _File, case: Case, root: Path, out: Path) -> Mended:
    said = (case.modality, case.id, shown(file.path))
    mending = file.mending
    if not mending.done:
        return Mended(*said, "", (), tuple(mending.left))
    try:
        inside = file.path.relative_to(root).parent
    except ValueError:  # a manifest may name files anywhere
        inside = Path(case.id)
    target = out / inside / file.renamed
    head = bytes(mending.header.binaryblock)
    payload = head + bytes(file.rest[: _voxel_end(file) - len(head)])
    if target.name.endswith(".gz"):
        payload = gzip.compress(payload, 4, mtime=0)
    with files.atomic(target) as temporary:
        temporary.write_bytes(payload)
    return Mended(*said, shown(target), tuple(mending.done), tuple(mending.left))


def _open(path: Path) -> _File | None:
    """None for other formats, and for files whose content is damaged: no header mends those."""
    try:
        data = read_bytes(path, limit=_LIMIT) if path.is_file() else b""
        packed, slack = data[:2] == inflate.MAGIC, False
        whole: memoryview = memoryview(data)
        if packed:
            size = min(int.from_bytes(data[-4:], "little"), len(data) * inflate.MAX_RATIO)
            array, slack = inflate.inflate(data, size)
            whole = array.data
    except (DataError, OSError, ValueError, MemoryError):
        return None
    head = bytes(whole[:544])
    if head[344:348] == b"n+1\0":
        kind, size = nib.Nifti1Header, 348
    elif head[4:8] == b"n+2\0":
        kind, size = nib.Nifti2Header, 540
    else:
        return None
    # By the header's size; nibabel asks the number of axes, which may be what is wrong.
    order = "<" if int.from_bytes(head[:4], "little") == size else ">"
    header = kind(head[:size], endianness=order, check=False)
    return _File(path, Mending(header), whole[size:], packed, slack)


def _head_bytes(header: nib.Nifti1Header) -> int:
    return len(header.binaryblock)


def _voxel_end(file: _File) -> int:
    """Where the voxels end in the file."""
    header = file.mending.header
    start = max(int(header["vox_offset"]), int(header.single_vox_offset))
    count = int(np.prod(file.mending.sizes, dtype=object))
    return start + count * int(header.get_data_dtype().itemsize)
