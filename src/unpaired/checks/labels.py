"""Labels: values known to dataset.json, loose pieces, what lies outside the body, organ sizes."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from unpaired.checks.cohort import ScanSummary, Touch
from unpaired.checks.finding import Finding, Index, Remark, Severity
from unpaired.checks.intensity import first_at
from unpaired.datasets.dataset import Dataset
from unpaired.files import printable
from unpaired.io.volume import Volume, canonical_orientation
from unpaired.names import plural

# A piece smaller than this share of its organ is a fragment; a second kidney is none.
FRAGMENT_SHARE = 0.02
# Fewer voxels than this close to their organ are the pencil's, not worth a line.
FEW_PERCENT = 0.1
# From here to the organ a fragment is no frayed edge any more.
FAR_MM = 20.0
_EDGE_AXIS = 5
# Fewer voxels along an axis show no body; more are thinned out to about so many.
_SMALLEST, _SIDE = 16, 96
# A part of the body has at least this share of the largest one.
_PIECE = 0.1
OUTSIDE_SHARE = 0.1
# An odd size: of fewer scans none, else by this factor and by so many deviations.
_FEW, _FACTOR, _DEVIATIONS = 5, 4.0, 5.0


def values(
    label: Volume, counts: Mapping[int, int], labels: Mapping[str, int], ignore: int | None = None
) -> Iterator[Remark]:
    """Values that have no name, and labels without any organ.

    Args:
        ignore: the value of voxels that nobody annotated.
    """
    known = {0, *labels.values(), *([] if ignore is None else [ignore])}
    strange = {value: count for value, count in counts.items() if value not in known}
    if strange and labels:
        text = ", ".join(f"{v} ({plural(n, 'voxel')})" for v, n in list(strange.items())[:5])
        more = f" and {len(strange) - 5} more" if len(strange) > 5 else ""
        what = f"label values that dataset.json does not name: {text}{more}"
        mend = "name them under `labels`, or correct the file"
        at = first_at(label.array == next(iter(strange)))
        yield Remark("label-value", "error", what, mend, plural(sum(strange.values()), "voxel"), at)
    if set(counts) <= {0, ignore}:
        mend = "annotate it, or move the image to imagesTs"
        what = "the label is empty" if 0 in counts else "every voxel of the label is `ignore`"
        yield Remark("label-empty", "warning", what, mend, "0 voxels")


def fragments(
    label: Volume, labels: Mapping[str, int], counts: Mapping[int, int]
) -> Iterator[Remark]:
    """Small pieces that do not touch their organ, each class in its own box."""
    names = {value: name for name, value in labels.items() if value and value in counts}
    if not names:
        return
    boxes = ndimage.find_objects(label.array, max_label=max(names))
    lost: list[tuple[int, str, float, Index]] = []
    for value, name in sorted(names.items()):
        box = boxes[value - 1]
        pieces = _pieces(label.array[box] == value, label.spacing_mm)
        if pieces is not None:
            count, total, far, at = pieces
            text = f"{name} {plural(count, 'piece')} of {plural(total, 'voxel')}"
            start = tuple(a + s.start for a, s in zip(at, box, strict=True))
            lost.append((total, text, far, (start[0], start[1], start[2])))
    if not lost:
        return
    worst = max(lost, key=lambda part: part[2])
    total = sum(part[0] for part in lost)
    share = 100 * total / sum(counts[value] for value in names)
    what = (
        f"loose pieces beside their organ: {', '.join(part[1] for part in lost)}; "
        f"the farthest {worst[2]:.0f} mm away"
    )
    if worst[2] <= FAR_MM and share < FEW_PERCENT:
        return
    mend = "look at them; remove what is no organ"
    severity: Severity = "warning" if worst[2] > FAR_MM else "note"
    amount = f"{plural(total, 'voxel')}, {share:.2g} %"
    yield Remark("fragments", severity, what, mend, amount, worst[3])


def touches(label: Volume) -> tuple[Touch, ...]:
    """What lies in the outermost voxels: an organ there may be cut."""
    counted: dict[int, tuple[int, Index]] = {}
    for axis, size in enumerate(label.array.shape):
        if size < _EDGE_AXIS:
            continue
        for index in (0, size - 1):
            face = label.array.take(index, axis)
            if not face.any():
                continue
            kinds, counts = np.unique(face[face != 0], return_counts=True)
            for value, count in zip(kinds.tolist(), counts.tolist(), strict=True):
                inside = list(np.unravel_index(int((face == value).argmax()), face.shape))
                inside.insert(axis, np.intp(index))
                at = (int(inside[0]), int(inside[1]), int(inside[2]))
                before, where = counted.get(int(value), (0, at))
                counted[int(value)] = (before + int(count), where)
    return tuple(Touch(value, count, at) for value, (count, at) in sorted(counted.items()))


def outside_body(image: Volume, label: Volume, labels: Mapping[str, int]) -> Iterator[Remark]:
    """Classes of which a good part lies in the air around the patient, in per cent."""
    if image.array.shape != label.array.shape or min(image.array.shape) < _SMALLEST:
        return
    steps = tuple(max(1, n // _SIDE) for n in image.array.shape)
    some = tuple(slice(None, None, step) for step in steps)
    parts = label.array[some]
    seen = image.array[some]
    if not parts.any() or seen.min() == seen.max():
        return
    turn = canonical_orientation(image.affine)
    padding = None if image.padding is None else image.padding[some]
    known = seen if padding is None or padding.all() else seen[~padding]
    inside = turn.undo(body(turn.apply(seen), known))
    outside: list[tuple[float, str, Index]] = []
    for name, value in labels.items():
        own = parts == value
        count = np.count_nonzero(own)
        if not value or not count:
            continue
        stray = own & ~inside
        share = np.count_nonzero(stray) / count
        if share > OUTSIDE_SHARE:
            i, j, k = np.unravel_index(int(stray.argmax()), stray.shape)
            at = (int(i) * steps[0], int(j) * steps[1], int(k) * steps[2])
            outside.append((share, name, at))
    if outside:
        text = ", ".join(f"{100 * share:.0f} % of {name}" for share, name, _ in outside)
        worst = max(outside)
        what = f"the label lies in the air around the body: {text}"
        mend = "see whether image and label belong together, and neither is mirrored"
        yield Remark("outside", "warning", what, mend, f"{100 * worst[0]:.0f} %", worst[2])


def body(image: np.ndarray, measured: np.ndarray | None = None) -> np.ndarray:
    """What is not air, bool [d h w] from canonical [d h w]; holes in a slice (lungs) belong to it.

    Air is the lowest tenth of the range of the measured voxels (of all by default): below -800 in a
    CT, noise in an MR.
    """
    known = image if measured is None else measured
    low, high = (float(p) for p in np.percentile(known, (0.5, 99)))
    bright = image > low + 0.1 * (high - low)
    pieces, _ = ndimage.label(ndimage.binary_opening(bright))
    sizes = np.bincount(pieces.ravel(), minlength=2)
    sizes[0] = 0
    # Not the largest piece only: a lost slice, or two legs, part a body.
    core = (sizes >= _PIECE * sizes.max())[pieces] & (pieces > 0)
    closed = ndimage.binary_closing(core, iterations=2) | core
    filled = np.stack([ndimage.binary_fill_holes(plane) for plane in closed])
    return np.asarray(ndimage.binary_dilation(filled, iterations=2))


def coverage(modality: str, dataset: Dataset, scans: Sequence[ScanSummary]) -> Iterator[Finding]:
    """Classes without a voxel, organs of an odd size, organs that the image's edge cuts."""
    labelled = [scan for scan in scans if scan.voxels is not None]
    for name, value in dataset.labels.items():
        if value == 0 or not labelled:
            continue
        own = [scan for scan in labelled if scan.voxels and value in scan.voxels]
        if not own:
            what = f"no label holds {name!r} (value {value})"
            mend = "annotate it, or remove it from dataset.json"
            yield Remark(
                "class-absent", "warning", what, mend, f"0 of {len(labelled)} cases"
            ).about(modality, file=dataset.root)
        yield from _odd_sizes(modality, name, value, own)
    yield from _cut(modality, dataset, labelled)
    yield from _ignored(modality, dataset, labelled)


