"""Are the voxels what the channel's name says? Units, constant images, lost slices, copies."""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from unpaired.checks.cohort import ScanSummary
from unpaired.checks.finding import Finding, Remark
from unpaired.data.units import is_quantitative, looks_hounsfield, not_hounsfield, sample
from unpaired.files import printable
from unpaired.io.volume import Volume, canonical_orientation

_PADDING = 0.1
_CT_MEND = "export with rescale slope and intercept, or name the channel by its true modality"


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
    if is_quantitative(channel):
        doubt = not_hounsfield(sample(image.measured), low, high)
        if doubt:
            what = f"the channel is named CT but is not in Hounsfield units: {doubt}"
            yield Remark("hounsfield", "warning", what, _CT_MEND)
    elif channel and looks_hounsfield(sample(image.measured)):
        what = f"the channel is named {channel}, but its values look like a CT's (air at -1000)"
        mend = "name the channel CT, or put the scan where it belongs"
        yield Remark("hounsfield", "warning", what, mend)


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


def first_at(mask: np.ndarray) -> tuple[int, int, int]:
    """The index [i j k] of the first voxel that is set."""
    i, j, k = np.unravel_index(int(mask.argmax()), mask.shape)
    return int(i), int(j), int(k)


def copies(scans: Sequence[ScanSummary]) -> Iterator[Finding]:
    """Images that are there twice, in a modality, in two, in training and in test; equal labels."""
    yield from _images(scans)
    yield from _labels(scans)


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
