"""A small picture of a finding: the slice that shows it, the label outlined, the spot circled."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from unpaired.checks.check import Finding
from unpaired.checks.intensity import looks_hounsfield, sample
from unpaired.datasets.dataset import Case, Dataset
from unpaired.errors import UnpairedError
from unpaired.files import shown
from unpaired.io.read import read_image, read_label_image
from unpaired.io.volume import SAME_GRID_MM, SliceAxis, Volume, canonical_orientation, same_grid
from unpaired.names import canonical_name
from unpaired.report.figures import to_png
from unpaired.report.overlays import paint
from unpaired.report.slices import Slice, richest_slice

WIDTH, TALLEST = 2.3, 2.6
"""Inches."""
_LETTERS: tuple[SliceAxis, ...] = ("S", "P", "L")
_CT_WINDOW = (-160.0, 240.0)


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
    images = [path for path in case.images if shown(path) == file] or list(case.images)
    image = _readable(read_image, images[0])
    label = None if case.label is None else _readable(read_label_image, case.label)
    values = {v: classes.index(canonical_name(n)) for n, v in dataset.labels.items() if v}
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
    low, high = _window(image.array)
    _, row_mm, column_mm = turn.spacing(image.spacing_mm)
    number = image.array.shape[along] - 1 - index if flipped else index
    shown = Slice(
        np.ascontiguousarray(grey, np.float32), truth, truth, low, high, (row_mm, column_mm),
        number, image.array.shape[along], axis,
    )  # fmt: skip
    plane = {"S": "axial", "P": "coronal", "L": "sagittal"}[axis]
    words = f"{plane} slice, file index {index} of {image.array.shape[along]}"
    if scan.blind:
        words = f"label alone: {words}"
    return _draw(shown, scan.classes, spot), words


def _draw(shown: Slice, classes: Sequence[str], spot: tuple[int, int] | None) -> bytes:
    high, wide = (n * s for n, s in zip(shown.image.shape, shown.spacing_mm, strict=True))
    scale = min(WIDTH / wide, TALLEST / high)
    figure = Figure(figsize=(max(0.6, wide * scale), max(0.6, high * scale)), dpi=130,
                    facecolor="black")  # fmt: skip
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    paint(axes, shown, classes, fill=None, line="truth")
    if spot is not None:
        y, x = ((n + 0.5) * s for n, s in zip(spot, shown.spacing_mm, strict=True))
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
    found = np.rint(back[:3, :3] @ world + back[:3, 3:]).astype(int)
    inside = np.all((found >= 0) & (found < np.array(label.array.shape)[:, None]), axis=0)
    values = np.zeros(places.shape[1], label.array.dtype)
    values[inside] = label.array[tuple(found[:, inside])]
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


def _window(array: np.ndarray) -> tuple[float, float]:
    values = sample(array)
    if looks_hounsfield(values):
        return _CT_WINDOW
    low, high = (float(p) for p in np.percentile(values, (1, 99)))
    return low, high if high > low else low + 1.0