def table(dataset: Dataset, scans: Sequence[ScanSummary]) -> list[tuple[str, int, int, float]]:
    """(class, cases that hold it, labelled cases, median millilitres) of every class."""
    labelled = [scan for scan in scans if scan.voxels is not None]
    rows = []
    for name, value in dataset.labels.items():
        own = [scan for scan in labelled if value in (scan.voxels or {})]
        sizes = [_millilitres(scan, value) for scan in own if scan.spacing_mm]
        if value:
            median = float(np.median(sizes)) if sizes else float("nan")
            rows.append((name, len(own), len(labelled), median))
    return rows


def _pieces(
    mask: np.ndarray, spacing_mm: tuple[float, float, float]
) -> tuple[int, int, float, Index] | None:
    """Number of small pieces, their voxels, how far the farthest lies from the largest, where."""
    numbers, count = ndimage.label(mask, np.ones((3, 3, 3), bool))
    if count < 2:
        return None
    sizes = np.bincount(numbers.ravel(order="K"))
    sizes[0] = 0
    largest = int(sizes.argmax())
    small = [n for n in range(1, count + 1) if sizes[n] < FRAGMENT_SHARE * sizes[largest]]
    if not small:
        return None
    main = numbers == largest
    border = np.argwhere(main & ~ndimage.binary_erosion(main)) * spacing_mm
    index = np.argwhere(np.isin(numbers, small))
    gaps, _ = cKDTree(border).query(index * spacing_mm)
    nearest = np.full(count + 1, np.inf)
    np.minimum.at(nearest, numbers[tuple(index.T)], gaps)
    far = small[int(nearest[small].argmax())]
    return len(small), int(sizes[small].sum()), float(nearest[far]), first_at(numbers == far)


