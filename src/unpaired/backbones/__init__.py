"""Backbones: one file each, one line here to register."""

from unpaired.backbones.base import Backbone, Decoded, Level
from unpaired.backbones.nnformer import NNFormer
from unpaired.backbones.resenc_unet import ResEncUnet
from unpaired.backbones.swin_unet import SwinUnet

BACKBONES: dict[str, type[Backbone]] = {
    "swin_unet": SwinUnet,
    "nnformer": NNFormer,
    "resenc_unet": ResEncUnet,
}

__all__ = ["BACKBONES", "Backbone", "Decoded", "Level", "NNFormer", "ResEncUnet", "SwinUnet"]
