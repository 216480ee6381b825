"""Scans against the others of their modality: spacing, size, directions, voxel types."""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from unpaired.data.checks.facts import Facts
from unpaired.data.checks.finding import Finding, Remark, plural, some

# A median of fewer scans says nothing about a third.
FEW = 3
SPACING_OUTLIER, SIZE_OUTLIER = 2.0, 3.0
_WIDE = ("int64", "uint64", "uint32", "float64")


def cohort(modality: str, facts: Sequence[Facts]) -> Iterator[Finding]:
    """All questions to the scans of one modality."""
    yield from _directions(modality, facts)
    yield from _spacings(modality, facts)
    yield from _sizes(modality, facts)
    yield from _types(modality, facts)


def _directions(modality: str, facts: Sequence[Facts]) -> Iterator[Finding]:
    axes = Counter(fact.axes for fact in facts if fact.axes)
    if len(axes) > 1:
        text = ", ".join(f"{name} {count}" for name, count in axes.most_common())
        what = f"the files' axes point in different directions ({text})"
        odd = axes.total() - axes.most_common(1)[0][1]
        mend = "nothing; each is turned by its affine"
        yield Remark("directions", "note", what, mend, f"{odd} of {axes.total()} cases").about(
            modality
        )


def _spacings(modality: str, facts: Sequence[Facts]) -> Iterator[Finding]:
    known = [(fact, fact.spacing_mm) for fact in facts if fact.spacing_mm]
    if len(known) < FEW:
        return
    median = np.median([spacing for _, spacing in known], axis=0)
    for fact, spacing in known:
        if _factor(spacing, median) > SPACING_OUTLIER:
            mine, usual = (" x ".join(f"{s:.3g}" for s in values) for values in (spacing, median))
            what = f"the spacing {mine} mm is far from the usual {usual} mm (S, P, L)"
            yield Remark("spacing", "warning", what, "look at the scan").about(
                modality, fact.case, fact.file
            )


def _sizes(modality: str, facts: Sequence[Facts]) -> Iterator[Finding]:
    known = [
        (fact, np.multiply(fact.spacing_mm, fact.shape))
        for fact in facts
        if fact.spacing_mm and fact.shape
    ]
    if len(known) < FEW:
        return
    median = np.median([size for _, size in known], axis=0)
    for fact, size in known:
        if _factor(size, median) > SIZE_OUTLIER:
            mine, usual = (" x ".join(f"{s:.0f}" for s in values) for values in (size, median))
            what = f"the scan covers {mine} mm, usual are {usual} mm (S, P, L)"
            yield Remark(
                "size", "warning", what, "look at the scan; crop it, or leave it out"
            ).about(modality, fact.case, fact.file)


def _types(modality: str, facts: Sequence[Facts]) -> Iterator[Finding]:
    """Types that hold nothing more than a smaller one would: read, but slow and large."""
    wide = Counter(name for fact in facts for name, _ in fact.stored if name in _WIDE)
    for name, count in wide.items():
        files = [file for fact in facts for kind, file in fact.stored if kind == name]
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
