"""A cross-validation on disk: a folder whose fold_0, fold_1, ... are runs."""

from pathlib import Path

from unpaired.errors import DataError, UsageError
from unpaired.files import printable, read_json, write_json

FOLDS = "folds.json"
"""Says how many folds there are to be, so that a missing one is missed."""
VERSION = 1


def write_folds(root: Path, count: int) -> None:
    """Record how many folds `root` is to hold.

    Raises:
        UsageError: it holds another number.
    """
    if (root / FOLDS).is_file() and (before := len(fold_names(root))) != count:
        raise UsageError(
            f"{printable(root)} holds a cross-validation of {before} folds. Give --folds {before} "
            "to go on, or another --out."
        )
    write_json(root / FOLDS, {"version": VERSION, "folds": count}, seal=True)


def fold_names(root: Path) -> list[str]:
    """fold_0, fold_1, ...: those there are to be, also where they were not begun; of earlier
    versions, which left no record, those there are. Empty for anything but a cross-validation.

    Raises:
        DataError: the record is damaged.
    """
    path = root / FOLDS
    if not path.is_file():
        runs = (folder for folder in root.glob("fold_*") if folder.is_dir())
        return sorted((folder.name for folder in runs), key=_number)
    try:
        content = read_json(path)
        if content["version"] != VERSION or not isinstance(content["folds"], int):
            raise ValueError(f"version {content['version']}")
        return [f"fold_{n}" for n in range(content["folds"])]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{printable(path)} is not what `unpaired train --folds` writes ({error!r}). The same "
            "training command writes it anew once the file is removed."
        ) from error


def _number(name: str) -> tuple[int, str]:
    end = name.removeprefix("fold_")
    return (int(end) if end.isdecimal() else 0), name
