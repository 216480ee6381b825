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
from unpaired.datasets.dataset_json import channels_of, labels_of, patients_of, read_about
from unpaired.datasets.locate import first, need
from unpaired.datasets.nnunet import check_ids
from unpaired.errors import DataError
from unpaired.files import is_file, printable

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
    if not isinstance(listed, list) or not listed or not isinstance(listed[0], dict):
        return False
    image = listed[0].get("image")
    return isinstance(image, str) and is_file(root / image)


def open_decathlon(modality: str, root: Path) -> Dataset:
    """The cases of dataset.json as they lie there; one channel only.

    Raises:
        DataError: dataset.json is at fault, names files that are missing, or several channels,
            which lie in one file and must be parted by `unpaired import decathlon`.
    """
    about, file = read_about(root / "dataset.json"), root / "dataset.json"
    channels, labels = channels_of(about, file), labels_of(about, file)
    if len(channels) > 1:
        raise DataError(
            f"{printable(file)} names {len(channels)} channels ({', '.join(channels)}), which the "
            f"Decathlon keeps in one file a case. Part them: unpaired import decathlon "
            f"{printable(root)} OUT."
        )
    patients = patients_of(about, file)
    cases = tuple(
        Case(name, modality, (image,), label, patients.get(name, name), held_out=label is None)
        for name, image, label in _listed(about, root)
    )
    return Dataset(modality, root, channels, labels, cases, (file,))


def _listed(about: dict[str, Any], root: Path) -> list[tuple[str, Path, Path | None]]:
    """(case, image, label) of the training scans, then (case, image, None) of the test scans."""
    file = printable(root / "dataset.json")
    rows: list[tuple[str, Path, Path | None]] = []
    for entry in _entries(about, "training", file):
        pair = entry if isinstance(entry, dict) else {}
        image, label = pair.get("image"), pair.get("label")
        if not isinstance(image, str) or not isinstance(label, str):
            raise DataError(f'{file}: each entry of "training" needs an image and a label.')
        rows.append((_name(image, file), _there(root, image), _there(root, label)))
    for entry in _entries(about, "test", file):
        image = entry.get("image") if isinstance(entry, dict) else entry
        if not isinstance(image, str):
            raise DataError(f'{file}: "test" must list images.')
        if is_file(root / image):  # the Decathlon keeps some test scans to itself
            rows.append((_name(image, file), _there(root, image), None))
    check_ids([name for name, _, _ in rows], root)
    names = [name for name, _, _ in rows]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{file} lists the case {twice[0]!r} twice; remove one entry.")
    return sorted(rows, key=lambda one: (one[2] is None, one[0]))


def _entries(about: dict[str, Any], key: str, file: str) -> list[Any]:
    entries = about.get(key, [])
    if not isinstance(entries, list):
        raise DataError(f"{file}: {key!r} must be a list.")
    return entries


def _name(image: str, file: str) -> str:
    last = image.replace("\\", "/").rpartition("/")[2]
    ending = next((e for e in _ENDINGS if last.endswith(e)), None)
    if ending is None:
        raise DataError(f"{file}: {printable(image)} is no .nii or .nii.gz file.")
    return last.removesuffix(ending)


def _there(root: Path, name: str) -> Path:
    path = root / name
    if Path(name).is_absolute() or ".." in Path(name).parts or not is_file(path):
        raise DataError(
            f"{printable(root / 'dataset.json')} names {printable(name)}, which is not in that "
            "folder; correct the entry or add the file."
        )
    return path


def _looks_like(root: Path) -> bool:
    return first(root, looks_like, 2) is not None


def _find(root: Path, options: Options) -> list[ArchiveSet]:
    """One set; the channels of 4D images become one file each."""
    base = need(root, looks_like, _WANTED)
    about, file = read_about(base / "dataset.json"), base / "dataset.json"
    channels, labels = channels_of(about, file), labels_of(about, file)
    cases = []
    for name, image, label in _listed(about, base):
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
