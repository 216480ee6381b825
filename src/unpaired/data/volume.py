"""An image with its geometry; reading and writing NIfTI so that damage is never silent."""

from unpaired.data.geometry import (
    SAME_GRID_MM,
    Orientation,
    SliceAxis,
    Volume,
    canonical_orientation,
    same_grid,
)
from unpaired.data.nifti_read import MAX_VOXELS, read_label, read_volume
from unpaired.data.nifti_write import write_volume

__all__ = [
    "MAX_VOXELS",
    "SAME_GRID_MM",
    "Orientation",
    "SliceAxis",
    "Volume",
    "canonical_orientation",
    "read_label",
    "read_volume",
    "same_grid",
    "write_volume",
]
