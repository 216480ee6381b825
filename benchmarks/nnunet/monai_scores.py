"""Scores by MONAI's metrics on the files' own grid: the judge of both tools is neither of them."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import torch
from monai.metrics import (
    compute_average_surface_distance,
    compute_dice,
    compute_hausdorff_distance,
    compute_surface_dice,
)

from unpaired.datasets.dataset import IGNORED
from unpaired.errors import DataError

TOLERANCE_MM = 2.0
# Affines that are written and read again differ in their last digits.
SAME_MM = 1e-2


class ClassScore(NamedTuple):
    """One class of one case; nan where the truth lacks the class."""

    cls: str
    dice: float
    asd_mm: float
    hd95_mm: float
    nsd: float


def score_case(
    prediction: Path, truth: np.ndarray, affine: np.ndarray, classes: Sequence[str]
) -> list[ClassScore]:
    """Score a label file of class indices.

    Args:
        truth: class indices [i j k] on the grid of the case's own label file; `IGNORED` where
            nobody annotated.
        affine: of that file.
        classes: names by index, background first.

    Raises:
        DataError: the prediction lies on another grid.
    """
    image = nib.load(prediction)
    if image.shape != truth.shape or np.abs(image.affine - affine).max() > SAME_MM:
        raise DataError(
            f"{prediction} has {image.shape} voxels on a grid of its own, the truth {truth.shape}; "
            "predict the case again."
        )
    found = np.asarray(image.dataobj).astype(np.int64)
    unknown = truth == IGNORED
    found, known = np.where(unknown, 0, found), np.where(unknown, 0, truth).astype(np.int64)
    spacing_mm = nib.affines.voxel_sizes(affine).tolist()
    return [_one(cls, found == i, known == i, spacing_mm) for i, cls in enumerate(classes) if i]


def _one(cls: str, found: np.ndarray, known: np.ndarray, spacing_mm: Sequence[float]) -> ClassScore:
    """A class alone, cropped to the box of both masks and one voxel round it: MONAI's time goes by
    the size of the volume, and no surface of a mask lies outside."""
    if not known.any():
        return ClassScore(cls, *(math.nan,) * 4)
    if not found.any():
        return ClassScore(cls, 0.0, math.nan, math.nan, 0.0)
    box = _box(found | known)
    pair = [_two_channels(mask[box]) for mask in (found, known)]
    dice = compute_dice(*pair, include_background=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        asd = compute_average_surface_distance(*pair, symmetric=True, spacing=spacing_mm)
        hd95 = compute_hausdorff_distance(*pair, percentile=95, spacing=spacing_mm)
        nsd = compute_surface_dice(*pair, class_thresholds=[TOLERANCE_MM], spacing=spacing_mm)
    return ClassScore(cls, *(float(metric) for metric in (dice, asd, hd95, nsd)))


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    """A mask at the edge of the volume stays at the edge: outside counts as background."""
    sides = []
    for axis in range(mask.ndim):
        others = tuple(a for a in range(mask.ndim) if a != axis)
        there = np.flatnonzero(mask.any(axis=others))
        sides.append(slice(max(0, there[0] - 1), there[-1] + 2))
    return tuple(sides)


def _two_channels(mask: np.ndarray) -> torch.Tensor:
    """[1 2 i j k], background and class."""
    return torch.from_numpy(np.stack([~mask, mask])[None])
