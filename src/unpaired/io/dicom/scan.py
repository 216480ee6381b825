"""Which series a folder holds, and the one that is meant as a volume; it is never guessed."""

import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from unpaired.errors import DataError, UsageError
from unpaired.files import printable
from unpaired.io.dicom.headers import (
    HEAD_BYTES,
    Frame,
    Header,
    frames_of,
    looks_like_dicom,
    object_name,
    read_header,
)
from unpaired.io.dicom.marks import choose_image, told_apart
from unpaired.io.dicom.pixels import read_planes
from unpaired.io.dicom.stack import Stack, even_grid, place_numbers, stack_of
from unpaired.io.nifti import MAX_VOXELS
from unpaired.io.volume import Volume, check_affine

MAX_FILES = 100_000
ALL = "all"
_LISTED = 20
_KINDS = ("image", "derived", "localizer")
_NAMED_DICOM = (".dcm", ".dicom", ".ima")


@dataclass(frozen=True)
class DicomSource:
    """Where a volume's voxels came from: what a segmentation of it must point at.

    Attributes:
        frames: the slices along the normal; slice k of the array, unless `resampled`.
        resampled: the array lies on a grid of its own.
        modality: as the series calls it; empty if it is not known.
    """

    frames: tuple[Frame, ...]
    resampled: bool = False
    modality: str = ""


@dataclass(frozen=True)
class Series:
    """The image files of one series.

    Attributes:
        number: as the scanner counts; empty if it is not known.
        kind: "image", or "localizer" or "derived" if all of its files are.
    """

    uid: str
    number: str
    description: str
    modality: str
    kind: str
    headers: tuple[Header, ...]

    @property
    def slices(self) -> int:
        """Number of slices, frames of multi-frame files included."""
        return sum(header.frames for header in self.headers)

    def __str__(self) -> str:
        about = printable(self.description) or "no description"
        kind = "" if self.kind == "image" else f", {self.kind}"
        number = self.number or "?"
        return (
            f"{number}: {about}, {self.modality or '?'}, {self.slices} slices{kind}, UID {self.uid}"
        )


@dataclass(frozen=True)
class Scan:
    """What a folder holds: series, sorted by number, and a sentence on what was passed over."""

    series: tuple[Series, ...]
    notes: tuple[str, ...]


def read_series(
    where: Path | Sequence[Path],
    series: str | None = None,
    *,
    resample_slices: bool = False,
    max_voxels: int = MAX_VOXELS,
) -> Volume:
    """Read the one image series of a folder (and the folders below it), a file, or files.

    Voxels are [column row slice], slices along their normal; values are rescaled, slice by slice.
    `Volume.source` is a `DicomSource`: its `frames[k].path` is the file of slice k.

    Args:
        series: UID or number, where the folder holds several; with ":2" behind it the second of
            several images of that series, with ":all" all of them as one.
        resample_slices: mend tilted, uneven and missing slices by linear interpolation; the notes
            say so.

    Raises:
        UsageError: pydicom or a decoder is not installed, or several series are there.
        DataError: no image, a damaged or truncated file, several images in one series, slices that
            are no even stack (tilted, uneven, missing, double, of different sizes, spacings or
            directions).
    """
    name = printable(where) if isinstance(where, Path) else printable(where[0].parent)
    wanted, image = _parts(series)
    chosen, notes = choose(list_series(where), wanted, name)
    headers, more = usable(chosen)
    key = ALL if wanted == ALL else chosen.number or chosen.uid
    stack, told = stack_of_image(headers, chosen.modality, image, name, key)
    notes += [*more, *told, *stack.notes]
    if stack.faults and not resample_slices:
        # What was left out by its ImageType may be what is missing now.
        faults = "; ".join([*stack.faults, *more])
        raise DataError(
            f"{name}: {faults}; to read it as an even grid, interpolated between slices, ask for "
            "it (predict --resample-slices)."
        )
    array, padding = read_planes(stack.frames, max_voxels, name)
    affine, path = stack.affine, where if isinstance(where, Path) else where[0].parent
    if stack.faults:
        array, affine, sentence = even_grid(stack, array)
        notes.append(sentence)
        if padding is not None:
            padding = even_grid(stack, padding.astype(np.float32))[0] > 0.5
    else:
        check_affine(affine, name)
    if chosen.modality == "CT" and not all(frame.rescaled for frame in stack.frames):
        notes.append("no rescale slope is stored: values may not be Hounsfield units")
    if padding is not None:
        notes.append(padding_note(padding))
    source = DicomSource(stack.frames, bool(stack.faults), chosen.modality)
    return Volume(np.asarray(array), affine, None, path, tuple(notes), source, padding)


