"""CHAOS: DICOM folders with PNG ground truth; CT liver, MR T2-SPIR and T1-DUAL.

Layout, grey ranges and the order of slices as the organisers' evaluation code and nnU-Net's
Task037_038 conversion have them; see docs/data.md.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unpaired.datasets.archive import (
    ArchiveCase,
    ArchiveSet,
    Image,
    Label,
    Options,
    ReadLabel,
    Source,
)
from unpaired.datasets.locate import folders, listed, natural
from unpaired.errors import DataError
from unpaired.files import printable
from unpaired.io.dicom.pixels import read_planes
from unpaired.io.dicom.scan import (
    DicomSource,
    joined,
    list_series,
    padding_note,
    stack_of_image,
    usable,
)
from unpaired.io.nifti import MAX_VOXELS
from unpaired.io.volume import Volume, check_affine

MR_LABELS = {"background": 0, "liver": 63, "right kidney": 126, "left kidney": 189, "spleen": 252}
CT_LABELS = {"background": 0, "liver": 1}
RANGES = {63: (55, 70), 126: (110, 135), 189: (175, 200), 252: (240, 255)}
"""Value -> the greys that mean it, both ends included."""


@dataclass(frozen=True)
class SeriesImage:
    """A DICOM series as one channel."""

    files: tuple[Path, ...]
    verbatim: Path | None = None

    def read(self) -> Volume:
        return read_folder(self.files)


@dataclass(frozen=True)
class PictureLabel:
    """PNG slices: the n-th picture by name belongs to the n-th DICOM file by name.

    Attributes:
        ranges: value -> the lowest and the highest grey that mean it.
    """

    pictures: tuple[Path, ...]
    slices: tuple[Path, ...]
    ranges: Mapping[int, tuple[int, int]]
    verbatim: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        return self.pictures

    def read(self, image: Volume) -> ReadLabel:
        if len(self.pictures) != len(self.slices):
            raise DataError(
                f"{printable(self.pictures[0].parent)} holds {len(self.pictures)} pictures for "
                f"{len(self.slices)} slices; copy the folder again."
            )
        belongs = dict(zip(self.slices, self.pictures, strict=True))
        slices = files_of(image)
        planes = [_picture(belongs[file], image.array.shape[:2]) for file in slices]
        grey = np.stack(planes, axis=-1)
        array = np.zeros(grey.shape, np.uint8)
        for value, (low, high) in self.ranges.items():
            array[(grey >= low) & (grey <= high)] = value
        lost = int(np.count_nonzero((grey > 0) & (array == 0)))
        notes = (f"{lost} voxels of a grey without a meaning became background",) if lost else ()
        return ReadLabel(Volume(array, image.affine), notes, True)


def read_folder(files: Sequence[Path]) -> Volume:
    """The slices of a folder as one volume [column row slice], along their normal.

    `Volume.source` says which file slice k came from.

    Raises:
        UsageError: pydicom is not installed.
        DataError: a damaged file, several images (such as two echoes), or slices that are no even
            stack (tilted, uneven, missing, double, of different sizes, spacings or directions).
    """
    # Anonymised, every slice has a series UID of its own, by which the general reader would go.
    name = printable(files[0].parent)
    scan = list_series(files)
    series = joined(scan)
    headers, left_out = usable(series)
    stack, told = stack_of_image(headers, series.modality, "", name)
    if stack.faults:
        # What was left out by its ImageType may be what is missing now.
        raise DataError(f"{name}: {'; '.join([*stack.faults, *left_out])}; copy the folder again.")
    (array, padding), affine = read_planes(stack.frames, MAX_VOXELS, name), stack.affine
    check_affine(affine, name)
    notes = [*scan.notes, *left_out, *told, *stack.notes]
    notes += [] if padding is None else [padding_note(padding)]
    source = DicomSource(stack.frames)
    return Volume(array, affine, None, files[0].parent, tuple(notes), source, padding)


def files_of(volume: Volume) -> list[Path]:
    """The file of each slice of a volume that `read_folder` read."""
    assert isinstance(volume.source, DicomSource)
    return [frame.path for frame in volume.source.frames]


def _picture(path: Path, size: tuple[int, ...]) -> np.ndarray:
    """Greys uint8 [column row]."""
    from PIL import Image as Picture

    try:
        with Picture.open(path) as picture:
            grey = np.asarray(picture.convert("L") if picture.mode != "1" else picture)
    except Exception as error:  # Pillow raises many kinds
        raise DataError(f"cannot read {printable(path)}: {error}; copy it again.") from error
    if grey.shape != (size[1], size[0]):
        raise DataError(
            f"{printable(path)} has {grey.shape[1]} x {grey.shape[0]} pixels, its slice "
            f"{size[0]} x {size[1]}; copy it again."
        )
    return grey.astype(np.uint8).T


def _looks_like(root: Path) -> bool:
    return any(
        (patient / scan / "DICOM_anon").is_dir()
        for modality, scan in (("CT", "."), ("MR", "T2SPIR"), ("MR", "T1DUAL"))
        for patient in _patients(root, modality)
    )


def _find(root: Path, options: Options) -> list[ArchiveSet]:
    """ct (liver), t2 (T2-SPIR) and t1 (in and out of phase as two channels of one scan).

    One patient has one id in t1 and t2; CT is of other patients. Scans without ground truth
    (Test_Sets) go to imagesTs.
    """
    sets = []
    ct, mr = _patients(root, "CT"), _patients(root, "MR")
    for key, names, patients, scans, at, labels, ranges in (
        ("ct", ("CT",), ct, ("DICOM_anon",), "Ground", CT_LABELS, {1: (1, 255)}),
        ("t2", ("T2-SPIR",), mr, ("T2SPIR/DICOM_anon",), "T2SPIR/Ground", MR_LABELS, RANGES),
        (
            "t1",
            ("T1 in phase", "T1 out of phase"),
            mr,
            ("T1DUAL/DICOM_anon/InPhase", "T1DUAL/DICOM_anon/OutPhase"),
            "T1DUAL/Ground",
            MR_LABELS,
            RANGES,
        ),
    ):
        dropped: list[str] = []
        of = "ct" if key == "ct" else "mr"
        cases = [
            _case(
                f"chaos_{of}_{int(patient.name):02d}",
                tuple(patient / scan for scan in scans),
                patient / at,
                ranges,
                dropped,
            )
            for patient in patients
        ]
        merged = tuple(f"grey {low} to {high} became {v}" for v, (low, high) in ranges.items())
        complete = tuple(case for case in cases if case is not None)
        sets.append(ArchiveSet(key, names, labels, complete, merged, tuple(dropped)))
    return sets


def _case(
    name: str,
    scans: tuple[Path, ...],
    ground: Path,
    ranges: Mapping[int, tuple[int, int]],
    dropped: list[str],
) -> ArchiveCase | None:
    channels = tuple(_files(scan, ".dcm") for scan in scans)
    empty = [scan for scan, files in zip(scans, channels, strict=True) if not files]
    if empty:
        dropped.append(f"{name}: no DICOM slice in {printable(empty[0].name)}")
        return None
    pictures = _files(ground, ".png")
    label: Label | None = PictureLabel(pictures, channels[0], ranges) if pictures else None
    images: tuple[Image, ...] = tuple(SeriesImage(files) for files in channels)
    return ArchiveCase(name, name, images, label, held_out=label is None)


def _patients(root: Path, modality: str) -> list[Path]:
    """Numbered folders below CT or MR, of Train_Sets before Test_Sets."""
    patients = []
    for folder in folders(root, 3):
        if folder.name == modality:
            patients += [c for c in listed(folder) if c.name.isdigit() and c.is_dir()]
    return sorted(patients, key=lambda p: ("Test" in p.parent.parent.name, int(p.name)))


def _files(folder: Path, ending: str) -> tuple[Path, ...]:
    if not folder.is_dir():
        return ()
    files = [f for f in listed(folder) if f.is_file() and f.suffix.lower() == ending]
    return tuple(sorted(files, key=natural))


SOURCE = Source(
    wanted="Train_Sets/CT/1/DICOM_anon, Train_Sets/CT/1/Ground, Train_Sets/MR/1/T2SPIR/DICOM_anon",
    reference="https://chaos.grand-challenge.org/Data/",
    looks_like=_looks_like,
    find=_find,
    literature={
        "t2": frozenset({"1", "13", "32", "38"}),
        "t1": frozenset({"1", "13", "32", "38"}),
    },
)
