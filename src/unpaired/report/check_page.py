"""The table of `unpaired check` as a page: worst first, a picture beside each finding."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from unpaired.checks.check import Examined
from unpaired.checks.cohort import ScanSummary
from unpaired.checks.finding import Finding
from unpaired.checks.intensity import looks_hounsfield, sample
from unpaired.checks.labels import table as coverage_table
from unpaired.colours import class_colours
from unpaired.datasets.dataset import Case, Dataset, canonical_name
from unpaired.datasets.split_file import PARTS
from unpaired.errors import UnpairedError
from unpaired.files import printable, write_text
from unpaired.io.read import read_image, read_label_image
from unpaired.io.volume import SAME_GRID_MM, SliceAxis, Volume, canonical_orientation, same_grid
from unpaired.leftovers import sweep
from unpaired.report.figures import Picture, to_png
from unpaired.report.html import Card, render
from unpaired.report.overlays import PLANES, paint
from unpaired.report.slices import Slice, richest_slice
from unpaired.tables import Table

MOST_PICTURES = 200
"""A page of more is slow to open."""
_NAMES = {"error": "errors", "warning": "warnings", "note": "notes"}
WIDTH, TALLEST = 2.3, 2.6
"""Inches."""
_LETTERS: tuple[SliceAxis, ...] = ("S", "P", "L")
_CT_WINDOW = (-160.0, 240.0)


class Row(NamedTuple):
    """A finding as the page prints it."""

    severity: str
    modality: str
    case: str
    what: str
    mend: str
    file: str
    amount: str
    picture: Picture | None


def write_check_page(path: Path, done: Examined, findings: Sequence[Finding]) -> None:
    """Write one self-contained HTML file.

    Args:
        done: what was examined; files are read again for the pictures, one case at a time.
        findings: the rows, worst first.

    Raises:
        ResourceError: the file cannot be written.
    """
    pictures = dict(_pictures(done, findings))
    counts = Counter[str](one.severity for one in findings)
    sets = [f"{m or 'images'}: {len(d.cases)} cases" for m, d in done.datasets.items()]
    classes = all_classes(done.datasets)
    page = render(
        "check.html",
        title="Check of data",
        heading=" + ".join(m for m in done.datasets if m) or "Images",
        summary=" · ".join(sets),
        cards=[Card(name, counts[key], cls=f"big {key}") for key, name in _NAMES.items()],
        colours=class_colours(classes) if len(classes) > 2 else {},
        rows=[_row(one, pictures.get(n)) for n, one in enumerate(findings)],
        only_first=sum(bool(one.case) for one in findings) > MOST_PICTURES and MOST_PICTURES,
        classes=_coverage(done),
    )
    sweep(path.parent)
    write_text(path, page)


def _pictures(done: Examined, findings: Sequence[Finding]) -> Iterator[tuple[int, Picture]]:
    """Row and its picture; rows of one case follow each other, so that it is read once."""
    known: dict[tuple[str, str], tuple[Case, Dataset]] = {
        (modality, case.id): (case, dataset)
        for modality, dataset in done.datasets.items()
        for case in dataset.cases
    }
    wanted = [n for n, one in enumerate(findings) if (one.modality, one.case) in known]
    wanted = wanted[:MOST_PICTURES]
    classes = all_classes(done.datasets)
    last: tuple[tuple[str, str, str], Scan | None] | None = None
    for n in sorted(wanted, key=lambda n: (findings[n].modality, findings[n].case, n)):
        one = findings[n]
        case, dataset = known[one.modality, one.case]
        channel = one.file if one.file in map(printable, case.images) else ""
        key = (one.modality, one.case, channel)
        if last is None or last[0] != key:
            last = (key, open_scan(case, dataset, one.file, classes))
        if last[1] is not None:
            png, words = thumbnail(last[1], one)
            alt = f"{words} of {printable(one.case)}, label outlined"
            yield n, Picture(f"finding_{n}", png, alt, words.capitalize())


def _row(one: Finding, picture: Picture | None) -> Row:
    what, mend = (words[:1].upper() + words[1:] + "." for words in (one.what, one.mend))
    case = printable(one.case) if one.case else ""
    return Row(one.severity, one.modality, case, what, mend, one.file, one.amount, picture)


def _coverage(done: Examined) -> dict[str, Table]:
    """Modality -> how many labels hold each class, in all cases and in each part of each fold."""
    tables = {}
    for modality, dataset in done.datasets.items():
        cases = [scan for scan in done.scans if scan.modality == dataset.modality]
        split = _coverage_by_part(modality, dataset, cases, done.folds)
        rows = [
            [name, f"{count} of {of}", _millilitres(size), *split.get(name, ())]
            for name, count, of, size in coverage_table(dataset, cases)
        ]
        if rows:
            head = ("Class", "Labels that hold it", "Median size", *split.get("", ()))
            tables[modality] = Table(head, rows, f"classes of {modality}")
    return tables


def _coverage_by_part(
    modality: str,
    dataset: Dataset,
    cases: Sequence[ScanSummary],
    folds: Sequence[Mapping[tuple[str, str], str]],
) -> dict[str, list[str]]:
    """Class -> its cells, one a part of each fold; "" -> the heads of these columns."""
    cells: dict[str, list[str]] = defaultdict(list)
    for fold, parts in enumerate(folds):
        for part in PARTS:
            own = [one for one in cases if parts.get((modality, one.case)) == part]
            if not own:
                continue
            cells[""].append(part if len(folds) == 1 else f"Fold {fold}, {part}")
            for name, count, of, _ in coverage_table(dataset, own):
                cells[name].append(f"{count} of {of}")
    return cells


def _millilitres(size: float) -> str:
    if size != size:
        return "-"
    return f"{size:,.0f} ml" if size >= 100 else f"{size:.3g} ml"


@dataclass(frozen=True)
class Scan:
    """One case read for its pictures.

    Attributes:
        values: label value -> index in `classes`.
        classes: background, the classes of all data sets, last one for values without a name.
        blind: the image cannot be read; the label stands on black.
    """

    image: Volume
    label: Volume | None
    values: Mapping[int, int]
    classes: Sequence[str]
    blind: bool = False

    def indices(self, array: np.ndarray) -> np.ndarray:
        """Label values -> index in `classes`."""
        out = np.where(array == 0, 0, len(self.classes) - 1)
        for value, index in self.values.items():
            out[array == value] = index
        return out


def all_classes(datasets: Mapping[str, Dataset]) -> list[str]:
    """One list for all data sets, so that a class has one colour in every modality."""
    names: dict[str, None] = {}
    for dataset in datasets.values():
        names |= dict.fromkeys(canonical_name(n) for n, value in dataset.labels.items() if value)
    return ["background", *names, "unknown value"]


def open_scan(case: Case, dataset: Dataset, file: str, classes: Sequence[str]) -> Scan | None:
    """The case's image (the channel that the finding is about) and label, or the one of them that
    can be read; None: neither."""
    images = [path for path in case.images if printable(path) == file] or list(case.images)
    image = _readable(read_image, images[0])
    label = None if case.label is None else _readable(read_label_image, case.label)
    values = {v: classes.index(canonical_name(n)) for n, v in dataset.labels.items() if v}
    if dataset.ignore is not None:
        values[dataset.ignore] = 0
    if image is not None:
        return Scan(image, label, values, classes)
    if label is None:
        return None
    black = Volume(np.broadcast_to(np.float32(0), label.array.shape), label.affine)
    return Scan(black, label, values, classes, blind=True)


def _readable(reader: Callable[[Path], Volume], path: Path) -> Volume | None:
    try:
        return reader(path)
    except (UnpairedError, OSError, MemoryError):
        return None


def thumbnail(scan: Scan, finding: Finding) -> tuple[bytes, str]:
    """PNG, and what it shows in words."""
    image = scan.image
    axis = _axis(image)
    turn = canonical_orientation(image.affine, axis)
    along, flipped = turn.axes[0], turn.flips[0]
    index = _index(scan, finding, along)
    grey, truth = (
        turn.apply(slab)[0]
        for slab in (image.array.take([index], along), _slab(scan, index, along))
    )
    spot = _spot(finding, image, turn.axes, turn.flips)
    rows = grey.shape[0]
    if axis != "S":  # the head is at the top
        grey, truth = grey[::-1], truth[::-1]
        spot = None if spot is None else (rows - 1 - spot[0], spot[1])
    low, high = _window(image)
    _, row_mm, column_mm = turn.spacing(image.spacing_mm)
    number = image.array.shape[along] - 1 - index if flipped else index
    cut = Slice(
        np.ascontiguousarray(grey, np.float32), truth, truth, low, high, (row_mm, column_mm),
        number, image.array.shape[along], axis,
    )  # fmt: skip
    words = f"{PLANES[axis]} slice, file index {index} of {image.array.shape[along]}"
    if scan.blind:
        words = f"label alone: {words}"
    return _draw(cut, scan.classes, spot), words


def _draw(cut: Slice, classes: Sequence[str], spot: tuple[int, int] | None) -> bytes:
    high, wide = cut.size_mm
    scale = min(WIDTH / wide, TALLEST / high)
    figure = Figure(figsize=(max(0.6, wide * scale), max(0.6, high * scale)), dpi=130,
                    facecolor="black")  # fmt: skip
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    paint(axes, cut, classes, fill=None, line="truth")
    if spot is not None:
        y, x = ((n + 0.5) * s for n, s in zip(spot, cut.spacing_mm, strict=True))
        axes.plot([x], [y], "o", markersize=13, markerfacecolor="none", markeredgecolor="#ff4fd8",
                  markeredgewidth=1.6)  # fmt: skip
    return to_png(figure)


def _axis(image: Volume) -> SliceAxis:
    """Slices as they were taken: along the coarsest axis, else axial."""
    spacing = np.array(canonical_orientation(image.affine).spacing(image.spacing_mm))
    coarsest = int(spacing.argmax())
    return (
        _LETTERS[coarsest] if spacing[coarsest] > 1.05 * np.delete(spacing, coarsest).max() else "S"
    )


def _index(scan: Scan, finding: Finding, along: int) -> int:
    """The slice of the finding's voxel, else the one that shows most of the label."""
    count = scan.image.array.shape[along]
    if finding.at is not None:
        return min(max(0, finding.at[along]), count - 1)
    label = scan.label
    if label is not None and label.array.shape == scan.image.array.shape and label.array.any():
        return richest_slice(scan.indices(np.moveaxis(label.array, along, 0)))
    return count // 2


