"""Scores of predictions against the truth, on the native grid."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unpaired.data.preprocess import to_classes
from unpaired.datasets.dataset import BACKGROUND, IGNORED, Dataset, value_table
from unpaired.datasets.dataset_json import LabelNames, label_names, read_about
from unpaired.errors import DataError
from unpaired.files import printable
from unpaired.io.read import ENDINGS, others_in, read_label_image
from unpaired.io.volume import SAME_GRID_MM, Volume, same_grid
from unpaired.metrics import score
from unpaired.names import canonical_name, did_you_mean, ending_of, file_name
from unpaired.progress import Progress
from unpaired.run.scores import Evaluation, Score, Tolerance
from unpaired.workers import Work, share_out

# What predicting and scoring write beside label files.
_BESIDE = {".json", ".txt", ".ctbl", ".csv", ".tsv", ".md", ".html", ".pkl", ".npz"}


class Pair(NamedTuple):
    """A prediction and its truth; plain tuples of these four do as well."""

    modality: str
    case: str
    prediction: Path
    truth: Path


@dataclass(frozen=True)
class Labels:
    """What the values in label files mean.

    Attributes:
        classes: names by index, background first.
        tables: modality -> values in the truth files -> class index (`value_table`).
        predicted: as `tables`, for prediction files that do not hold class indices.
    """

    classes: Sequence[str]
    tables: Mapping[str, Mapping[int, int]]
    predicted: Mapping[str, Mapping[int, int]] = field(default_factory=dict)

    def of_prediction(self, modality: str) -> Mapping[int, int]:
        """Values in the prediction files -> class index."""
        return self.predicted.get(modality) or {i: i for i in range(len(self.classes))}


def evaluate_pairs(
    pairs: Iterable[tuple[str, str, Path, Path]],
    labels: Labels,
    tolerance_mm: Tolerance = 2.0,
    progress: Progress | None = None,
    workers: int = 0,
    failures: dict[str, str] | None = None,
) -> list[Score]:
    """Score every pair (modality, case, prediction file, truth file), class by class.

    Args:
        tolerance_mm: of the NSD, one number or one per class.
        progress: called with (done, all, "modality/case").
        workers: processes; 0 stays in this one.
        failures: where given, a bad case is noted here and the others go on.

    Raises:
        DataError: after all cases, listing every bad one, where `failures` is not given.
        ResourceError: a worker process died.
    """
    jobs = [Pair(*pair) for pair in pairs]
    calls = [(pair, labels, tolerance_mm) for pair in jobs]
    scores: list[Score] = []
    bad: dict[str, str] = {}
    for done, (pair, (found, error)) in enumerate(zip(jobs, _run(calls, workers), strict=True), 1):
        name = f"{pair.modality}/{pair.case}"
        scores += found
        if error:
            bad[name] = error
        if progress:
            progress(done, len(jobs), name)
    if failures is not None:
        failures.update(bad)
    elif bad:
        lines = "\n".join(f"  {name}: {what}" for name, what in bad.items())
        raise DataError(f"{len(bad)} of {len(jobs)} cases could not be scored:\n{lines}")
    return scores


def _run(calls: list[tuple], workers: int) -> Iterator[tuple[list[Score], str | None]]:
    """Outcomes in the order of the calls."""
    if workers < 2:
        yield from (_attempt(*call) for call in calls)
        return
    names = [f"{pair.modality}/{pair.case}" for pair, *_ in calls]
    yield from share_out(Work(_attempt, calls, names, "scoring"), workers, in_order=True)


def _attempt(pair: Pair, labels: Labels, tolerance_mm: Tolerance) -> tuple[list[Score], str | None]:
    try:
        return evaluate_case(pair, labels, tolerance_mm), None
    except DataError as error:
        return [], str(error)


def evaluate_case(pair: Pair, labels: Labels, tolerance_mm: Tolerance) -> list[Score]:
    """Read and score one case.

    Raises:
        DataError: a file is at fault, the grids differ, or a value has no meaning.
    """
    prediction, truth = read_label_image(pair.prediction), read_label_image(pair.truth)
    _need_same_grid(prediction, truth, pair)
    # Files hold the first axis fastest; turned round, the arrays are read in memory order.
    found = score(
        _indices(prediction, labels, pair),
        to_classes(truth.array.T, labels.tables[pair.modality], printable(pair.truth)),
        labels.classes,
        truth.spacing_mm[::-1],
        tolerance_mm,
    )
    return [Score(modality=pair.modality, case=pair.case, **vars(one)) for one in found]


def _need_same_grid(prediction: Volume, truth: Volume, pair: Pair) -> None:
    offset = same_grid(prediction, truth)
    if offset <= SAME_GRID_MM:
        return
    what = (
        f"{offset:.3g} mm apart"
        if np.isfinite(offset)
        else f"of shape {prediction.array.shape} and {truth.array.shape}"
    )
    raise DataError(
        f"{printable(pair.prediction)} and {printable(pair.truth)} lie on different grids "
        f"({what}); predict on the image that the truth was drawn on, or resample the prediction "
        "onto it."
    )


def _indices(prediction: Volume, labels: Labels, pair: Pair) -> np.ndarray:
    """Prediction values -> class indices, [k j i]."""
    table, path = labels.of_prediction(pair.modality), pair.prediction
    largest = int(prediction.array.max(initial=0))
    if largest not in table:
        raise DataError(
            f"{printable(path)} holds the value {largest}, but the classes are "
            f"{', '.join(f'{value} {labels.classes[i]}' for value, i in sorted(table.items()))}; "
            "evaluate predictions with the classes they were made for."
        )
    return to_classes(prediction.array.T, table, printable(path))


# Scores of a plain folder of label files against another.


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
    beside it (the nnU-Net layout, the Decathlon's). Where one folder has no names, the other's hold
    for both; where none has, classes are named after their values ("label 1"). Voxels whose truth
    is `ignore` count in no metric.

    Raises:
        DataError: a folder is missing, no file name occurs in both, or the class names differ.
    """
    (truths, beside), (found, more) = _label_files(labels), _label_files(predictions)
    shared = sorted(truths.keys() & found.keys())
    if not shared:
        raise DataError(
            f"no file name occurs in both {printable(predictions)} ({len(found)} label files) and "
            f"{printable(labels)} ({len(truths)}); the prediction of case.nii.gz must be called "
            "case.nii.gz too."
        )
    own, known = read_label_names(predictions), read_label_names(labels)
    if own is not None and known is not None:
        _check_same_names((predictions, own.classes), (labels, known.classes))
    names = known or own or _names_of_values(truths[case] for case in shared)
    ordered = sorted((v, canonical_name(name)) for name, v in names.classes.items() if v != 0)
    classes = (BACKGROUND, *(name for _, name in ordered))
    if len(classes) > IGNORED:
        raise DataError(f"{printable(labels)} has {len(classes)} classes, more than {IGNORED}.")
    failures: dict[str, str] = {}
    # A prediction that says `ignore` names no class there.
    table = _table(own or names, classes)
    predicted = {value: 0 if index == IGNORED else index for value, index in table.items()}
    meant = Labels(classes, {modality: _table(names, classes)}, {modality: predicted})
    pairs = [(modality, case, found[case], truths[case]) for case in shared]
    scores = evaluate_pairs(pairs, meant, tolerance_mm, progress, workers, failures)
    missing = tuple(sorted(truths.keys() - found.keys()))
    alone = sorted(found.keys() - truths.keys())
    notes = (f"Not scored, since there is no truth of the name: {', '.join(alone)}.",)
    done = Evaluation(tuple(scores), failures, missing, tolerance_mm, notes if alone else ())
    return replace(done, passed_over=tuple(map(str, (*beside, *more))))


