"""Layouts on disk that can be opened, and archives that must be imported first.

One file each, one entry in `SOURCES` or `IMPORTS`.
"""

from collections.abc import Callable
from pathlib import Path

from unpaired.datasets import (
    amos_total,
    bids,
    chaos,
    decathlon,
    manifest,
    mmwhs_btcv,
    nnunet,
    regions,
)
from unpaired.datasets.archive import Source
from unpaired.datasets.dataset import Dataset
from unpaired.errors import DataError
from unpaired.files import printable

SOURCES: dict[str, Callable[[str, Path], Dataset]] = {
    "manifest": manifest.open_manifest,
    "decathlon": decathlon.open_decathlon,
    "nnunet": nnunet.open_nnunet,
    "bids": bids.open_bids,
}
# The first that recognises a folder opens it.
_RECOGNISE: dict[str, Callable[[Path], bool]] = {
    "manifest": manifest.looks_like,
    "decathlon": decathlon.looks_like,
    "nnunet": nnunet.looks_like,
    "bids": bids.looks_like,
}

# Of these a folder is made by `unpaired import`.
IMPORTS: dict[str, Source] = {
    "mmwhs": mmwhs_btcv.MMWHS,
    "btcv": mmwhs_btcv.BTCV,
    "chaos": chaos.SOURCE,
    "amos": amos_total.AMOS,
    "totalsegmentator": amos_total.TOTALSEGMENTATOR,
    "decathlon": decathlon.SOURCE,
    "manifest": manifest.SOURCE,
    "nnunet": regions.SOURCE,
    "bids": bids.SOURCE,
}


def open_dataset(modality: str, root: Path) -> Dataset:
    """Open `root` with the source that recognises it.

    Raises:
        DataError: the folder is missing, holds no known layout, or the layout is at fault.
    """
    if not manifest.looks_like(root):
        nnunet.need_folder(root)
    # A reader below would open it, CT and MR mixed.
    if root.is_dir() and amos_total.is_amos(root):
        raise DataError(_import_first("amos", root))
    for name, recognise in _RECOGNISE.items():
        if recognise(root):
            return SOURCES[name](modality, root)
    inside = [child for child in sorted(root.iterdir()) if nnunet.looks_like(child)]
    if inside:
        names = ", ".join(printable(child) for child in inside[:5])
        raise DataError(
            f"{printable(root)} holds several data sets, it is none itself. Did you mean {names}? "
            "Give one folder a modality."
        )
    fits = next((name for name, source in IMPORTS.items() if source.looks_like(root)), None)
    if fits is not None:
        raise DataError(_import_first(fits, root))
    raise DataError(
        f"{printable(root)} is not a data set: there is neither dataset.json nor imagesTr in it. "
        "Expected imagesTr/<case>_0000.nii.gz, labelsTr/<case>.nii.gz and dataset.json."
    )


def _import_first(name: str, root: Path) -> str:
    return (
        f"{printable(root)} looks like {name} as downloaded. Import it first: "
        f"unpaired import {name} {printable(root)} OUT, then give OUT/<modality>."
    )
