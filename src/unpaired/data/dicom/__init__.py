"""DICOM series in, segmentations out; needs the extra `dicom`, imported when first used."""

from unpaired.data.dicom.scan import Scan, Series, holds_dicom, is_dicom, list_series
from unpaired.data.dicom.segmentation import write_segmentation
from unpaired.data.dicom.series import DicomSource, read_series

__all__ = [
    "DicomSource",
    "Scan",
    "Series",
    "holds_dicom",
    "is_dicom",
    "list_series",
    "read_series",
    "write_segmentation",
]
