"""Are the voxels what the channel's name says? Units, constant images, lost slices, copies."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from unpaired.checks.cohort import ScanSummary
from unpaired.checks.finding import Finding, Remark
from unpaired.files import printable
from unpaired.io.volume import Volume, canonical_orientation

_SAMPLE = 1 << 20
_TINY, _PADDING = 0.005, 0.1
_CT_MEND = "export with rescale slope and intercept, or name the channel by its true modality"
_CHUNK = 1 << 22


def intensities(image: Volume, channel: str) -> Iterator[Remark]:
    """All questions to one channel.

    Args:
        channel: its name in dataset.json; "CT" means Hounsfield units.
    """
    low, high = float(image.array.min()), float(image.array.max())
    if low == high:
        what = f"every voxel is {low:g}"
        share = f"{image.array.size} voxels"
        yield Remark("constant", "error", what, "export the scan again", share)
        return
    yield from lost_slices(image)
    if channel.strip().casefold() == "ct":
        doubt = not_hounsfield(sample(image.measured), low, high)
        if doubt:
            what = f"the channel is named CT but is not in Hounsfield units: {doubt}"
            yield Remark("hounsfield", "warning", what, _CT_MEND)
    elif channel and looks_hounsfield(sample(image.measured)):
        what = f"the channel is named {channel}, but its values look like a CT's (air at -1000)"
        mend = "name the channel CT, or put the scan where it belongs"
        yield Remark("hounsfield", "warning", what, mend)


def sample(array: np.ndarray) -> np.ndarray:
    """Up to about a million voxels, evenly spaced, float32 [n]."""
    step = max(1, round((array.size / _SAMPLE) ** (1 / array.ndim)))
    return array[(slice(None, None, step),) * array.ndim].astype(np.float32).ravel()


def not_hounsfield(values: np.ndarray, low: float, high: float) -> str:
    """Why these are no Hounsfield units, or nothing.

    Air is -1000, fat -100, soft tissue 0 to 100, metal a few thousand.
    """
    cold = _share(values, -np.inf, -50.0)
    if cold < _TINY:
        text = f"only {100 * cold:.2g} % of the voxels are below -50 (lowest {low:g})"
        if _share(values, 850.0, 1200.0) > 0.5 * _share(values, 200.0, np.inf) > 0.05:
            return f"{text} and most are near 1024, as if the intercept (-1024) was forgotten"
        return f"{text}, so there is neither air nor fat, as in an MR"
    if high < 50:
        return f"no value is above {high:g}, so there is no soft tissue"
    bulk = float(np.percentile(values, 99))
    if bulk > 5000:
        return f"1 % of the values are above {bulk:g}"
    return _air_elsewhere(values)


def looks_hounsfield(values: np.ndarray) -> bool:
    """Air near -1000 and soft tissue near 0: a CT, whatever its name."""
    return _share(values, -1060.0, -940.0) > 0.1 and _share(values, -150.0, 150.0) > 0.1


def lost_slices(image: Volume) -> Iterator[Remark]:
    """Slices of one value only, and neighbours that are equal."""
    axis = _slice_axis(image)
    stack = np.moveaxis(image.array, axis, 0)
    low, high = stack.min(axis=(1, 2)), stack.max(axis=(1, 2))
    if stack[0].size < 4 or len(stack) < 2:
        return
    blank = low == high
    inner = np.flatnonzero(~blank)
    inner_slices = (np.arange(len(blank)) > inner[0]) & (np.arange(len(blank)) < inner[-1])
    same = (low[1:] == low[:-1]) & (high[1:] == high[:-1]) & ~blank[1:]
    twins = [int(n) + 1 for n in np.flatnonzero(same) if np.array_equal(stack[n], stack[n + 1])]
    inside = np.flatnonzero(blank & inner_slices)
    yield from _slices("blank-slice", "inside the volume hold one value only", inside, axis, image)
    yield from _slices("same-slice", "equal the slice before", np.array(twins, int), axis, image)
    ends = np.flatnonzero(blank & ~inner_slices)
    if len(ends) > _PADDING * len(blank):
        yield from _slices("blank-end", "at the ends hold one value only", ends, axis, image)


def digest(volume: Volume) -> str:
    """A hash of the voxels in patient order: equal for int16 and float32, for RAS and LPS files.

    Slice by slice, so that no second array of the volume's size is made.
    """
    turned = canonical_orientation(volume.affine).apply(volume.array)
    state = hashlib.blake2b(str(turned.shape).encode(), digest_size=16)
    with np.errstate(over="ignore"):
        for plane in turned:
            state.update(np.ascontiguousarray(plane, np.float32).data)
    return state.hexdigest()


def count_values(array: np.ndarray) -> dict[int, int]:
    """Value -> voxels of a label without negative values, without sorting the volume."""
    high = int(array.max())
    if high > 65535:
        values, counts = np.unique(array, return_counts=True)
        return {int(v): int(n) for v, n in zip(values, counts, strict=True)}
    total = np.zeros(high + 1, np.int64)
    flat = array.ravel(order="K")
    for start in range(0, flat.size, _CHUNK):
        total += np.bincount(flat[start : start + _CHUNK], minlength=high + 1)
    return {int(v): int(total[v]) for v in np.flatnonzero(total)}


def first_at(mask: np.ndarray) -> tuple[int, int, int]:
    """The index [i j k] of the first voxel that is set."""
    i, j, k = np.unravel_index(int(mask.argmax()), mask.shape)
    return int(i), int(j), int(k)


def copies(scans: Sequence[ScanSummary]) -> Iterator[Finding]:
    """Images that are there twice, in a modality, in two, in training and in test; equal labels."""
    yield from _images(scans)
    yield from _labels(scans)


def _air_elsewhere(values: np.ndarray) -> str:
    """A sharp peak of cold voxels that is neither air, nor lung, nor one padding value."""
    cold = values[(values < -300) & (values > -3500)]
    if len(cold) < 0.05 * len(values):
        return ""
    kinds, counts = np.unique(np.rint(cold), return_counts=True)
    padding = kinds[counts > 0.9 * len(cold)]
    if len(padding):
        at, share = float(padding[0]), 1.0
        if at < -1000:  # outside the scanner's circle, or clipped
            return ""
    else:
        bins, edges = np.histogram(cold, bins=64, range=(-3500, -300))
        at = float(edges[bins.argmax()] + 25)
        share = bins.max() / len(cold)
    if share < 0.25 or at <= -700:
        return ""
    return f"air lies near {at:.0f}, expected near -1000"


def _slices(kind: str, words: str, which: np.ndarray, axis: int, image: Volume) -> Iterator[Remark]:
    if not which.size:
        return
    shape = image.array.shape
    at = [n // 2 for n in shape]
    at[axis] = int(which[0])
    amount = f"{which.size} of {shape[axis]} slices"
    what = f"{amount} {words} (the first is {which[0]}, counted from 0)"
    where = (at[0], at[1], at[2])
    if kind == "blank-end":
        yield Remark(kind, "note", what, "nothing; they are cropped", amount, where)
    else:
        yield Remark(kind, "warning", what, "export the scan again", amount, where)


def _slice_axis(image: Volume) -> int:
    """The file's axis along which slices are stacked: the coarsest, else the body's long axis."""
    spacing = image.spacing_mm
    if max(spacing) > 1.05 * sorted(spacing)[1]:
        return int(np.argmax(spacing))
    return canonical_orientation(image.affine).axes[0]


def _share(values: np.ndarray, low: float, high: float) -> float:
    return float(((values >= low) & (values < high)).mean())


def _images(scans: Sequence[ScanSummary]) -> Iterator[Finding]:
    owners: dict[str, tuple[ScanSummary, Path]] = {}
    for scan in scans:
        for digest, file in scan.digests:
            other, where = owners.setdefault(digest, (scan, file))
            # A manifest may name one file in two cases.
            if other is not scan or where != file:
                what = (
                    f"the same image as {printable(where)} ({other.modality} {other.case})".rstrip()
                )
                mend = "remove one, or it may be in training and in test"
                if scan.held_out != other.held_out:
                    mend = "remove one: it is in training and in test"
                yield Remark("copy", "error", what, mend, "100 % of the voxels").about(
                    scan.modality, scan.case, file
                )


def _labels(scans: Sequence[ScanSummary]) -> Iterator[Finding]:
    """In one modality: two modalities may share the label of a registered pair."""
    owners: dict[tuple[str, str], ScanSummary] = {}
    for scan in scans:
        if not scan.label_digest:
            continue
        other = owners.setdefault((scan.modality, scan.label_digest), scan)
        images = {digest for digest, _ in other.digests}
        if other is not scan and images.isdisjoint(d for d, _ in scan.digests):
            what = f"the same label as {other.case}'s, though the images differ"
            mend = "see which image it belongs to"
            yield Remark("label-copy", "warning", what, mend, "100 % of the voxels").about(
                scan.modality, scan.case, scan.label
            )
