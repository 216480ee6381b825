"""`unpaired report`: curves, tables and overlays of a run as one page."""

from pathlib import Path
from typing import Annotated

import typer

from unpaired.cli.output import say
from unpaired.errors import UsageError


def command(run: Annotated[Path, typer.Argument(help="The run's folder.")]) -> None:
    """Write RUN/report/report.html, with figures of training and predictions."""
    if not run.is_dir():
        raise UsageError(f"{run} is not a run folder.")

    from unpaired.report import write_report

    say(f"Report: {write_report(run)}")
