"""Small training networks for tests, assembled by hand as `methods` assemble them."""

import torch
from torch import Tensor, nn

from unpaired.backbones import SwinUnet
from unpaired.models import VARIANTS, Joint, Scaling, Segmenter, Semantics

CLASSES, SIZE, WIDTH = 3, (32, 32), 8


def small_backbone(seed: int = 0, channels: int = 3) -> SwinUnet:
    """Three decoder scales of 32, 16 and 8 channels; maps of 16, 8, 4 and 2; windows 2, shifted."""
    torch.manual_seed(seed)
    return SwinUnet(
        SIZE,
        channels,
        CLASSES,
        embed_dim=WIDTH,
        heads=(1, 2, 2, 4),
        window=2,
        patch=2,
        drop_path=0.0,
    ).double()


def small_joint(
    variant: str = "V3",
    modalities: tuple[str, ...] = ("a", "b"),
    alpha: float = 0.4,
    beta: float = 0.1,
    gamma: float = 0.1,
    channels: dict[str, int] | None = None,
    seed: int = 0,
    private_norms: bool = False,
) -> Joint:
    """Everything that the variant and the weights use, and nothing else."""
    chosen = VARIANTS[variant]
    channels = channels or dict.fromkeys(modalities, 3)
    backbone = small_backbone(seed, max(channels.values()))
    segmenter = Segmenter(backbone, channels, chosen.private_encoders, private_norms)
    scaling = Scaling(CLASSES, 4 * WIDTH, segmenter.branches) if chosen.scaling else None
    semantics = {}
    if alpha or beta or gamma or scaling is not None:
        widths = [level.channels for level in backbone.levels]
        semantics = {
            m: Semantics(CLASSES, widths, 4, predict=alpha > 0, correlate=gamma > 0)
            for m in modalities
        }
    return Joint(segmenter, semantics, scaling).double()


def shake(module: nn.Module, scale: float = 0.1, seed: int = 1) -> None:
    """Move every parameter away from its start, so that no zero or one hides an error."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(scale * torch.randn(p.shape, generator=generator, dtype=p.dtype))


def small_step(
    modalities: tuple[str, ...] = ("a", "b"), channels: int = 3, images: int = 2
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Images and labels of one step."""
    generator = torch.Generator().manual_seed(3)
    image = {
        m: torch.randn(images, channels, *SIZE, generator=generator).double() for m in modalities
    }
    label = {m: torch.randint(0, CLASSES, (images, *SIZE), generator=generator) for m in modalities}
    return image, label
