"""Overlap of two masks."""

import numpy as np
from jaxtyping import Bool


def dice(prediction: Bool[np.ndarray, "*space"], truth: Bool[np.ndarray, "*space"]) -> float:
    """Dice coefficient 2|P n T| / (|P| + |T|), in [0, 1].

    Args:
        prediction: boolean mask, any number of axes.
        truth: boolean mask of the same shape.

    Returns:
        nan where the truth is empty (the class is absent from the case, which is then excluded);
        0 where only the prediction is empty.
    """
    return dice_from_counts(
        int(np.count_nonzero(prediction & truth)),
        int(np.count_nonzero(prediction)),
        int(np.count_nonzero(truth)),
    )


def dice_from_counts(both: int, prediction: int, truth: int) -> float:
    """Dice from voxel counts; nan where the truth has none."""
    return 2 * both / (prediction + truth) if truth else float("nan")
