"""The command line: one file a verb, each a thin call of one function."""

from unpaired.cli.app import main

__all__ = ["main"]
