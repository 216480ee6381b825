"""What is kept: modality stems, encoder(s), decoder. It knows nothing of classes' embeddings."""

from collections.abc import Mapping
from copy import deepcopy

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call

from unpaired.backbones.base import Backbone, Decoded
from unpaired.models.norms import PrivateNorms, find_norms
from unpaired.nn.block import Gains
from unpaired.nn.dims import CONV


class Stem(nn.Sequential):
    """Two 1x1 convolutions K_m -> K -> K, no activation, identity at the start (decision D1).

    With bias only where the layers that read the input do not pad with zeros: a bias would not
    fold at the border.
    """

    def __init__(self, in_channels: int, channels: int, dims: int, bias: bool) -> None:
        conv = CONV[dims]
        super().__init__(
            conv(in_channels, channels, 1, bias=bias), conv(channels, channels, 1, bias=bias)
        )
        for layer in self:
            assert isinstance(layer.weight, Tensor)
            nn.init.dirac_(
                layer.weight.data.view(*layer.weight.shape, *[1] * (3 - layer.weight.ndim))
            )
            if isinstance(layer.bias, Tensor):
                nn.init.zeros_(layer.bias)


class Segmenter(nn.Module):
    """The network that remains at test time.

    Args:
        backbone: the shared network.
        channels: modality -> its number of input channels K_m.
        private_encoders: one encoder per modality, alike at the start (variant V1); or whatever
            else the backbone's `take_private` gives.
        private_norms: scale, shift and statistics of every shared norm are a modality's own.
        fixed_stems: the stems stay the identity (channels that a modality lacks are 0).
    """

    def __init__(
        self,
        backbone: Backbone,
        channels: Mapping[str, int],
        private_encoders: bool = False,
        private_norms: bool = False,
        fixed_stems: bool = False,
    ) -> None:
        super().__init__()
        self.modalities = tuple(channels)
        k, dims, bias = backbone.in_channels, backbone.dims, not backbone.pads_input
        self.stems = nn.ModuleDict({m: Stem(n, k, dims, bias) for m, n in channels.items()})
        self.stems.requires_grad_(not fixed_stems)
        self.encoders = nn.ModuleDict()
        if private_encoders:
            taken = backbone.take_private()
            self.encoders.update({m: deepcopy(taken) for m in channels})
        self.norms = nn.ModuleDict()
        if private_norms:
            self.norms.update({m: PrivateNorms(backbone) for m in channels})
            for norm in find_norms(backbone).values():
                norm.requires_grad_(False)  # nothing reads it
        self.backbone = backbone
        self.branches = backbone.branches if not private_encoders else {}
        self.gains = nn.ModuleDict()

    def store_gains(self, gains: Mapping[str, Gains]) -> None:
        """Keep constant gains per modality, for use without the semantics that made them."""
        for m, table in gains.items():
            self.gains[m] = GainTable(torch.cat([table[name] for name in self.branches]))

    def stored_gains(self, modality: str) -> Gains | None:
        """The stored gains of `modality`, if there are any."""
        if modality not in self.gains:
            return None
        table = self.gains[modality]
        assert isinstance(table, GainTable)
        parts = table.phi.split(list(self.branches.values()))
        return dict(zip(self.branches, parts, strict=True))

    def forward(
        self, image: Float[Tensor, "B K *space"], modality: str, gains: Gains | None = None
    ) -> Decoded:
        """Segment images of one modality.

        Raises:
            KeyError: the modality is not one of this network's.
        """
        if modality not in self.stems:
            raise KeyError(
                f"{modality!r} is not one of this network's modalities {self.modalities}"
            )
        private = dict(self.encoders.items()).get(modality)
        if gains is None:
            gains = self.stored_gains(modality)
        given = self.stems[modality](image), gains, private
        if modality not in self.norms:
            decoded: Decoded = self.backbone(*given)
            return decoded
        norms = self.norms[modality].values_by_name()  # type: ignore[operator]
        return functional_call(self.backbone, norms, given)


class GainTable(nn.Module):
    """The constant diagonals of Phi of one modality, all branches in network order."""

    phi: Tensor

    def __init__(self, phi: Float[Tensor, " D"]) -> None:
        super().__init__()
        self.register_buffer("phi", phi.detach().clone())
