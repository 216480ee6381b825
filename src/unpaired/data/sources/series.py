"""DICOM files that are one series by their folder, whatever their series UIDs say.

Anonymised archives (CHAOS) give every slice a series UID of its own, so that the general reader,
which goes by UID, would see as many series as slices.
"""

from collections.abc import Sequence
from pathlib import Path

from unpaired.data.paths import shown
from unpaired.errors import DataError
from unpaired.io.dicom.headers import frames_of
from unpaired.io.dicom.pixels import read_planes
from unpaired.io.dicom.scan import DicomSource, list_series
from unpaired.io.dicom.stack import stack_of
from unpaired.io.nifti import MAX_VOXELS
from unpaired.io.volume import Volume, check_affine


def read_folder(files: Sequence[Path]) -> Volume:
    """The slices as one volume [column row slice], along their normal; `Volume.source` says which
    file slice k came from.

    Raises:
        UsageError: pydicom is not installed.
        DataError: a damaged file, or slices that are no even stack (tilted, uneven, missing,
            double, of different sizes, spacings or directions).
    """
    name = shown(files[0].parent)
    scan = list_series(files)
    frames = [f for one in scan.series for header in one.headers for f in frames_of(header)]
    stack = stack_of(frames, name)
    if stack.faults:
        raise DataError(f"{name}: {'; '.join(stack.faults)}; copy the folder again.")
    array, affine = read_planes(stack.frames, MAX_VOXELS, name), stack.affine
    check_affine(affine, name)
    notes = (*scan.notes, *stack.notes)
    return Volume(array, affine, None, files[0].parent, notes, DicomSource(stack.frames))


def files_of(volume: Volume) -> list[Path]:
    """The file of each slice of a volume that `read_folder` read."""
    assert isinstance(volume.source, DicomSource)
    return [frame.path for frame in volume.source.frames]
