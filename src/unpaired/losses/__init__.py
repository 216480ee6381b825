"""Tensors in, scalar out; nothing of ours is imported."""

from unpaired.losses.consistency import icr, mcr
from unpaired.losses.objective import Objective, Prediction, Term, Terms, ease, weigh
from unpaired.losses.segmentation import SegmentationLoss, auxiliary_loss, dice_loss

__all__ = [
    "Objective",
    "Prediction",
    "SegmentationLoss",
    "Term",
    "Terms",
    "auxiliary_loss",
    "dice_loss",
    "ease",
    "icr",
    "mcr",
    "weigh",
]
