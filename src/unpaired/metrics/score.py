"""Dice, and every metric of every class of one case in one pass."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Integer
from scipy.ndimage import find_objects

from unpaired.metrics.surface import checked_spacing, grown, surface_distances, union_box

IGNORED = 255
"""In a truth: a voxel that nobody annotated. It counts in no metric."""

# A metric of your own: name -> f(prediction, truth, spacing_mm) -> float on boolean masks cropped
# to the box that holds both (outside it both are empty), without voxels that nobody annotated. It
# is called where the truth is not empty, and appears in every table under its name.
EXTRA: dict[str, Callable[..., float]] = {}


@dataclass(frozen=True)
class ClassScore:
    """One class of one case. nan is undefined; everything is nan where the truth is empty."""

    cls: str
    dice: float
    asd_mm: float
    hd95_mm: float
    nsd: float
    truth_voxels: int
    prediction_voxels: int
    extra: Mapping[str, float] = field(default_factory=dict)


def dice(prediction: Bool[np.ndarray, "*space"], truth: Bool[np.ndarray, "*space"]) -> float:
    """Dice coefficient 2|P n T| / (|P| + |T|), in [0, 1].

    Args:
        prediction: boolean mask, any number of axes.
        truth: boolean mask of the same shape.

    Returns:
        nan where the truth is empty (the class is absent from the case, which is then excluded);
        0 where only the prediction is empty.
    """
    return _dice_from_counts(
        int(np.count_nonzero(prediction & truth)),
        int(np.count_nonzero(prediction)),
        int(np.count_nonzero(truth)),
    )


def _dice_from_counts(both: int, prediction: int, truth: int) -> float:
    """Dice from voxel counts; nan where the truth has none."""
    return 2 * both / (prediction + truth) if truth else float("nan")


def score(
    prediction: Integer[np.ndarray, "*space"],
    truth: Integer[np.ndarray, "*space"],
    classes: Sequence[str],
    spacing_mm: Sequence[float | int],
    tolerance_mm: float | int | Mapping[str, float] = 2.0,
    extra: Mapping[str, Callable[..., float]] = EXTRA,
) -> list[ClassScore]:
    """Score the foreground classes of two label maps.

    Args:
        prediction: class indices, 0 is background; any number of axes.
        truth: class indices on the same grid; `IGNORED` where nobody annotated.
        classes: names by index, background first; at most 255.
        spacing_mm: spacing of each array axis.
        tolerance_mm: of the NSD, one number or one per class name (2 mm for names left out).
        extra: further metrics by name.

    Returns:
        one `ClassScore` per foreground class, in the order of `classes`.

    Raises:
        ValueError: shapes or spacing do not fit.
    """
    checked_spacing(prediction, truth, spacing_mm)
    count, ignored = len(classes) - 1, truth == IGNORED
    unknown = bool(ignored.any())
    if unknown:
        prediction, truth = (np.where(ignored, 0, labels) for labels in (prediction, truth))
    # Cheap sums over whole axes first: what looks for the boxes of all classes is slow.
    foreground = union_box(prediction, truth)
    if foreground is None:
        return [_absent(cls, 0) for cls in classes[1:]]
    if unknown:  # what lies next to a mask decides where its surface is known
        foreground = grown(foreground, truth.shape)
    prediction, truth, ignored = prediction[foreground], truth[foreground], ignored[foreground]
    boxes = [find_objects(labels, max_label=count) for labels in (prediction, truth)]
    scores = []
    for index, cls in enumerate(classes[1:], start=1):
        box = _join(boxes[0][index - 1], boxes[1][index - 1])
        tolerance = (
            tolerance_mm.get(cls, 2.0) if isinstance(tolerance_mm, Mapping) else tolerance_mm
        )
        if box is None:
            scores.append(_absent(cls, 0))
            continue
        if unknown:
            box = grown(box, truth.shape)
        found, true = prediction[box] == index, truth[box] == index
        masks = _Masks(found, true, ignored[box] if unknown else None)
        scores.append(_one(cls, masks, spacing_mm, tolerance, extra))
    return scores


class _Masks(NamedTuple):
    """Of one class, cropped."""

    prediction: np.ndarray
    truth: np.ndarray
    ignored: np.ndarray | None


def _one(
    cls: str,
    masks: _Masks,
    spacing_mm: Sequence[float | int],
    tolerance_mm: float | int,
    extra: Mapping[str, Callable[..., float]],
) -> ClassScore:
    """Score one class."""
    prediction, truth, ignored = masks
    n_prediction, n_truth = int(np.count_nonzero(prediction)), int(np.count_nonzero(truth))
    if not n_truth:
        return _absent(cls, n_prediction)
    distances = surface_distances(prediction, truth, spacing_mm, ignored)
    return ClassScore(
        cls=cls,
        dice=_dice_from_counts(int(np.count_nonzero(prediction & truth)), n_prediction, n_truth),
        asd_mm=distances.asd(),
        hd95_mm=distances.hd95(),
        nsd=distances.nsd(tolerance_mm),
        truth_voxels=n_truth,
        prediction_voxels=n_prediction,
        extra={name: float(f(prediction, truth, spacing_mm)) for name, f in extra.items()},
    )


def _absent(cls: str, prediction_voxels: int) -> ClassScore:
    nan = float("nan")
    return ClassScore(cls, nan, nan, nan, nan, 0, prediction_voxels)


def _join(a: tuple[slice, ...] | None, b: tuple[slice, ...] | None) -> tuple[slice, ...] | None:
    """Smallest box that holds two boxes."""
    if a is None or b is None:
        return a or b
    pairs = zip(a, b, strict=True)
    return tuple(slice(min(i.start, j.start), max(i.stop, j.stop)) for i, j in pairs)
