"""Two archives: MM-WHS 2017 (hearts in CT and MR) and BTCV (abdomens in CT).

ct_train_1001_image.nii.gz beside ct_train_1001_label.nii.gz; RawData/Training/img/img0001.nii.gz,
label/label0001.nii.gz. See docs/data.md.
"""

import re
from collections import defaultdict
from pathlib import Path

from unpaired.datasets.archive import ArchiveCase, ArchiveSet, ImageFile, LabelFile, Options, Source
from unpaired.datasets.locate import (
    first,
    folders,
    listed,
    matching,
    need,
    without_ending,
)
from unpaired.errors import DataError
from unpaired.files import printable

# MM-WHS: label values from the organisers' page, the layout from public readers.
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


def _looks_like(root: Path) -> bool:
    return bool(_files(root))


def _find(root: Path, options: Options) -> list[ArchiveSet]:
    """CT and MR; scans without a label (ct_test) go to imagesTs."""
    sets, files = [], _files(root)
    for key, channel in _CHANNELS.items():
        cases, dropped = [], []
        for (modality, part, number), kinds in sorted(files.items()):
            if modality != key:
                continue
            name = f"{key}_{part}_{number}"
            if "image" not in kinds:
                dropped.append(f"{name}: a label without an image")
                continue
            if "label" not in kinds and part == "train":
                dropped.append(f"{name}: a training image without a label")
                continue
            label = LabelFile(kinds["label"], STRAY) if "label" in kinds else None
            image = (ImageFile(kinds["image"]),)
            cases.append(ArchiveCase(name, f"mmwhs_{name}", image, label, held_out=part == "test"))
        sets.append(
            ArchiveSet(
                key, (channel,), MMWHS_LABELS, tuple(cases), ("421 became 420",), tuple(dropped)
            )
        )
    return sets


def _files(root: Path) -> dict[tuple[str, str, str], dict[str, Path]]:
    """(modality, train or test, number) -> kind -> file."""
    files: dict[tuple[str, str, str], dict[str, Path]] = defaultdict(dict)
    for folder in folders(root):
        for child in listed(folder):
            match = _NAME.fullmatch(without_ending(child) or "")
            if match is None:
                continue
            kinds = files[match[1], match[2], match[3]]
            if match[4] in kinds:
                raise DataError(
                    f"{printable(kinds[match[4]])} and {printable(child)}: remove one of them."
                )
            kinds[match[4]] = child
    return files


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

# BTCV (Beyond the Cranial Vault): layout and values as nnU-Net's Task017 reads them.
BTCV_LABELS = {
    "background": 0,
    "spleen": 1,
    "right kidney": 2,
    "left kidney": 3,
    "gallbladder": 4,
    "esophagus": 5,
    "liver": 6,
    "stomach": 7,
    "aorta": 8,
    "inferior vena cava": 9,
    "portal vein and splenic vein": 10,
    "pancreas": 11,
    "right adrenal gland": 12,
    "left adrenal gland": 13,
}
_WANTED = "Training/img/img0001.nii.gz and Training/label/label0001.nii.gz"


def _btcv_looks_like(root: Path) -> bool:
    return first(root, _training) is not None


def _btcv_find(root: Path, options: Options) -> list[ArchiveSet]:
    """The labelled scans of Training, then those of Testing, which have no label."""
    training = need(root, _training, _WANTED)
    images = matching(training / "img", r"img(\d{4})")
    labels = matching(training / "label", r"label(\d{4})")
    cases = [
        ArchiveCase(f"btcv_{n}", f"btcv_{n}", (ImageFile(images[n]),), LabelFile(labels[n]))
        for n in sorted(images.keys() & labels.keys())
    ]
    dropped = [f"img{n}: no label{n} beside it" for n in sorted(images.keys() - labels.keys())]
    dropped += [f"label{n}: no img{n} beside it" for n in sorted(labels.keys() - images.keys())]
    testing = first(root, _testing)
    for n, path in sorted(matching(testing / "img", r"img(\d{4})").items()) if testing else ():
        cases.append(ArchiveCase(f"btcv_{n}", f"btcv_{n}", (ImageFile(path),), None, held_out=True))
    return [ArchiveSet("ct", ("CT",), BTCV_LABELS, tuple(cases), dropped=tuple(dropped))]


def _training(folder: Path) -> bool:
    return bool(matching(folder / "img", r"img(\d{4})")) and (folder / "label").is_dir()


def _testing(folder: Path) -> bool:
    return folder.name in ("Testing", "Test") and bool(matching(folder / "img", r"img(\d{4})"))


BTCV = Source(
    wanted=_WANTED,
    reference="https://www.synapse.org/#!Synapse:syn3193805/wiki/217789",
    looks_like=_btcv_looks_like,
    find=_btcv_find,
    literature={"ct": frozenset({"1", "9", "30", "32", "33", "39"})},
)
