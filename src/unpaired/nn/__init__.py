"""Tensors only: no modality, no configuration, no file."""

from unpaired.nn.external_attention import ExternalAttention, Interaction, correlation

__all__ = ["ExternalAttention", "Interaction", "correlation"]
