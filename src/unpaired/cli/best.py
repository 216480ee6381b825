"""`unpaired best`: which of several runs to use, or the mean of which two."""

from pathlib import Path
from typing import Annotated

import typer

from unpaired.cli.options import Device, Json
from unpaired.cli.output import note, say, say_json, say_table
from unpaired.progress import ProgressBar


def command(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN",
            help="Runs of one split, or of --folds with one file of splits: 2D, 3D, ...",
        ),
    ],
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where the choice goes: DIR/best.json.")
    ],
    device: Device = None,
    as_json: Json = False,
) -> None:
    """Compare runs, and the mean of every two, on the cases that they held out; write the choice.

    `predict --model DIR` then takes it. The highest mean Dice wins; where the spread does not tell
    a cheaper one from it, that one. Test cases are not read. A second call goes on.
    """
    from unpaired.evaluation.best import find_best
    from unpaired.files import read_json

    with ProgressBar("best") as progress:
        best = find_best(runs, out, device=device or "auto", progress=progress)
    for text in best.notes:
        note(f"their mean is left out: {text}")
    if as_json:
        say_json({**read_json(best.file), "sentence": best.sentence, "file": best.file})
        return
    say_table(best.table)
    say(best.sentence)
    say(f"Use it as a model: unpaired predict IMAGE --model {out} --out LABELS")
