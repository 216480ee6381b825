"""BIDS derivatives: sub-01_dseg.nii.gz beside, or in derivatives of, sub-01_T1w.nii.gz.

Read from the BIDS specification, "Derivatives: Imaging data types"; see docs/data.md.
"""

import csv
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from unpaired.datasets.archive import ArchiveSet, Options, Source
from unpaired.datasets.dataset import IGNORE, Case, Dataset
from unpaired.datasets.decathlon import set_key
from unpaired.datasets.locate import first, listed, need, without_ending
from unpaired.datasets.manifest import to_archive_set
from unpaired.datasets.nnunet import check_ids
from unpaired.errors import DataError, UsageError
from unpaired.files import printable
from unpaired.names import canonical_name

COMMON = {
    "background": 0, "gray matter": 1, "white matter": 2, "cerebrospinal fluid": 3, "bone": 4,
    "soft tissue": 5, "non-brain": 6, "lesion": 7, "cortical gray matter": 8,
    "subcortical gray matter": 9, "brainstem": 10, "cerebellum": 11,
}  # fmt: skip
"""The specification's common labels, which hold where no dseg.tsv says otherwise."""
# Entities that a segmentation may have and its image has not.
_DERIVED = {"space", "seg", "res", "den", "desc", "label", "atlas", "scale"}
_NO_IMAGE = {"dseg", "mask", "probseg", "xfm"}
_ENTITY = re.compile(r"([a-zA-Z0-9]+)-([a-zA-Z0-9+]+)")
_WANTED = "sub-01/anat/sub-01_T1w.nii.gz and a segmentation such as sub-01_dseg.nii.gz"


@dataclass(frozen=True)
class _File:
    """A file's name, taken apart."""

    path: Path
    entities: tuple[tuple[str, str], ...]
    suffix: str

    @property
    def source(self) -> frozenset[tuple[str, str]]:
        """The entities that an image and its segmentation share."""
        return frozenset(pair for pair in self.entities if pair[0] not in _DERIVED)


def looks_like(root: Path) -> bool:
    """Whether subjects, or derivatives with subjects, lie in the folder."""
    return any(re.fullmatch(r"sub-[A-Za-z0-9]+", child.name) for child in _children(root)) and any(
        file.suffix == "dseg" for file in _files(root)
    )


def open_bids(modality: str, root: Path) -> Dataset:
    """The images of one suffix (T1w, ct) that have a discrete segmentation.

    The suffix is the one named like the modality (`--data t1w=FOLDER`), or the only one there is.
    A case is named by its entities (`sub-01_ses-2`), a patient by its subject.

    Raises:
        DataError: no image has a segmentation, the suffix is not clear, or label tables differ.
    """
    pairs = _pairs(root)
    if not pairs:
        raise DataError(
            f"{printable(root)}: no image has a segmentation (_dseg.nii.gz) of its name."
        )
    keys = {set_key(suffix): suffix for suffix in pairs}
    wanted = modality.casefold().replace("_", "")
    suffix = keys.get(set_key(wanted)) or (next(iter(pairs)) if len(pairs) == 1 else None)
    if suffix is None:
        raise DataError(
            f"{printable(root)} holds segmented images of the kinds {', '.join(sorted(pairs))}; "
            f"name the modality after the one to read, such as --data "
            f"{min(keys)}={printable(root)}."
        )
    return _dataset(modality, root, suffix, pairs[suffix])


def _dataset(modality: str, root: Path, suffix: str, pairs: list[tuple[_File, _File]]) -> Dataset:
    tables: dict[tuple[tuple[str, int], ...], str] = {}
    cases = []
    for image, label in pairs:
        labels = _labels(label.path, root)
        tables.setdefault(tuple(sorted(labels.items())), label.path.name)
        name = "_".join(f"{key}-{value}" for key, value in image.entities)
        patient = dict(image.entities)["sub"]
        cases.append(Case(name, modality, (image.path,), label.path, f"sub-{patient}"))
    if len(tables) > 1:
        raise DataError(
            f"{printable(root)}: {' and '.join(map(printable, tables.values()))} have different "
            "label tables; give all segmentations one dseg.tsv."
        )
    check_ids([case.id for case in cases], root)
    channel = "CT" if suffix.casefold() == "ct" else suffix
    (table,) = tables
    cases.sort(key=lambda case: case.id)
    ignore = next((value for name, value in table if canonical_name(name) == IGNORE), None)
    labels = {name: value for name, value in table if canonical_name(name) != IGNORE}
    return Dataset(modality, root, (channel,), labels, tuple(cases), ignore=ignore)


