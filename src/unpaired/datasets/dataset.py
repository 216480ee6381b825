"""A data set of one modality, whatever its layout, and the classes several share."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unpaired.errors import DataError
from unpaired.io.read import files_of
from unpaired.names import canonical_name, closest, did_you_mean

BACKGROUND = "background"
IGNORE = "ignore"
"""The name, in dataset.json, of the value that marks voxels nobody annotated (nnU-Net)."""
IGNORED = 255
"""Their index in arrays of class indices: no class has it."""


@dataclass(frozen=True)
class Case:
    """One scan: a file a channel, and its label where there is one.

    Attributes:
        id: unique in its data set.
        modality: the data set's key, such as "ct".
        images: one file a channel, in the order of the data set's channel names.
        label: None for a scan to predict on.
        patient: scans of one patient never part between training and test; the case id unless
            the source knows better, so equal ids in two modalities are one patient.
        held_out: set aside by the data set (imagesTs): for testing, never drawn for training.
    """

    id: str
    modality: str
    images: tuple[Path, ...]
    label: Path | None
    patient: str
    held_out: bool = False


@dataclass(frozen=True)
class Dataset:
    """The cases of one modality.

    Attributes:
        labels: class name -> integer in the label files, background included.
        cases: sorted by id.
        files: those that say what the data set holds, such as dataset.json.
        ignore: the integer of voxels that nobody annotated; None: there is none.
    """

    modality: str
    root: Path
    channel_names: tuple[str, ...]
    labels: dict[str, int]
    cases: tuple[Case, ...]
    files: tuple[Path, ...] = ()
    ignore: int | None = None


def class_names(
    datasets: Mapping[str, Dataset], wanted: Sequence[str] | None = None
) -> tuple[str, ...]:
    """The names every data set has, "background" first, then in the first data set's value order.

    Args:
        wanted: the classes to segment, in this order; the others are background.

    Raises:
        DataError: no data set, no foreground name is shared, or a wanted one is missing.
    """
    if not datasets:
        raise DataError("there is no data set; give at least one folder a modality.")
    first, *others = datasets.values()
    known = [{canonical_name(name) for name in other.labels} for other in others]
    names = [
        canonical_name(name)
        for name, value in sorted(first.labels.items(), key=lambda item: item[1])
        if value != 0 and all(canonical_name(name) in names for names in known)
    ]
    if not names:
        raise DataError(_none_shared(datasets))
    return (BACKGROUND, *(names if wanted is None else _chosen(names, wanted)))


def classes_left_out(datasets: Mapping[str, Dataset], wanted: Sequence[str] | None = None) -> str:
    """A sentence on the classes that only some data sets have; empty where all have them."""
    if wanted is not None:
        return ""
    parts = [
        f"{', '.join(sorted(set(map(canonical_name, own))))} ({m})"
        for m, own in unshared_classes(datasets).items()
    ]
    if not parts:
        return ""
    return f"Not every modality has {'; '.join(parts)}: their voxels count as background."


def unshared_classes(datasets: Mapping[str, Dataset]) -> dict[str, list[str]]:
    """Modality -> its classes that not every data set has, as its own file names and orders them;
    modalities without such classes are left out."""
    own = {m: [name for name, value in d.labels.items() if value] for m, d in datasets.items()}
    shared = set.intersection(*({canonical_name(n) for n in names} for names in own.values()))
    left = {m: [n for n in names if canonical_name(n) not in shared] for m, names in own.items()}
    return {m: names for m, names in left.items() if names}


def value_table(dataset: Dataset, classes: Sequence[str]) -> dict[int, int]:
    """Integer in this data set's label files -> index in `classes`; names not in it become 0, the
    ignore label `IGNORED`."""
    index = {canonical_name(name): i for i, name in enumerate(classes)}
    table = {value: index.get(canonical_name(name), 0) for name, value in dataset.labels.items()}
    ignored = {} if dataset.ignore is None else {dataset.ignore: IGNORED}
    return {0: 0, **table, **ignored}


def foreground_values(dataset: Dataset, classes: Sequence[str]) -> list[int]:
    """The integers in this data set's label files that stand for one of `classes`."""
    table = value_table(dataset, classes)
    return [value for value, index in table.items() if index not in (0, IGNORED)]


def source_files(case: Case) -> list[dict[str, Any]]:
    """Path and size of every file; of a DICOM series every file counts.

    Raises:
        DataError: one is missing or may not be read.
    """
    sources = []
    named = (*case.images, *([case.label] if case.label else []))
    for path in (file for one in named for file in files_of(one)):
        try:
            size = path.stat().st_size
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}.") from error
        sources.append({"path": str(path), "size": size})
    return sources


def _chosen(names: Sequence[str], wanted: Sequence[str]) -> list[str]:
    chosen = list(dict.fromkeys(canonical_name(name) for name in wanted))
    chosen = [name for name in chosen if name != BACKGROUND]
    missing = [name for name in chosen if name not in names]
    if missing or not chosen:
        what = f"names {missing[0]!r}" if missing else "names no organ"
        hint = did_you_mean(missing[0], names) if missing else ""
        raise DataError(
            f"data.classes {what}; the modalities share {', '.join(names)}.{hint} "
            "data.classes=none takes all of these."
        )
    return chosen


def _none_shared(datasets: Mapping[str, Dataset]) -> str:
    foreground = {
        modality: [name for name, value in dataset.labels.items() if value != 0]
        for modality, dataset in datasets.items()
    }
    lists = "; ".join(f"{m}: {', '.join(names) or 'none'}" for m, names in foreground.items())
    pairs = []
    (_, first), *others = foreground.items()
    for modality, names in others:
        for name in names:
            if close := closest(name, first):
                pairs.append(f"{modality}'s {name!r} and {close!r}")
    hint = f" Did you mean the same by {' and by '.join(pairs)}?" if pairs else ""
    return (
        f"the data sets share no class name ({lists}).{hint} "
        "Give equal organs equal names under `labels` in each dataset.json."
    )
