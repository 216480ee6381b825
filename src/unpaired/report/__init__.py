"""Pages for people: the report of a run, comparisons of runs, the check of data, one picture."""

from unpaired.report.overlays import hero
from unpaired.report.page import write_report

__all__ = ["hero", "write_report"]
