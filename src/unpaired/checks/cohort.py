"""Scans against the others of their modality (spacing, size, directions, voxel types); names."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from unpaired.checks.finding import Finding, Index, Remark, from_error
from unpaired.data import measure
from unpaired.data.content import Box
from unpaired.datasets.dataset import Dataset, class_names, unshared_classes
from unpaired.datasets.planes import Lattice, common_planes, orient
from unpaired.errors import DataError
from unpaired.names import plural, printable, some

# A median of fewer scans says nothing about a third.
FEW = 3
SPACING_OUTLIER, SIZE_OUTLIER = 2.0, 3.0
_WIDE = ("int64", "uint64", "uint32", "float64")
# File systems end names at 255 bytes; results add up to 35 (".<case>.label.<8 random>.npy").
LONGEST = 220


@dataclass(frozen=True)
class Touch:
    """An organ that the image's edge may cut: its voxels there, and one of them."""

    value: int
    count: int
    at: Index


@dataclass(frozen=True)
class ScanSummary:
    """What the comparison between scans needs of one of them; small enough to keep of all.

    Attributes:
        lattice: where the voxels lie; None where no image could be read.
        axes: letters such as "RAS"; where the file's axes point.
        digests: (content hash, file) of each channel.
        label_digest: of the label; empty without one, or where it is empty.
        voxels: label value -> voxels; None without a label.
        stored: voxel type of each file, such as "int16".
        touches: what lies at the image's edge.
        box: what preparation keeps of the image, (start, stop) per axis of the file; None where
            every voxel is the same.
        seconds: how long reading the files took.
    """

    modality: str
    case: str
    patient: str = ""
    held_out: bool = False
    lattice: Lattice | None = None
    axes: str = ""
    digests: tuple[tuple[str, Path], ...] = ()
    label: Path | None = None
    label_digest: str = ""
    voxels: dict[int, int] | None = None
    stored: tuple[tuple[str, Path], ...] = ()
    touches: tuple[Touch, ...] = field(default=())
    seconds: float = 0.0
    box: Box | None = None

    @property
    def spacing_mm(self) -> tuple[float, float, float] | None:
        """Along the file's axes."""
        return None if self.lattice is None else self.lattice.spacing_mm

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """Of the file's array."""
        return None if self.lattice is None else self.lattice.shape

    @property
    def values(self) -> frozenset[int] | None:
        """Label values that occur; None without a label."""
        return None if self.voxels is None else frozenset(self.voxels)

    @property
    def file(self) -> Path | None:
        """The first image that could be read."""
        return self.digests[0][1] if self.digests else None


Turned = list[tuple[ScanSummary, tuple[float, float, float], tuple[int, int, int]]]
"""Scans with spacing in mm and shape along common axes."""


def cohort(modality: str, scans: Sequence[ScanSummary]) -> Iterator[Finding]:
    """All questions to the scans of one modality."""
    yield from _directions(modality, scans)
    names, turned = turn_alike(scans)
    yield from _spacings(modality, names, turned)
    yield from _sizes(modality, names, turned)
    yield from _types(modality, scans)


def naming(datasets: Mapping[str, Dataset]) -> Iterator[Finding]:
    """All questions to names."""
    yield from _patients(datasets)
    yield from _parted(datasets)
    yield from _classes(datasets)
    for modality, dataset in datasets.items():
        yield from _cases(modality, dataset)


def turn_alike(scans: Sequence[ScanSummary]) -> tuple[str, Turned]:
    """Names of the axes, and the scans with spacing and shape along them: the patient's axes, or,
    where the scans are oblique to these, the acquired slices, rows and columns."""
    known = [(scan, scan.lattice) for scan in scans if scan.lattice is not None]
    planes, _, agree = common_planes([lattice for _, lattice in known], "S")
    turned = []
    for scan, lattice in known:
        grid = measure.turned(lattice, orient(lattice, "S", None if agree else planes))
        turned.append((scan, grid.spacing_mm, grid.shape))
    return "S, P, L" if agree else "slices, rows, columns", turned


def _directions(modality: str, scans: Sequence[ScanSummary]) -> Iterator[Finding]:
    axes = Counter(scan.axes for scan in scans if scan.axes)
    if len(axes) > 1:
        text = ", ".join(f"{name} {count}" for name, count in axes.most_common())
        what = f"the files' axes point in different directions ({text})"
        odd = axes.total() - axes.most_common(1)[0][1]
        mend = "nothing; each is turned by its affine"
        yield Remark("directions", "note", what, mend, f"{odd} of {axes.total()} cases").about(
            modality
        )


