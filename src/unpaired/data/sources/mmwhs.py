"""MM-WHS 2017: ct_train_1001_image.nii.gz beside ct_train_1001_label.nii.gz; CT and MR.

Label values from the organisers' page; layout from public readers, see docs/data.md.
"""

import re
from collections import defaultdict
from pathlib import Path

from unpaired.data.importing.found import Found, FoundSet, Options, Source
from unpaired.data.importing.locate import folders, listed, without_ending
from unpaired.data.importing.parts import ImageFile, LabelFile
from unpaired.data.paths import shown
from unpaired.errors import DataError

MMWHS_LABELS = {
    "background": 0,
    "myocardium": 205,
    "left atrium": 420,
    "left ventricle": 500,
    "right atrium": 550,
    "right ventricle": 600,
    "ascending aorta": 820,
    "pulmonary artery": 850,
}
STRAY = {421: 420}
"""One training label holds a few voxels of 421 in the left atrium."""
_NAME = re.compile(r"(ct|mr)_(train|test)_(\d{4})_(image|label)")
_CHANNELS = {"ct": "CT", "mr": "MR"}


def _files(root: Path) -> dict[tuple[str, str, str], dict[str, Path]]:
    """(modality, train or test, number) -> kind -> file."""
    found: dict[tuple[str, str, str], dict[str, Path]] = defaultdict(dict)
    for folder in folders(root):
        for child in listed(folder):
            match = _NAME.fullmatch(without_ending(child) or "")
            if match is None:
                continue
            kinds = found[match[1], match[2], match[3]]
            if match[4] in kinds:
                raise DataError(f"{shown(kinds[match[4]])} and {shown(child)}: remove one of them.")
            kinds[match[4]] = child
    return found


def _looks_like(root: Path) -> bool:
    return bool(_files(root))


def _find(root: Path, options: Options) -> list[FoundSet]:
    """CT and MR; scans without a label (ct_test) go to imagesTs."""
    sets, files = [], _files(root)
    for key, channel in _CHANNELS.items():
        cases, lonely = [], []
        for (modality, part, number), kinds in sorted(files.items()):
            if modality != key:
                continue
            name = f"{key}_{part}_{number}"
            if "image" not in kinds:
                lonely.append(f"{name}: a label without an image")
                continue
            if "label" not in kinds and part == "train":
                lonely.append(f"{name}: a training image without a label")
                continue
            label = LabelFile(kinds["label"], STRAY) if "label" in kinds else None
            image = (ImageFile(kinds["image"]),)
            cases.append(Found(name, f"mmwhs_{name}", image, label, held_out=part == "test"))
        sets.append(
            FoundSet(
                key, (channel,), MMWHS_LABELS, tuple(cases), ("421 became 420",), tuple(lonely)
            )
        )
    return sets


MMWHS = Source(
    wanted="ct_train_1001_image.nii.gz, ct_train_1001_label.nii.gz, mr_train_1001_image.nii.gz",
    reference="https://www.sdspeople.fudan.edu.cn/zhuangxiahai/0/mmwhs/",
    looks_like=_looks_like,
    find=_find,
    literature={
        "ct": frozenset({"1003", "1008", "1014", "1019"}),
        "mr": frozenset({"1007", "1009", "1018", "1019"}),
    },
)
