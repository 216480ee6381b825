"""Images and labels as archives hold them: files, a channel of a 4D file, one mask an organ."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import nibabel as nib
import numpy as np

from unpaired.data.importing.found import ReadLabel
from unpaired.data.paths import shown
from unpaired.errors import DataError
from unpaired.io.nifti import MAX_VOXELS, read_label
from unpaired.io.read import files_of, format_of, read_image, read_label_image
from unpaired.io.volume import SAME_GRID_MM, Volume, check_affine, same_grid


@dataclass(frozen=True)
class ImageFile:
    """An image of any format; NIfTI stays as it is. A folder is a DICOM series."""

    path: Path

    @property
    def files(self) -> tuple[Path, ...]:
        return files_of(self.path)

    @property
    def verbatim(self) -> Path | None:
        return self.path if format_of(self.path) == "nifti" else None

    def read(self) -> Volume:
        return read_image(self.path)


@dataclass(frozen=True)
class NiftiChannel:
    """One volume of a 4D NIfTI file, whose fourth axis is the channel."""

    path: Path
    number: int

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    @property
    def verbatim(self) -> Path | None:
        return None

    def read(self) -> Volume:
        name = shown(self.path)
        try:
            image = nib.nifti1.load(self.path)
            shape = image.shape
            if len(shape) != 4 or np.prod(shape, dtype=object) > MAX_VOXELS:
                raise DataError(f"{name}: expected four axes, the last for channels; got {shape}.")
            if self.number >= shape[3]:
                raise DataError(
                    f"{name} holds {shape[3]} channels, dataset.json names {self.number + 1} or "
                    "more; correct one of them."
                )
            array = np.asarray(image.dataobj[..., self.number])
            affine = np.asarray(image.affine, np.float64)
            header = image.header.copy()
        except DataError:
            raise
        except Exception as error:  # nibabel, zlib and gzip raise many kinds
            raise DataError(f"cannot read {name}: {error}; copy or download it again.") from error
        notes = check_affine(affine, name)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise DataError(f"{name}: channel {self.number} holds NaN or infinity; replace them.")
        header.set_data_shape(array.shape)
        return Volume(array, affine, header, self.path, tuple(notes))


@dataclass(frozen=True)
class LabelFile:
    """A label of any format; `merge` says which values become which others."""

    path: Path
    merge: Mapping[int, int] = field(default_factory=dict)

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)

    @property
    def verbatim(self) -> Path | None:
        return self.path if format_of(self.path) == "nifti" else None

    def read(self, image: Volume) -> ReadLabel:
        volume = read_label_image(self.path)
        array, notes = volume.array, []
        for old, new in self.merge.items():
            hit = array == old
            if old != new and hit.any():
                array = array.copy() if array is volume.array else array
                array[hit] = new
                notes.append(f"{int(hit.sum())} voxels of value {old} became {new}")
        moved = Volume(array, volume.affine, volume.header, volume.path, volume.notes)
        return ReadLabel(moved, tuple(notes), array is not volume.array)


@dataclass(frozen=True)
class MaskLabel:
    """One file an organ; where two overlap the one listed later stays.

    Attributes:
        masks: (value, file), of which files may be missing: the organ is not in the scan.
    """

    masks: tuple[tuple[int, Path], ...]

    @property
    def files(self) -> tuple[Path, ...]:
        return tuple(path for _, path in self.masks if path.exists())

    @property
    def verbatim(self) -> Path | None:
        return None

    def read(self, image: Volume) -> ReadLabel:
        big = max((value for value, _ in self.masks), default=0) > 255
        array = np.zeros(image.array.shape, np.uint16 if big else np.uint8)
        overlap = 0
        for value, path in self.masks:
            if not path.exists():
                continue
            mask = read_label(path)
            if not same_grid(image, mask) <= SAME_GRID_MM:
                raise DataError(
                    f"{shown(path)} does not lie on the image's grid; download it again."
                )
            if mask.array.max() > 1:
                raise DataError(
                    f"{shown(path)} must hold 0 and 1 only, it holds {int(mask.array.max())}."
                )
            inside = mask.array == 1
            overlap += int(np.count_nonzero(array[inside]))
            array[inside] = value
        notes = (f"{overlap} voxels lay in two organs; the later one stays",) if overlap else ()
        return ReadLabel(Volume(array, image.affine, image.header), notes, True)
