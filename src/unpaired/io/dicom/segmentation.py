"""Labels -> a DICOM segmentation on the slices they were predicted on, written with highdicom."""

import hashlib
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from unpaired import __version__
from unpaired.errors import DataError, UsageError
from unpaired.files import atomic, printable
from unpaired.io.dicom.codes import Code, SegmentCode, code_of
from unpaired.io.dicom.library import Bounded, damage_named, library
from unpaired.io.dicom.scan import DicomSource
from unpaired.io.dicom.stack import slice_affine
from unpaired.io.raw import Names
from unpaired.io.volume import Volume

_SERIES_STEP = 1000
# Tags that must be there, empty if unknown (type 2); anonymised series often lack them.
_MAY_BE_EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "StudyID", "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator",
)  # fmt: skip
_LONGEST_LABEL = 64


def write_segmentation(
    path: Path,
    labels: np.ndarray,
    like: Volume,
    names: Names,
    *,
    codes: Mapping[str, SegmentCode] | None = None,
    empty_segments: bool = False,
) -> tuple[str, ...]:
    """Write labels [i j k] as binary segments that point at the series `like` was read from.

    Patient, study and frame of reference are the series' own. Labels on a resampled grid are
    taken back to the original slices, each voxel from the nearest label.

    Args:
        names: of the classes; the mark becomes the content description.
        codes: codes of class names in place of the table's.
        empty_segments: also describe classes of which no voxel was found.

    Returns:
        notes: what a reader should know.

    Raises:
        UsageError: highdicom is not installed, or `like` is no DICOM series.
        DataError: the series lacks what a segmentation must carry on.
        ResourceError: the file cannot be written.
    """
    source = like.source
    if not isinstance(source, DicomSource):
        raise UsageError(
            f"{printable(path)}: a DICOM segmentation points at the slices it was made on, and the "
            "image is no DICOM series; write NIfTI instead."
        )
    planes = on_slices(labels, like, source)
    chosen, notes = _described(planes, len(names.classes), empty_segments)
    identity = _identity(labels, source, names.mark)
    where = source.frames[0].path
    with damage_named(where, "write the segmentation of this series", "write NIfTI instead"):
        images = _source_images(source)
        notes += _completed(images, identity)
        kept = _without_others(images, source)
        _complete_groups(images, source)
        segments = [
            _segment(number, value, names, code_of(names.classes[value], codes))
            for number, value in enumerate(chosen, 1)
        ]
        written = library("highdicom.seg").Segmentation(
            source_images=images,
            pixel_array=_numbered(planes[_as_stored(source)], chosen),
            segmentation_type="BINARY",
            segment_descriptions=segments,
            omit_empty_frames=bool(planes.any()),
            content_description=names.mark or None,
            **_about(images[0], identity),
        )
        _renumber(written, kept)
    with atomic(path) as temporary:
        written.save_as(temporary)
    return tuple(notes)


def _described(planes: np.ndarray, classes: int, empty: bool) -> tuple[list[int], list[str]]:
    """The classes to describe: those that occur, or all; notes."""
    every = list(range(1, classes))
    occur = [value for value in every if (planes == value).any()]
    if occur:
        return every if empty else occur, []
    return every, ["nothing was found; the DICOM segmentation holds empty segments"]


def _about(image: Any, identity: str) -> dict[str, Any]:
    """The object's own identity, beside what it takes over from the series."""
    return {
        "series_instance_uid": _uid(identity, "series"),
        "series_number": int(image.get("SeriesNumber") or 0) + _SERIES_STEP,
        "series_description": "Segmentation by unpaired",
        "sop_instance_uid": _uid(identity, "instance"),
        "instance_number": 1,
        "manufacturer": "unpaired",
        "manufacturer_model_name": "unpaired",
        "software_versions": __version__,
        "device_serial_number": "0",
        "content_label": "SEGMENTATION",
    }


def _numbered(planes: np.ndarray, chosen: Sequence[int]) -> np.ndarray:
    """Class indices -> segment numbers, which run from 1 without gaps; what is not chosen is 0."""
    numbers = np.zeros(max(int(planes.max()), *chosen) + 1, np.uint8)
    numbers[list(chosen)] = np.arange(1, len(chosen) + 1)
    return numbers[planes]


def on_slices(labels: np.ndarray, like: Volume, source: DicomSource) -> np.ndarray:
    """[frame row column] of the source's frames, in their order."""
    if not source.resampled:
        return labels.transpose(2, 1, 0)
    to_labels = np.linalg.inv(like.affine)
    first = source.frames[0]
    rows, columns = np.meshgrid(range(first.rows), range(first.columns), indexing="ij")
    places = np.stack([columns, rows]).reshape(2, -1).astype(np.float64)
    planes = np.zeros((len(source.frames), first.rows, first.columns), labels.dtype)
    for plane, frame in zip(planes, source.frames, strict=True):
        here = to_labels @ slice_affine(frame, np.zeros(3))
        at = np.rint(here[:3, :2] @ places + here[:3, 3:]).astype(int)
        inside = ((at >= 0) & (at < np.array(labels.shape)[:, None])).all(0)
        plane.reshape(-1)[inside] = labels[tuple(at[:, inside])]
    return planes


def read_mark(path: Path) -> str:
    """The content description of a DICOM file; empty if there is none.

    Raises:
        DataError: not a DICOM file.
    """
    with damage_named(path, "read the header"):
        with Bounded(path) as file:
            dataset = library("pydicom").dcmread(file, stop_before_pixels=True)
        return str(dataset.get("ContentDescription") or "")


