"""Our data sets as nnU-Net's raw layout: one data set a modality, or all modalities in one.

Both tools get the same voxels and the same classes: labels are numbered as `class_names` numbers
them (nnU-Net wants 0, 1, 2, ...; an ignore label comes last), images are the files themselves.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from unpaired.datasets.dataset import IGNORE, IGNORED, Case, Dataset, class_names, value_table
from unpaired.datasets.split_file import Part, Split
from unpaired.errors import DataError
from unpaired.files import write_json

ENDING = ".nii.gz"
MIXED = "mixed"
"""Name of the one channel of several modalities. nnU-Net normalises by this name: anything but CT
is brought to mean 0 and deviation 1 case by case, the one way that suits CT and MR alike."""


@dataclass(frozen=True)
class Raw:
    """A data set of nnU-Net.

    Attributes:
        name: "Dataset501_ct": what nnU-Net calls it.
        modalities: whose cases it holds.
    """

    name: str
    modalities: tuple[str, ...]


def raw_sets(modalities: Sequence[str], first: int = 501) -> dict[str, Raw]:
    """One for each modality by its name, and `MIXED` for all of them."""
    names = {m: (m,) for m in modalities} | {MIXED: tuple(modalities)}
    return {
        name: Raw(f"Dataset{first + place:03d}_{name}", own)
        for place, (name, own) in enumerate(names.items())
    }


def case_name(modality: str, case: str) -> str:
    """A name of its own in a data set of several modalities."""
    return f"{modality}__{case}"


def write_raw(raw: Raw, datasets: Mapping[str, Dataset], split: Split, folder: Path) -> Path:
    """Write `folder/<name>`: training and validation cases, and their split.

    Args:
        datasets: of all modalities, so that the classes are the same in every data set.
        folder: nnU-Net's `nnUNet_raw`.

    Returns:
        the folder of the data set. `splits_final.json` lies in it; nnU-Net looks for it among the
        preprocessed files.

    Raises:
        DataError: a file is no .nii.gz, or modalities to be mixed have other numbers of channels.
    """
    own = {m: datasets[m] for m in raw.modalities}
    classes = class_names(datasets)
    root = folder / raw.name
    parts: dict[str, list[str]] = {}
    for part in ("train", "val"):
        for m, ids in split.part(part).items():
            for case in _chosen(own, m, ids):
                _write_case(case, own[m], classes, root)
                parts.setdefault(part, []).append(case_name(m, case.id))
    write_json(
        root / "splits_final.json", [{p: sorted(parts.get(p, [])) for p in ("train", "val")}]
    )
    labels = {name: value for value, name in enumerate(classes)}
    if any(one.ignore is not None for one in own.values()):
        labels[IGNORE] = len(classes)
    write_json(
        root / "dataset.json",
        {
            "channel_names": dict(enumerate(_channels(own))),
            "labels": labels,
            "numTraining": sum(map(len, parts.values())),
            "file_ending": ENDING,
        },
    )
    return root


def write_images(
    datasets: Mapping[str, Dataset], split: Split, folder: Path, part: Part = "test"
) -> None:
    """The images to predict, in `folder/<part>/<modality>`, for both tools."""
    for m, ids in split.part(part).items():
        for case in _chosen(datasets, m, ids):
            _link_images(case, folder / part / m)


def truth_of(datasets: Mapping[str, Dataset], modality: str, case: str) -> np.ndarray:
    """The label of a case in class indices, on its file's grid; `IGNORED` where nobody knows."""
    (one,) = _chosen(datasets, modality, [case])
    return _indices(one, datasets[modality], class_names(datasets))[0]


def _chosen(datasets: Mapping[str, Dataset], modality: str, ids: Sequence[str]) -> list[Case]:
    if modality not in datasets:
        return []
    known = {case.id: case for case in datasets[modality].cases}
    return [known[name] for name in ids]


def _channels(own: Mapping[str, Dataset]) -> tuple[str, ...]:
    """nnU-Net's choice for one modality; for several, a name that stands for none of them."""
    names = {m: one.channel_names for m, one in own.items()}
    if len(names) == 1:
        return next(iter(names.values()))
    counts = {m: len(channels) for m, channels in names.items()}
    if len(set(counts.values())) > 1:
        raise DataError(
            f"nnU-Net cannot mix modalities of other numbers of channels, and these have {counts}; "
            "leave its mixed rows out (--only)."
        )
    (count,) = set(counts.values())
    return tuple(MIXED if count == 1 else f"{MIXED}{place}" for place in range(count))


def _write_case(case: Case, dataset: Dataset, classes: Sequence[str], root: Path) -> None:
    _link_images(case, root / "imagesTr")
    array, image = _indices(case, dataset, classes)
    array[array == IGNORED] = len(classes)
    path = root / "labelsTr" / f"{case_name(case.modality, case.id)}{ENDING}"
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, image.affine, _plain(image.header)), path)


def _plain(header: nib.Nifti1Header) -> nib.Nifti1Header:
    """The header of the label file without what described its old numbers."""
    kept = header.copy()
    kept.set_data_dtype(np.uint8)
    kept.set_slope_inter(1, 0)
    return kept


def _indices(
    case: Case, dataset: Dataset, classes: Sequence[str]
) -> tuple[np.ndarray, nib.Nifti1Image]:
    if case.label is None:
        raise DataError(f"{case.modality}/{case.id} has no label, so nothing can be learnt of it.")
    image = nib.load(_nifti(case.label))
    values = np.asarray(image.dataobj)
    indices = np.zeros(values.shape, np.uint8)
    for value, index in value_table(dataset, classes).items():
        indices[values == value] = index
    return indices, image


def _link_images(case: Case, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for channel, path in enumerate(case.images):
        target = folder / f"{case_name(case.modality, case.id)}_{channel:04d}{ENDING}"
        if target.exists():
            continue
        try:
            target.symlink_to(_nifti(path).resolve())
        except OSError:  # where links are not allowed
            shutil.copyfile(path, target)


def _nifti(path: Path) -> Path:
    if not path.name.endswith(ENDING):
        raise DataError(f"{path} is no {ENDING}; nnU-Net reads one kind of file a data set.")
    return path
