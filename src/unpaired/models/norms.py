"""Norms of a modality's own in a shared network: scale, shift and, where there are, statistics."""

from copy import deepcopy

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)
"""Batch and instance norms are `_NormBase`."""


def find_norms(network: nn.Module) -> dict[str, nn.Module]:
    """Module path -> norm, in the network's order; those that hold nothing are left out."""
    return {
        path: module
        for path, module in network.named_modules()
        if isinstance(module, NORMS) and module.state_dict()
    }


class PrivateNorms(nn.ModuleList):
    """Copies of a network's norms, for one modality (Dou et al. 2020 share all the rest).

    Args:
        network: what is shared; its norms give the start.
    """

    def __init__(self, network: nn.Module) -> None:
        found = find_norms(network)
        super().__init__(deepcopy(norm) for norm in found.values())
        self.paths = tuple(found)

    def values_by_name(self) -> dict[str, Tensor]:
        """Name in the network -> this modality's tensor, parameters and statistics."""
        return {
            f"{path}.{name}": tensor
            for path, norm in zip(self.paths, self, strict=True)
            for name, tensor in (*norm.named_parameters(), *norm.named_buffers())
        }

    def copy_to(self, network: nn.Module) -> None:
        """Make them the network's own."""
        for path, norm in zip(self.paths, self, strict=True):
            network.get_submodule(path).load_state_dict(norm.state_dict())

    def start_from(self, network: nn.Module) -> None:
        """Take the values of the network's own."""
        for path, norm in zip(self.paths, self, strict=True):
            norm.load_state_dict(network.get_submodule(path).state_dict())
