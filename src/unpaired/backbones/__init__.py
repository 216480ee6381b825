"""Backbones: one file each, one line here to register."""

from unpaired.backbones.base import Backbone, Decoded, Level
from unpaired.backbones.swin_unet import SwinUnet

BACKBONES: dict[str, type[Backbone]] = {"swin_unet": SwinUnet}

__all__ = ["BACKBONES", "Backbone", "Decoded", "Level", "SwinUnet"]
