"""BTCV (Beyond the Cranial Vault, abdomen): RawData/Training/img/img0001.nii.gz, label/label0001.

Layout and label values as nnU-Net's Task017 conversion reads them; see docs/data.md.
"""

from pathlib import Path

from unpaired.data.importing.found import Found, FoundSet, Options, Source
from unpaired.data.importing.locate import first, matching, need
from unpaired.data.importing.parts import ImageFile, LabelFile

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


def _training(folder: Path) -> bool:
    return bool(matching(folder / "img", r"img(\d{4})")) and (folder / "label").is_dir()


def _testing(folder: Path) -> bool:
    return folder.name in ("Testing", "Test") and bool(matching(folder / "img", r"img(\d{4})"))


def _looks_like(root: Path) -> bool:
    return first(root, _training) is not None


def _find(root: Path, options: Options) -> list[FoundSet]:
    """The labelled scans of Training, then those of Testing, which have no label."""
    training = need(root, _training, _WANTED)
    images = matching(training / "img", r"img(\d{4})")
    labels = matching(training / "label", r"label(\d{4})")
    cases = [
        Found(f"btcv_{n}", f"btcv_{n}", (ImageFile(images[n]),), LabelFile(labels[n]))
        for n in sorted(images.keys() & labels.keys())
    ]
    dropped = [f"img{n}: no label{n} beside it" for n in sorted(images.keys() - labels.keys())]
    dropped += [f"label{n}: no img{n} beside it" for n in sorted(labels.keys() - images.keys())]
    testing = first(root, _testing)
    for n, path in sorted(matching(testing / "img", r"img(\d{4})").items()) if testing else ():
        cases.append(Found(f"btcv_{n}", f"btcv_{n}", (ImageFile(path),), None, held_out=True))
    return [FoundSet("ct", ("CT",), BTCV_LABELS, tuple(cases), dropped=tuple(dropped))]


BTCV = Source(
    wanted=_WANTED,
    reference="https://www.synapse.org/#!Synapse:syn3193805/wiki/217789",
    looks_like=_looks_like,
    find=_find,
    literature={"ct": frozenset({"1", "9", "30", "32", "33", "39"})},
)
