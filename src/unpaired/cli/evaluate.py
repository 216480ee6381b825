"""`unpaired evaluate`: scores of a run's test cases, or of one folder against another."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unpaired.cli.options import Json
from unpaired.cli.output import note, say, say_json, say_lines
from unpaired.errors import DataError, UsageError
from unpaired.names import printable, some
from unpaired.progress import ProgressBar

if TYPE_CHECKING:
    from unpaired.run.scores import Evaluation

NAME = "evaluate"


def command(
    run: Annotated[
        Path | None, typer.Argument(help="A run; its test cases are predicted and scored.")
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option("--predictions", help="Folder of label files to score.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", help="Folder of true label files, same names.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where the tables go, with --predictions.")
    ] = None,
    modality: Annotated[
        str, typer.Option("--modality", help="Name of the images' modality in the tables.")
    ] = "all",
    tolerance_mm: Annotated[
        float, typer.Option("--tolerance", min=0, help="Of the NSD, in mm, with --predictions.")
    ] = 2.0,
    as_json: Json = False,
) -> None:
    """Dice, ASD, HD95 and NSD per class and modality. Exit code 3 if a case could not be scored."""
    folders = [value for value in (predictions, labels, out) if value is not None]
    if (run is None) == (not folders) or 0 < len(folders) < 3:
        raise UsageError("give either a RUN, or --predictions, --labels and --out together.")

    with ProgressBar("evaluate") as progress:
        if run is not None:
            evaluation, folder = _of_run(run, progress), run / "evaluation"
        elif predictions is not None and labels is not None and out is not None:
            evaluation = _of_folders(predictions, labels, out, modality, tolerance_mm, progress)
            folder = out
        else:
            raise AssertionError
    _say(evaluation, folder, as_json)


def _of_run(run: Path, progress: ProgressBar) -> "Evaluation":
    if not run.is_dir():
        raise UsageError(f"{run} is not a run folder.")

    from unpaired.evaluation.evaluate import NATIVE, evaluate

    return evaluate(run, progress=progress)[NATIVE]


def _of_folders(
    predictions: Path,
    labels: Path,
    out: Path,
    modality: str,
    tolerance_mm: float,
    progress: ProgressBar,
) -> "Evaluation":
    from unpaired.evaluation.scores import evaluate_folder
    from unpaired.run.scores import write_evaluation

    evaluation = evaluate_folder(predictions, labels, modality, tolerance_mm, progress)
    write_evaluation(evaluation, out)
    return evaluation


def _say(evaluation: "Evaluation", folder: Path, as_json: bool) -> None:
    from unpaired.run.scores import markdown, summarise

    if as_json:
        parts = {
            "failures": evaluation.failures,
            "missing": evaluation.missing,
            "notes": evaluation.notes,
            "passed_over": evaluation.passed_over,
            "folder": folder,
        }
        say_json({"summary": summarise(evaluation.scores), **parts})
    else:
        say_lines(markdown(evaluation))
        say(f"Tables per case: {folder}")
    if evaluation.passed_over:
        note(f"passed over, no label by the ending of the name: {some(evaluation.passed_over)}")
    if left := len(evaluation.failures) + len(evaluation.missing):
        reasons = [
            f"{len(found)} {why}: {', '.join(map(printable, found))}"
            for found, why in (
                (evaluation.missing, "without a prediction"),
                (list(evaluation.failures), "with a fault"),
            )
            if found
        ]
        cases = "1 case" if left == 1 else f"{left} cases"
        note(f"{cases} could not be scored ({'; '.join(reasons)}).")
        raise typer.Exit(DataError.exit_code)