def _spacings(modality: str, names: str, turned: Turned) -> Iterator[Finding]:
    known = [(scan, spacing) for scan, spacing, _ in turned]
    if len(known) < FEW:
        return
    median = np.median([spacing for _, spacing in known], axis=0)
    for scan, spacing in known:
        if _factor(spacing, median) > SPACING_OUTLIER:
            mine, usual = (" x ".join(f"{s:.3g}" for s in values) for values in (spacing, median))
            what = f"the spacing {mine} mm is far from the usual {usual} mm ({names})"
            yield Remark("spacing", "warning", what, "look at the scan").about(
                modality, scan.case, scan.file
            )


def _sizes(modality: str, names: str, turned: Turned) -> Iterator[Finding]:
    known = [(scan, np.multiply(spacing, shape)) for scan, spacing, shape in turned]
    if len(known) < FEW:
        return
    median = np.median([size for _, size in known], axis=0)
    for scan, size in known:
        if _factor(size, median) > SIZE_OUTLIER:
            mine, usual = (" x ".join(f"{s:.0f}" for s in values) for values in (size, median))
            what = f"the scan covers {mine} mm, usual are {usual} mm ({names})"
            yield Remark(
                "size", "warning", what, "look at the scan; crop it, or leave it out"
            ).about(modality, scan.case, scan.file)


def _types(modality: str, scans: Sequence[ScanSummary]) -> Iterator[Finding]:
    """Types that hold nothing more than a smaller one would: read, but slow and large."""
    wide = Counter(name for scan in scans for name, _ in scan.stored if name in _WIDE)
    for name, count in wide.items():
        files = [file for scan in scans for kind, file in scan.stored if kind == name]
        some_files = some([file.name for file in files], 3)
        what = f"{plural(count, 'image file')} of {name} voxels ({some_files})"
        size = np.dtype(name).itemsize
        mend = "nothing; int16 or float32 would take a half or a quarter of the room"
        yield Remark("voxel-type", "note", what, mend, f"{size} bytes a voxel").about(
            modality, file=files[0]
        )


def _factor(values: object, usual: np.ndarray) -> float:
    ratio = np.asarray(values) / usual
    return float(np.maximum(ratio, 1 / ratio).max())


def _cases(modality: str, dataset: Dataset) -> Iterator[Finding]:
    for case in dataset.cases:
        size = len(case.id.encode(errors="surrogateescape"))
        if size > LONGEST and dataset.labels:
            what = f"the case's name has {size} bytes; results can be named up to {LONGEST} bytes"
            yield Remark("case-name", "error", what, "give the case a shorter name").of(
                case, case.images[0]
            )
        odd = sum(not c.isprintable() for c in case.id)
        if odd:
            what = (
                f"the case's name has {plural(odd, 'character')} that cannot be printed "
                f"({printable(case.id)})"
            )
            mend = "rename it; other programs may fail on it"
            yield Remark("case-name", "warning", what, mend, plural(odd, "character")).of(
                case, case.images[0]
            )


def _patients(datasets: Mapping[str, Dataset]) -> Iterator[Finding]:
    homes: dict[str, set[str]] = defaultdict(set)
    for modality, dataset in datasets.items():
        for case in dataset.cases:
            homes[case.patient].add(modality)
    shared = sorted(patient for patient, where in homes.items() if len(where) > 1)
    if shared:
        count = plural(len(shared), "patient")
        what = f"{count} (by id) in several modalities: {some(shared)}"
        mend = "nothing if they are the same people (they stay together); else rename the cases"
        yield Remark("patients", "note", what, mend).about("")


def _parted(datasets: Mapping[str, Dataset]) -> Iterator[Finding]:
    """Patients whose scans are for training and, set aside by the data set, for testing."""
    train = {c.patient for d in datasets.values() for c in d.cases if not c.held_out and c.label}
    for dataset in datasets.values():
        for case in dataset.cases:
            if case.held_out and case.patient in train:
                what = (
                    f"the patient {printable(case.patient)} has scans for training and for testing"
                )
                mend = "move all scans of the patient to one side; training leaves them out"
                yield Remark("patient-parted", "warning", what, mend, "1 patient").of(
                    case, case.images[0]
                )


def _classes(datasets: Mapping[str, Dataset]) -> Iterator[Finding]:
    named = {m: dataset for m, dataset in datasets.items() if dataset.labels}
    if len(named) < 2:
        return
    try:
        class_names(named)
    except DataError as error:
        yield from_error(error, "", "", None, "classes")
        return
    for modality, unshared in unshared_classes(named).items():
        what = f"only this modality has {', '.join(unshared)}: trained as background"
        mend = "nothing, or give equal organs equal names"
        yield Remark("classes", "warning", what, mend, f"{len(unshared)} classes").about(
            modality, file=named[modality].root
        )
