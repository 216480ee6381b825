"""Data sets on disk: their layouts, and the split of their cases."""
