"""What a source finds in an archive: the cases of each modality and how their files are read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

import nibabel as nib
import numpy as np

from unpaired.datasets.split_file import Part
from unpaired.errors import DataError
from unpaired.files import printable
from unpaired.io.nifti import MAX_VOXELS, read_label
from unpaired.io.nifti_header import affine_in_mm
from unpaired.io.read import files_of, format_of, read_image, read_label_image
from unpaired.io.volume import SAME_GRID_MM, Volume, check_affine, same_grid
from unpaired.names import file_name


@dataclass(frozen=True)
class ReadLabel:
    """A label as it is to be written.

    Attributes:
        volume: values as in the set's `labels`.
        notes: what was changed, one sentence each.
        changed: the voxels differ from the file's, so the file cannot be copied as it is.
    """

    volume: Volume
    notes: tuple[str, ...] = ()
    changed: bool = False


@runtime_checkable
class Image(Protocol):
    """One channel of a case. `verbatim` is a NIfTI file that may be copied byte for byte."""

    @property
    def files(self) -> tuple[Path, ...]: ...
    @property
    def verbatim(self) -> Path | None: ...
    def read(self) -> Volume: ...


@runtime_checkable
class Label(Protocol):
    """The label of a case, read on the grid of its first channel."""

    @property
    def files(self) -> tuple[Path, ...]: ...
    @property
    def verbatim(self) -> Path | None: ...
    def read(self, image: Volume) -> ReadLabel: ...


@dataclass(frozen=True)
class ArchiveCase:
    """A case of the archive.

    Attributes:
        id: what its files will be called, as `names.file_name` makes it of what is given.
        patient: scans of one patient, in any modality, share it.
        part: the part that the archive, or the literature, gives it; None if neither does.
        held_out: goes to imagesTs instead of imagesTr.
    """

    id: str
    patient: str
    images: tuple[Image, ...]
    label: Label | None
    part: Part | None = None
    held_out: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", file_name(self.id))


@dataclass(frozen=True)
class ArchiveSet:
    """The cases of one modality.

    Attributes:
        key: the folder they go to, and the name to give in `--data`.
        labels: class name -> value in the labels as written, background included.
        merged: what became of label values: a sentence each, for the record.
        dropped: what of the archive is not imported, and why.
    """

    key: str
    channel_names: tuple[str, ...]
    labels: Mapping[str, int]
    cases: tuple[ArchiveCase, ...]
    merged: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True)
class Options:
    """What the caller may choose of a source.

    Attributes:
        classes: of one-file-an-organ archives, the organs to import; empty for all.
        modality: the folder's name where the archive does not say the modality.
    """

    classes: tuple[str, ...] = ()
    modality: str | None = None


@dataclass(frozen=True)
class Source:
    """An archive's layout.

    Attributes:
        wanted: what was looked for, as the end of a sentence.
        reference: a public page that describes the archive.
        looks_like: whether a folder holds the layout; cheap, no voxel is read.
        find: the sets of a folder.
        literature: set key -> the original case ids that the literature tests on.
        says_parts: the archive itself says which cases are for testing.
        takes_classes: `Options.classes` may choose.
        one_set: the archive does not say its modality; `Options.modality` may.
    """

    wanted: str
    reference: str
    looks_like: Callable[[Path], bool]
    find: Callable[[Path, Options], list[ArchiveSet]]
    literature: Mapping[str, frozenset[str]] = field(default_factory=dict)
    says_parts: bool = False
    takes_classes: bool = False
    one_set: bool = False


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
        name = printable(self.path)
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
            header = image.header.copy()
            affine = affine_in_mm(image.affine, header)
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
                    f"{printable(path)} does not lie on the image's grid; download it again."
                )
            if mask.array.max() > 1:
                raise DataError(
                    f"{printable(path)} must hold 0 and 1 only, it holds {int(mask.array.max())}."
                )
            inside = mask.array == 1
            overlap += int(np.count_nonzero(array[inside]))
            array[inside] = value
        notes = (f"{overlap} voxels lay in two organs; the later one stays",) if overlap else ()
        return ReadLabel(Volume(array, image.affine, image.header), notes, True)
