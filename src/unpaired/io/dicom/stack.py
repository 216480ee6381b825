"""Slices -> one stack with an affine, what keeps it from being an even grid, and how to mend that.

Geometry: DICOM PS3.3, C.7.6.2.1.1. Only ImagePositionPatient and ImageOrientationPatient count;
the files' order and SliceLocation do not.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from unpaired.errors import DataError
from unpaired.io.dicom.headers import Frame
from unpaired.io.volume import SHEAR_NOTE, SHEAR_REFUSED

SAME_PLACE_MM = 0.01
# Scanners round positions to 0.1 mm; what is further off its even place is uneven.
UNEVEN_MM, UNEVEN_SHARE = 0.05, 0.01
_NOTE_MM = 0.005
_TURN, _TURN_NOTE = 1e-3, 1e-4
_SNAP = 1e-3  # voxels: sideways shifts below are rounding
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


@dataclass(frozen=True)
class Stack:
    """Slices of one size, direction and spacing, each in a place of its own.

    Attributes:
        frames: along the slices' normal (row x column direction).
        depths_mm: [n] along the normal, from the first.
        shifts_mm: [n 2] sideways, along the two axes of the slices, from the first.
        faults: why this is no even, right-angled grid; empty if it is one.
    """

    frames: tuple[Frame, ...]
    depths_mm: np.ndarray
    shifts_mm: np.ndarray
    faults: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def step_mm(self) -> float:
        """The usual distance of neighbours; of a single slice its thickness."""
        if len(self.frames) > 1:
            return float(np.median(np.diff(self.depths_mm)))
        return self.frames[0].thickness_mm or 1.0

    @property
    def affine(self) -> np.ndarray:
        """[4 4] of the array [column row slice] of an even stack -> Right, Anterior, Superior."""
        first, last = self.frames[0], self.frames[-1]
        if len(self.frames) > 1:
            step = (last.position_mm - first.position_mm) / (len(self.frames) - 1)
        else:
            step = self.step_mm * np.cross(*first.axes)
        return slice_affine(first, step)


def stack_of(frames: Sequence[Frame], name: str) -> Stack:
    """Sort slices by place and measure how even they lie.

    Raises:
        DataError: sizes, spacings or directions differ, or several slices share a place: no
            resampling can mend that.
    """
    first = frames[0]
    notes = _same_plane(frames, name)
    normal = np.cross(*first.axes)
    offsets = np.array([frame.position_mm - first.position_mm for frame in frames])
    order = np.argsort(offsets @ normal, kind="stable")
    ordered = tuple(frames[i] for i in order)
    offsets = offsets[order] - offsets[order[0]]
    depths, shifts = offsets @ normal, offsets @ first.axes.T
    if len(frames) == 1:
        thickness = first.thickness_mm
        note = f"one slice; its thickness {thickness:g} mm counts as spacing" if thickness else (
            "one slice of unknown thickness, taken as 1 mm"
        )  # fmt: skip
        return Stack(ordered, depths, shifts, (), (*notes, note))
    _refuse_same_place(ordered, depths, name)
    faults = [*_tilt(depths, shifts), *_gaps(ordered, depths), *_sideways(ordered, depths, shifts)]
    if not faults:
        notes += _slightly(depths, shifts)
    notes += [*_thickness(ordered, depths), *_numbers(ordered)]
    return Stack(ordered, depths, shifts, tuple(faults), tuple(notes))


def place_numbers(frames: Sequence[Frame]) -> np.ndarray:
    """[n] the number of each slice's place along the first one's normal; some may share one."""
    normal = np.cross(*frames[0].axes)
    depths = np.array([frame.position_mm @ normal for frame in frames])
    order = np.argsort(depths, kind="stable")
    steps = np.diff(depths[order], prepend=depths[order[0]]) >= SAME_PLACE_MM
    numbers = np.empty(len(frames), int)
    numbers[order] = np.cumsum(steps)
    return numbers


def slice_affine(frame: Frame, step: np.ndarray) -> np.ndarray:
    """[4 4] of [column row slice] -> RAS, for slices one `step` [3] (LPS mm) apart."""
    affine = np.eye(4)
    affine[:3, 0] = frame.axes[0] * frame.spacing_mm[0]
    affine[:3, 1] = frame.axes[1] * frame.spacing_mm[1]
    affine[:3, 2] = step
    affine[:3, 3] = frame.position_mm
    return _LPS_TO_RAS @ affine


def even_grid(stack: Stack, planes: np.ndarray) -> tuple[np.ndarray, np.ndarray, str]:
    """Resample `planes` [column row slice] linearly, sideways within each slice (a tilted gantry is
    sheared back) and between the two neighbours along the normal.

    The grid keeps the voxels' size, steps by the usual distance of slices, and is as wide as all
    slices together; where no slice reaches, the image's lowest value stands.

    Returns:
        the image, in the type it came in; its affine [4 4]; a sentence on what was done.
    """
    first = stack.frames[0]
    shifts = stack.shifts_mm / np.array(first.spacing_mm)  # voxels, [slice 2]
    low = np.floor(shifts.min(0) + _SNAP).astype(int)
    high = np.ceil(shifts.max(0) - _SNAP).astype(int)
    size = np.array(planes.shape[:2]) + high - low
    count = int(np.floor(stack.depths_mm[-1] / stack.step_mm + _SNAP)) + 1
    depths = np.arange(count) * stack.step_mm
    after = np.clip(np.searchsorted(stack.depths_mm, depths), 1, len(stack.frames) - 1)
    fill = float(planes.min())
    out = np.empty((*size, count), planes.dtype, order="F")
    for k, depth in enumerate(depths):
        below, above = stack.depths_mm[after[k] - 1], stack.depths_mm[after[k]]
        weight = float(np.clip((depth - below) / (above - below), 0, 1))
        mixed = np.zeros(size)
        for index, share in ((after[k] - 1, 1 - weight), (after[k], weight)):
            if share > 0:
                mixed += share * _moved(planes[..., index], shifts[index] - low, size, fill)
        out[..., k] = np.rint(mixed) if out.dtype.kind in "iu" else mixed
    affine = slice_affine(first, stack.step_mm * np.cross(*first.axes))
    affine[:3, 3] += affine[:3, 0] * low[0] + affine[:3, 1] * low[1]
    sentence = (
        f"resampled to {count} slices {stack.step_mm:.3g} mm apart, linearly between neighbours, "
        f"from {len(stack.frames)} slices ({'; '.join(stack.faults)})"
    )
    return out, affine, sentence


def _moved(plane: np.ndarray, shift: np.ndarray, size: np.ndarray, fill: float) -> np.ndarray:
    """The plane, `shift` voxels on, in a plane of `size`; linear, axis after axis."""
    for axis, (by, length) in enumerate(zip(shift, size, strict=True)):
        plane = np.moveaxis(
            _moved_rows(np.moveaxis(plane, axis, 0), float(by), int(length), fill), 0, axis
        )
    return plane


def _moved_rows(rows: np.ndarray, by: float, length: int, fill: float) -> np.ndarray:
    start = int(np.floor(by + _SNAP))
    part = max(by - start, 0.0)
    part = 0.0 if part < _SNAP else part
    out = np.full((length, *rows.shape[1:]), fill, np.float64)
    out[start : start + len(rows)] = rows
    if part:
        # Row i of the result lies between rows i - 1 and i of the whole shift.
        out[1:] = (1 - part) * out[1:] + part * out[:-1]
    return out


def _same_plane(frames: Sequence[Frame], name: str) -> list[str]:
    first, turned = frames[0], 0.0
    for frame in frames[1:]:
        if (frame.rows, frame.columns) != (first.rows, first.columns):
            what = f"sizes: {first.name} has {first.columns} x {first.rows}, {frame.name} has "
            what += f"{frame.columns} x {frame.rows}"
        elif not np.allclose(frame.spacing_mm, first.spacing_mm, rtol=1e-4):
            what = f"spacings: {first.name} has {_mm(first.spacing_mm)}, {frame.name} has "
            what += _mm(frame.spacing_mm)
        elif np.abs(frame.axes - first.axes).max() > _TURN:
            cosine = float(np.clip(np.cross(*frame.axes) @ np.cross(*first.axes), -1, 1))
            what = f"directions: {frame.name} is turned against {first.name}"
            what += f" (planes {np.degrees(np.arccos(cosine)):.1f} degrees apart)"
        else:
            turned = max(turned, float(np.abs(frame.axes - first.axes).max()))
            continue
        raise DataError(
            f"{name}: the slices have different {what}; they are several images, keep one."
        )
    return [f"the slices' directions differ by up to {turned:.1g}"] if turned > _TURN_NOTE else []


def _refuse_same_place(frames: Sequence[Frame], depths: np.ndarray, name: str) -> None:
    close = np.flatnonzero(np.diff(depths) < SAME_PLACE_MM)
    if not len(close):
        return
    places = np.concatenate([[0], np.cumsum(np.diff(depths) >= SAME_PLACE_MM)])
    counts = np.bincount(places)
    k = int(close[0])
    one, other = frames[k], frames[k + 1]
    if counts.min() == counts.max():
        raise DataError(
            f"{name} holds {counts[0]} images of every slice; copy the files of one image into a "
            "folder of their own."
        )
    copy = ", one a copy of the other" if one.instance == other.instance else ""
    raise DataError(
        f"{name}: slices lie where another one lies ({len(close)}), such as {one.name} and "
        f"{other.name} at {depths[k]:.2f} mm (slice {k}){copy}; remove the doubles."
    )


def _tilt(depths: np.ndarray, shifts: np.ndarray) -> list[str]:
    drift = float(np.linalg.norm(shifts[-1]))
    if drift <= SHEAR_REFUSED * float(np.hypot(drift, depths[-1])):
        return []
    degrees = np.degrees(np.arctan2(drift, depths[-1]))
    return [
        f"the gantry was tilted by {degrees:.1f} degrees (the slices drift {drift:.1f} mm sideways)"
    ]


def _gaps(frames: Sequence[Frame], depths: np.ndarray) -> list[str]:
    gaps = np.diff(depths)
    usual, limit = float(np.median(gaps)), _limit(depths)
    even = np.linspace(0, depths[-1], len(depths))
    if np.abs(depths - even).max() <= limit:
        return []
    steps = np.rint(gaps / usual)
    missing = (steps >= 2) & (np.abs(gaps / usual - steps) < 0.1)
    faults = []
    if missing.any():
        k = int(np.flatnonzero(missing)[0])
        count = int((steps[missing] - 1).sum())
        faults.append(
            f"slices are missing ({count}), the first after slice {k} ({frames[k].name}): the "
            f"next, {frames[k + 1].name}, lies {gaps[k]:.2f} mm on instead of {usual:.2f} mm"
        )
    rest = gaps[~missing]
    worst = int(np.abs(np.where(missing, usual, gaps) - usual).argmax())
    if rest.max() - rest.min() > limit:
        faults.append(
            f"the gaps between slices are uneven, {rest.min():.2f} to {rest.max():.2f} mm (usually "
            f"{usual:.2f}), the oddest {gaps[worst]:.2f} mm after slice {worst} "
            f"({frames[worst].name})"
        )
    if not faults:
        off = int(np.abs(depths - even).argmax())
        faults.append(
            f"slice {off} ({frames[off].name}) lies {abs(depths - even)[off]:.2f} mm off its even "
            "place"
        )
    return faults


def _sideways(frames: Sequence[Frame], depths: np.ndarray, shifts: np.ndarray) -> list[str]:
    """Slices beside the line through the first and the last."""
    off = np.linalg.norm(shifts - np.outer(depths / depths[-1], shifts[-1]), axis=1)
    worst = int(off.argmax())
    if off[worst] <= _limit(depths):
        return []
    return [f"slice {worst} ({frames[worst].name}) lies {off[worst]:.2f} mm sideways of the others"]


def _slightly(depths: np.ndarray, shifts: np.ndarray) -> list[str]:
    notes = []
    off = float(np.abs(depths - np.linspace(0, depths[-1], len(depths))).max())
    if off > _NOTE_MM:
        notes.append(f"slices lie up to {off:.3f} mm off their even places (rounded positions)")
    drift = float(np.linalg.norm(shifts[-1]) / depths[-1])
    if drift > SHEAR_NOTE:
        notes.append(f"the slices drift sideways by {drift:.4f} mm a mm; the affine holds it")
    return notes


def _thickness(frames: Sequence[Frame], depths: np.ndarray) -> list[str]:
    thicknesses = sorted({frame.thickness_mm for frame in frames if frame.thickness_mm})
    if not thicknesses:
        return []
    if len(thicknesses) > 1:
        return [f"slices have different thicknesses, {_mm(thicknesses)}"]
    step = float(np.median(np.diff(depths)))
    if abs(thicknesses[0] - step) <= 0.01 * step:
        return []
    lie = "with gaps between them" if thicknesses[0] < step else "overlapping"
    return [f"slices are {thicknesses[0]:g} mm thick and {step:g} mm apart, {lie}"]


def _numbers(frames: Sequence[Frame]) -> list[str]:
    """Even places, yet numbers left out: slices may be missing at the ends."""
    numbers = [frame.number for frame in frames if frame.number is not None]
    steps = Counter(abs(b - a) for a, b in pairwise(numbers))
    if len(numbers) < len(frames) or len({f.path for f in frames}) < len(frames) or len(steps) < 2:
        return []
    return ["the slices' numbers (InstanceNumber) do not follow their places; the places count"]


def _limit(depths: np.ndarray) -> float:
    return max(UNEVEN_MM, UNEVEN_SHARE * float(np.median(np.diff(depths))))


def _mm(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values) + " mm"
