"""The header of a NIfTI file: is it one, what does it promise, and is its geometry usable?"""

import io
from dataclasses import dataclass

import nibabel as nib
import numpy as np

from unpaired.errors import DataError
from unpaired.io.volume import SHEAR_NOTE, check_affine, corner_offset

HEAD_BYTES = 544
_MAX_OFFSET = 1 << 26
_QFORM_NOTE_MM = 0.1
# The lowest three bits of xyzt_units -> the unit, and its length in mm as a fraction: 30 / 1000 is
# the nearest number to 0.03, and 30 * 0.001 need not be. 0 is unknown, and counts as millimetres as
# in every other program.
_UNITS = {1: ("metres", 1000, 1), 3: ("microns", 1, 1000)}
_SIGNS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the image; run `git lfs pull`"),
    (b"<!doctype", "a web page, not an image; download it again"),
    (b"<html", "a web page, not an image; download it again"),
    (b"\x89PNG", "a PNG picture; convert it to NIfTI"),
    (b"\xff\xd8\xff", "a JPEG picture; convert it to NIfTI"),
    (b"PK\x03\x04", "a zip archive; unpack it"),
    (b"NRRD", "an NRRD file; convert it to NIfTI"),
)


@dataclass(frozen=True)
class Layout:
    """What the header promises: where the voxels lie and what they are."""

    header: nib.Nifti1Header
    shape: tuple[int, int, int]
    dtype: np.dtype
    offset: int
    notes: tuple[str, ...]

    @property
    def voxels(self) -> int:
        """Number of voxels."""
        return int(np.prod(self.shape, dtype=object))

    @property
    def end(self) -> int:
        """Length in bytes of an honest file with this header."""
        return self.offset + self.voxels * self.dtype.itemsize


def parse(head: bytes, name: str) -> Layout:
    """The layout from the file's first `HEAD_BYTES` bytes; geometry is checked by `affine_of`.

    Raises:
        DataError: not NIfTI, or a picture, a time series, an unusable voxel type.
    """
    header = _header(head, name)
    shape, notes = _shape(header, name)
    dtype = _dtype(header, name)
    single = header.single_vox_offset
    stored = float(header["vox_offset"])
    if stored == 0:
        stored = single
    if not (single <= stored <= _MAX_OFFSET and stored == int(stored)):
        raise DataError(f"{name}: the header is damaged (vox_offset is {stored:g}).")
    return Layout(header, shape, dtype, int(stored), tuple(notes))


def _header(head: bytes, name: str) -> nib.Nifti1Header:
    start = head.lstrip()[:64].lower()
    for sign, meaning in _SIGNS:
        if start.startswith(sign.lower()):
            raise DataError(f"{name} is {meaning}.")
    if head[128:132] == b"DICM":
        raise DataError(f"{name} is a DICOM file; convert the series to NIfTI.")
    if head[344:348] == b"n+1\0":
        kind, size = nib.Nifti1Header, 348
    elif head[4:8] == b"n+2\0":
        kind, size = nib.Nifti2Header, 540
    elif head[344:348] in (b"ni1\0",) or head[4:8] == b"ni2\0":
        raise DataError(f"{name} is half of a .hdr/.img pair; convert it to one .nii.gz file.")
    else:
        raise DataError(f"{name} is not a NIfTI file, or its header is damaged; replace it.")
    if len(head) < size + 4:
        raise DataError(f"{name} ends inside its header; copy it again.")
    try:
        header = kind.from_fileobj(io.BytesIO(head[:size]), check=False)
    except Exception as error:  # nibabel raises many kinds
        raise DataError(f"{name}: the header is damaged ({error}).") from error
    if int(header["sizeof_hdr"]) != size:
        raise DataError(f"{name}: the header is damaged (sizeof_hdr {header['sizeof_hdr']}).")
    return header


def _shape(header: nib.Nifti1Header, name: str) -> tuple[tuple[int, int, int], list[str]]:
    axes = int(header["dim"][0])
    if not 1 <= axes <= 7:
        raise DataError(f"{name}: the header is damaged ({axes} axes).")
    sizes = [int(n) for n in header["dim"][1 : axes + 1]]
    text = " x ".join(map(str, sizes))
    if any(n < 1 for n in sizes):
        raise DataError(f"{name}: an axis has no voxels ({text}); export the image again.")
    if axes < 3:
        raise DataError(f"{name} is a picture of {text}, not a volume; stack the slices.")
    if any(n > 1 for n in sizes[3:]):
        raise DataError(
            f"{name} has {axes} axes ({text}), more than one volume; "
            "save each as a file of its own (<case>_0000.nii.gz, <case>_0001.nii.gz)."
        )
    notes = [f"{axes} axes ({text}); the trailing ones of size 1 are dropped"] if axes > 3 else []
    return (sizes[0], sizes[1], sizes[2]), notes


