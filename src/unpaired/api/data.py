"""Data sets in Python: folders of scans, and scans that lie in memory."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unpaired.datasets.dataset import IGNORE, Dataset
from unpaired.datasets.nnunet import check_ids
from unpaired.datasets.sources import open_dataset as open_folder
from unpaired.errors import DataError, UsageError
from unpaired.files import read_json, write_json
from unpaired.io.nifti import refuse_not_finite, write_volume
from unpaired.io.read import read_image
from unpaired.io.volume import SAME_GRID_MM, Number, Volume, same_grid, volumes_of_arrays
from unpaired.names import canonical_name, file_name, plural

RECORD = "in_memory.json"
"""Beside the written scans: what they were made from."""


def open_dataset(folder: str | Path) -> Dataset:
    """Open a folder of scans and labels in any layout that the command line takes (docs/data.md).

    Raises:
        DataError: the folder is missing, holds no known layout, or a file is at fault.
    """
    root = Path(folder).expanduser()
    return open_folder(root.name, root)


def read(image: str | Path) -> Volume:
    """An image or a label map, of any format that is read, with its geometry.

    Raises:
        DataError: the file is missing or damaged.
    """
    return read_image(Path(image).expanduser())


@dataclass(frozen=True, repr=False)
class MemoryDataset:
    """Scans and labels of one modality that lie in memory; made by `make_dataset`.

    Attributes:
        images: case id -> one volume a channel.
        labels: case id -> the label map, integers.
        classes: class name -> value in the label maps.
        channels: names of the channels; "CT" has intensities that mean the same in every scan.
    """

    images: Mapping[str, tuple[Volume, ...]]
    labels: Mapping[str, Volume]
    classes: Mapping[str, int]
    channels: tuple[str, ...]

    def __repr__(self) -> str:
        names = ", ".join(n for n, value in self.classes.items() if value and n != IGNORE)
        return f"MemoryDataset({len(self.images)} cases of {', '.join(self.channels)}: {names})"

    def write(self, folder: str | Path) -> Path:
        """Write the scans as a folder in the nnU-Net layout, once; returns the folder.

        Raises:
            DataError: the folder holds other scans already.
            ResourceError: it cannot be written.
        """
        folder = Path(folder).expanduser()
        now = {"digests": {i: self._digest(i) for i in sorted(self.images)}}
        record = folder / RECORD
        if record.is_file():
            before = read_json(record)["digests"]
            changed = sorted({i for i, _ in before.items() ^ now["digests"].items()})
            if changed:
                raise DataError(
                    f"{folder} holds the scans that this run began with, and {changed[0]} (one of "
                    f"{len(changed)}) is not what it was. Choose another out for other data."
                )
            return folder
        for case, channels in self.images.items():
            name = file_name(case)
            for k, volume in enumerate(channels):
                write_volume(folder / "imagesTr" / f"{name}_{k:04d}.nii.gz", volume.array, volume)
            label = self.labels[case]
            write_volume(folder / "labelsTr" / f"{name}.nii.gz", label.array, label)
        about = {
            "channel_names": {str(k): name for k, name in enumerate(self.channels)},
            "labels": {"background": 0, **self.classes},
            "numTraining": len(self.images),
            "file_ending": ".nii.gz",
        }
        write_json(folder / "dataset.json", about)
        write_json(record, now)
        return folder

    def _digest(self, case: str) -> str:
        found = hashlib.sha256()
        for volume in (*self.images[case], self.labels[case]):
            found.update(str((volume.array.shape, volume.array.dtype)).encode())
            found.update(np.ascontiguousarray(volume.array).tobytes())
            found.update(volume.affine.tobytes())
        return found.hexdigest()


def make_dataset(
    images: Mapping[str, Any],
    labels: Mapping[str, Any],
    *,
    classes: Mapping[str, int],
    spacing_mm: Sequence[Number] | None = None,
    affine: Any = None,
    channels: Sequence[str] = ("MR",),
) -> MemoryDataset:
    """A data set of scans that lie in memory.

    Args:
        images: case id -> array or tensor [i j k], a `Volume`, or a sequence of one a channel.
        labels: case id -> array or tensor [i j k] of integers, or a `Volume`.
        classes: class name -> value in the labels; 0 is the background, "ignore" the value of
            voxels that nobody annotated.
        spacing_mm: of arrays, along i, j, k, which run to the patient's Right, Anterior, Superior.
        affine: of arrays instead: voxel index to millimetres (Right, Anterior, Superior).
        channels: a name per channel; name a CT's "CT", whose units mean the same in every scan.

    Raises:
        UsageError: an array without spacing, or with one that cannot be its own.
        DataError: a case without label, shapes that differ, or values that no class names.
    """
    if not images:
        raise UsageError("there is no image; give a mapping from case ids to arrays.")
    check_ids(images, Path("images"))
    faults = [
        f"{case!r} has no partner: every image needs the label of the same name."
        for case in sorted(images.keys() ^ labels.keys())
    ]
    numbers = {canonical_name(name): int(value) for name, value in classes.items()}
    volumes: dict[str, tuple[Volume, ...]] = {}
    truths: dict[str, Volume] = {}
    for case in (case for case in images if case in labels):
        try:
            parts = tuple(volumes_of_arrays(images[case], affine, spacing_mm))
            truth = volumes_of_arrays(labels[case], affine, spacing_mm)[0]
        except DataError as error:
            faults.append(f"{case!r}: {error}")
            continue
        faults += _faults(case, parts, truth, numbers, channels)
        volumes[case], truths[case] = parts, truth
    if faults:
        raise DataError("\n  ".join([f"{plural(len(faults), 'fault')} in the data:", *faults]))
    numbers.pop("background", None)
    return MemoryDataset(volumes, truths, numbers, tuple(channels))


def _faults(
    case: str,
    parts: Sequence[Volume],
    truth: Volume,
    classes: Mapping[str, int],
    channels: Sequence[str],
) -> Iterator[str]:
    """What is wrong with a case, a sentence each."""
    if len(parts) != len(channels):
        names = ", ".join(channels)
        yield f"{case!r} has {len(parts)} channels, but {len(channels)} are named: {names}."
    for volume in parts:
        if same_grid(volume, truth) > SAME_GRID_MM:
            yield (
                f"the image of {case!r} has {volume.array.shape} voxels, its label "
                f"{truth.array.shape}; bring both to one grid."
            )
        try:
            refuse_not_finite(volume.array, f"the image of {case!r}")
        except DataError as error:
            yield str(error)
    values = np.unique(truth.array)
    if truth.array.dtype.kind == "f" and not (values % 1 == 0).all():
        yield f"the label of {case!r} holds fractions; give integers."
        return
    unknown = sorted({int(value) for value in values} - {0, *classes.values()})
    if unknown:
        some = ", ".join(map(str, unknown[:5]))
        yield f"the label of {case!r} holds {some}, which no class has; name it in classes."
