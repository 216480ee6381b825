"""Tensors in, scalar out; nothing of ours is imported."""

from unpaired.losses.consistency import icr, mcr
from unpaired.losses.objective import Objective, Prediction, Term, Terms, weigh
from unpaired.losses.segmentation import auxiliary_loss, dice_loss, segmentation_loss

__all__ = [
    "Objective",
    "Prediction",
    "Term",
    "Terms",
    "auxiliary_loss",
    "dice_loss",
    "icr",
    "mcr",
    "segmentation_loss",
    "weigh",
]
