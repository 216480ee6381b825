"""What a user hands in - paths, volumes, arrays, folders - as volumes, one a channel, and cases."""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from unpaired.errors import DataError, UsageError
from unpaired.files import printable, sha256_of
from unpaired.io.dicom import holds_dicom
from unpaired.io.read import (
    ENDINGS,
    Reading,
    files_of,
    images_in,
    read_image,
    series_folders_in,
)
from unpaired.io.volume import Number, Volume, volume_of_array
from unpaired.io.write import marked
from unpaired.names import ending_of

AnyPath = Path | str
Image = AnyPath | Volume | np.ndarray | Tensor
_CHANNEL = re.compile(r"(?P<case>.+)_(?P<channel>\d{4})")


def paths_of(given: AnyPath | Sequence[AnyPath]) -> list[Path]:
    """Of one or several, given as text or as paths; `~` is the user's folder."""
    several = [given] if isinstance(given, str | Path) else given
    return [Path(one).expanduser() for one in several]


def volumes_of(
    image: Image | Sequence[Image],
    affine: np.ndarray | None = None,
    spacing_mm: Sequence[Number] | None = None,
    reading: Reading | None = None,
) -> list[Volume]:
    """One volume a channel.

    Args:
        image: one channel, or a sequence of them; arrays are [i j k].
        affine: of arrays: voxel index to millimetres (Right, Anterior, Superior).
        spacing_mm: of arrays without an affine; their axes then run to Right, Anterior, Superior.
        reading: which series of a DICOM folder, and whether its slices may be resampled.

    Raises:
        UsageError: an array without geometry, or a series that must be chosen.
        DataError: a file or an array is at fault.
    """
    several = isinstance(image, Sequence) and not isinstance(image, str)
    channels: Sequence[Image] = image if several else [image]  # type: ignore[assignment, list-item]
    if not channels:
        raise UsageError("there is no image; give a path, a volume, an array, or one a channel.")
    return [_volume(channel, affine, spacing_mm, reading) for channel in channels]


def told_otherwise(volume: Volume, modality: str, known: Iterable[str]) -> tuple[str, ...]:
    """A note, where a series calls itself another modality of the model than it is taken for."""
    told = str(getattr(volume.source, "modality", ""))
    others = {name.casefold() for name in known} - {modality.casefold()}
    if told.casefold() not in others:
        return ()
    return (f"the series says it is {told}, and was predicted as {modality}: see --modality",)


def _volume(
    image: Image,
    affine: np.ndarray | None,
    spacing_mm: Sequence[Number] | None,
    reading: Reading | None,
) -> Volume:
    if isinstance(image, str | Path):
        return read_image(Path(image), reading)
    return volume_of_array(image, affine, spacing_mm)


def grid_of(volume: Volume, mark: str | None = None) -> Volume:
    """The volume's geometry without its voxels, to write results on; `mark` goes into the
    header's description."""
    # A view of one byte: the memory of the voxels can be given back.
    empty = np.broadcast_to(np.uint8(0), volume.array.shape)
    grid = replace(volume, array=empty, padding=None)
    return grid if mark is None else marked(grid, mark)


def files_in(folder: Path) -> list[Path]:
    """The images directly in a folder, sorted: files by their names' endings, and folders that
    hold a DICOM series; hidden ones are no images.

    Raises:
        DataError: not a folder, it holds none, or slices lie among images.
    """
    if not folder.is_dir():
        raise DataError(f"{printable(folder)} is not a folder of images; check the path.")
    found = sorted([*images_in(folder), *series_folders_in(folder)])
    if holds_dicom(folder):
        if found:
            raise DataError(
                f"{printable(folder)} holds DICOM files and other images "
                f"({printable(found[0].name)}) side by side; keep them in folders of their own."
            )
        return [folder]
    if not found:
        inside = sorted(p.parent.name for p in folder.glob("*/*") if ending_of(p.name, ENDINGS))
        hint = f" Did you mean {printable(folder / inside[0])}?" if inside else ""
        raise DataError(
            f"{printable(folder)} holds no image (.nii.gz, .nrrd, .mha, .mgz, or a folder of "
            f"DICOM).{hint}"
        )
    return found


def case_of(path: Path) -> str:
    """The file's name without its ending; a folder's name."""
    return path.name.removesuffix(ending_of(path.name, (*ENDINGS, ".dcm")))


def content_mark(paths: Sequence[Path]) -> str:
    """A short fingerprint of the files of an image; of a folder with a series all of them.

    Raises:
        DataError: one cannot be read.
    """
    digests = [sha256_of(file) for path in paths for file in files_of(path)]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()[:16]


def case_of_channel(path: Path) -> str:
    """As `case_of`, without the number 0000 of a first channel."""
    return case_of(path).removesuffix("_0000")


def group_channels(
    paths: Sequence[Path], channels: int
) -> tuple[dict[str, tuple[Path, ...]], dict[str, str]]:
    """Files -> cases with one file a channel, and the cases that are not whole, with the reason.

    `<case>_0000.nii.gz`, `<case>_0001.nii.gz`, ... are the channels of a case (nnU-Net); where
    images have one channel any other name is a case of its own.
    """
    found: dict[str, dict[int, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for path in paths:
        match = _CHANNEL.fullmatch(case_of(path))
        if match and (channels > 1 or match["channel"] == "0000"):
            found[match["case"]][int(match["channel"])].append(path)
        else:
            found[case_of(path)][0].append(path)
    cases, failures = {}, {}
    for case, files in sorted(found.items()):
        reason = _incomplete(files, channels)
        if reason:
            failures[case] = reason
        else:
            cases[case] = tuple(files[k][0] for k in range(channels))
    return cases, failures


def _incomplete(files: Mapping[int, Sequence[Path]], channels: int) -> str:
    """Why the files are not one a channel; empty if they are."""
    for same in files.values():
        if len(same) > 1:
            names = " and ".join(printable(path.name) for path in same)
            return f"{names} are the same channel; remove all but one."
    missing = [k for k in range(channels) if k not in files]
    if missing:
        return f"channel {missing[0]:04d} of {channels} is missing; add the file."
    extra = [k for k in files if k >= channels]
    if extra:
        return f"there is a channel {extra[0]:04d}, but the model takes {channels}; remove it."
    return ""
