"""An even, right-angled grid out of tilted, uneven or missing slices: only ever on request."""

import numpy as np

from unpaired.data.dicom.stack import Stack, slice_affine

_SNAP = 1e-3  # voxels: sideways shifts below are rounding


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
    told = (
        f"resampled to {count} slices {stack.step_mm:.3g} mm apart, linearly between neighbours, "
        f"from {len(stack.frames)} slices ({'; '.join(stack.faults)})"
    )
    return out, affine, told


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