def _odd_sizes(
    modality: str, name: str, value: int, own: Sequence[ScanSummary]
) -> Iterator[Finding]:
    """An organ many times smaller or larger than in the other patients."""
    known = [scan for scan in own if scan.spacing_mm]
    if len(known) < _FEW:
        return
    sizes = np.array([_millilitres(scan, value) for scan in known])
    log = np.log(sizes)
    middle = float(np.median(log))
    # Tumours differ by nature: what is odd is measured by how much the others differ.
    spread = 1.4826 * float(np.median(np.abs(log - middle)))
    limit = max(float(np.log(_FACTOR)), _DEVIATIONS * spread)
    for scan, size, off in zip(known, sizes, log - middle, strict=True):
        if abs(off) > limit:
            what = f"{name} has {size:.3g} ml, usual are {np.exp(middle):.3g} ml"
            mend = "look at the label; it may be cut, or hold another organ"
            yield Remark("organ-size", "warning", what, mend, f"{size:.3g} ml").about(
                modality, scan.case, scan.label
            )


def _cut(modality: str, dataset: Dataset, labelled: Sequence[ScanSummary]) -> Iterator[Finding]:
    """One note for all: scans often end within an organ."""
    parts: list[str] = []
    worst: tuple[ScanSummary, Touch] | None = None
    for name, value in dataset.labels.items():
        own = [scan for scan in labelled if value in (scan.voxels or {})]
        cut = [(scan, t) for scan in own for t in scan.touches if t.value == value]
        if not cut:
            continue
        parts.append(f"{name} in {len(cut)} of {plural(len(own), 'case')}")
        largest = max(cut, key=lambda pair: pair[1].count)
        if worst is None or largest[1].count > worst[1].count:
            worst = largest
    if worst is not None:
        scan, touch = worst
        what = (
            f"the edge of the image cuts {', '.join(parts)}; most of all in {printable(scan.case)}"
        )
        mend = "nothing if the scan ends there; else look for a shifted or cut label"
        yield Remark("edge", "note", what, mend, plural(touch.count, "voxel"), touch.at).about(
            modality, scan.case, scan.label
        )


def _ignored(modality: str, dataset: Dataset, labelled: Sequence[ScanSummary]) -> Iterator[Finding]:
    """One note: how much nobody annotated."""
    counts = [scan.voxels or {} for scan in labelled]
    marked = [count for count in counts if dataset.ignore in count]
    if marked and dataset.ignore is not None:
        total = sum(sum(count.values()) for count in counts)
        share = 100 * sum(count[dataset.ignore] for count in marked) / total
        labels = plural(len(labelled), "label")
        what = f"`ignore` marks {share:.2g} % of the voxels, in {len(marked)} of {labels}"
        mend = "nothing; they count neither in training nor in scores"
        yield Remark("ignore", "note", what, mend, f"{share:.2g} %").about(
            modality, file=dataset.root
        )


def _millilitres(scan: ScanSummary, value: int) -> float:
    count = (scan.voxels or {}).get(value, 0)
    return count * float(np.prod(scan.spacing_mm or (np.nan,) * 3)) / 1000
