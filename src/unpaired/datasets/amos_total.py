"""Two archives of abdomens in CT and MR: AMOS22 and TotalSegmentator's training data.

amos_0001.nii.gz in imagesTr, imagesVa, imagesTs; s0000/ct.nii.gz (or mri.nii.gz) with one mask an
organ. See docs/data.md.
"""

import csv
import re
from pathlib import Path

from unpaired.datasets.archive import (
    ArchiveCase,
    ArchiveSet,
    ImageFile,
    LabelFile,
    MaskLabel,
    Options,
    Part,
    Source,
)
from unpaired.datasets.dataset_json import label_names, read_about
from unpaired.datasets.locate import (
    first,
    folders,
    listed,
    matching,
    need,
    plain_name,
    without_ending,
)
from unpaired.errors import DataError, UsageError
from unpaired.files import printable
from unpaired.names import did_you_mean

# AMOS22: CT up to 500, MR above. Laid out as nnU-Net's Dataset218 and Dataset219 read it.
LAST_CT = 500
NAMES = (
    "background", "spleen", "right kidney", "left kidney", "gallbladder", "esophagus", "liver",
    "stomach", "aorta", "inferior vena cava", "pancreas", "right adrenal gland",
    "left adrenal gland", "duodenum", "urinary bladder", "prostate/uterus",
)  # fmt: skip
_WANTED = "imagesTr/amos_0001.nii.gz and labelsTr/amos_0001.nii.gz"
_CASE = r"(amos_\d{4})"
_PARTS: tuple[tuple[str, Part | None], ...] = (("Tr", None), ("Va", "val"), ("Ts", None))


def is_amos(folder: Path) -> bool:
    """Whether the folder itself is AMOS as downloaded, not what was imported from it."""
    return bool(matching(folder / "imagesTr", _CASE)) and (folder / "labelsTr").is_dir()


def _looks_like(root: Path) -> bool:
    return first(root, is_amos) is not None


def _find(root: Path, options: Options) -> list[ArchiveSet]:
    """CT and MR; the validation scans are labelled, so they are training scans too."""
    base = need(root, is_amos, _WANTED)
    labels, file = dict(zip(NAMES, range(len(NAMES)), strict=True)), base / "dataset.json"
    if file.is_file():
        named = label_names(read_about(file), file).as_written
        labels = {plain_name(name): value for name, value in named.items()}
    cases: dict[str, list[ArchiveCase]] = {"ct": [], "mr": []}
    dropped = []
    for end, part in _PARTS:
        images = matching(base / f"images{end}", _CASE)
        truth = matching(base / f"labels{end}", _CASE)
        for name, path in sorted(images.items()):
            if name not in truth and end != "Ts":
                dropped.append(f"{name}: no label in labels{end}")
                continue
            label = LabelFile(truth[name]) if name in truth else None
            key = "ct" if int(re.sub(r"\D", "", name)) <= LAST_CT else "mr"
            case = ArchiveCase(name, name, (ImageFile(path),), label, part, held_out=end == "Ts")
            cases[key].append(case)
        dropped += [f"{n}: a label without an image" for n in sorted(truth.keys() - images.keys())]
    channels = {"ct": "CT", "mr": "MR"}
    return [
        ArchiveSet(key, (channels[key],), labels, tuple(own), dropped=tuple(dropped))
        for key, own in cases.items()
    ]


AMOS = Source(
    wanted=_WANTED,
    reference="https://zenodo.org/records/7262581",
    looks_like=_looks_like,
    find=_find,
)

# TotalSegmentator: one mask an organ. Laid out as its convert_dataset_to_nnunet.py reads it.
_TOTALSEGMENTATOR_WANTED = "s0000/ct.nii.gz (or mri.nii.gz) and s0000/segmentations/liver.nii.gz"
_KINDS = {"ct": ("ct.nii.gz", "CT"), "mr": ("mri.nii.gz", "MR")}
_TOTALSEGMENTATOR_PARTS: dict[str, Part] = {"train": "train", "val": "val", "test": "test"}


def _totalsegmentator_looks_like(root: Path) -> bool:
    return any(_is_root(folder) for folder in folders(root, 2))


def _totalsegmentator_find(root: Path, options: Options) -> list[ArchiveSet]:
    """A set for CT and one for MR, each with the organs that any of its cases has a mask of."""
    base = need(root, _is_root, _TOTALSEGMENTATOR_WANTED)
    subjects = [child for child in listed(base) if child.is_dir() and _is_case(child)]
    parts, sets = _parts(base), []
    for key, (file, channel) in _KINDS.items():
        own = [subject for subject in subjects if (subject / file).is_file()]
        if not own:
            continue
        organs = _organs(own, options.classes)
        values = {organ: value for value, organ in enumerate(organs, 1)}
        cases = tuple(
            ArchiveCase(
                subject.name,
                f"totalsegmentator_{key}_{subject.name}",
                (ImageFile(subject / file),),
                MaskLabel(tuple((values[o], _mask(subject, organs[o])) for o in organs)),
                parts.get(subject.name),
            )
            for subject in own
        )
        sets.append(ArchiveSet(key, (channel,), {"background": 0, **values}, cases))
    return sets


def _is_case(folder: Path) -> bool:
    images = any((folder / name).is_file() for name, _ in _KINDS.values())
    return images and (folder / "segmentations").is_dir()


def _is_root(folder: Path) -> bool:
    return any(child.is_dir() and _is_case(child) for child in listed(folder))


def _organs(subjects: list[Path], wanted: tuple[str, ...]) -> dict[str, str]:
    """Class name -> the masks' name, sorted by class name; those asked for if any are.

    Raises:
        UsageError: an organ nobody has a mask of.
        DataError: two masks stand for one organ.
    """
    known: dict[str, str] = {}
    for subject in subjects:
        for file in listed(subject / "segmentations"):
            stem = without_ending(file)
            if stem is None:
                continue
            if known.setdefault(plain_name(stem), stem) != stem:
                raise DataError(
                    f"{printable(file)}: another mask is named {known[plain_name(stem)]}."
                )
    if not wanted:
        return dict(sorted(known.items()))
    names = {plain_name(name): name for name in wanted}
    for name, given in names.items():
        if name not in known:
            raise UsageError(
                f"--classes {given}: no mask of that organ.{did_you_mean(name, known)} "
                f"There are {len(known)} organs, such as {', '.join(list(known)[:5])}."
            )
    return {name: known[name] for name in sorted(names)}


def _mask(subject: Path, stem: str) -> Path:
    plain = subject / "segmentations" / f"{stem}.nii"
    return plain if plain.exists() else subject / "segmentations" / f"{stem}.nii.gz"


def _parts(base: Path) -> dict[str, Part]:
    """Subject -> part, from meta.csv (separated by semicolons), if it is there."""
    file = base / "meta.csv"
    if not file.is_file():
        return {}
    try:
        with file.open(encoding="utf-8-sig", newline="") as text:
            rows = list(csv.DictReader(text, delimiter=";"))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"cannot read {printable(file)}: {error}; download it again.") from error
    return {
        str(row["image_id"]).strip(): _TOTALSEGMENTATOR_PARTS[str(row["split"]).strip()]
        for row in rows
        if row.get("image_id") and str(row.get("split")).strip() in _TOTALSEGMENTATOR_PARTS
    }


TOTALSEGMENTATOR = Source(
    wanted=_TOTALSEGMENTATOR_WANTED,
    reference="https://doi.org/10.5281/zenodo.6802613",
    looks_like=_totalsegmentator_looks_like,
    find=_totalsegmentator_find,
    takes_classes=True,
    says_parts=True,
)
