"""Scans as files: NIfTI, NRRD, MetaImage, MGH and DICOM, and exact resampling."""
