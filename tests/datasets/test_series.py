"""DICOM folders whose slices have a series UID each: coordinates of every voxel, and refusals."""

import numpy as np
import pytest

from datasets.abdomen import grid, image
from datasets.dicom_slices import write_slices
from unpaired.datasets.chaos import files_of, read_folder
from unpaired.errors import DataError, UsageError
from unpaired.io.dicom import read_series

NAMES = [f"i{n:04d},0000b.dcm" for n in range(16)]


def files(folder):
    return tuple(sorted(folder.glob("*.dcm")))


@pytest.mark.parametrize("axes", ["LPS", "LPI", "PIR", "RAS", "LIP"])
@pytest.mark.parametrize("shuffled", [False, True])
def test_voxels_lie_where_the_tags_say(tmp_path, axes, shuffled):
    matrix = grid(1, axes)
    array = image(matrix)
    names = list(np.random.default_rng(0).permutation(NAMES)) if shuffled else NAMES
    write_slices(tmp_path, array, matrix, names, intercept=-1024)
    found = read_folder(files(tmp_path))
    assert np.abs(found.array - image(found.affine, found.array.shape)).max() <= 1
    for k, path in enumerate(files_of(found)):
        np.testing.assert_array_equal(found.array[..., k], array[..., names.index(path.name)])
    with pytest.raises(UsageError, match="holds 16 image series"):
        read_series(tmp_path)


def test_stacks_that_are_no_volume(tmp_path):
    matrix = grid()

    def tilt(number, tags):
        x, y, z = tags["ImagePositionPatient"]
        tags["ImagePositionPatient"] = [x, y + 0.9 * number, z]

    write_slices(tmp_path / "a", image(matrix), matrix, NAMES, edit=tilt)
    with pytest.raises(DataError, match="copy the folder again"):
        read_folder(files(tmp_path / "a"))
    write_slices(tmp_path / "b", image(matrix), matrix, NAMES)
    (tmp_path / "b" / NAMES[4]).unlink()
    with pytest.raises(DataError, match="copy the folder again"):
        read_folder(files(tmp_path / "b"))
    path = tmp_path / "b" / NAMES[3]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DataError):
        read_folder(files(tmp_path / "b"))
