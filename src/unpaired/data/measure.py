"""What the plan is made from: the geometry of every case, the intensities of labelled voxels."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from unpaired import inflate
from unpaired.datasets.dataset import Case, Dataset
from unpaired.datasets.planes import Lattice, lattice_of
from unpaired.errors import CasesError, DataError
from unpaired.io import nifti_header
from unpaired.io.read import format_of, read_image, read_label_image
from unpaired.io.volume import Orientation

Result = TypeVar("Result")
# Percentiles of intensities are stable long before these limits.
MAX_CASES, MAX_VOXELS = 32, 20_000
_FEW_CASES = 6
_OTHERS = ((1, 2), (0, 2), (0, 1))
_HEAD = nifti_header.HEAD_BYTES + (1 << 16)


@dataclass(frozen=True)
class Geometry:
    """One case's grid, its axes turned into the plan's: slices, rows, columns.

    Attributes:
        spacing_mm: distance between neighbours along each axis.
        shape: voxels along each axis.
    """

    spacing_mm: tuple[float, float, float]
    shape: tuple[int, int, int]


def typical_extent_mm(scans: Sequence[Geometry]) -> np.ndarray:
    """The median size [3] of the scans along slices, rows and columns."""
    extents: np.ndarray = np.median([np.multiply(g.spacing_mm, g.shape) for g in scans], axis=0)
    return extents


def turned(scan: Lattice, turn: Orientation) -> Geometry:
    """The scan's grid with its axes in another order."""
    a, b, c = (scan.shape[axis] for axis in turn.axes)
    return Geometry(turn.spacing(scan.spacing_mm), (a, b, c))


def read_lattice(path: Path) -> Lattice:
    """The grid of an image; of a NIfTI file from its header alone.

    Raises:
        DataError: the file cannot be opened, or its header is damaged.
    """
    if format_of(path) != "nifti":
        image = read_image(path)
        return lattice_of(image)
    try:
        with path.open("rb") as file:
            data = file.read(_HEAD)
        if data[:2] == inflate.MAGIC:
            data = inflate.inflate_head(data, nifti_header.HEAD_BYTES)
    except (OSError, inflate.InflateError) as error:
        raise DataError(f"cannot read {path}: {error}. Mend or remove the file.") from error
    layout = nifti_header.parse(data[: nifti_header.HEAD_BYTES], str(path))
    affine, _ = nifti_header.affine_of(layout, str(path))
    a, b, c = layout.shape
    return Lattice(affine[:3, :3], (a, b, c))


def lattices(datasets: Mapping[str, Dataset]) -> list[Lattice]:
    """The grid of every case of every modality.

    Raises:
        DataError: there is no case, or headers are damaged (all of them are listed).
    """
    cases = [case for dataset in datasets.values() for case in dataset.cases]
    if not cases:
        raise DataError("no case was found; check the folders of the data sets.")
    return collect(cases, lambda case: read_lattice(case.images[0]))


def labelled_extent_mm(
    dataset: Dataset, values: Iterable[int], turn: Callable[[Lattice], Orientation]
) -> np.ndarray:
    """The median size [3], along slices, rows and columns, of the box that holds the labelled
    voxels of a case; 0 where none has any. From a few cases, evenly taken.

    Args:
        values: the label values (of the file) that count.
        turn: how a scan's axes become slices, rows and columns.
    """
    labelled = [case for case in dataset.cases if case.label is not None]
    found, wanted = [], list(values)
    for case in labelled[:: -(-len(labelled) // _FEW_CASES) or 1]:
        try:
            label = read_label_image(case.label)  # type: ignore[arg-type]
        except DataError:  # preparation says which ones, and all of them
            continue
        where = np.isin(label.array, wanted)
        if where.any():
            ends = [np.flatnonzero(where.any(axis=(a, b)))[[0, -1]] for a, b in _OTHERS]
            sizes = [int(last - first + 1) for first, last in ends]
            orientation = turn(lattice_of(label))
            box = Geometry(
                orientation.spacing(label.spacing_mm),
                tuple(sizes[axis] for axis in orientation.axes),  # type: ignore[arg-type]
            )
            found.append(box)
    return typical_extent_mm(found) if found else np.zeros(3)


def foreground(
    dataset: Dataset, values: Iterable[int], cases: Sequence[Case], seed: int
) -> list[np.ndarray]:
    """Intensities of labelled voxels, per channel float32 [n]; a seeded sample of cases, voxels.

    Args:
        values: the label values (of the file) that count as foreground.
        cases: the cases to draw from; those without a label are passed over.

    Raises:
        DataError: files are damaged, or an image and its label differ in shape (all are listed).
    """
    wanted = list(values)
    rng = np.random.default_rng([seed, 0])
    labelled = [case for case in cases if case.label is not None]
    chosen = [labelled[i] for i in rng.permutation(len(labelled))[:MAX_CASES]]

    def sample(case: Case) -> list[np.ndarray]:
        return _case_foreground(case, wanted, rng)

    samples = collect(chosen, sample)
    channels = range(len(dataset.channel_names))
    return [
        np.concatenate([np.empty(0, np.float32), *(sample[k] for sample in samples)])
        for k in channels
    ]


def _case_foreground(
    case: Case, values: Sequence[int], rng: np.random.Generator
) -> list[np.ndarray]:
    assert case.label is not None
    label = read_label_image(case.label).array
    # The order of ravel is that of the index, whatever the memory order of the arrays.
    where = np.flatnonzero(np.isin(label, values))
    if len(where) > MAX_VOXELS:
        where = np.sort(rng.choice(where, MAX_VOXELS, replace=False))
    index = np.unravel_index(where, label.shape)
    values_of = []
    for path in case.images:
        image = read_image(path)
        if image.array.shape != label.shape:
            raise DataError(
                f"{path} has {image.array.shape} voxels, its label {case.label} {label.shape}; "
                "bring both to one grid."
            )
        found = image.array[index].astype(np.float32)
        values_of.append(found if image.padding is None else found[~image.padding[index]])
    return values_of


def collect(cases: Sequence[Case], work: Callable[[Case], Result]) -> list[Result]:
    """`work` on every case; one `CasesError` at the end that lists every failure."""
    results, failures = [], dict[str, str]()
    for case in cases:
        try:
            results.append(work(case))
        except DataError as error:
            failures[f"{case.modality}/{case.id}"] = str(error)
    if failures:
        lines = "\n".join(f"  {case}: {why}" for case, why in failures.items())
        raise CasesError(f"{len(failures)} of {len(cases)} cases failed:\n{lines}", failures)
    return results
