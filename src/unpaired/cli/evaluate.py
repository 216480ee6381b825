"""`unpaired evaluate`: scores of a run's test cases, or of one folder against another."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unpaired.cli.options import Json
from unpaired.cli.output import note, say, say_json, say_lines
from unpaired.errors import DataError, UsageError
from unpaired.names import printable, some
from unpaired.progress import ProgressBar

if TYPE_CHECKING:
    from unpaired.run.scores import Evaluation

PARTS = {"val": "cases that the folds held out", "test": "test cases, by the mean of all models"}


def command(
    run: Annotated[
        Path | None,
        typer.Argument(
            help="A run; its test cases are predicted and scored. Of the runs of --folds also the "
            "cases that each fold held out."
        ),
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
            found = _of_run(run, progress)
        elif predictions is not None and labels is not None and out is not None:
            one = _of_folders(predictions, labels, out, modality, tolerance_mm, progress)
            found = {"": (one, out)}
        else:
            raise AssertionError
    _say(found, as_json)


Found = Mapping[str, "tuple[Evaluation, Path]"]
"""What was scored, "" where that goes without saying -> the scores and their folder."""


def _of_run(run: Path, progress: ProgressBar) -> Found:
    from unpaired.evaluation.ensemble import evaluate_ensemble, is_ensemble
    from unpaired.evaluation.evaluate import NATIVE, evaluate
    from unpaired.run.folder import RunFiles

    if is_ensemble(run):
        root = run.parent if run.is_file() else run
        parts = evaluate_ensemble(run, progress=progress)
        return {PARTS[part]: (one, RunFiles(root).evaluation(part)) for part, one in parts.items()}
    if not run.is_dir():
        raise UsageError(f"{run} is not a run folder.")
    return {"": (evaluate(run, progress=progress)[NATIVE], run / "evaluation")}


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


def _say(found: Found, as_json: bool) -> None:
    from unpaired.run.scores import markdown

    if as_json:
        content = {name: _as_json(*one) for name, one in found.items()}
        say_json(content.get("", content))
    else:
        for name, (evaluation, folder) in found.items():
            if name:
                say(f"{name[0].upper()}{name[1:]}:")
            say_lines(markdown(evaluation))
            say(f"Tables per case: {folder}")
    for evaluation, _ in found.values():
        if evaluation.passed_over:
            note(f"passed over, no label by the ending of the name: {some(evaluation.passed_over)}")
    faults = [line for evaluation, _ in found.values() for line in _faults(evaluation)]
    for line in faults:
        note(line)
    if faults:
        raise typer.Exit(DataError.exit_code)


def _as_json(evaluation: "Evaluation", folder: Path) -> dict[str, Any]:
    from unpaired.run.scores import summarise

    return {
        "summary": summarise(evaluation.scores),
        "failures": evaluation.failures,
        "missing": evaluation.missing,
        "notes": evaluation.notes,
        "passed_over": evaluation.passed_over,
        "odd": {name: said for name, said in evaluation.odd.items() if said},
        "folder": folder,
    }


def _faults(evaluation: "Evaluation") -> Iterator[str]:
    """The cases that have no score, in a sentence."""
    if not (left := len(evaluation.failures) + len(evaluation.missing)):
        return
    reasons = [
        f"{len(found)} {why}: {', '.join(map(printable, found))}"
        for found, why in (
            (evaluation.missing, "without a prediction"),
            (list(evaluation.failures), "with a fault"),
        )
        if found
    ]
    cases = "1 case" if left == 1 else f"{left} cases"
    yield f"{cases} could not be scored ({'; '.join(reasons)})."
