"""The folded form: a plain network of its own per modality, without stem and without gains."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from unpaired.backbones.base import Decoded


class Folded(nn.Module):
    """Plain networks, chosen by the modality's name; called like a `Segmenter`.

    Args:
        networks: modality -> a network from image [B K_m *space] to `Decoded`.
    """

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleDict(dict(networks))

    @property
    def modalities(self) -> tuple[str, ...]:
        """The modalities it knows."""
        return tuple(self.networks)

    def forward(self, image: Float[Tensor, "B K *space"], modality: str) -> Decoded:
        """Segment images of one modality.

        Raises:
            KeyError: the modality is not one of this network's.
        """
        if modality not in self.networks:
            raise KeyError(
                f"{modality!r} is not one of this network's modalities {self.modalities}"
            )
        found: Decoded = self.networks[modality](image)
        return found

    def locate(self, view: Float[Tensor, "B K *space"], modality: str) -> Tensor:
        """Heat maps of coarse views, of networks that localise first (`models/payer.py`)."""
        found: Tensor = self.networks[modality].locate(view)  # type: ignore[operator]
        return found