def _as_stored(source: DicomSource) -> list[int]:
    """Slices in the order of `_source_images`: along the normal, or as one file holds them."""
    order = list(range(len(source.frames)))
    if len({frame.path for frame in source.frames}) > 1:
        return order
    return sorted(order, key=lambda k: source.frames[k].index)


def _without_others(images: Sequence[Any], source: DicomSource) -> list[int]:
    """Drop the frames of other images from a multi-frame header, since some lie in the same places.

    Returns:
        the numbers, from 0, of the frames that are left; empty if nothing was dropped.
    """
    kept = sorted(frame.index for frame in source.frames)
    if len(images) > 1 or int(images[0].get("NumberOfFrames") or 1) == len(kept):
        return []
    groups = images[0].PerFrameFunctionalGroupsSequence
    images[0].PerFrameFunctionalGroupsSequence = [groups[k] for k in kept]
    images[0].NumberOfFrames = len(kept)
    return kept


def _complete_groups(images: Sequence[Any], source: DicomSource) -> None:
    """Put into a multi-frame header, in memory, the places that its groups leave to others."""
    if "PerFrameFunctionalGroupsSequence" not in images[0]:
        return
    first = source.frames[0]
    if not images[0].get("SharedFunctionalGroupsSequence"):
        images[0].SharedFunctionalGroupsSequence = [library("pydicom").Dataset()]
    shared = images[0].SharedFunctionalGroupsSequence[0]
    own = images[0].PerFrameFunctionalGroupsSequence
    columns, rows = first.spacing_mm
    thickness = first.thickness_mm or max(first.spacing_mm)
    _complete((own[0], shared), "PixelMeasures", "PixelSpacing", (rows, columns))
    _complete((own[0], shared), "PixelMeasures", "SliceThickness", (thickness,))
    turn = tuple(first.axes.ravel())
    _complete((own[0], shared), "PlaneOrientation", "ImageOrientationPatient", turn)
    for item, frame in zip(own, sorted(source.frames, key=lambda f: f.index), strict=True):
        place = tuple(frame.position_mm)
        _complete((shared, item), "PlanePosition", "ImagePositionPatient", place)


def _complete(groups: Sequence[Any], name: str, tag: str, values: Sequence[float]) -> None:
    """The values as a tag of a group, in the last of `groups` unless one of them has it."""
    sequence = f"{name}Sequence"
    if any(one.get(sequence) and tag in one.get(sequence)[0] for one in groups):
        return
    with_group = next((one for one in groups if one.get(sequence)), groups[-1])
    if not with_group.get(sequence):
        setattr(with_group, sequence, [library("pydicom").Dataset()])
    texts = [f"{value:.10g}"[:16] for value in values]
    setattr(with_group.get(sequence)[0], tag, texts if len(texts) > 1 else texts[0])


def _renumber(written: Any, kept: Sequence[int]) -> None:
    """Point at the frames by their numbers in the file, from 1."""
    for frame in written.PerFrameFunctionalGroupsSequence if kept else ():
        for derived in frame.get("DerivationImageSequence") or ():
            for image in derived.SourceImageSequence:
                numbers = image.get("ReferencedFrameNumber")
                if numbers is not None:
                    image.ReferencedFrameNumber = kept[int(numbers) - 1] + 1


def _source_images(source: DicomSource) -> list[Any]:
    """Headers, one a slice, or the one multi-frame file."""
    pydicom = library("pydicom")
    paths = list(dict.fromkeys(frame.path for frame in source.frames))
    if 1 < len(paths) < len(source.frames):
        raise DataError(
            "a DICOM segmentation can point at single slices or at one multi-frame file, not at "
            f"{len(paths)} multi-frame files; write NIfTI instead."
        )
    return [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]


def _completed(images: Sequence[Any], identity: str) -> list[str]:
    """Fill what anonymised headers lack, in memory."""
    without = [image for image in images if not image.get("FrameOfReferenceUID")]
    for image in images:
        for tag in _MAY_BE_EMPTY:
            if tag not in image:
                setattr(image, tag, "")
    for image in without:
        image.FrameOfReferenceUID = _uid(identity, "frame of reference")
    return ["the series names no frame of reference; the segmentation has a new one"] * bool(
        without
    )


def _segment(number: int, value: int, names: Names, code: SegmentCode) -> Any:
    highdicom = library("highdicom")
    colour = names.colours[value] if names.colours else None
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="unpaired",
        version=__version__,
        family=_concept(Code("123109", "DCM", "Artificial Intelligence")),
        parameters={"model": names.mark} if names.mark else None,
    )
    description = library("highdicom.seg").SegmentDescription(
        segment_number=number,
        segment_label=names.classes[value][:_LONGEST_LABEL],
        segmented_property_category=_concept(code.category),
        segmented_property_type=_concept(code.type),
        algorithm_type="AUTOMATIC",
        algorithm_identification=algorithm,
        display_color=highdicom.color.CIELabColor.from_rgb(*colour) if colour else None,
    )
    if code.modifier is not None:
        item = description.SegmentedPropertyTypeCodeSequence[0]
        item.SegmentedPropertyTypeModifierCodeSequence = [_concept(code.modifier)]
    return description


def _concept(code: Code) -> Any:
    return library("highdicom.sr").CodedConcept(code.value, code.scheme, code.meaning)


def _identity(labels: np.ndarray, source: DicomSource, mark: str) -> str:
    """The same labels on the same slices by the same model are the same object."""
    state = hashlib.sha256(np.ascontiguousarray(labels.T).data)
    for text in (mark, __version__, *(frame.instance for frame in source.frames)):
        state.update(f"\n{text}".encode())
    return state.hexdigest()


def _uid(identity: str, what: str) -> str:
    """A UID out of a name-based UUID (DICOM PS3.5, B.2)."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'unpaired {what} {identity}').int}"
