"""Rules of the plan: the size of a training patch, and what is said of the frame."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from unpaired.config import ModalityConfig
from unpaired.data.frame import needs_label
from unpaired.data.measure import Geometry, typical_extent_mm
from unpaired.data.plan import Plan
from unpaired.errors import UsageError

MAX_SIDE = 256
"""Of a picture."""
MAX_VOXELS = 64 * 128 * 128
"""Of a volume: what nnFormer's published training takes."""
# A half is rounded up also where a header holds 1 mm as 0.9999999.
_HALF_WIDTH = 1e-5

Patch = tuple[int, int] | tuple[int, int, int]
_PRICE = (
    "So the crop comes from the labels, as in the literature: scores on the prepared grid are of "
    "images that the truth has placed, and compare with published ones only. Prediction needs no "
    "label: it sees the whole scan, and scores on the native grid are of that."
)


def choose(
    geometries: Sequence[Geometry],
    spacing: tuple[float, float, float],
    wanted: Sequence[int] | None,
    multiple: Sequence[int],
    plane: Sequence[int] | None = None,
) -> tuple[Patch, str]:
    """The patch, and the reason in a sentence.

    Args:
        spacing: the target grid's, in mm.
        wanted: the configured patch, if any.
        multiple: what the backbone takes, one number per axis of the patch.
        plane: rows and columns that every slice is cut to, if it is.

    Raises:
        UsageError: the configured patch does not fit.
    """
    dims = len(multiple)
    if wanted is not None:
        _check(wanted, multiple)
        return _as_patch(wanted), "The patch is as configured."
    typical = typical_extent_mm(geometries) / spacing
    median = (typical if plane is None else np.array([typical[0], *plane]))[-dims:]
    patch = [
        max(1, min(int(size / unit + 0.5 + _HALF_WIDTH), MAX_SIDE // unit)) * unit
        for size, unit in zip(median, multiple, strict=True)
    ]
    units = _times(multiple)
    if dims == 2:
        return _as_patch(patch), (
            f"The patch is the multiple of {units} closest to the median plane of "
            f"{_times(median)} voxels, at most {MAX_SIDE}; larger planes are tiled, smaller ones "
            "padded."
        )
    _shrink(patch, spacing, multiple)
    return _as_patch(patch), (
        f"The patch is the multiple of {units} closest to the median volume of {_times(median)} "
        f"voxels, its longest sides cut until it holds at most {MAX_VOXELS} voxels; larger volumes "
        "are tiled, smaller ones padded."
    )


def at_least(plan: Plan, side: int) -> Plan:
    """The plan with its longest side in the plane raised to what a network needs at all.

    Args:
        side: in voxels; smaller images are padded.
    """
    patch = plan.patch
    longest = max(patch[-2:])
    if longest >= side:
        return plan
    first = len(patch) - 2
    raised = [side if a >= first and n == longest else n for a, n in enumerate(patch)]
    why = f"The network needs a side of {side} voxels; these images are smaller, and padded."
    reasons = {**plan.reasons, "patch": why}
    return plan.model_copy(update={"patch": _as_patch(raised), "reasons": reasons})


def with_frames(
    plan: Plan, plane: tuple[int, int] | None, modalities: Mapping[str, ModalityConfig]
) -> Plan:
    """The plan with the configured crop and a sentence on it.

    Raises:
        UsageError: a plane is to be centred that has no size.
    """
    recipes = {}
    for m, recipe in plan.modalities.items():
        options = modalities.get(m)
        if options is None:
            recipes[m] = recipe
            continue
        if options.plane_centre == "labels" and plane is None:
            raise UsageError(
                f"modalities.{m}.plane_centre=labels centres a plane whose size is not given; set "
                "data.plane, such as [256, 256], or plane_centre=image."
            )
        recipes[m] = recipe.model_copy(
            update={"plane_centre": options.plane_centre, "slices": options.slices}
        )
    framed = plan.model_copy(update={"plane": plane, "modalities": recipes})
    reasons = {**plan.reasons, **_frame_reasons(framed)}
    return framed.model_copy(update={"reasons": reasons})


def _check(wanted: Sequence[int], multiple: Sequence[int]) -> None:
    if len(wanted) != len(multiple):
        raise UsageError(
            f"data.patch is {_times(wanted)}, but data.dims is {len(multiple)}; give "
            f"{len(multiple)} numbers."
        )
    if any(size < 1 or size % unit for size, unit in zip(wanted, multiple, strict=True)):
        raise UsageError(
            f"data.patch is {_times(wanted)}; the backbone needs multiples of {_times(multiple)}."
        )


def _shrink(patch: list[int], spacing: Sequence[float], multiple: Sequence[int]) -> None:
    """Take from the side that is longest in millimetres until the patch is small enough."""
    while np.prod(patch) > MAX_VOXELS:
        free = [a for a, unit in enumerate(multiple) if patch[a] > unit]
        if not free:
            return
        axis = max(free, key=lambda a: patch[a] * spacing[a])
        patch[axis] -= multiple[axis]


def _as_patch(sizes: Sequence[int]) -> Patch:
    if len(sizes) == 2:
        return sizes[0], sizes[1]
    return sizes[0], sizes[1], sizes[2]


def _frame_reasons(plan: Plan) -> dict[str, str]:
    reasons = {}
    if plan.plane is not None:
        rows, columns = plan.plane
        reasons["plane"] = (
            f"Every prepared slice is cut or padded to {rows} x {columns}, as configured; the "
            "padding is the smallest intensity of the cut. Clip, mean and deviation are of the cut."
        )
    for m, recipe in plan.modalities.items():
        parts = []
        if plan.plane is not None and recipe.plane_centre == "labels":
            parts.append("Slices are centred on the mean position of the labelled voxels.")
        if recipe.slices == "labelled":
            parts.append("Only slices from the first to the last that holds a class are kept.")
        if needs_label(plan, recipe):
            reasons[f"frame.{m}"] = " ".join([*parts, _PRICE])
    return reasons


def _times(sizes: Iterable[float | int]) -> str:
    return " x ".join(f"{size:.0f}" for size in sizes)
