"""Backbones: one file each, one line here to register."""

from unpaired.backbones.base import Backbone, Decoded, Level
from unpaired.backbones.foreign import Foreign, Scale
from unpaired.backbones.monai import MonaiDynUNet, MonaiSegResNet, MonaiSwinUNETR, MonaiUNETR
from unpaired.backbones.nnformer import NNFormer
from unpaired.backbones.resenc_unet import ResEncUnet
from unpaired.backbones.swin_unet import SwinUnet

BACKBONES: dict[str, type[Backbone]] = {
    "swin_unet": SwinUnet,
    "nnformer": NNFormer,
    "resenc_unet": ResEncUnet,
    "monai_swin_unetr": MonaiSwinUNETR,
    "monai_unetr": MonaiUNETR,
    "monai_dynunet": MonaiDynUNet,
    "monai_segresnet": MonaiSegResNet,
}

__all__ = [
    "BACKBONES",
    "Backbone",
    "Decoded",
    "Foreign",
    "Level",
    "NNFormer",
    "ResEncUnet",
    "Scale",
    "SwinUnet",
]
