"""A label's values: known to dataset.json, there at all, inside the body, whole."""

from collections.abc import Iterator, Mapping

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

from unpaired.data.checks.content import first_at
from unpaired.data.checks.facts import Touch
from unpaired.data.checks.finding import Index, Remark, Severity, plural
from unpaired.io.volume import Volume

# A piece smaller than this share of its organ is a fragment; a second kidney is none.
FRAGMENT_SHARE = 0.02
# Fewer voxels than this close to their organ are the pencil's, not worth a line.
FEW_PERCENT = 0.1
# From here to the organ a fragment is no frayed edge any more.
FAR_MM = 20.0
_EDGE_AXIS = 5


def values(label: Volume, counts: Mapping[int, int], labels: Mapping[str, int]) -> Iterator[Remark]:
    """Values that have no name, and labels without any organ."""
    known = {0, *labels.values()}
    strange = {value: count for value, count in counts.items() if value not in known}
    if strange and labels:
        text = ", ".join(f"{v} ({plural(n, 'voxel')})" for v, n in list(strange.items())[:5])
        more = f" and {len(strange) - 5} more" if len(strange) > 5 else ""
        what = f"label values that dataset.json does not name: {text}{more}"
        mend = "name them under `labels`, or correct the file"
        at = first_at(label.array == next(iter(strange)))
        yield Remark("label-value", "error", what, mend, plural(sum(strange.values()), "voxel"), at)
    if set(counts) <= {0}:
        mend = "annotate it, or move the image to imagesTs"
        yield Remark("label-empty", "warning", "the label is empty", mend, "0 voxels")


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
        found = _pieces(label.array[box] == value, label.spacing_mm)
        if found is not None:
            count, total, far, at = found
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


def touches(label: Volume) -> tuple[Touch, ...]:
    """What lies in the outermost voxels: an organ there may be cut."""
    found: dict[int, tuple[int, Index]] = {}
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
                before, where = found.get(int(value), (0, at))
                found[int(value)] = (before + int(count), where)
    return tuple(Touch(value, count, at) for value, (count, at) in sorted(found.items()))
