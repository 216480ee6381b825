"""The nnU-Net raw layout: imagesTr/<case>_0000.nii.gz, labelsTr/<case>.nii.gz, dataset.json.

Other image formats count as well, and a folder <case>_0000 with a DICOM series. Read from nnU-Net's
documentation (dataset_format.md); dataset.json of versions 1 and 2.
"""

import re
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

from unpaired.datasets.dataset import Case, Dataset
from unpaired.datasets.dataset_json import (
    channels_of,
    check_ending,
    label_names,
    patients_of,
    read_about,
)
from unpaired.errors import DataError
from unpaired.io.read import ENDINGS, is_series_folder
from unpaired.names import did_you_mean, ending_of, file_name, printable, some

_RESERVED = {"con", "prn", "aux", "nul", *(f"com{i}" for i in range(1, 10))} | {
    f"lpt{i}" for i in range(1, 10)
}


def looks_like(root: Path) -> bool:
    """Whether `root` has a dataset.json or a folder imagesTr."""
    return (root / "dataset.json").is_file() or (root / "imagesTr").is_dir()


def open_nnunet(modality: str, root: Path) -> Dataset:
    """The cases of imagesTr with labels, then those of imagesTs (labels from labelsTs, if any).

    Raises:
        DataError: a file, a name or dataset.json is at fault; the message lists all cases hit.
    """
    need_folder(root)
    return read_cases(modality, root, read_about(root / "dataset.json"))


def read_cases(modality: str, root: Path, about: dict[str, Any]) -> Dataset:
    """The data set of a folder whose dataset.json says `about`.

    Raises:
        DataError: as `open_nnunet`.
    """
    file = root / "dataset.json"
    check_ending(about, ENDINGS, file)
    channels, names = channels_of(about, file), label_names(about, file)
    images = _images(root / "imagesTr", len(channels))
    if not images:
        raise DataError(f"{printable(root / 'imagesTr')} holds no <case>_0000.nii.gz; add images.")
    cases = _with_labels(modality, images, _files(root / "labelsTr"), root)
    extra = _images(root / "imagesTs", len(channels)) if (root / "imagesTs").is_dir() else {}
    _refuse_twice(images, extra, root)
    truth = _files(root / "labelsTs") if (root / "labelsTs").is_dir() else {}
    cases += [Case(i, modality, extra[i], truth.get(i), i, held_out=True) for i in sorted(extra)]
    patients = patients_of(about, file)
    known = tuple(replace(case, patient=patients.get(case.id, case.patient)) for case in cases)
    return Dataset(modality, root, channels, names.classes, known, (file,), names.ignore)


def need_folder(root: Path) -> None:
    """Refuse a folder that is not there, naming the nearest existing ones."""
    try:
        if root.is_dir():
            list(root.iterdir())
            return
        if root.exists():
            raise DataError(f"{printable(root)} is a file; give the data set's folder.")
        parent = next((p for p in root.parents if p.is_dir()), Path())
        names = [child.name for child in parent.iterdir() if child.is_dir()]
    except OSError as error:
        raise DataError(f"cannot open {printable(root)}: {error.strerror or error}.") from error
    missing = root.relative_to(parent).parts[0] if parent in root.parents else root.name
    hint = did_you_mean(missing, names)
    there = f" {printable(parent.resolve())} holds: {', '.join(map(printable, sorted(names)[:8]))}."
    raise DataError(f"{printable(root)} does not exist.{hint}{there if names and not hint else ''}")


def _files(folder: Path) -> dict[str, Path]:
    """Name without ending -> file, for the images of `folder`; hidden files are skipped."""
    if not folder.is_dir():
        return {}
    files: dict[str, Path] = {}
    try:
        children = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"cannot list {printable(folder)}: {error.strerror or error}.") from error
    for child in children:
        stem = stem_of(child)
        if stem is None:
            continue
        if stem in files:
            raise DataError(
                f"{printable(files[stem])} lies beside {printable(child)}; one case, two files: "
                "remove one of them."
            )
        files[stem] = child
    return files


def stem_of(child: Path) -> str | None:
    """The name without its ending, of a folder with a DICOM series as it is; None: no image."""
    if child.name.startswith("."):
        return None
    ending = ending_of(child.name, ENDINGS)
    if not ending:
        return child.name if is_series_folder(child) else None
    return child.name.removesuffix(ending)


def _images(folder: Path, channels: int) -> dict[str, tuple[Path, ...]]:
    """Case id -> one file a channel."""
    parts: dict[str, dict[int, Path]] = defaultdict(dict)
    for stem, file in _files(folder).items():
        match = re.fullmatch(r"(.+)_(\d{4})", stem, re.DOTALL)
        if match is None:
            raise DataError(
                f"{printable(file)}: the name must end in the channel's number, "
                f"such as {printable(stem)}_0000.nii.gz."
            )
        parts[match[1]][int(match[2])] = file
    check_ids(parts, folder)
    wanted = list(range(channels))
    wrong = [i for i in sorted(parts) if sorted(parts[i]) != wanted]
    if wrong:
        have = ", ".join(f"{n:04d}" for n in sorted(parts[wrong[0]]))
        raise DataError(
            f"{printable(folder)}: {some(wrong)} must have the channels 0000 to "
            f"{channels - 1:04d} that dataset.json names, {printable(wrong[0])} has {have}."
        )
    return {i: tuple(parts[i][n] for n in wanted) for i in sorted(parts)}


def check_ids(ids: Any, where: Path) -> None:
    """Refuse case ids that are no safe file name, or that differ only by case.

    Results are written to <case>.nii.gz, on systems where `A` and `a` may be one file.
    """
    seen: dict[str, str] = {}
    for case in sorted(ids):
        stem = case.split(".")[0].casefold()
        if case in ("", ".", "..") or re.search(r"[/\\:\0]", case) or stem in _RESERVED:
            raise DataError(
                f"{printable(where)}: the case id {printable(case)!r} is no safe file name."
            )
        other = seen.setdefault(file_name(case).casefold(), case)
        if other != case:
            raise DataError(
                f"{printable(where)}: the case ids {printable(other)} and {printable(case)} differ "
                "only by upper and lower case; rename one."
            )


def _with_labels(
    modality: str, images: dict[str, tuple[Path, ...]], labels: dict[str, Path], root: Path
) -> list[Case]:
    bare = [case for case in images if case not in labels]
    if bare:
        raise DataError(
            f"{printable(root)}: no label in labelsTr for {some(bare)}; add <case>.nii.gz, or "
            "move the images to imagesTs."
        )
    orphans = [case for case in sorted(labels) if case not in images]
    if orphans:
        raise DataError(
            f"{printable(root)}: labelsTr has {some(orphans)} without an image in imagesTr."
        )
    return [Case(case, modality, images[case], labels[case], case) for case in sorted(images)]


def _refuse_twice(train: dict[str, Any], test: dict[str, Any], root: Path) -> None:
    both = sorted({case.casefold() for case in train} & {case.casefold() for case in test})
    if both:
        raise DataError(f"{printable(root)}: {some(both)} in imagesTr and in imagesTs; remove one.")
