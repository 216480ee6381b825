"""A CSV manifest: case,image,label,modality,patient,split, one line a scan.

Class names and channel names stand in a JSON file beside it (scans.csv -> scans.json), with the
keys of nnU-Net's dataset.json, for all modalities or under each modality's name.
"""

import csv
import io
from pathlib import Path
from typing import Any

from unpaired.datasets.archive import (
    ArchiveCase,
    ArchiveSet,
    ImageFile,
    LabelFile,
    Options,
    Part,
    Source,
)
from unpaired.datasets.dataset import Case, Dataset
from unpaired.datasets.dataset_json import LabelNames, channels_of, label_names, read_about
from unpaired.datasets.locate import listed
from unpaired.datasets.nnunet import check_ids
from unpaired.errors import DataError
from unpaired.files import printable
from unpaired.io.read import is_series_folder
from unpaired.names import did_you_mean

COLUMNS = ("case", "image", "label", "modality", "patient", "split")
_NEEDED = ("case", "image", "modality")
_PARTS: dict[str, Part | None] = {"": None, "train": "train", "val": "val", "test": "test"}
_LIMIT = 1 << 26
Row = dict[str, str]


def looks_like(path: Path) -> bool:
    """Whether `path` is a .csv or .tsv file."""
    return path.suffix.lower() in (".csv", ".tsv") and path.is_file()


def open_manifest(modality: str, path: Path) -> Dataset:
    """The scans of one modality. Several channels: files separated by `|`. Paths may be relative
    to the manifest.

    Raises:
        DataError: a column, a file or a name is at fault; no scan of that modality; a scan for
            validation, which only `unpaired import manifest` can write down as a split.
    """
    rows = read_rows(path)
    known = {row["modality"] for row in rows}
    if modality not in known:
        names = ", ".join(sorted(known))
        raise DataError(
            f"{printable(path)} has no scan of the modality {modality!r}, it has {names}."
            f"{did_you_mean(modality, known)}"
        )
    own = [row for row in rows if row["modality"] == modality]
    if any(row["split"] == "val" for row in own):
        raise DataError(
            f"{printable(path)} says which scans are for validation. Write them down as a split: "
            f"unpaired import manifest {printable(path)} OUT, then "
            "data.splits=OUT/splits_final.json."
        )
    return _dataset(modality, path, own)


