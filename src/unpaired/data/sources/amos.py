"""AMOS22: amos_0001.nii.gz in imagesTr, imagesVa, imagesTs; CT up to 500, MR above.

Layout as nnU-Net's conversions (Dataset218, Dataset219) read it; see docs/data.md.
"""

import re
from pathlib import Path

from unpaired.data.importing.found import Found, FoundSet, Options, Part, Source
from unpaired.data.importing.locate import first, matching, need
from unpaired.data.importing.names import plain_name
from unpaired.data.importing.parts import ImageFile, LabelFile
from unpaired.data.sources.dataset_json import labels_of, read_about

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


def _find(root: Path, options: Options) -> list[FoundSet]:
    """CT and MR; the validation scans are labelled, so they are training scans too."""
    base = need(root, is_amos, _WANTED)
    labels, file = dict(zip(NAMES, range(len(NAMES)), strict=True)), base / "dataset.json"
    if file.is_file():
        said = labels_of(read_about(file), file)
        labels = {plain_name(name): value for name, value in said.items()}
    cases: dict[str, list[Found]] = {"ct": [], "mr": []}
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
            found = Found(name, name, (ImageFile(path),), label, part, held_out=end == "Ts")
            cases[key].append(found)
        dropped += [f"{n}: a label without an image" for n in sorted(truth.keys() - images.keys())]
    channels = {"ct": "CT", "mr": "MR"}
    return [
        FoundSet(key, (channels[key],), labels, tuple(found), dropped=tuple(dropped))
        for key, found in cases.items()
    ]


AMOS = Source(
    wanted=_WANTED,
    reference="https://zenodo.org/records/7262581",
    looks_like=_looks_like,
    find=_find,
)
