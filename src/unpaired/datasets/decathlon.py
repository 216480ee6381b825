"""Medical Segmentation Decathlon: dataset.json lists the files; a 4D image holds the channels.

Layout as MONAI's decathlon_datalist.py and nnU-Net's convert_MSD_dataset.py read it; see
docs/data.md.
"""

import re
from pathlib import Path
from typing import Any

from unpaired.datasets.archive import (
    ArchiveCase,
    ArchiveSet,
    ImageFile,
    LabelFile,
    NiftiChannel,
    Options,
    Source,
)
from unpaired.datasets.dataset import Case, Dataset
from unpaired.datasets.dataset_json import channels_of, label_names, patients_of, read_about
from unpaired.datasets.locate import first, need
from unpaired.datasets.nnunet import check_ids
from unpaired.errors import DataError
from unpaired.files import is_file
from unpaired.names import ending_of, printable, some

_ENDINGS = (".nii.gz", ".nii")
_WANTED = 'dataset.json with "training": [{"image": "./imagesTr/a.nii.gz", "label": ...}]'


def looks_like(root: Path) -> bool:
    """Whether dataset.json lists images that are there under just that name.

    nnU-Net's version 1 lists them too, but stores them as <case>_0000.nii.gz.
    """
    if not (root / "dataset.json").is_file():
        return False
    try:
        about = read_about(root / "dataset.json")
    except DataError:
        return False
    listed = about.get("training")
    entries = [e for e in listed if isinstance(e, dict)] if isinstance(listed, list) else []
    images = (entry.get("image") for entry in entries)
    return any(isinstance(image, str) and is_file(root / image) for image in images)


def open_decathlon(modality: str, root: Path) -> Dataset:
    """The cases of dataset.json as they lie there; one channel only.

    Raises:
        DataError: dataset.json is at fault, names files that are missing (all are said), or several
            channels, which lie in one file and must be parted by `unpaired import decathlon`.
    """
    dataset, missing = open_present(modality, root)
    _refuse_missing(missing, root)
    return dataset


def open_present(modality: str, root: Path) -> tuple[Dataset, dict[str, str]]:
    """As `open_decathlon`, of the cases whose files are there; case -> the file that is not."""
    about, file = read_about(root / "dataset.json"), root / "dataset.json"
    channels, names = channels_of(about, file), label_names(about, file)
    if len(channels) > 1:
        raise DataError(
            f"{printable(file)} names {len(channels)} channels ({', '.join(channels)}), which the "
            f"Decathlon keeps in one file a case. Part them: unpaired import decathlon "
            f"{printable(root)} OUT."
        )
    patients = patients_of(about, file)
    rows, missing = _listed(about, root)
    cases = tuple(
        Case(name, modality, (image,), label, patients.get(name, name), held_out=label is None)
        for name, image, label in rows
    )
    found = Dataset(modality, root, channels, names.classes, cases, (file,), names.ignore)
    return found, missing


def _listed(
    about: dict[str, Any], root: Path
) -> tuple[list[tuple[str, Path, Path | None]], dict[str, str]]:
    """(case, image, label) of the training scans, then (case, image, None) of the test scans; of
    training scans that are not whole the case and the file that is not there."""
    file = printable(root / "dataset.json")
    rows: list[tuple[str, Path, Path | None]] = []
    missing: dict[str, str] = {}
    for entry in _entries(about, "training", file):
        pair = entry if isinstance(entry, dict) else {}
        image, label = pair.get("image"), pair.get("label")
        if not isinstance(image, str) or not isinstance(label, str):
            raise DataError(f'{file}: each entry of "training" needs an image and a label.')
        name, absent = _name(image, file), [f for f in (image, label) if not _is_there(root, f)]
        if absent:
            missing[name] = absent[0]
        else:
            rows.append((name, root / image, root / label))
    for entry in _entries(about, "test", file):
        image = entry.get("image") if isinstance(entry, dict) else entry
        if not isinstance(image, str):
            raise DataError(f'{file}: "test" must list images.')
        if _is_there(root, image):  # the Decathlon keeps some test scans to itself
            rows.append((_name(image, file), root / image, None))
    names = [*missing, *(name for name, _, _ in rows)]
    check_ids(names, root)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{file} lists the case {twice[0]!r} twice; remove one entry.")
    return sorted(rows, key=lambda one: (one[2] is None, one[0])), missing


def _entries(about: dict[str, Any], key: str, file: str) -> list[Any]:
    entries = about.get(key, [])
    if not isinstance(entries, list):
        raise DataError(f"{file}: {key!r} must be a list.")
    return entries


def _name(image: str, file: str) -> str:
    last = image.replace("\\", "/").rpartition("/")[2]
    ending = ending_of(last, _ENDINGS)
    if not ending:
        raise DataError(f"{file}: {printable(image)} is no .nii or .nii.gz file.")
    return last.removesuffix(ending)


def _is_there(root: Path, name: str) -> bool:
    """Whether the file lies in the folder; a path that leads out of it never does."""
    return not Path(name).is_absolute() and ".." not in Path(name).parts and is_file(root / name)


def _refuse_missing(missing: dict[str, str], root: Path) -> None:
    if not missing:
        return
    are, entry = ("is", "entry") if len(missing) == 1 else ("are", "entries")
    raise DataError(
        f"{printable(root / 'dataset.json')} names {some(list(missing.values()), 20)}, which {are} "
        f"not in that folder; correct the {entry} or add what is missing."
    )


def _looks_like(root: Path) -> bool:
    return first(root, looks_like, 2) is not None


def _find(root: Path, options: Options) -> list[ArchiveSet]:
    """One set; the channels of 4D images become one file each."""
    base = need(root, looks_like, _WANTED)
    about, file = read_about(base / "dataset.json"), base / "dataset.json"
    channels, labels = channels_of(about, file), label_names(about, file).as_written
    cases = []
    rows, missing = _listed(about, base)
    _refuse_missing(missing, base)
    for name, image, label in rows:
        images: tuple[ImageFile | NiftiChannel, ...] = (ImageFile(image),)
        if len(channels) > 1:
            images = tuple(NiftiChannel(image, number) for number in range(len(channels)))
        truth = None if label is None else LabelFile(label)
        cases.append(ArchiveCase(name, name, images, truth, held_out=label is None))
    key = options.modality or set_key(channels[0])
    return [ArchiveSet(key, channels, labels, tuple(cases))]


def set_key(channel: str) -> str:
    """A folder's name from a channel's: "CT" -> "ct", "MRI" -> "mr", "T1-gd" -> "t1gd"."""
    text = re.sub(r"[^a-z0-9]", "", channel.casefold())
    text = "mr" if text in ("mri", "mr") else text
    return text if text[:1].isalpha() else f"scan{text}"


SOURCE = Source(
    wanted=_WANTED,
    reference="http://medicaldecathlon.com",
    looks_like=_looks_like,
    find=_find,
    one_set=True,
)