def stack_of_image(
    headers: Sequence[Header], modality: str, image: str, name: str, key: str = ""
) -> tuple[Stack, list[str]]:
    """The slices of the one image that files hold, or of the one that is wanted, and notes.

    Args:
        image, name, key: as `choose_image` takes them.

    Raises:
        DataError: several images and none is wanted, or slices that are no stack.
        UsageError: there is no image of that number.
    """
    frames = [frame for header in headers for frame in frames_of(header)]
    places = place_numbers(frames)
    apart = told_apart([frame.marks for frame in frames], places, modality == "CT")
    kept, told = choose_image(apart, places, image, name, key)
    return stack_of([frames[k] for k in kept], name), told


def padding_note(padding: np.ndarray) -> str:
    """What is said of declared padding."""
    return f"{100 * padding.mean():.2g} % of the voxels are declared padding, and are left out"


def list_series(where: Path | Sequence[Path]) -> Scan:
    """The image series of a folder and the folders below it, or of files.

    Raises:
        UsageError: pydicom is not installed.
        DataError: no image is there, a header is damaged, the folder cannot be read.
    """
    paths = _paths(where) if isinstance(where, Path) else list(where)
    headers_of: dict[str, list[Header]] = defaultdict(list)
    others, strangers = Counter[str](), []
    for path in paths:
        try:
            head = _head(path)
        except OSError as error:
            raise DataError(f"cannot read {printable(path)}: {error.strerror or error}.") from error
        if not looks_like_dicom(head):
            if not head or is_named_dicom(path):
                raise DataError(
                    f"{printable(path)} is {_no_dicom(head)}; copy it again or remove it."
                )
            strangers.append(path)
            continue
        header = read_header(path, head)
        if header is None:
            others[object_name(path)] += 1
        else:
            headers_of[header.series].append(header)
    if not headers_of:
        raise DataError(_no_image(where, others))
    series = sorted((_series(uid, headers) for uid, headers in headers_of.items()), key=_by_number)
    return Scan(tuple(series), tuple(_passed_over(others, strangers)))


def choose(scan: Scan, wanted: str | None, name: str) -> tuple[Series, list[str]]:
    """The series to read and notes on those left out.

    Without `wanted` (a UID, a number, or "all" to join every series of original images), originals
    go before derived images, these before localizers; there must be one.

    Raises:
        UsageError: none or several are meant; they are listed.
    """
    if wanted == ALL:
        return joined(scan), [*scan.notes, f"{len(scan.series)} series are read as one image"]
    if wanted is not None:
        meant = [one for one in scan.series if wanted in (one.uid, one.number)]
    else:
        by_kind = ([one for one in scan.series if one.kind == kind] for kind in _KINDS)
        meant = next(series for series in by_kind if series)
    if len(meant) == 1:
        left = [one for one in scan.series if one is not meant[0]]
        notes = [f"another series is not read ({one})" for one in left]
        return meant[0], [*scan.notes, *notes]
    shortened = (meant or scan.series)[:_LISTED]
    listed = "\n".join(f"  {one}" for one in shortened)
    listed += "\n  ..." if len(meant or scan.series) > _LISTED else ""
    if wanted is not None and not meant:
        raise UsageError(f"{name} has no series {wanted!r}; it has\n{listed}")
    scattered = all(one.slices == 1 for one in meant)
    hint = " (every slice has a series of its own: --series all joins them)" if scattered else ""
    raise UsageError(
        f"{name} holds {len(meant)} image series; choose one with --series UID or NUMBER{hint}:\n"
        f"{listed}"
    )


