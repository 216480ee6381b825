"""Where models lie: in a run, in the runs of its folds, in an export, in what was chosen."""

from pathlib import Path
from typing import Any

from unpaired.artifact.chosen import choice_path, read_choice
from unpaired.artifact.onnx import ONNX
from unpaired.artifact.safetensors import WEIGHTS
from unpaired.artifact.unfinished import warn
from unpaired.errors import DataError
from unpaired.files import printable, read_json
from unpaired.run import RunFolder
from unpaired.run.folds import fold_names

RECORD, RECORD_FORMAT = "export.json", "unpaired-export"
_PLACES = ("model", "models", "safetensors", "bundle", "onnx")
"""Where a run, or an export of several formats, keeps its model; the first one counts."""


def model_folders(run: Path) -> list[Path]:
    """The folders of the models that `run` stands for: itself, one in it, those of its folds, or
    of the runs that were chosen. Folds without a model are said, and the others are given.

    Raises:
        DataError: there is none.
    """
    if (choice := choice_path(run)) is not None:
        return [folder for one in read_choice(choice).runs for folder in model_folders(one)]
    if (found := _model_in(run)) is not None:
        return [found]
    if names := fold_names(run):
        return _of_folds(run, names)
    if RunFolder(run).files.log.is_file():
        raise DataError(
            f"{printable(run)} has no model yet: the first is written at the first validation "
            "(train.steps_per_epoch). Go on with its training: the same command resumes."
        )
    what = "does not exist" if not run.exists() else f"holds no {WEIGHTS}, model/ or fold_*/"
    raise DataError(
        f"{printable(run)} {what}. Name the folder of a run whose training has written its model."
    )


def _of_folds(run: Path, names: list[str]) -> list[Path]:
    there = [run / name / "model" for name in names if (run / name / "model" / WEIGHTS).is_file()]
    if not there:
        raise DataError(
            f"{printable(run)}: none of its {len(names)} folds holds a model yet. Go on with its "
            "training: the same command resumes."
        )
    if missing := folds_without_model(run):
        warn(missing)
    return there


def folds_without_model(run: Path) -> str:
    """Which folds of a cross-validation hold no model yet, in a sentence; empty where all do."""
    names = fold_names(run)
    missing = [name for name in names if not (run / name / "model" / WEIGHTS).is_file()]
    if not missing:
        return ""
    return (
        f"{printable(run)}: {', '.join(missing)} hold{'s' * (len(missing) == 1)} no model yet, so "
        f"{len(names) - len(missing)} of {len(names)} folds count; the same training command goes "
        "on."
    )


def _model_in(folder: Path) -> Path | None:
    """The folder that holds the model: this one, or one of the known places in it."""
    if any((folder / name).is_file() for name in (WEIGHTS, ONNX)) or parts_of(folder):
        return folder
    found = (_model_in(folder / name) for name in _PLACES if (folder / name).is_dir())
    return next((place for place in found if place is not None), None)


def parts_of(folder: Path) -> dict[str, Path]:
    """Modality -> folder, of a folded export that has one a modality; empty for anything else.

    Raises:
        DataError: its record is damaged, or a part is missing.
    """
    path = folder / RECORD
    if not path.is_file():
        return {}
    parts = read_record(folder).get("parts", [])
    if not isinstance(parts, list) or not all(
        isinstance(name, str) and name.isidentifier() for name in parts
    ):
        raise DataError(f"{printable(path)} is not what an export writes. Export again.")
    for name in parts:
        if not (folder / name).is_dir():
            raise DataError(
                f"{printable(folder)} should hold the folder {name}. Export again, or name one of "
                "its folders."
            )
    return {name: folder / name for name in parts}


def read_record(folder: Path) -> dict[str, Any]:
    """The content of export.json.

    Raises:
        DataError: missing, damaged, foreign, or newer.
    """
    content = read_json(folder / RECORD)
    if not isinstance(content, dict) or content.get("format") != RECORD_FORMAT:
        raise DataError(f"{printable(folder / RECORD)} is not what an export writes. Export again.")
    if content.get("schema") != 1:
        raise DataError(f"{printable(folder / RECORD)} is of a newer version. Update unpaired.")
    return content
