"""Scores of a plain folder of label files against another."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from unpaired.data.paths import shown
from unpaired.datasets.dataset import BACKGROUND, Dataset, canonical_name, did_you_mean, value_table
from unpaired.engine.evaluate_cases import Evaluation, Progress, Tolerance, evaluate_pairs
from unpaired.errors import DataError
from unpaired.files import read_json
from unpaired.io.read import ENDINGS, read_label_image


def evaluate_folder(
    predictions: Path,
    labels: Path,
    modality: str = "all",
    tolerance_mm: Tolerance = 2.0,
    progress: Progress | None = None,
    workers: int = 0,
) -> Evaluation:
    """Score a folder of label files against a folder of files of the same names.

    Class names are read from `labels.json` or `dataset.json` in the folder, or from `dataset.json`
    beside it (the nnU-Net layout). Where one folder has no names, the other's hold for both; where
    none has, classes are named after their values ("label 1").

    Raises:
        DataError: a folder is missing, no file name occurs in both, or the class names differ.
    """
    truths, found = _label_files(labels), _label_files(predictions)
    shared = sorted(truths.keys() & found.keys())
    if not shared:
        raise DataError(
            f"no file name occurs in both {shown(predictions)} ({len(found)} label files) and "
            f"{shown(labels)} ({len(truths)}); the prediction of case.nii.gz must be called "
            "case.nii.gz too."
        )
    own, known = read_label_names(predictions), read_label_names(labels)
    if own is not None and known is not None:
        _check_same_names((predictions, own), (labels, known))
    names = known if known is not None else own
    if names is None:
        names = _names_of_values(truths[case] for case in shared)
    ordered = sorted((v, canonical_name(name)) for name, v in names.items() if v != 0)
    classes = (BACKGROUND, *(name for _, name in ordered))
    failures: dict[str, str] = {}
    scores = evaluate_pairs(
        [(modality, case, found[case], truths[case]) for case in shared],
        classes,
        {modality: _table(names, classes)},
        tolerance_mm,
        progress,
        workers,
        {modality: _table(own if own is not None else names, classes)},
        failures,
    )
    missing = tuple(sorted(truths.keys() - found.keys()))
    return Evaluation(tuple(scores), failures, missing, tolerance_mm)


def _label_files(folder: Path) -> dict[str, Path]:
    """Case name -> file."""
    if not folder.is_dir():
        raise DataError(f"{shown(folder)} is not a folder; give the folder of the label files.")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        ending = next((e for e in ENDINGS if path.name.endswith(e)), None)
        if ending and not path.name.startswith("."):
            case = path.name.removesuffix(ending)
            if case in found:
                raise DataError(
                    f"{shown(folder)} holds {shown(found[case].name)} and {shown(path.name)}; "
                    "remove the one that does not count."
                )
            found[case] = path
    return found


def read_label_names(folder: Path) -> dict[str, int] | None:
    """Class name -> value from the nearest labels.json or dataset.json; None without one.

    Raises:
        DataError: the file is not names with whole numbers.
    """
    files = (folder / "labels.json", folder / "dataset.json", folder.parent / "dataset.json")
    for path in files:
        if path.is_file():
            content = read_json(path)
            labels = content.get("labels", content) if isinstance(content, dict) else None
            if not isinstance(labels, dict) or not all(_whole(v) for v in labels.values()):
                raise DataError(f'{shown(path)}: expected "labels": {{"liver": 1, ...}}.')
            return {name: int(value) for name, value in labels.items()}
    return None


def _check_same_names(*named: tuple[Path, Mapping[str, int]]) -> None:
    """Refuse a foreground name that only one folder has: it would score 0 without a reason."""
    (a, first), (b, second) = (
        (folder, {canonical_name(name) for name, value in table.items() if value != 0})
        for folder, table in named
    )
    for has, own, lacks, other in ((b, second, a, first), (a, first, b, second)):
        if alone := sorted(own - other):
            hint = did_you_mean(alone[0], sorted(other - own))
            raise DataError(
                f"{shown(lacks)} has no class {', '.join(map(repr, map(shown, alone)))}, which "
                f"{shown(has)} has.{hint} Give equal organs equal names in the labels.json of "
                "both folders; a class that is not meant to occur there gets an unused value."
            )


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _table(names: Mapping[str, int], classes: Sequence[str]) -> dict[int, int]:
    return value_table(Dataset("", Path(), (), dict(names), ()), classes)


def _names_of_values(paths: Iterable[Path]) -> dict[str, int]:
    """Names such as "label 3" for the values in the files; unreadable files are left for later."""
    values: set[int] = set()
    for path in paths:
        try:
            values.update(np.unique(read_label_image(path).array).tolist())
        except DataError:
            continue
    return {f"label {value}": value for value in sorted(values - {0})}
