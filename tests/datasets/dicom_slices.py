"""DICOM slices for tests, as an anonymised archive holds them: a series UID for every slice."""

import numpy as np
import pytest

TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def write_slices(folder, array, affine, names, slope=1, intercept=0, edit=None):
    """One file a slice, array [column row slice]; `edit(number, tags)` may spoil some."""
    pydicom = pytest.importorskip("pydicom", reason="pydicom is an extra")
    folder.mkdir(parents=True, exist_ok=True)
    lps = TO_LPS @ affine
    across, down = np.linalg.norm(lps[:3, :2], axis=0)
    for number, name in enumerate(names):
        axes = (*(lps[:3, 0] / across), *(lps[:3, 1] / down))
        tags = {
            "Rows": array.shape[1],
            "Columns": array.shape[0],
            "ImagePositionPatient": [round(v, 6) for v in (lps @ [0, 0, number, 1])[:3]],
            "ImageOrientationPatient": [round(v, 9) for v in axes],
            "PixelSpacing": [round(down, 6), round(across, 6)],
            "RescaleSlope": slope,
            "RescaleIntercept": intercept,
            "SeriesInstanceUID": f"1.2.4.{number + 1}",
            "SOPInstanceUID": f"1.2.3.{number + 1}",
        }
        if edit is not None:
            edit(number, tags)
        meta = pydicom.dataset.FileMetaDataset()
        meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = pydicom.uid.MRImageStorage
        meta.MediaStorageSOPInstanceUID = tags["SOPInstanceUID"]
        one = pydicom.dataset.Dataset()
        one.file_meta, one.SOPClassUID = meta, pydicom.uid.MRImageStorage
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated, one.BitsStored, one.HighBit, one.PixelRepresentation = 16, 16, 15, 1
        for key, value in tags.items():
            setattr(one, key, value)
        one.PixelData = ((array[..., number].T - intercept) / slope).astype(np.int16).tobytes()
        one.save_as(folder / name, enforce_file_format=True)
