"""The frame that preparation cuts out of the target grid: a plane of fixed size, slices kept.

A frame is a box in voxels of the whole image on the target grid, (start, stop) per axis; where it
reaches outside, the cut is padded. Cutting loses nothing inside the frame: `put_back` inverts it.
"""

from collections.abc import Sequence
from math import floor

import numpy as np

from unpaired.data.plan import Frame, ModalityPlan, Plan
from unpaired.datasets.dataset import IGNORED
from unpaired.errors import DataError

Shape = Sequence[int]


def labelled_frame(
    label: np.ndarray, middle: Sequence[float], plan: Plan, recipe: ModalityPlan
) -> Frame:
    """The frame of a training image.

    Args:
        label: class indices [d h w] on the target grid, of the whole image; where nobody annotated
            there is no class.
        middle: the image's middle in voxels of that grid (the first voxel's centre is 0.5).

    Raises:
        DataError: the frame comes from the label, and the label holds no class.
    """
    if not needs_label(plan, recipe):
        return frame_without_label(label.shape, middle, plan, recipe)
    marked = of_a_class(label)
    held = [np.flatnonzero(marked.any(axis=others)) for others in ((1, 2), (0, 2), (0, 1))]
    if not len(held[0]):
        raise DataError(
            f"the label holds none of the classes {', '.join(plan.classes[1:])}, from which the "
            "crop is taken. Remove the case, or set slices=all and plane_centre=image for its "
            "modality."
        )
    if recipe.plane_centre == "labels":
        middle = [coordinate.mean() + 0.5 for coordinate in np.nonzero(marked)]
    rows, columns = _plane(label.shape, middle, plan)
    if recipe.slices == "labelled":
        return (int(held[0][0]), int(held[0][-1]) + 1), rows, columns
    return (0, label.shape[0]), rows, columns


def of_a_class(label: np.ndarray) -> np.ndarray:
    """Where class indices name a foreground class: neither background nor ignored."""
    return (label != 0) & (label != IGNORED)


def frame_without_label(
    shape: Shape, middle: Sequence[float], plan: Plan, recipe: ModalityPlan
) -> Frame:
    """As much of the frame as needs no label: all slices, and the plane about the image's middle.

    Args:
        shape: (d, h, w) of the whole image on the target grid.
        middle: its middle in voxels of that grid.
    """
    if recipe.plane_centre == "labels":
        return (0, shape[0]), (0, shape[1]), (0, shape[2])
    return (0, shape[0]), *_plane(shape, middle, plan)


def needs_label(plan: Plan, recipe: ModalityPlan) -> bool:
    """Whether the frame depends on the label."""
    return recipe.slices == "labelled" or (
        plan.plane is not None and recipe.plane_centre == "labels"
    )


def inside(frame: Frame, shape: Shape) -> tuple[slice, slice, slice]:
    """The part of an image of this shape that the frame holds.

    Raises:
        DataError: there is none.
    """
    a, b, c = (
        slice(max(start, 0), min(stop, n)) for (start, stop), n in zip(frame, shape, strict=True)
    )
    if any(span.start >= span.stop for span in (a, b, c)):
        raise DataError(
            "nothing of the image's content lies in the crop; set data.plane=none, or mend the "
            "image."
        )
    return a, b, c


def cut(array: np.ndarray, frame: Frame, fill: float = 0.0) -> np.ndarray:
    """The frame of `array` [d h w], `fill` where it reaches outside."""
    span = inside(frame, array.shape)
    before = [part.start - start for part, (start, _) in zip(span, frame, strict=True)]
    after = [stop - part.stop for part, (_, stop) in zip(span, frame, strict=True)]
    margins = list(zip(before, after, strict=True))
    return np.pad(array[span], margins, constant_values=fill)


def put_back(cut_out: np.ndarray, frame: Frame, shape: Shape) -> np.ndarray:
    """The inverse of `cut`: in an array [d h w] of this shape, 0 outside the frame."""
    span = inside(frame, shape)
    out = np.zeros(tuple(shape), cut_out.dtype)
    there = tuple(
        slice(part.start - start, part.stop - start)
        for part, (start, _) in zip(span, frame, strict=True)
    )
    out[span] = cut_out[there]
    return out


def _plane(
    shape: Shape, middle: Sequence[float], plan: Plan
) -> tuple[tuple[int, int], tuple[int, int]]:
    if plan.plane is None:
        return (0, shape[1]), (0, shape[2])
    top, left = (
        floor(place - size / 2 + 0.5) for place, size in zip(middle[1:], plan.plane, strict=True)
    )
    return (top, top + plan.plane[0]), (left, left + plan.plane[1])
