"""MONAI's SwinUNETR, UNETR, DynUNet and SegResNet, declared: `pip install "unpaired[monai]"`.

Options are named as MONAI names them. Importing monai takes seconds, so only a constructor does.
The scales are the outputs of the coarsest decoder stages, three at most (`eam_scales`); the
encoder that is private in V1 is everything before the decoder. V3 multiplies both branches of every
transformer block, the last convolution of SegResNet's pre-activation blocks, and the last norm of
every other convolutional block; one without a shortcut is scaled as a whole.
"""

from unpaired.backbones.monai.dynunet import MonaiDynUNet
from unpaired.backbones.monai.segresnet import MonaiSegResNet
from unpaired.backbones.monai.swin_unetr import MonaiSwinUNETR
from unpaired.backbones.monai.unetr import MonaiUNETR

__all__ = ["MonaiDynUNet", "MonaiSegResNet", "MonaiSwinUNETR", "MonaiUNETR"]
