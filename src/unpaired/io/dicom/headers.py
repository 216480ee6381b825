"""One DICOM file: is it one, what does its header say, and which slices does it hold?"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unpaired.errors import DataError
from unpaired.files import printable
from unpaired.io.dicom.library import damage_named, library, read_dataset
from unpaired.io.dicom.marks import TAGS as MARKS
from unpaired.io.dicom.marks import Mark, marks_of, several

HEAD_BYTES = 2048
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_INDEX = "1.2.840.10008.1.3.10"  # a DICOMDIR by another name
# Hounsfield units in the code of units of measure.
_HOUNSFIELD = "[hnsf'U]"
_NOT_IMAGES = {"SEG", "RTDOSE", "RTSTRUCT", "RTPLAN", "RTIMAGE", "SR", "PR", "KO", "DOC", "REG"}
_TAGS = (
    "SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "SeriesNumber", "SeriesDescription",
    "Modality", "InstanceNumber", "Rows", "Columns", "NumberOfFrames", "BitsAllocated",
    "BitsStored", "PixelRepresentation", "SamplesPerPixel", "PhotometricInterpretation",
    "ImagePositionPatient", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "ImageOrientationPatient", "PixelSpacing", "SliceThickness", "RescaleSlope",
    "RescaleIntercept", "ModalityLUTSequence", "RealWorldValueMappingSequence",
    "SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence", *MARKS,
)  # fmt: skip


@dataclass(frozen=True)
class Header:
    """A file's header.

    Attributes:
        series: the series' UID.
        frames: number of slices in the file.
        tags: a pydicom data set of the tags this package reads.
    """

    path: Path
    series: str
    frames: int
    tags: Any

    def text(self, name: str) -> str:
        """The tag as text; empty if it is not there."""
        value = self.tags.get(name)
        return "" if value is None else str(value)

    @property
    def kind(self) -> tuple[str, ...]:
        """The values of ImageType, such as ORIGINAL, PRIMARY, AXIAL."""
        value = self.tags.get("ImageType")
        several = isinstance(value, Sequence) and not isinstance(value, str)
        return tuple(str(one).upper() for one in value) if several else (str(value or "").upper(),)


@dataclass(frozen=True)
class Frame:
    """One slice and its place, in the patient coordinates of DICOM (Left, Posterior, Superior).

    Attributes:
        path, index: the file, and the slice's number in it, from 0.
        instance: SOP instance UID of the file.
        number: InstanceNumber; None if it is not known.
        rows, columns: size in voxels.
        position_mm: [3], the centre of the first voxel.
        axes: [2 3], unit vectors along which the column index and the row index grow.
        spacing_mm: distance of neighbours along these two.
        thickness_mm: of the slice; None if it is not known.
        slope, intercept: stored value -> true value.
        rescaled: whether these are stored anywhere; else they are 1 and 0.
        padding: (lowest, highest) stored value that was not measured, in as many bits as a voxel
            takes in the file; None if none is declared.
        marks: what may tell it from a slice of another image.
    """

    path: Path
    index: int
    instance: str
    number: int | None
    rows: int
    columns: int
    position_mm: np.ndarray
    axes: np.ndarray
    spacing_mm: tuple[float, float]
    thickness_mm: float | None
    slope: float
    intercept: float
    rescaled: bool
    padding: tuple[int, int] | None
    marks: dict[str, Mark]

    @property
    def name(self) -> str:
        """The file's name, with the slice's number where the file holds several."""
        return printable(self.path.name) + (f" frame {self.index}" if self.index else "")


class _Said:
    """What a header says of one frame: its own groups first, then the shared ones, then the data
    set."""

    def __init__(self, tags: Any, item: Any) -> None:
        shared = tags.get("SharedFunctionalGroupsSequence") or [None]
        self._tags = tags
        self._groups = [one for one in (item, shared[0]) if one is not None]

    def places(self, group: str) -> list[Any]:
        """The data sets in which the tags of a group may stand, the nearest first."""
        found = []
        for where in self._groups:
            for step in group.split("/") if group else ():
                where = (where.get(f"{step}Sequence") or [{}])[0]
            found.append(where)
        # Converters keep here what they could not place.
        for where in self._groups:
            for kind in ("PerFrame", "Shared"):
                found += (where.get(f"Unassigned{kind}ConvertedAttributesSequence") or [])[:1]
        return [*found, self._tags]

    def get(self, group: str, tag: str) -> Any:
        """The value nearest to the frame; None if it is nowhere, or empty."""
        for where in self.places(group):
            value = where.get(tag)
            if value is not None and value != "" and not (several(value) and not len(value)):
                return value
        return None


def looks_like_dicom(head: bytes) -> bool:
    """Whether a file's first bytes are DICOM: the mark behind the preamble, or, without either,
    a first element of group 2 or 8 with an element number and length that make sense."""
    if head[128:132] == b"DICM":
        return True
    group, length = head[:2], int.from_bytes(head[4:8], "little")
    plain = head[4:6].isalpha() and head[4:6].isupper()
    first = head[:4] in (b"\2\0\0\0", b"\2\0\1\0", b"\x08\0\0\0", b"\x08\0\1\0", b"\x08\0\5\0")
    return group in (b"\2\0", b"\x08\0") and first and (plain or length <= 64)


def read_header(path: Path, head: bytes) -> Header | None:
    """The header of a DICOM file, or None if it is no image (a report, a dose, a segmentation).

    Raises:
        DataError: a header that is damaged or ends too early.
    """
    if _DEFLATED in head:
        raise DataError(
            f"{printable(path)} is a deflated DICOM file, which is not read; convert it first "
            "(dcmconv +te)."
        )
    pydicom = library("pydicom")
    with damage_named(path, "read the header"):
        tags = read_dataset(path, stop_before_pixels=True, specific_tags=list(_TAGS))
        for element in tags.iterall():  # decode all now, so that damage shows here
            _ = element.value
        kind = tags.get("SOPClassUID")
        if not kind or not (tags.get("SeriesInstanceUID") or kind == _INDEX):
            raise DataError(
                f"{printable(path)}: the header ends too early, or names no series; copy it again."
            )
        image = pydicom.uid.UID(kind).name.endswith("Image Storage")
        if str(tags.get("Modality")) in _NOT_IMAGES or not (image or tags.get("Rows")):
            return None
        missing = [n for n in ("Rows", "Columns") if not tags.get(n)]
        if missing:
            raise DataError(f"{printable(path)}: the header lacks {missing[0]}; copy it again.")
        frames = int(tags.get("NumberOfFrames") or 1)
        return Header(path, str(tags.SeriesInstanceUID), frames, tags)


def object_name(path: Path) -> str:
    """What a DICOM file is that is no image, such as "RTDOSE"."""
    with damage_named(path, "read the header"):
        tags = read_dataset(
            path, stop_before_pixels=True, specific_tags=["Modality", "SOPClassUID"]
        )
        return str(tags.get("Modality") or tags.SOPClassUID.name)


def frames_of(header: Header) -> list[Frame]:
    """The slices of one file, in the file's order.

    Raises:
        DataError: colour, inverted grey, no place in the patient, a damaged header.
    """
    with damage_named(header.path, "read the slices' places"):
        _refuse_foreign(header)
        several = header.tags.get("PerFrameFunctionalGroupsSequence")
        if several is None:
            return [_frame(header, 0, None)]
        if len(several) != header.frames:
            raise DataError(
                f"{printable(header.path)}: the header describes {len(several)} of {header.frames} "
                "frames; copy it again."
            )
        return [_frame(header, index, item) for index, item in enumerate(several)]


def _refuse_foreign(header: Header) -> None:
    name, tags = printable(header.path), header.tags
    if int(tags.get("SamplesPerPixel") or 1) != 1:
        raise DataError(f"{name} is a colour picture; export the scan as one grey channel.")
    grey = header.text("PhotometricInterpretation")
    if grey != "MONOCHROME2":
        raise DataError(
            f"{name} is stored as {grey or 'unknown colours'}, not as MONOCHROME2 (high is "
            "bright); export it again."
        )
    if "PerFrameFunctionalGroupsSequence" not in tags and header.frames > 1:
        raise DataError(
            f"{name} holds {header.frames} frames without their places; export a volume (enhanced "
            "multi-frame, or one file a slice)."
        )


def _frame(header: Header, index: int, item: Any) -> Frame:
    tags, name = header.tags, printable(header.path)
    said = _Said(tags, item)
    position = _numbers(said, "PlanePosition", "ImagePositionPatient", 3, name)
    axes = _numbers(said, "PlaneOrientation", "ImageOrientationPatient", 6, name).reshape(2, 3)
    between_rows, between_columns = _numbers(said, "PixelMeasures", "PixelSpacing", 2, name)
    thickness = said.get("PixelMeasures", "SliceThickness")
    slope, intercept = _rescale(said, str(tags.get("Modality")), name)
    number = tags.get("InstanceNumber")
    return Frame(
        path=header.path,
        index=index,
        instance=header.text("SOPInstanceUID"),
        number=None if number is None else int(number),
        rows=int(tags.Rows),
        columns=int(tags.Columns),
        position_mm=position,
        axes=_unit(axes, name),
        spacing_mm=(float(between_columns), float(between_rows)),
        thickness_mm=float(thickness) if thickness else None,
        slope=_finite(slope, 1.0, name) or _no_slope(name),
        intercept=_finite(intercept, 0.0, name),
        rescaled=slope is not None or intercept is not None,
        padding=_padding(said, tags),
        marks=marks_of(said.get, tags),
    )


def _rescale(said: _Said, modality: str, name: str) -> tuple[Any, Any]:
    """Slope and intercept; of a CT without them those of a map to Hounsfield units. None: not
    stored."""
    group = "PixelValueTransformation"
    if said.get(group, "ModalityLUTSequence"):
        raise DataError(f"{name} maps its values by a table, not by a slope; export it again.")
    slope, intercept = said.get(group, "RescaleSlope"), said.get(group, "RescaleIntercept")
    if slope is not None or intercept is not None or modality != "CT":
        return slope, intercept
    for where in said.places("RealWorldValueMapping"):
        for one in [where, *(where.get("RealWorldValueMappingSequence") or [])]:
            units = one.get("MeasurementUnitsCodeSequence") or [{}]
            if units[0].get("CodeValue") == _HOUNSFIELD and "RealWorldValueSlope" in one:
                return one.get("RealWorldValueSlope"), one.get("RealWorldValueIntercept")
    return None, None


def _padding(said: _Said, tags: Any) -> tuple[int, int] | None:
    """The range of stored values that are padding; many writers put 63536 for -2000."""
    values = [said.get("", tag) for tag in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    if values[0] is None:
        return None
    bits, signed = int(tags.get("BitsAllocated") or 16), int(tags.get("PixelRepresentation") or 0)
    ends = []
    for value in values if values[1] is not None else values[:1]:
        number = int.from_bytes(value[:4], "little") if isinstance(value, bytes) else int(value)
        number &= (1 << bits) - 1
        ends.append(number - (1 << bits) if signed and number >> bits - 1 else number)
    return min(ends), max(ends)


def _numbers(said: _Said, group: str, tag: str, count: int, name: str) -> np.ndarray:
    value = said.get(group, tag)
    if value is None or not several(value) or len(value) != count:
        raise DataError(
            f"{name} has no {tag}, so its place in the patient is unknown; export the original "
            "scan, not a screen shot."
        )
    numbers = np.array([float(one) for one in value])
    if not np.isfinite(numbers).all():
        raise DataError(f"{name}: {tag} is not finite; export the scan again.")
    return numbers


def _finite(value: Any, default: float, name: str) -> float:
    number = default if value is None else float(value)
    if not np.isfinite(number):
        raise DataError(f"{name}: the rescale slope or intercept is not finite; export it again.")
    return number


def _no_slope(name: str) -> float:
    raise DataError(f"{name}: the rescale slope is 0; export the scan again.")


def _unit(axes: np.ndarray, name: str) -> np.ndarray:
    lengths = np.linalg.norm(axes, axis=1)
    if np.abs(lengths - 1).max() > 1e-2 or abs(axes[0] @ axes[1]) > 1e-3:
        raise DataError(
            f"{name}: the directions of ImageOrientationPatient are not at right angles and of "
            "length 1; export the scan again."
        )
    return axes / lengths[:, None]
