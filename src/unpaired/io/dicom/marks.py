"""What tells images of one series apart, and how many of them its slices belong to."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np

from unpaired.errors import DataError, UsageError
from unpaired.files import printable

Mark = str | tuple[float, ...]
"""A text, or numbers: what a slice says of the image it belongs to."""

# What tells images apart -> where it stands: (functional group, tag), or ("", tag) in the data set.
_MARKS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "Modality": (("", "Modality"),),
    "StudyInstanceUID": (("", "StudyInstanceUID"),),
    "FrameOfReferenceUID": (("", "FrameOfReferenceUID"),),
    "StackID": (("FrameContent", "StackID"),),
    "ImageType": (
        ("MRImageFrameType", "FrameType"), ("CTImageFrameType", "FrameType"),
        ("PETFrameType", "FrameType"), ("", "ImageType"),
    ),
    "ComplexImageComponent": (
        ("MRImageFrameType", "ComplexImageComponent"), ("", "ComplexImageComponent"),
    ),
    "AcquisitionContrast": (
        ("MRImageFrameType", "AcquisitionContrast"), ("", "AcquisitionContrast"),
    ),
    "EchoTime": (("MREcho", "EffectiveEchoTime"), ("", "EchoTime")),
    "EchoNumbers": (("", "EchoNumbers"),),
    "DiffusionBValue": (("MRDiffusion", "DiffusionBValue"), ("", "DiffusionBValue")),
    "DiffusionDirectionality": (
        ("MRDiffusion", "DiffusionDirectionality"), ("", "DiffusionDirectionality"),
    ),
    "DiffusionGradientOrientation": (
        ("MRDiffusion/DiffusionGradientDirection", "DiffusionGradientOrientation"),
        ("", "DiffusionGradientOrientation"),
    ),
    "InversionTime": (
        ("MRModifier", "InversionTimes"), ("MRInversionRecovery", "InversionTimes"),
        ("", "InversionTime"),
    ),
    "FlipAngle": (("MRTimingAndRelatedParameters", "FlipAngle"), ("", "FlipAngle")),
    "SequenceName": (("", "SequenceName"),),
    "ScanningSequence": (("", "ScanningSequence"),),
    "SequenceVariant": (("", "SequenceVariant"),),
    "ScanOptions": (("", "ScanOptions"),),
    "MagnetizationTransfer": (("MRMagnetizationTransfer", "MagnetizationTransfer"),),
    "ASLContext": (("MRArterialSpinLabeling", "ASLContext"),),
    "MetaboliteMapDescription": (("MRMetaboliteMap", "MetaboliteMapDescription"),),
    "ContrastBolusAgent": (("", "ContrastBolusAgent"),),
    "ContrastBolusAgentPhase": (
        ("ContrastBolusUsage", "ContrastBolusAgentPhase"), ("", "ContrastBolusAgentPhase"),
    ),
    "ContrastBolusAgentAdministered": (("ContrastBolusUsage", "ContrastBolusAgentAdministered"),),
    "KVP": (("CTXRayDetails", "KVP"), ("", "KVP")),
    "ConvolutionKernel": (("CTReconstruction", "ConvolutionKernel"), ("", "ConvolutionKernel")),
    "NominalPercentageOfCardiacPhase": (
        ("CardiacSynchronization", "NominalPercentageOfCardiacPhase"),
        ("", "NominalPercentageOfCardiacPhase"),
    ),
    "TemporalPositionIdentifier": (
        ("FrameContent", "TemporalPositionIndex"), ("", "TemporalPositionIdentifier"),
        ("", "TemporalPositionIndex"),
    ),
    "TriggerTime": (
        ("CardiacSynchronization", "NominalCardiacTriggerDelayTime"), ("", "TriggerTime"),
    ),
    "AcquisitionNumber": (("FrameContent", "FrameAcquisitionNumber"), ("", "AcquisitionNumber")),
}  # fmt: skip
# Private tags of makers: mark, group, creator, element.
_VENDORS = (
    ("DiffusionBValue", 0x0019, "SIEMENS MR HEADER", 0x0C),
    ("DiffusionBValue", 0x0043, "GEMS_PARM_01", 0x39),
    ("DiffusionBValue", 0x2001, "Philips Imaging DD 001", 0x03),
    ("ComplexImageComponent", 0x0043, "GEMS_PARM_01", 0x2F),
)
_GE_OFFSET = 100_000  # GE adds multiples of it to b-values


TAGS = (
    *dict.fromkeys(tag for places in _MARKS.values() for group, tag in places if not group),
    *dict.fromkeys(group << 16 | 0x10 for _, group, _, _ in _VENDORS),
    *(group << 16 | 0x1000 | element for _, group, _, element in _VENDORS),
)
"""The tags of a data set that are read here; all of its functional groups are read anyway."""
# Numbers this close are one value, as a share of it: echo times of one image differ by rounding.
_CLOSE = dict.fromkeys(("EchoTime", "DiffusionBValue", "InversionTime", "FlipAngle", "KVP"), 0.01)
_BEAT_MS = 20.0  # no two heart beats trigger alike
# Anonymised archives give every slice an identity of its own.
_IDENTITY = ("Modality", "StudyInstanceUID", "FrameOfReferenceUID")
# Scanners may set these anew for a slice, or for some slices after others: a breath-hold each, the
# delay since a heart beat, the inversion time that nulls the muscle as the contrast washes out.
_COUNTED = ("InversionTime", "TemporalPositionIdentifier", "TriggerTime", "AcquisitionNumber")
_LISTED, _LONGEST = 5, 60


@dataclass(frozen=True)
class Apart:
    """The images that slices belong to.

    Attributes:
        image: of every slice the number of its image, from 0.
        fields: what tells the images apart; empty if there is one.
        names: of the images, such as "EchoTime 4.76".
        doubts: what differs among the slices of what is taken as one image, a sentence each.
    """

    image: np.ndarray
    fields: tuple[str, ...]
    names: tuple[str, ...]
    doubts: tuple[str, ...]

    @property
    def sentence(self) -> str:
        """Such as "17 slices with EchoTime 4.76, 3 with EchoTime 9.52"."""
        counts = np.bincount(self.image)
        parts = [f"{n} with {name}" for n, name in zip(counts, self.names, strict=True)]
        parts[0] = parts[0].replace(" with", " slices with", 1)
        return ", ".join(parts[:_LISTED]) + (", ..." if len(parts) > _LISTED else "")


def choose_image(
    apart: Apart, places: np.ndarray, wanted: str, name: str, key: str
) -> tuple[list[int], list[str]]:
    """The slices of one image of a series, and notes on what differs among them.

    Args:
        wanted: the image's number, from 1, where there are several; "all" to read them as one.
        name, key: what the messages call the scan, and the option that chooses the series; ""
            where there is none to choose by.

    Raises:
        DataError: there are several and none is wanted; what tells them apart is named.
        UsageError: there is no image of that number.
    """
    notes = [f"{doubt}: they are read as one image" for doubt in apart.doubts]
    count, every = len(apart.names), list(range(len(places)))
    if count == 1 and wanted in ("", "1", "all"):
        return every, notes
    if wanted == "all":
        return every, [f"{count} images are read as one: {apart.sentence}", *notes]
    if not wanted:
        to = "or" if count == 2 else "to"
        where = "of every slice" if (np.bincount(places) == count).all() else "in one series"
        how = "copy the files of one"
        if key:
            how = (
                f"choose one, in this order, with --series {key}:1 {to} {key}:{count}, or copy its"
            )
            how += " files"
        raise DataError(
            f"{name} holds {count} images {where} (they differ in {', '.join(apart.fields)}): "
            f"{apart.sentence}; {how} into a folder of their own."
        )
    chosen = next((k for k in range(count) if wanted == str(k + 1)), None)
    if chosen is None:
        raise UsageError(
            f"{name}: the series has no image {wanted!r}; it holds {count} ({apart.sentence})."
        )
    notes.insert(0, f"image {wanted} of {count} of the series is read: {apart.names[chosen]}")
    return [k for k in every if apart.image[k] == chosen], notes


def told_apart(marks: Sequence[Mapping[str, Mark]], places: np.ndarray, ct: bool) -> Apart:
    """Compare the slices of a whole series.

    Two echoes, b-values, phase and magnitude are two images wherever their slices lie. What a
    scanner may set slice by slice tells images apart only where a value comes back after another:
    two images whose slices alternate. In CT, where values mean the same in every image, all fields
    count so, and AcquisitionNumber does not.

    Args:
        marks: of each slice.
        places: [n] number of each slice's place along the stack; slices may share one.
    """
    columns = {name: [mark.get(name) for mark in marks] for name in _MARKS}
    numbers = {name: _values(name, column) for name, column in columns.items()}
    differ = {name: number for name, number in numbers.items() if number.max() > 0}
    fields = [n for n, number in differ.items() if _are_images(n, number, places, ct)]
    if not fields and len(set(places.tolist())) < len(places):
        fields = [n for n, number in differ.items() if _part_places(number, places)][:1]
    doubts = tuple(
        f"{name} differs among the slices ({_counted(columns[name], number)})"
        for name, number in differ.items()
        if name not in fields and _is_doubtful(name, number, ct)
    )
    image = np.zeros(len(marks), int)
    needed: list[str] = []
    for name in fields:  # several fields may say the same
        finer = np.unique(np.stack([image, numbers[name]]), axis=1, return_inverse=True)[1].ravel()
        if finer.max() > image.max():
            image, needed = finer, [*needed, name]
    firsts = [int(np.flatnonzero(image == k)[0]) for k in range(image.max() + 1)]
    names = tuple(", ".join(f"{n} {_text(columns[n][at])}" for n in needed) for at in firsts)
    return Apart(image, tuple(needed), names, doubts)


def marks_of(get: Callable[[str, str], Any], tags: Any) -> dict[str, Mark]:
    """The marks of a slice.

    Args:
        get: the value of a functional group and a tag, None if it is nowhere.
        tags: the data set.
    """
    found: dict[str, Mark] = {}
    for name, places in _MARKS.items():
        value = next((v for place in places if (v := get(*place)) is not None), None)
        if value is not None:
            found[name] = _mark(value)
    for name, group, creator, element in _VENDORS:
        if name in found or creator not in str(tags.get(group << 16 | 0x10, "")):
            continue
        one = tags.get(group << 16 | 0x1000 | element)
        value = None if one is None else _vendor(one.value)
        if value is not None:
            found[name] = (value % _GE_OFFSET if group == 0x0043 else value,)
    return found


def several(value: Any) -> bool:
    """Whether a tag holds several values."""
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _vendor(value: Any) -> float | None:
    """The first number of a private tag, which may come as bytes."""
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else value
    first = text.split("\\")[0] if isinstance(text, str) else text[0] if several(text) else text
    try:
        return float(str(first).strip())
    except ValueError:
        return None


def _mark(value: Any) -> Mark:
    values = list(value) if several(value) else [value]
    if all(isinstance(one, int | float) for one in values):
        return tuple(float(one) for one in values)
    return "\\".join(str(one).strip().upper() for one in values)


def _are_images(name: str, number: np.ndarray, places: np.ndarray, ct: bool) -> bool:
    distinct, back = int(number.max()) + 1, _comes_back(number, places)
    if name in _IDENTITY:
        return distinct < len(number)
    if name in _COUNTED:
        return back and 2 * distinct <= len(number) and not (ct and name == "AcquisitionNumber")
    return back or not ct


def _is_doubtful(name: str, number: np.ndarray, ct: bool) -> bool:
    """Whether to say that values differ: not where each slice, or nearly, has its own."""
    distinct = int(number.max()) + 1
    some = 2 * distinct <= len(number) or distinct < _LISTED
    return some and name not in (*_IDENTITY, "TriggerTime")


def _comes_back(number: np.ndarray, places: np.ndarray) -> bool:
    """Whether along the stack a value is found again after another one."""
    runs = [value for value, _ in groupby(number[np.lexsort((number, places))].tolist())]
    return len(runs) > len(set(runs))


def _part_places(number: np.ndarray, places: np.ndarray) -> bool:
    """Whether no two slices of one value share a place, and every value has several slices."""
    pairs = set(zip(number.tolist(), places.tolist(), strict=True))
    return len(pairs) == len(number) and 2 * (int(number.max()) + 1) <= len(number)


def _values(name: str, column: Sequence[Mark | None]) -> np.ndarray:
    """Of each slice the number of its value, in rising order; what differs by rounding is one."""
    if name == "DiffusionBValue":  # the image without diffusion may say nothing
        column = [(0.0,) if one is None else one for one in column]
    if name == "DiffusionGradientOrientation":
        column = [tuple(np.round(one, 2)) if isinstance(one, tuple) else one for one in column]
    if name == "TriggerTime" and 2 * len(set(column)) > len(column):
        return np.zeros(len(column), int)  # as the heart beats, not the phases of one
    known = sorted(set(column), key=lambda one: (one is not None, isinstance(one, str), one or ()))
    number: dict[Mark | None, int] = {}
    last = -1
    for before, one in zip([None, *known], known, strict=False):
        last += not (number and _close(name, before, one))
        number[one] = last
    return np.array([number[one] for one in column])


def _close(name: str, a: Mark | None, b: Mark | None) -> bool:
    if not (isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b) == 1):
        return False
    near = _BEAT_MS if name == "TriggerTime" else _CLOSE.get(name, 0.0) * abs(b[0])
    return abs(b[0] - a[0]) <= near


def _counted(column: Sequence[Mark | None], number: np.ndarray) -> str:
    counts = np.bincount(number)
    if len(counts) > _LISTED:
        return f"{len(counts)} values"
    firsts = [column[int(np.flatnonzero(number == k)[0])] for k in range(len(counts))]
    return ", ".join(f"{_text(one)} in {n}" for one, n in zip(firsts, counts, strict=True))


def _text(mark: Mark | None) -> str:
    if mark is None:
        return "unknown"
    text = mark if isinstance(mark, str) else "/".join(f"{one:g}" for one in mark)
    return printable(text) if len(text) <= _LONGEST else f"{printable(text[:_LONGEST])}..."