def read_rows(path: Path) -> list[Row]:
    """The lines with all of `COLUMNS`, missing ones empty.

    Raises:
        DataError: unreadable, a needed column or cell is missing, an unknown column or split.
    """
    name = printable(path)
    try:
        if path.stat().st_size > _LIMIT:
            raise DataError(f"{name} is larger than {_LIMIT} bytes; it is no manifest.")
        text = path.read_text(encoding="utf-8-sig")
        head = text.partition("\n")[0]
        between = max(",;\t", key=head.count)
        # Not `splitlines`: it also cuts inside quotes and at characters that end no line of a CSV.
        table = list(csv.reader(io.StringIO(text, newline=""), delimiter=between, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {name}: {error}; save it as CSV in UTF-8.") from error
    columns = [cell.strip().casefold() for cell in table[0]] if table else []
    strange = [c for c in columns if c not in COLUMNS]
    missing = [c for c in _NEEDED if c not in columns]
    if missing or strange or len(set(columns)) < len(columns):
        hint = did_you_mean(strange[0], COLUMNS) if strange else ""
        raise DataError(
            f"{name}: the first line must name the columns {', '.join(COLUMNS)} "
            f"({', '.join(_NEEDED)} at least); it names {', '.join(columns) or 'none'}.{hint}"
        )
    rows = [_row(name, n, columns, cells) for n, cells in enumerate(table[1:], 2) if any(cells)]
    if not rows:
        raise DataError(f"{name} lists no scan.")
    return rows


def _row(name: str, number: int, columns: list[str], cells: list[str]) -> Row:
    if len(cells) != len(columns):
        raise DataError(
            f"{name}, line {number}: {len(cells)} cells for {len(columns)} columns; put text that "
            "holds the separator into quotes."
        )
    row = dict.fromkeys(COLUMNS, "") | {c: v.strip() for c, v in zip(columns, cells, strict=True)}
    empty = [c for c in _NEEDED if not row[c]]
    if empty:
        raise DataError(f"{name}, line {number}: the cell of {empty[0]!r} is empty; fill it.")
    row["split"] = row["split"].casefold()
    if row["split"] not in _PARTS:
        raise DataError(
            f"{name}, line {number}: the split {row['split']!r} is unknown; write train, val, test "
            "or nothing."
        )
    return row


def _dataset(modality: str, path: Path, rows: list[Row]) -> Dataset:
    about = _about(path, modality)
    file = path.with_suffix(".json")
    channels, names = channels_of(about, file), label_names(about, file)
    check_ids([row["case"] for row in rows], path)
    cases, seen = [], set()
    for row in rows:
        if row["case"] in seen:
            raise DataError(f"{printable(path)} has the case {row['case']!r} of {modality} twice.")
        seen.add(row["case"])
        images = tuple(_file(path, part) for part in row["image"].split("|"))
        if len(images) != len(channels):
            raise DataError(
                f"{printable(path)}: {row['case']} has {len(images)} images for the channels "
                f"{', '.join(channels)}; separate several by |."
            )
        label = _file(path, row["label"]) if row["label"] else None
        patient = row["patient"] or row["case"]
        held_out = row["split"] == "test" or (label is None and row["split"] == "")
        if label is None and not held_out:
            raise DataError(
                f"{printable(path)}: {row['case']} is for {row['split']} but has no label; add it, "
                "or leave its split empty."
            )
        cases.append(Case(row["case"], modality, images, label, patient, held_out))
    cases.sort(key=lambda case: (case.held_out, case.id))
    files, labels = (path, path.with_suffix(".json")), names.classes
    return Dataset(modality, path.parent, channels, labels, tuple(cases), files, names.ignore)


def _about(path: Path, modality: str) -> dict[str, Any]:
    file = path.with_suffix(".json")
    if not file.is_file():
        raise DataError(
            f"{printable(path)} needs {printable(file.name)} beside it, for the class names: "
            '{"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}}, or one such '
            "object under each modality's name."
        )
    about = read_about(file)
    own = about.get(modality, about)
    if not isinstance(own, dict):
        raise DataError(f"{printable(file)}: {modality!r} must be an object with labels.")
    return {"channel_names": {"0": modality}, **own}


def _file(manifest: Path, cell: str) -> Path:
    path = place(manifest, cell)
    if not is_image(path):
        raise DataError(
            f"{printable(manifest)} names {printable(cell)}, which is not there; correct it."
        )
    return path


def place(manifest: Path, cell: str) -> Path:
    """Where the file of a cell lies: beside the manifest, or where an absolute path says."""
    try:
        return manifest.parent / Path(cell.strip()).expanduser()
    except RuntimeError:  # the home of a user who is not there: a name like any other
        return manifest.parent / cell.strip()


def is_image(path: Path) -> bool:
    """Whether a file, or a folder with a DICOM series, is there."""
    try:
        return path.is_file() or is_series_folder(path)
    except OSError:  # a name that no file can have
        return False


def _manifests(root: Path) -> list[Path]:
    paths = [root] if looks_like(root) else []
    if root.is_dir():
        paths += [child for child in listed(root) if looks_like(child)]
    return [path for path in paths if path.with_suffix(".json").is_file()]


def _looks_like(root: Path) -> bool:
    return len(_manifests(root)) == 1


def _find(root: Path, options: Options) -> list[ArchiveSet]:
    """One set a modality, with the parts that the column split gives."""
    (path,) = _manifests(root)
    rows = read_rows(path)
    sets = []
    for modality in sorted({row["modality"] for row in rows}):
        own = [row for row in rows if row["modality"] == modality]
        opened = _dataset(modality, path, own)
        parts = {row["case"]: _PARTS[row["split"]] for row in own}
        sets.append(to_archive_set(opened, parts))
    return sets


def to_archive_set(opened: Dataset, parts: dict[str, Part | None]) -> ArchiveSet:
    """A data set that can be opened as it is, to be copied into the nnU-Net layout."""
    cases = tuple(
        ArchiveCase(
            case.id,
            case.patient,
            tuple(ImageFile(path) for path in case.images),
            None if case.label is None else LabelFile(case.label),
            parts.get(case.id),
            case.held_out,
        )
        for case in opened.cases
    )
    labels = LabelNames(opened.labels, opened.ignore).as_written
    return ArchiveSet(opened.modality, opened.channel_names, labels, cases)


SOURCE = Source(
    wanted=f"a .csv with the columns {', '.join(COLUMNS)} and a .json of the same name beside it",
    reference="docs/data.md",
    looks_like=_looks_like,
    find=_find,
)
