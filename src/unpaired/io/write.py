"""The one place where labels are written: in the format the file's name asks for."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from unpaired.errors import UsageError
from unpaired.files import printable
from unpaired.io.dicom import segmentation
from unpaired.io.dicom.codes import SegmentCode
from unpaired.io.meta_image import write_meta_image
from unpaired.io.mgh import write_mgh
from unpaired.io.nifti import fresh_header, write_volume
from unpaired.io.nrrd import write_nrrd
from unpaired.io.raw import FileSource, Names
from unpaired.io.read import Format, read_label_image
from unpaired.io.volume import Volume
from unpaired.names import ending_of

FORMATS: Mapping[str, str] = {
    "nifti": ".nii.gz",
    "nrrd": ".seg.nrrd",
    "mha": ".mha",
    "mgz": ".mgz",
    "dicom-seg": "_seg.dcm",
}
"""Format -> what a case's file is called behind the case's name."""
LABEL_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".mha", ".mgz", ".mgh", ".dcm")
_OF_INPUT: Mapping[Format, tuple[str, ...]] = {
    "nifti": ("nifti",),
    "nrrd": ("nrrd",),
    "mha": ("mha",),
    "mgh": ("mgz",),
    "dicom": ("nifti", "dicom-seg"),
}


@dataclass(frozen=True)
class Writing:
    """How labels are written.

    Attributes:
        formats: names of `FORMATS`; empty: the image's own (of DICOM NIfTI and DICOM-SEG).
        empty_segments: DICOM-SEG also describes classes of which nothing was found.
        codes: class name -> code, in place of the built-in table.
    """

    formats: tuple[str, ...] = ()
    empty_segments: bool = False
    codes: Mapping[str, SegmentCode] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.formats:
            if name not in FORMATS:
                raise UsageError(f"there is no format {name!r}; choose {', '.join(FORMATS)}.")

    def formats_for(self, form: Format) -> tuple[str, ...]:
        """The formats of results on an image of this format."""
        return self.formats or _OF_INPUT[form]


def write_labels(
    path: Path, labels: np.ndarray, like: Volume, names: Names, writing: Writing | None = None
) -> tuple[str, ...]:
    """Write labels [i j k] on exactly the grid of `like`; the ending of `path` chooses the format.

    Returns:
        notes: what a reader should know.

    Raises:
        UsageError: an ending that is not written, another shape, or DICOM-SEG without a series.
        DataError: the series lacks what a segmentation must carry on.
        ResourceError: the file cannot be written.
    """
    if labels.shape != like.array.shape:
        raise UsageError(
            f"cannot write labels of shape {labels.shape} on a grid of {like.array.shape}."
        )
    asked = writing or Writing()
    form = ending_of(path.name, LABEL_ENDINGS).lower()
    if form in (".nii", ".nii.gz"):
        write_volume(path, labels, marked(like, names.mark))
    elif form == ".nrrd":
        write_nrrd(path, labels, like, names)
    elif form == ".mha":
        write_meta_image(path, labels, like, names.mark)
    elif form in (".mgz", ".mgh"):
        write_mgh(path, labels, like, names.mark)
    elif form == ".dcm":
        return segmentation.write_segmentation(
            path, labels, like, names, codes=asked.codes, empty_segments=asked.empty_segments
        )
    else:
        raise UsageError(f"{printable(path)}: the name must end in {', '.join(LABEL_ENDINGS)}.")
    return ()


def marked(volume: Volume, mark: str) -> Volume:
    """The volume with a NIfTI header whose description is `mark`."""
    header = fresh_header(volume) if volume.header is None else volume.header.copy()
    if mark:
        header["descrip"] = mark.encode()[:79]
    return replace(volume, header=header)


def read_mark(path: Path) -> tuple[str, int]:
    """The mark a label file was written with, and its largest value (0 for DICOM).

    Raises:
        DataError: the file is missing, damaged or no label.
    """
    if path.suffix.lower() == ".dcm":
        return segmentation.read_mark(path), 0
    label = read_label_image(path)
    mark = ""
    if label.header is not None:
        mark = label.header["descrip"].item().decode(errors="replace")
    elif isinstance(label.source, FileSource):
        mark = label.source.mark
    return mark, int(label.array.max())
