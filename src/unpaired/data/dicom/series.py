"""A DICOM series -> a volume: strictly, or refused with the reason."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unpaired.data.dicom.even import even_grid
from unpaired.data.dicom.headers import Frame, frames_of
from unpaired.data.dicom.pixels import read_planes
from unpaired.data.dicom.scan import choose, list_series, usable
from unpaired.data.dicom.stack import stack_of
from unpaired.data.geometry import Volume, check_affine
from unpaired.data.nifti_read import MAX_VOXELS
from unpaired.data.paths import shown
from unpaired.errors import DataError


@dataclass(frozen=True)
class DicomSource:
    """Where a volume's voxels came from: what a segmentation of it must point at.

    Attributes:
        frames: the slices along the normal; slice k of the array, unless `resampled`.
        resampled: the array lies on a grid of its own.
        modality: as the series calls it; empty if it is not told.
    """

    frames: tuple[Frame, ...]
    resampled: bool = False
    modality: str = ""


def read_series(
    where: Path | Sequence[Path],
    series: str | None = None,
    *,
    resample_slices: bool = False,
    max_voxels: int = MAX_VOXELS,
) -> Volume:
    """Read the one image series of a folder (and the folders below it), a file, or files.

    Voxels are [column row slice], slices along their normal; values are rescaled, slice by slice.
    `Volume.source` is a `DicomSource`: its `frames[k].path` is the file of slice k.

    Args:
        series: UID or number, where the folder holds several.
        resample_slices: mend tilted, uneven and missing slices by linear interpolation; the notes
            say so.

    Raises:
        UsageError: pydicom or a decoder is not installed, or several series are there.
        DataError: no image, a damaged or truncated file, slices that are no even stack (tilted,
            uneven, missing, double, of different sizes, spacings or directions).
    """
    name = shown(where) if isinstance(where, Path) else shown(where[0].parent)
    chosen, notes = choose(list_series(where), series, name)
    headers, more = usable(chosen)
    stack = stack_of([frame for header in headers for frame in frames_of(header)], name)
    notes += [*more, *stack.notes]
    if stack.faults and not resample_slices:
        raise DataError(
            f"{name}: {'; '.join(stack.faults)}; to read it as an even grid, interpolated between "
            "slices, ask for it (predict --resample-slices)."
        )
    array = read_planes(stack.frames, max_voxels, name)
    affine, path = stack.affine, where if isinstance(where, Path) else where[0].parent
    if stack.faults:
        array, affine, told = even_grid(stack, array)
        notes.append(told)
    else:
        check_affine(affine, name)
    single = all(header.frames == 1 for header in headers)
    if chosen.modality == "CT" and single and any("RescaleSlope" not in h.facts for h in headers):
        notes.append("no rescale slope is stored: values may not be Hounsfield units")
    source = DicomSource(stack.frames, bool(stack.faults), chosen.modality)
    return Volume(np.asarray(array), affine, None, path, tuple(notes), source)
