"""DICOM slices for tests: real ones written by pydicom, and stand-ins where it is not installed."""

from types import SimpleNamespace

import numpy as np
import pytest

from data.sources.abdomen import grid, image
from unpaired.data.sources import series

TO_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


class Writer:
    """Writes volumes as slices; `real` with pydicom, else with numpy, read by a stand-in."""

    def __init__(self, real, monkeypatch):
        self.real = real
        if not real:
            monkeypatch.setattr(series, "_read", _stand_in)

    def volume(self, folder, array, affine, names, slope=1, intercept=0, edit=None):
        """One file a slice, array [column row slice]; `edit(number, tags)` may spoil some."""
        folder.mkdir(parents=True, exist_ok=True)
        lps = TO_LPS @ affine
        across, down = np.linalg.norm(lps[:3, :2], axis=0)
        for number, name in enumerate(names):
            tags = {
                "Rows": array.shape[1],
                "Columns": array.shape[0],
                "ImagePositionPatient": [round(v, 6) for v in (lps @ [0, 0, number, 1])[:3]],
                "ImageOrientationPatient": [
                    round(v, 9) for v in (*(lps[:3, 0] / across), *(lps[:3, 1] / down))
                ],
                "PixelSpacing": [round(down, 6), round(across, 6)],
                "RescaleSlope": slope,
                "RescaleIntercept": intercept,
            }
            if edit is not None:
                edit(number, tags)
            plane = ((array[..., number].T - intercept) / slope).astype(np.int16)
            (self._dicom if self.real else self._numpy)(folder / name, plane, tags, number)

    @staticmethod
    def _numpy(path, plane, tags, number):
        np.savez(path.open("wb"), plane=plane, **{k: np.array(v) for k, v in tags.items()})

    @staticmethod
    def _dicom(path, plane, tags, number):
        from pydicom.dataset import Dataset, FileMetaDataset
        from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian

        meta = FileMetaDataset()
        meta.TransferSyntaxUID = ExplicitVRLittleEndian
        meta.MediaStorageSOPClassUID = CTImageStorage
        meta.MediaStorageSOPInstanceUID = f"1.2.3.{number + 1}"
        one = Dataset()
        one.file_meta = meta
        one.SOPClassUID = CTImageStorage
        one.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
        one.SamplesPerPixel, one.PhotometricInterpretation = 1, "MONOCHROME2"
        one.BitsAllocated, one.BitsStored, one.HighBit = 16, 16, 15
        one.PixelRepresentation = 1
        for key, value in tags.items():
            setattr(one, key, value)
        one.PixelData = plane.tobytes()
        one.save_as(path, enforce_file_format=True)


def _stand_in(file, headers_only=False):
    """What `series._read` gives, from the files that `Writer._numpy` writes."""
    stored = np.load(file)
    tags = {k: stored[k].tolist() for k in stored.files if k != "plane"}
    return SimpleNamespace(pixel_array=stored["plane"], get=tags.get, **tags)


@pytest.fixture(params=["pydicom", "stand-in"])
def writer(request, monkeypatch):
    """A `Writer`, once with pydicom if it is installed and once without."""
    if request.param == "pydicom":
        pytest.importorskip("pydicom", reason="pydicom is an extra")
    return Writer(request.param == "pydicom", monkeypatch)


def tiny(axes="LPS", number=0, spacing=(8.0, 8.5, 9.0)):
    """The abdomen's image int16 and its affine."""
    matrix = grid(number, axes, spacing)
    return image(matrix), matrix
