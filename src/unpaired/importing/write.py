"""One case of an archive -> its files in the nnU-Net raw layout, checked, and a record of them."""

import gzip
import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from unpaired.datasets.archive import ArchiveCase
from unpaired.datasets.sides import wrong_sides
from unpaired.errors import DataError
from unpaired.files import cannot_write, printable
from unpaired.io.nifti import write_volume
from unpaired.io.volume import SAME_GRID_MM, Volume, same_grid

ENDING = ".nii.gz"
SNAP = 0.1
"""A label off the image's grid by less than this part of a voxel is a rounded header: it is
written on the image's grid, and the record says so. Further off, the case is refused."""
_GZIP = b"\x1f\x8b"


def stage_case(
    case: ArchiveCase,
    labels: Mapping[str, int],
    root: Path,
    stage: Path,
    allow_swapped: bool = False,
    link: bool = False,
) -> dict[str, Any]:
    """Check a case and write its files into the empty folder `stage`.

    Args:
        labels: class name -> value, for the check of values and sides.
        root: the archive's folder, against which the record names the originals.
        allow_swapped: organs on the wrong side become a note instead of an error.
        link: hard links instead of copies where a file stays as it is.

    Returns:
        The record of the case, for provenance.json: `files` maps each staged name to where it
        goes, its size and sha256.

    Raises:
        DataError: a file is damaged, grids differ, values have no name, or sides are swapped.
    """
    images = [image.read() for image in case.images]
    for number, image in enumerate(images[1:], 1):
        if not same_grid(images[0], image) <= SAME_GRID_MM:
            raise DataError(f"{case.id}: channel {number} does not lie on the grid of channel 0.")
    end = "Ts" if case.held_out else "Tr"
    notes = list(dict.fromkeys(note for image in images for note in image.notes))
    files: dict[str, dict[str, Any]] = {}
    for number, (part, volume) in enumerate(zip(case.images, images, strict=True)):
        name = f"{case.id}_{number:04d}{ENDING}"
        _write(stage / name, part.verbatim, volume, link)
        files[name] = {"folder": f"images{end}", "from": _originals(part, root)}
    if case.label is not None:
        name = f"{case.id}{ENDING}"
        label, verbatim, more = _label(case, labels, images[0], allow_swapped)
        _write(stage / name, verbatim, label, link)
        notes += more
        files[name] = {"folder": f"labels{end}", "from": _originals(case.label, root)}
    for name, about in files.items():
        about |= {"bytes": (stage / name).stat().st_size, "sha256": digest(stage / name)}
    return {
        "patient": case.patient,
        "part": case.part,
        "held_out": case.held_out,
        "files": files,
        "notes": notes,
    }


def _label(
    case: ArchiveCase, labels: Mapping[str, int], image: Volume, allow_swapped: bool
) -> tuple[Volume, Path | None, list[str]]:
    """The label on the image's grid, the file to copy if nothing changed, and notes."""
    assert case.label is not None
    read = case.label.read(image)
    label, verbatim, notes = read.volume, case.label.verbatim, [*read.volume.notes, *read.notes]
    strange = sorted(set(np.unique(label.array).tolist()) - {0, *labels.values()})
    if strange:
        some = ", ".join(map(str, strange[:6]))
        raise DataError(f"{case.id}: the label holds the values {some}, which have no name.")
    off = same_grid(image, label)
    if np.isinf(off):
        sizes = " x ".join(map(str, label.array.shape)), " x ".join(map(str, image.array.shape))
        raise DataError(f"{case.id}: the label has {sizes[0]} voxels, the image {sizes[1]}.")
    if off > SNAP * min(image.spacing_mm):
        raise DataError(f"{case.id}: the label lies up to {off:.3g} mm off the image's grid.")
    if off > SAME_GRID_MM:
        notes.append(f"the label's header was {off:.2g} mm off and now is the image's")
        label, verbatim = Volume(label.array, image.affine, image.header), None
    wrong = wrong_sides(label, labels, image)
    if wrong is not None and not allow_swapped:
        raise DataError(
            f"{case.id}: {wrong.sentence}. Mend the label, leave the case out, or import it as it "
            "is with --allow-swapped."
        )
    if wrong is not None:
        notes.append(wrong.sentence)
    return label, None if read.changed else verbatim, notes


def named(path: Path, root: Path) -> str:
    """An original's name against the archive's folder."""
    return printable(path.relative_to(root) if path.is_relative_to(root) else path)


def _originals(part: Any, root: Path) -> dict[str, dict[str, Any]]:
    """Original file, named against the archive's folder -> its size and sha256."""
    return {
        named(path, root): {"bytes": path.stat().st_size, "sha256": digest(path)}
        for path in part.files
    }


def _write(target: Path, verbatim: Path | None, volume: Volume, link: bool) -> None:
    """Byte for byte where the file may stay as it is, packed where only that is missing."""
    if verbatim is None:
        write_volume(target, volume.array, volume)
        return
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with verbatim.open("rb") as start:
            packed = start.read(2) == _GZIP
        if not packed:
            with (
                verbatim.open("rb") as plain,
                target.open("wb") as raw,
                gzip.GzipFile("", "wb", 4, raw, mtime=0) as file,
            ):
                shutil.copyfileobj(plain, file, 1 << 20)
            return
        if link and _linked(verbatim, target):
            return
        shutil.copyfile(verbatim, target)
    except OSError as error:
        raise cannot_write(target, error) from error


def _linked(source: Path, target: Path) -> bool:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another disk, or a file system without hard links
        return False
    return True


def digest(path: Path) -> str:
    """sha256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
