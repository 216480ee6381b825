"""Payer et al. 2017 (docs/comparators.md)."""

from unpaired.methods.payer.method import Payer

__all__ = ["Payer"]
