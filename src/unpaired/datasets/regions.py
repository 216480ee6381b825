"""Importing the nnU-Net raw layout: regions without overlap are merged.

Read from nnU-Net's region_based_training.md.
"""

from dataclasses import replace
from pathlib import Path

from unpaired.datasets import decathlon, nnunet
from unpaired.datasets.archive import ArchiveSet, Label, LabelFile, Options, Source
from unpaired.datasets.dataset_json import read_about, without_regions
from unpaired.datasets.decathlon import set_key
from unpaired.datasets.locate import first, need
from unpaired.datasets.manifest import to_archive_set
from unpaired.datasets.passed_over import passed_over, passed_over_sentence

_WANTED = "imagesTr/<case>_0000.nii.gz, labelsTr/<case>.nii.gz and dataset.json"


def _is_raw(folder: Path) -> bool:
    raw = (folder / "dataset.json").is_file() and (folder / "imagesTr").is_dir()
    return raw and not decathlon.looks_like(folder)


def _looks_like(root: Path) -> bool:
    return first(root, _is_raw, 2) is not None


def _find(root: Path, options: Options) -> list[ArchiveSet]:
    """One set, with one value a class."""
    base = need(root, _is_raw, _WANTED)
    file = base / "dataset.json"
    about, merge = without_regions(read_about(file), file)
    opened = nnunet.read_cases("scan", base, about)
    opened_set = to_archive_set(opened, {})
    cases = []
    for case in opened_set.cases:
        label: Label | None = None
        if isinstance(case.label, LabelFile):
            label = LabelFile(case.label.path, merge)
        cases.append(replace(case, label=label))
    merged = tuple(f"{old} became {new}" for old, new in sorted(merge.items()))
    key = options.modality or set_key(opened.channel_names[0])
    left = passed_over(opened)
    dropped = (passed_over_sentence(left),) if left else ()
    return [replace(opened_set, key=key, cases=tuple(cases), merged=merged, dropped=dropped)]


SOURCE = Source(
    wanted=_WANTED,
    reference="https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/dataset_format.md",
    looks_like=_looks_like,
    find=_find,
    one_set=True,
)
