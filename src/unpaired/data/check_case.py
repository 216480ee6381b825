"""What is wrong with one scan: its files, its grid, its intensities, its label."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np

from unpaired.data.dataset import Case, Dataset
from unpaired.data.paths import shown
from unpaired.data.read import read_image, read_label_image
from unpaired.data.volume import SAME_GRID_MM, Volume, canonical_orientation, same_grid
from unpaired.errors import DataError, UsageError

Severity = Literal["error", "warning", "note"]
EXTREME_ANISOTROPY = 8.0


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong, or odd.

    Attributes:
        modality, case, file: where; empty where the finding is about the whole.
        severity: "error" stops training, "warning" wants a look, "note" is handled.
        what: what was found.
        mend: what to do.
    """

    modality: str
    case: str
    severity: Severity
    what: str
    mend: str
    file: str


@dataclass(frozen=True)
class Facts:
    """What the comparison between scans needs to know of one of them.

    Attributes:
        spacing_mm: in canonical order (Superior, Posterior, Left).
        axes: letters such as "RAS"; where the file's axes point.
        digests: (content hash, file) of each channel.
        values: label values that occur; None without a label.
    """

    modality: str
    case: str
    spacing_mm: tuple[float, float, float] | None
    axes: str
    digests: tuple[tuple[str, Path], ...]
    values: frozenset[int] | None


def inspect(case: Case, dataset: Dataset) -> tuple[Facts, list[Finding]]:
    """Read all files of one scan; faults become findings, never exceptions."""
    found: list[Finding] = []
    images = [_read(case, path, read_image, found) for path in case.images]
    label = _read(case, case.label, read_label_image, found) if case.label else None
    good = [image for image in images if image is not None]
    for image, channel in zip(images, dataset.channel_names, strict=False):
        if image is not None:
            found += _intensities(case, image, channel)
    found += list(_grids(case, good, label))
    values = None
    if label is not None:
        values, more = _values(case, label, dataset)
        found += more
    first = good[0] if good else None
    facts = Facts(
        case.modality,
        case.id,
        canonical_orientation(first.affine).spacing(first.spacing_mm) if first else None,
        "".join(nib.aff2axcodes(first.affine)) if first else "",
        tuple((digest(image.array), image.path) for image in good if image.path),
        values,
    )
    return facts, found


def from_error(
    error: DataError | UsageError, modality: str, case: str, path: Path | str
) -> Finding:
    """A `DataError` as a finding; its message ends in how to mend it."""
    text = str(error).removeprefix(shown(path)).lstrip(": ").rstrip(".")
    what, cut, mend = text.rpartition("; ")
    if not cut:
        what, mend = text, "see the message"
    return Finding(modality, case, "error", what, mend, shown(path))


def digest(array: np.ndarray) -> str:
    """A hash of type, shape and content."""
    state = hashlib.blake2b(f"{array.dtype.str}{array.shape}".encode(), digest_size=16)
    state.update(np.ascontiguousarray(array.T).data)  # files are in this order: no copy
    return state.hexdigest()


def _read(
    case: Case, path: Path, reader: Callable[[Path], Volume], found: list[Finding]
) -> Volume | None:
    try:
        volume = reader(path)
    except (DataError, UsageError) as error:  # usage: a series must be chosen, a package is missing
        found.append(from_error(error, case.modality, case.id, path))
        return None
    found += [_finding(case, "note", note, "nothing; it is handled", path) for note in volume.notes]
    return volume


def _finding(case: Case, severity: Severity, what: str, mend: str, path: Path | None) -> Finding:
    return Finding(case.modality, case.id, severity, what, mend, shown(path) if path else "")


def _intensities(case: Case, image: Volume, channel: str) -> Iterator[Finding]:
    low, high = float(image.array.min()), float(image.array.max())
    if low == high:
        yield _finding(
            case, "error", f"every voxel is {low:g}", "export the scan again", image.path
        )
    elif channel.casefold() == "ct":
        doubt = _not_hounsfield(image.array, low, high)
        if doubt:
            yield _finding(
                case,
                "warning",
                f"the channel is named CT but is not in Hounsfield units: {doubt}",
                "export with rescale slope and intercept, or name the channel by its true modality",
                image.path,
            )


def _not_hounsfield(array: np.ndarray, low: float, high: float) -> str:
    """Air is -1000, fat -100, soft tissue 0 to 100, metal a few thousand: why this is not so."""
    if low >= 0:
        return f"no value is below 0 (lowest {low:g}), so there is neither air nor fat"
    if high < 50:
        return f"no value is above {high:g}, so there is no soft tissue"
    bulk = float(np.percentile(array[::4, ::4, ::2], 99))
    return f"1 % of the values are above {bulk:g}" if bulk > 5000 else ""


def _grids(case: Case, images: list[Volume], label: Volume | None) -> Iterator[Finding]:
    if not images:
        return
    first, *others = images
    for other in others:
        yield from _grid(case, first, other, "channel")
    if label is not None:
        yield from _grid(case, first, label, "label")
    spacing = first.spacing_mm
    if max(spacing) > EXTREME_ANISOTROPY * min(spacing):
        text = " x ".join(f"{s:.3g}" for s in spacing)
        yield _finding(
            case, "note", f"voxels are very long ({text} mm)", "nothing, or crop", first.path
        )


def _grid(case: Case, image: Volume, other: Volume, kind: str) -> Iterator[Finding]:
    offset = same_grid(image, other)
    if offset <= SAME_GRID_MM:
        return
    if np.isinf(offset):
        sizes = [" x ".join(map(str, volume.array.shape)) for volume in (image, other)]
        what = f"the {kind} has {sizes[1]} voxels, the image {sizes[0]}"
    else:
        what = f"the {kind} lies up to {offset:.3g} mm off the image's grid"
    yield _finding(case, "error", what, f"resample the {kind} onto the image", other.path)


def _values(case: Case, label: Volume, dataset: Dataset) -> tuple[frozenset[int], list[Finding]]:
    values, counts = np.unique(label.array, return_counts=True)
    known = {0, *dataset.labels.values()}
    strange = {int(v): int(n) for v, n in zip(values, counts, strict=True) if int(v) not in known}
    found = []
    if strange:
        some = ", ".join(f"{v} ({n} voxels)" for v, n in list(strange.items())[:5])
        more = f" and {len(strange) - 5} more" if len(strange) > 5 else ""
        what = f"label values that dataset.json does not name: {some}{more}"
        mend = "name them under `labels`, or correct the file"
        found.append(_finding(case, "error", what, mend, label.path))
    present = frozenset(int(v) for v in values)
    if present <= {0}:
        mend = "annotate it, or move the image to imagesTs"
        found.append(_finding(case, "warning", "the label is empty", mend, label.path))
    return present, found
