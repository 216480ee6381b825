"""Tensors in, scalar out; nothing of ours is imported."""

from unpaired.losses.consistency import icr, mcr
from unpaired.losses.distillation import Distillation, distillation
from unpaired.losses.located import LocateAndSegment
from unpaired.losses.objective import Objective, Prediction, Terms
from unpaired.losses.segmentation import auxiliary_loss, dice_loss, segmentation_loss

__all__ = [
    "Distillation",
    "LocateAndSegment",
    "Objective",
    "Prediction",
    "Terms",
    "auxiliary_loss",
    "dice_loss",
    "distillation",
    "icr",
    "mcr",
    "segmentation_loss",
]