def _pairs(root: Path) -> dict[str, list[tuple[_File, _File]]]:
    """Image suffix -> (image, segmentation), by equal entities.

    Raises:
        DataError: an image has two segmentations.
    """
    images: dict[str, dict[frozenset[tuple[str, str]], list[_File]]] = defaultdict(dict)
    labels: dict[frozenset[tuple[str, str]], list[_File]] = defaultdict(list)
    for file in _files(root):
        if file.suffix == "dseg":
            labels[file.source].append(file)
        elif file.suffix not in _NO_IMAGE:
            images[file.suffix].setdefault(file.source, []).append(file)
    pairs: dict[str, list[tuple[_File, _File]]] = {}
    for suffix, by_source in images.items():
        for source, files in by_source.items():
            if source not in labels:
                continue
            image = _one(files, labels[source])
            if len(labels[source]) > 1:
                names = ", ".join(printable(file.path.name) for file in labels[source])
                raise DataError(
                    f"{printable(image.path)} has several segmentations: {names}; keep one."
                )
            pairs.setdefault(suffix, []).append((image, labels[source][0]))
    return pairs


def _one(images: list[_File], labels: list[_File]) -> _File:
    """Of the versions of an image, the one in the segmentation's space, else the original."""
    space = dict(labels[0].entities).get("space", "orig")
    own = [i for i in images if dict(i.entities).get("space", "orig") == space] or images
    plain = [i for i in own if not {key for key, _ in i.entities} & (_DERIVED - {"space"})] or own
    if len(plain) > 1:
        names = ", ".join(printable(file.path) for file in plain)
        raise DataError(
            f"several images may belong to {printable(labels[0].path)}: {names}; keep one."
        )
    return plain[0]


def _files(root: Path) -> list[_File]:
    """The NIfTI files named as BIDS names them, of all subjects below `root`."""
    files = []
    try:
        paths = sorted(root.rglob("sub-*"))
    except OSError as error:
        raise DataError(f"cannot list {printable(root)}: {error.strerror or error}.") from error
    for path in paths:
        stem = without_ending(path)
        if stem is None:
            continue
        *parts, suffix = stem.split("_")
        matches = [_ENTITY.fullmatch(part) for part in parts]
        if parts and all(matches) and suffix.isalnum():
            entities = tuple((m[1], m[2]) for m in matches if m is not None)
            files.append(_File(path, entities, suffix))
    return files


def _labels(label: Path, root: Path) -> dict[str, int]:
    """Name -> value: of the table beside the segmentation, else of the nearest dseg.tsv above it,
    else the common labels."""
    beside = label.with_name(f"{without_ending(label)}.tsv")
    above = [folder / "dseg.tsv" for folder in (label.parent, *label.parent.parents)]
    inside = [path for path in above if path.parent == root or root in path.parent.parents]
    table = next((path for path in (beside, *inside) if path.is_file()), None)
    if table is None:
        return dict(COMMON)
    try:
        with table.open(encoding="utf-8-sig", newline="") as text:
            rows = list(csv.DictReader(text, delimiter="\t"))
        labels = {str(row["name"]).strip(): int(str(row["index"])) for row in rows}
    except (OSError, KeyError, ValueError, csv.Error) as error:
        raise DataError(
            f"{printable(table)}: a table with the columns index and name, separated by tabs, was "
            f"expected ({type(error).__name__}: {error}); correct it."
        ) from error
    if len(labels) < len(rows) or len(set(labels.values())) < len(rows):
        raise DataError(f"{printable(table)}: a name or an index comes twice; correct it.")
    return {**({} if 0 in labels.values() else {"background": 0}), **labels}


def _children(root: Path) -> list[Path]:
    """The folders of a data set and of its derivatives."""
    children = listed(root) if root.is_dir() else []
    derived = root / "derivatives"
    return children + ([c for p in listed(derived) for c in _sub(p)] if derived.is_dir() else [])


def _sub(folder: Path) -> list[Path]:
    return listed(folder) if folder.is_dir() else []


def _looks_like(root: Path) -> bool:
    return first(root, looks_like, 1) is not None


def _find(root: Path, options: Options) -> list[ArchiveSet]:
    """One set an image suffix, which BIDS has in place of a modality."""
    base = need(root, looks_like, _WANTED)
    pairs = _pairs(base)
    if options.modality and len(pairs) > 1:
        raise UsageError(
            f"{printable(base)} holds images of the kinds {', '.join(sorted(pairs))}, each of "
            "which becomes a folder; leave --modality out."
        )
    return [
        to_archive_set(_dataset(options.modality or set_key(s), base, s, pairs[s]), {})
        for s in sorted(pairs)
    ]


SOURCE = Source(
    wanted=_WANTED,
    reference="https://bids-specification.readthedocs.io/en/stable/derivatives/imaging.html",
    looks_like=_looks_like,
    find=_find,
    one_set=True,
)
