"""DICOM series in, segmentations out; needs the extra `dicom`, imported when first used."""

from unpaired.io.dicom.scan import (
    DicomSource,
    Scan,
    Series,
    holds_dicom,
    is_dicom,
    list_series,
    read_series,
)
from unpaired.io.dicom.segmentation import write_segmentation

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
