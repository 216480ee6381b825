"""Layouts on disk that can be opened: one file each, one entry in `SOURCES`."""

from collections.abc import Callable
from pathlib import Path

from unpaired.data.dataset import Dataset
from unpaired.data.paths import shown
from unpaired.data.sources import nnunet
from unpaired.errors import DataError

SOURCES: dict[str, Callable[[str, Path], Dataset]] = {
    "nnunet": nnunet.open_nnunet,
}
_RECOGNISE: dict[str, Callable[[Path], bool]] = {
    "nnunet": nnunet.looks_like,
}


def open_dataset(modality: str, root: Path) -> Dataset:
    """Open `root` with the source that recognises it.

    Raises:
        DataError: the folder is missing, holds no known layout, or the layout is at fault.
    """
    nnunet.need_folder(root)
    for name, recognise in _RECOGNISE.items():
        if recognise(root):
            return SOURCES[name](modality, root)
    inside = [child for child in sorted(root.iterdir()) if nnunet.looks_like(child)]
    if inside:
        names = ", ".join(shown(child) for child in inside[:5])
        raise DataError(
            f"{shown(root)} holds several data sets, it is none itself. Did you mean {names}? "
            "Give one folder a modality."
        )
    raise DataError(
        f"{shown(root)} is not a data set: there is neither dataset.json nor imagesTr in it. "
        "Expected imagesTr/<case>_0000.nii.gz, labelsTr/<case>.nii.gz and dataset.json."
    )
