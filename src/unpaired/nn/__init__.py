"""Tensors only: no modality, no configuration, no file."""

from unpaired.nn.correlation import correlation
from unpaired.nn.eam import ExternalAttention, Interaction

__all__ = ["ExternalAttention", "Interaction", "correlation"]
