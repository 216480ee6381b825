"""`unpaired check`: what is wrong with the data, worst first; nothing is changed."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unpaired.cli.options import ConfigFile, Data, Json, Preset, parse_data
from unpaired.cli.progress import Progress
from unpaired.cli.show import say, say_json, say_table
from unpaired.errors import DataError, UsageError

if TYPE_CHECKING:
    from unpaired.data.check import Examined, Finding

NAME = "check"
COLUMNS = ("severity", "modality", "case", "what", "amount", "mend", "file")


def command(
    path: Annotated[
        Path | None,
        typer.Argument(help="An image, a DICOM series or a folder of images, instead of --data."),
    ] = None,
    data: Data = None,
    splits: Annotated[
        Path | None,
        typer.Option("--splits", metavar="FILE", help="A splits_final.json to hold against them."),
    ] = None,
    folds: Annotated[
        int | None, typer.Option("--folds", min=2, help="Ask whether so many folds can be made.")
    ] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Processes; 0: all in this one.")
    ] = 2,
    fix_headers: Annotated[
        Path | None,
        typer.Option("--fix-headers", metavar="OUT", help="Write copies with mended headers."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write a page with pictures.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Look for faults in data sets or files; exit code 3 if there are. Nothing is changed.

    With --preset or --config also says what a training with these settings needs.
    """
    if (path is None) == (not data):
        raise UsageError("give either --data NAME=FOLDER (once per modality) or one PATH.")
    roots = {} if path is not None else parse_data(data)
    _there(path, splits)

    from unpaired.data.check import examine_path, examine_roots

    with Progress("check") as progress:
        if path is not None:
            done = examine_path(path, progress, workers)
        else:
            done = examine_roots(roots, progress, workers, splits, folds)
    findings = [*done.findings, *_needs(done, workers)]
    if as_json:
        say_json(findings)
    elif findings:
        say_table(COLUMNS, [[str(getattr(f, c)) for c in COLUMNS] for f in findings])
    errors = sum(f.severity == "error" for f in findings)
    if not as_json:
        say(f"{errors} errors, {len(findings) - errors} other findings.")
    if errors:
        raise typer.Exit(DataError.exit_code)


def _there(*paths: Path | None) -> None:
    for path in paths:
        try:
            if path is not None and not path.exists() and not path.is_symlink():
                raise DataError(f"{path} does not exist.")
        except OSError as error:  # such as a name of 300 characters
            raise DataError(f"cannot open {path}: {error.strerror}.") from error


def _needs(done: "Examined", workers: int) -> Sequence["Finding"]:
    """What preparing takes, said beforehand."""
    import psutil

    from unpaired.data.checks.needs import needs, needs_finding

    found = needs(done.datasets, done.facts)
    if found is None:
        return []
    return [needs_finding(found, workers, psutil.virtual_memory().available, None)]
