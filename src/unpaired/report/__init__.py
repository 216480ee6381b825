"""The report of a run, and the picture for a front page."""

from unpaired.report.overlays import hero
from unpaired.report.page import write_report

__all__ = ["hero", "write_report"]