def _dtype(header: nib.Nifti1Header, name: str) -> np.dtype:
    code = int(header["datatype"])
    try:
        dtype = header.get_data_dtype()
        label = header._data_type_codes.label[code]
    except Exception as error:
        raise DataError(f"{name}: the voxel type {code} is unknown; save it as int16.") from error
    if dtype.kind not in "iuf" or dtype.itemsize not in (1, 2, 4, 8):
        raise DataError(
            f"{name}: voxels of type {label} are not supported; save one grey channel as int16 "
            "or float32."
        )
    if int(header["bitpix"]) not in (0, dtype.itemsize * 8):
        raise DataError(f"{name}: the header is damaged (bitpix disagrees with {label}).")
    return dtype


def in_mm(lengths: np.ndarray, header: nib.Nifti1Header) -> np.ndarray:
    """Lengths in the header's unit -> float64, in millimetres."""
    _, times, parts = _unit(header)
    return np.asarray(lengths, np.float64) * times / parts


def _unit(header: nib.Nifti1Header) -> tuple[str, int, int]:
    return _UNITS.get(int(header["xyzt_units"]) & 7, ("mm", 1, 1))


def affine_in_mm(affine: np.ndarray, header: nib.Nifti1Header) -> np.ndarray:
    """An affine [4 4] of the header -> float64, to millimetres."""
    return np.vstack([in_mm(affine[:3], header), [0, 0, 0, 1]])


def affine_of(layout: Layout, name: str) -> tuple[np.ndarray, list[str]]:
    """The affine as nibabel chooses it (sform, else qform, else pixdim), float64 [4 4] in mm
    whatever the header's unit is, and notes.

    Raises:
        DataError: the affine cannot be used; see `check_affine`.
    """
    header = layout.header
    sform = affine_in_mm(header.get_sform(), header) if int(header["sform_code"]) != 0 else None
    qform, why = _qform(header) if int(header["qform_code"]) != 0 else (None, "")
    if sform is None and why:
        raise DataError(f"{name}: the qform cannot be used ({why}); write the geometry again.")
    notes: list[str] = []
    if sform is None and qform is None:
        notes.append("no orientation is stored (sform, qform code 0): left and right are a guess")
        pixdim = in_mm(header["pixdim"][1:4], header)
        if pixdim.min() < 0:
            text = " x ".join(f"{value:.4g}" for value in pixdim)
            notes.append(f"the spacing {text} mm is negative, taken as positive")
    chosen = next((a for a in (sform, qform) if a is not None), None)
    affine = _base_affine(layout) if chosen is None else chosen
    unit = _unit(header)[0]
    if unit != "mm":
        notes.append(f"lengths are stored in {unit}, and converted to mm")
    notes += check_affine(affine, name, unit)
    if sform is not None:
        notes += _disagreement(layout, sform, qform, why)
    return affine, notes


def _qform(header: nib.Nifti1Header) -> tuple[np.ndarray | None, str]:
    header = header.copy()
    if float(header["pixdim"][0]) not in (-1.0, 1.0):
        header["pixdim"][0] = 1  # the standard's rule for 0
    try:
        qform = header.get_qform()
    except Exception as error:  # nibabel raises HeaderDataError or ValueError
        return None, str(error)
    return affine_in_mm(qform, header), "" if np.isfinite(qform).all() else "it holds NaN"


def _base_affine(layout: Layout) -> np.ndarray:
    pixdim = np.abs(np.asarray(layout.header["pixdim"][1:4], np.float64)) * [-1, 1, 1]
    affine = np.diag([*pixdim, 1.0])
    affine[:3, 3] = -pixdim * (np.array(layout.shape) - 1) / 2
    return affine_in_mm(affine, layout.header)


def _disagreement(
    layout: Layout, sform: np.ndarray, qform: np.ndarray | None, why: str
) -> list[str]:
    if why:
        return [f"the qform cannot be used ({why}); the sform is used"]
    if qform is not None:
        offset = corner_offset(sform, qform, layout.shape)
        if offset > _QFORM_NOTE_MM:
            return [f"qform and sform differ by up to {offset:.3g} mm; the sform is used"]
    pixdim = in_mm(layout.header["pixdim"][1:4], layout.header)
    spacing = np.linalg.norm(sform[:3, :3], axis=0)
    if not np.allclose(pixdim, spacing, rtol=SHEAR_NOTE, atol=1e-4):
        text = " x ".join(f"{value:.4g}" for value in pixdim)
        return [f"pixdim ({text}) disagrees with the sform's spacing; the sform is used"]
    return []
