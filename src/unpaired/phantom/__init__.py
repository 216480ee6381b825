"""Synthetic abdomens: unpaired CT-like and MR-like scans of four organs, made in seconds."""

from unpaired.phantom.level import LEVELS, Level
from unpaired.phantom.write import MODALITIES, make_subject, write_phantom

__all__ = ["LEVELS", "MODALITIES", "Level", "make_subject", "write_phantom"]
