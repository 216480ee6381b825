"""Data sets on disk: their layouts, splits, and the import of public archives."""