def usable(series: Series) -> tuple[list[Header], list[str]]:
    """The files of a series without localizers and derived images among originals, and notes."""
    headers, notes = list(series.headers), []
    for word in ("LOCALIZER", "DERIVED"):
        odd = [one for one in headers if word in one.kind]
        if odd and len(odd) < len(headers):
            headers = [one for one in headers if word not in one.kind]
            notes.append(f"{word.lower()} images of the series are left out ({len(odd)})")
    return headers, notes


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by its first bytes; False where it cannot be read."""
    try:
        return path.is_file() and looks_like_dicom(_head(path))
    except (OSError, ValueError):
        return False


def is_named_dicom(path: Path) -> bool:
    """Whether the name says DICOM, whatever the content is."""
    return path.suffix.lower() in _NAMED_DICOM


def holds_dicom(folder: Path, *, deep: bool = False) -> bool:
    """Whether a DICOM file lies directly in the folder (`deep`: or anywhere below it)."""
    return any(is_dicom(path) for path in _files(folder, deep))


def _parts(series: str | None) -> tuple[str | None, str]:
    """ "4:2" -> the series "4" and its image "2"; the image is "" where none is asked for."""
    head, colon, image = (series or "").rpartition(":")
    return (head or None, image) if colon else (series, "")


def joined(scan: Scan) -> Series:
    """All series of original images (of derived ones where there are no others) as one."""
    kinds = [one.kind for one in scan.series]
    kind = next(kind for kind in _KINDS if kind in kinds)
    parts = [one for one in scan.series if one.kind == kind]
    return replace(parts[0], headers=tuple(header for one in parts for header in one.headers))


def _no_image(where: Path | Sequence[Path], others: Counter[str]) -> str:
    name = printable(where) if isinstance(where, Path) else "the list of files"
    what = ", ".join(f"{n} {kind}" for kind, n in sorted(others.items()))
    about = f"holds DICOM, but no image ({what})" if others else "holds no DICOM image"
    if isinstance(where, Path) and where.is_file():
        about = f"is a DICOM {next(iter(others))}, not an image" if others else "is not DICOM"
    return f"{name} {about}; give the folder of one image series."


def _series(uid: str, headers: list[Header]) -> Series:
    first = headers[0]
    kinds = [one.kind for one in headers]
    kind = "image"
    if all("LOCALIZER" in one for one in kinds):
        kind = "localizer"
    elif all("DERIVED" in one for one in kinds):
        kind = "derived"
    number, about = first.text("SeriesNumber"), first.text("SeriesDescription")
    return Series(uid, number, about, first.text("Modality"), kind, tuple(headers))


def _by_number(series: Series) -> tuple[int, str]:
    return (int(series.number) if series.number.isdecimal() else 1 << 31, series.uid)


def _passed_over(others: Counter[str], strangers: Sequence[Path]) -> list[str]:
    notes = []
    if others:
        what = ", ".join(f"{n} {kind}" for kind, n in sorted(others.items()))
        notes.append(f"DICOM objects that are no image are not read ({what})")
    if strangers:
        some = ", ".join(printable(path.name) for path in strangers[:3])
        more = ", ..." if len(strangers) > 3 else ""
        notes.append(f"files that are not DICOM are not read ({len(strangers)}: {some}{more})")
    return notes


def _paths(where: Path) -> list[Path]:
    if not where.is_dir():
        return [where]
    files = _files(where, deep=True)
    if len(files) > MAX_FILES:
        raise DataError(
            f"{printable(where)} holds more than {MAX_FILES} files; give the folder of one series."
        )
    return files


def _files(folder: Path, deep: bool) -> list[Path]:
    """Ordinary files, sorted; hidden ones and the index DICOMDIR are passed over."""
    files: list[Path] = []
    try:
        for parent, folders, names in os.walk(folder, onerror=_raise):
            folders[:] = sorted(f for f in folders if f[0] != ".") if deep else []
            files += [Path(parent, n) for n in sorted(names) if n[0] != "." and n != "DICOMDIR"]
            if len(files) > MAX_FILES:
                break
    except OSError as error:
        raise DataError(f"cannot list {printable(folder)}: {error.strerror or error}.") from error
    return [path for path in files if path.is_file()]


def _no_dicom(head: bytes) -> str:
    return "no whole DICOM file (the header DICM is missing)" if head else "empty"


def _raise(error: OSError) -> None:
    raise error


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD_BYTES)
