"""The one place where an image is read: whatever the format, by its content."""

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from unpaired import inflate
from unpaired.files import printable
from unpaired.io.dicom.headers import HEAD_BYTES, looks_like_dicom
from unpaired.io.dicom.scan import holds_dicom, is_named_dicom, read_series
from unpaired.io.meta_image import looks_like_meta_image, read_meta_image
from unpaired.io.mgh import looks_like_mgh, read_mgh
from unpaired.io.nifti import MAX_VOXELS, as_label, read_volume
from unpaired.io.nrrd import read_nrrd
from unpaired.io.volume import Volume
from unpaired.names import ending_of

ENDINGS = (".nii.gz", ".nii", ".seg.nrrd", ".nrrd", ".nhdr", ".mha", ".mhd", ".mgz", ".mgh")
"""How images are named in a folder of cases, in any case; what they are, their content says."""
Format = Literal["nifti", "nrrd", "mha", "mgh", "dicom"]


@dataclass(frozen=True)
class Reading:
    """What only DICOM needs to know.

    Attributes:
        series: UID or number of the series, where a folder holds several.
        resample_slices: mend tilted, uneven and missing slices by interpolation.
    """

    series: str | None = None
    resample_slices: bool = False


def read_image(
    path: Path, reading: Reading | None = None, *, max_voxels: int = MAX_VOXELS
) -> Volume:
    """Read a NIfTI, NRRD, MetaImage, MGH or DICOM file, or the folder of a DICOM series.

    Raises:
        DataError: the image is at fault.
        UsageError: DICOM needs a package that is not installed, or a series must be chosen.
    """
    form = format_of(path)
    if form == "dicom":
        asked = reading or Reading()
        return read_series(
            path, asked.series, resample_slices=asked.resample_slices, max_voxels=max_voxels
        )
    readers = {"nifti": read_volume, "nrrd": read_nrrd, "mha": read_meta_image, "mgh": read_mgh}
    return readers[form](path, max_voxels=max_voxels)


def read_label_image(path: Path) -> Volume:
    """Read a label of any format; see `unpaired.io.nifti.read_label`."""
    return as_label(read_image(path), printable(path))


def format_of(path: Path) -> Format:
    """What a file is, by its first bytes; a folder is a DICOM series. What cannot be told is left
    to the NIfTI reader, whose errors say what is wrong with it."""
    if path.is_dir():
        return "dicom"
    try:
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
        if head[:2] == inflate.MAGIC:
            head = inflate.inflate_head(head, HEAD_BYTES)
    except (OSError, ValueError):
        return "nifti"
    if head.startswith(b"NRRD0"):
        return "nrrd"
    if head[344:347] == b"n+1" or head[4:7] == b"n+2":
        return "nifti"
    if looks_like_mgh(head):
        return "mgh"
    if looks_like_meta_image(head):
        return "mha"
    return "dicom" if looks_like_dicom(head) or is_named_dicom(path) else "nifti"


def is_series_folder(path: Path) -> bool:
    """Whether DICOM files, and no images of other formats, lie directly in the folder."""
    return path.is_dir() and not images_in(path) and holds_dicom(path)


def files_of(path: Path) -> tuple[Path, ...]:
    """The file itself; of a folder with a DICOM series all files in it, sorted."""
    return tuple(sorted(f for f in path.rglob("*") if f.is_file())) if path.is_dir() else (path,)


def images_in(folder: Path) -> list[Path]:
    """The files of a folder whose names end as an image's does, sorted; hidden ones left out."""
    return sorted(p for p in folder.iterdir() if ending_of(p.name, ENDINGS) and p.name[0] != ".")


def others_in(folder: Path, images: Collection[Path]) -> list[Path]:
    """What lies in a folder beside these images, sorted. Hidden files are left out, and files that
    are named as an image but for the ending: they describe it (JSON) or hold its voxels (RAW)."""
    stems = {path.name.split(".")[0] for path in images}
    children = sorted(folder.iterdir())
    return [
        p
        for p in children
        if p not in images and p.name[0] != "." and p.name.split(".")[0] not in stems
    ]


def series_folders_in(folder: Path) -> list[Path]:
    """The folders in a folder that hold DICOM, there or further down."""
    inside = sorted(p for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
    return [path for path in inside if holds_dicom(path, deep=True)]