def _label_files(folder: Path) -> tuple[dict[str, Path], list[Path]]:
    """Case name -> file, and the files that are no label by the ending of their names."""
    if not folder.is_dir():
        raise DataError(f"{printable(folder)} is not a folder; give the folder of the label files.")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        ending = ending_of(path.name, ENDINGS)
        if ending and not path.name.startswith("."):
            case = file_name(path.name.removesuffix(ending))
            if case in found:
                raise DataError(
                    f"{printable(folder)} holds {printable(found[case].name)} and "
                    f"{printable(path.name)}; remove the one that does not count."
                )
            found[case] = path
    others = [path for path in others_in(folder, set(found.values())) if path.is_file()]
    return found, [path for path in others if path.suffix.lower() not in _BESIDE]


def read_label_names(folder: Path) -> LabelNames | None:
    """What the nearest labels.json or dataset.json says; None without one.

    Raises:
        DataError: the file is no table of names and whole numbers.
    """
    files = (folder / "labels.json", folder / "dataset.json", folder.parent / "dataset.json")
    for path in files:
        if path.is_file():
            about = read_about(path)
            plain = path.name == "labels.json" and "labels" not in about
            return label_names({"labels": about} if plain else about, path)
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
                f"{printable(lacks)} has no class {', '.join(map(repr, map(printable, alone)))}, "
                f"which {printable(has)} has.{hint} Give equal organs equal names in the "
                "labels.json of both folders; a class that is not meant to occur there gets an "
                "unused value."
            )


def _table(names: LabelNames, classes: Sequence[str]) -> dict[int, int]:
    return value_table(Dataset("", Path(), (), names.classes, (), ignore=names.ignore), classes)


def _names_of_values(paths: Iterable[Path]) -> LabelNames:
    """Names such as "label 3" for the values in the files; unreadable files are left for later."""
    values: set[int] = set()
    for path in paths:
        try:
            values.update(np.unique(read_label_image(path).array).tolist())
        except DataError:
            continue
    return LabelNames({f"label {value}": value for value in sorted(values - {0})})
