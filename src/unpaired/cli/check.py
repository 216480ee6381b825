"""`unpaired check`: what is wrong with the data, worst first; nothing is changed."""

from pathlib import Path
from typing import Annotated

import typer

from unpaired.cli.options import Data, Json, parse_data
from unpaired.cli.progress import Progress
from unpaired.cli.show import say, say_json, say_table
from unpaired.errors import DataError, UsageError

NAME = "check"


def command(
    path: Annotated[
        Path | None, typer.Argument(help="A file, or a folder of NIfTI files, instead of --data.")
    ] = None,
    data: Data = None,
    as_json: Json = False,
) -> None:
    """Look for faults in data sets or files; exit code 3 if there are. Nothing is changed."""
    if (path is None) == (not data):
        raise UsageError("give either --data NAME=FOLDER (once per modality) or one PATH.")
    roots = {} if path is not None else parse_data(data)

    from unpaired.data.check import check, check_path
    from unpaired.data.sources import open_dataset

    if path is not None:
        if not path.exists():
            raise DataError(f"{path} does not exist.")
        findings = check_path(path)
    else:
        datasets = {m: open_dataset(m, root) for m, root in roots.items()}
        with Progress("check") as progress:
            findings = check(datasets, progress)
    if as_json:
        say_json(findings)
    elif findings:
        columns = ("severity", "modality", "case", "what", "mend", "file")
        say_table(columns, [[str(getattr(f, c)) for c in columns] for f in findings])
    errors = sum(f.severity == "error" for f in findings)
    if not as_json:
        say(f"{errors} errors, {len(findings) - errors} other findings.")
    if errors:
        raise typer.Exit(DataError.exit_code)