def _slab(scan: Scan, index: int, along: int) -> np.ndarray:
    """Class indices of one slice, in the file's axes; a label on another grid is put where its
    own affine says."""
    shape = list(scan.image.array.shape)
    shape[along] = 1
    if scan.label is None:
        return np.zeros(shape, int)
    label = scan.label
    if same_grid(scan.image, label) <= SAME_GRID_MM:
        return scan.indices(label.array.take([index], along))
    places = np.indices(shape).reshape(3, -1)
    places[along] = index
    world = scan.image.affine[:3, :3] @ places + scan.image.affine[:3, 3:]
    back = np.linalg.inv(label.affine)
    voxels = np.rint(back[:3, :3] @ world + back[:3, 3:]).astype(int)
    inside = np.all((voxels >= 0) & (voxels < np.array(label.array.shape)[:, None]), axis=0)
    values = np.zeros(places.shape[1], label.array.dtype)
    values[inside] = label.array[tuple(voxels[:, inside])]
    return scan.indices(values).reshape(shape)


def _spot(
    finding: Finding, image: Volume, axes: Sequence[int], flips: Sequence[bool]
) -> tuple[int, int] | None:
    """Row and column of the finding's voxel; None where a whole slice is meant."""
    if finding.at is None or "slice" in finding.kind or finding.kind == "blank-end":
        return None
    sizes = image.array.shape
    row, column = (
        sizes[axis] - 1 - finding.at[axis] if flip else finding.at[axis]
        for axis, flip in zip(axes[1:], flips[1:], strict=True)
    )
    return row, column


def _window(image: Volume) -> tuple[float, float]:
    values = sample(image.measured)
    if looks_hounsfield(values):
        return _CT_WINDOW
    low, high = (float(p) for p in np.percentile(values, (1, 99)))
    return low, high if high > low else low + 1.0
