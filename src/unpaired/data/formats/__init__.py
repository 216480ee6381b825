"""NRRD, MetaImage (.mha, .mhd) and FreeSurfer's MGH, read and written without other libraries.

Each is a small header before raw or compressed voxels, so the checks of the NIfTI reader (honest
lengths before memory, checksums to the end) hold for them too.
"""

from unpaired.data.formats.meta_image import read_meta_image, write_meta_image
from unpaired.data.formats.mgh import read_mgh, write_mgh
from unpaired.data.formats.nrrd import read_nrrd
from unpaired.data.formats.nrrd_write import write_nrrd
from unpaired.data.formats.raw import FileSource

__all__ = [
    "FileSource",
    "read_meta_image",
    "read_mgh",
    "read_nrrd",
    "write_meta_image",
    "write_mgh",
    "write_nrrd",
]
