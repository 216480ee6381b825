"""Room for the tensors of a folded network: the plain backbone of one modality."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from unpaired.backbones import Backbone
from unpaired.build import build_backbone, check_modality_names
from unpaired.config import Config
from unpaired.data.plan import Plan
from unpaired.models.folded import Folded


def build_folded(config: Config, plan: Plan) -> Folded:
    """The plain backbone that folding leaves of one modality, untrained.

    Raises:
        ValueError: the plan knows several modalities; each is folded into a file of its own.
    """
    check_modality_names(plan.modalities)
    if len(plan.modalities) != 1:
        raise ValueError(f"a folded network has one modality, its plan {len(plan.modalities)}")
    (modality,) = plan.modalities
    return Folded({modality: build_backbone(config, plan)})


def with_biases(network: Folded, tensors: Mapping[str, Tensor]) -> Folded:
    """With room for the biases that folding a stem adds to layers that have none."""
    backbone = only(network)
    for path in backbone.input_layers:
        layer, bias = backbone.get_submodule(path), tensors.get(f"{path}.bias")
        width = getattr(layer, "out_channels", None)
        if layer.bias is None and bias is not None and tuple(bias.shape) == (width,):
            where = layer.weight.device
            layer.bias = nn.Parameter(torch.empty(bias.shape, device=where))
    return network


def only(network: Folded) -> Backbone:
    """The backbone of a network of one modality."""
    (backbone,) = network.networks.values()
    assert isinstance(backbone, Backbone)
    return backbone
