"""What can be mended in a NIfTI header without a doubt, and what is left, with the reason.

The voxels' bytes are never touched; only fields that the others, or the file's length, settle.
"""

from dataclasses import dataclass, field

import nibabel as nib
import numpy as np

from unpaired.errors import DataError
from unpaired.io.nifti_header import affine_in_mm, in_mm
from unpaired.io.volume import SAME_GRID_MM, check_affine, corner_offset

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
    sform = _usable(affine_in_mm(header.get_sform(), header), mending)
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
                 "srow_x", "srow_y", "srow_z", "pixdim", "qform_code", "sform_code",
                 "xyzt_units"):  # fmt: skip
        mending.header[name] = image.header[name]


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


def _decides(
    sform: np.ndarray, qform: np.ndarray, mending: Mending, witness: nib.Nifti1Header | None
) -> bool:
    """Whether the other file has only one geometry, and it is this sform."""
    if witness is None or int(witness["sform_code"]) == 0:
        return False
    other_sform = affine_in_mm(witness.get_sform(), witness)
    other_qform = _qform(witness) if int(witness["qform_code"]) else other_sform
    if other_qform is None or not np.isfinite(other_sform).all():
        return False
    sizes = mending.sizes
    agrees = corner_offset(other_sform, sform, sizes) <= SAME_GRID_MM
    return agrees and corner_offset(other_qform, other_sform, sizes) < corner_offset(
        other_qform, qform, sizes
    )


def _set(mending: Mending, affine: np.ndarray, sentence: str) -> None:
    header = mending.header
    code = int(header["sform_code"]) or int(header["qform_code"]) or 1
    header.set_qform(affine, code)
    header.set_sform(affine, code)
    header.set_xyzt_units("mm", int(header["xyzt_units"]) & ~7)
    mending.done.append(sentence)


def _pixdim(mending: Mending, affine: np.ndarray) -> None:
    header = mending.header
    old = in_mm(header["pixdim"][1:4], header)
    new = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.allclose(old, new, rtol=1e-3, atol=1e-4):
        texts = [" x ".join(f"{value:.4g}" for value in values) for values in (old, new)]
        mending.done.append(f"pixdim was {texts[0]}, is {texts[1]} as in the affine")
        header["pixdim"][1:4] = np.linalg.norm(header.get_sform()[:3, :3], axis=0)
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
        qform = affine_in_mm(header.get_qform(), header)
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
