"""Weights of another training into a backbone: what a file holds, and where it goes."""

from unpaired.backbones.transfer.layouts import Source, recognise
from unpaired.backbones.transfer.match import Entry, Match, match

__all__ = ["Entry", "Match", "Source", "match", "recognise"]
