"""What a source finds in an archive: the cases of each modality and how their files are read."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from unpaired.io.volume import Volume

Part = Literal["train", "val", "test"]


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
class Found:
    """A case of the archive.

    Attributes:
        id: what its files will be called.
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


@dataclass(frozen=True)
class FoundSet:
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
    cases: tuple[Found, ...]
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
    find: Callable[[Path, Options], list[FoundSet]]
    literature: Mapping[str, frozenset[str]] = field(default_factory=dict)
    says_parts: bool = False
    takes_classes: bool = False
    one_set: bool = False
