"""A tiny abdomen that is a function of patient coordinates, on any grid; miniatures use it."""

from pathlib import Path

import nibabel as nib
import numpy as np

from nifti_files import affine, save

# Centre (right, anterior, superior) and radius in mm, from the middle of the body.
ORGANS = {
    "liver": ((55, 5, 15), 30),
    "spleen": ((-62, -10, 20), 22),
    "right kidney": ((42, -38, -25), 17),
    "left kidney": ((-42, -38, -25), 17),
}
SHAPE = (22, 20, 16)
MIDDLE = np.array([12.0, -30.0, 40.0])


def grid(number=0, axes="LPS", spacing=(8.0, 8.5, 9.0)):
    """An oblique affine [4 4] of a volume of `SHAPE` round `MIDDLE`, its axes nearest to `axes`.

    Another number tilts it otherwise.
    """
    turn = affine((1, 1, 1), (4.0 - 3 * (number % 5), -5.0 + 2 * (number % 7), 6.0), (0, 0, 0))[
        :3, :3
    ]
    straight = np.zeros((3, 3))
    for axis, (world, sign) in enumerate(nib.orientations.axcodes2ornt(axes)):
        straight[int(world), axis] = sign * spacing[axis]
    out = np.eye(4)
    out[:3, :3] = turn @ straight
    out[:3, 3] = MIDDLE - out[:3, :3] @ ((np.array(SHAPE) - 1) / 2)
    return out


def world(matrix, shape=SHAPE):
    """Patient coordinates [3 i j k] of the voxels, from the middle."""
    index = np.indices(shape).reshape(3, -1)
    return (matrix[:3, :3] @ index + matrix[:3, 3:] - MIDDLE[:, None]).reshape(3, *shape)


def image(matrix, shape=SHAPE, offset=0):
    """int16: air at -1000, inside the body a ramp that no flip leaves alone."""
    x, y, z = world(matrix, shape)
    body = (x / 85) ** 2 + (y / 75) ** 2 < 1
    ramp = np.rint(100 + 0.5 * x + 0.3 * y + 0.2 * z)
    return np.where(body, ramp + offset, -1000).astype(np.int16)


def organs(matrix, values, shape=SHAPE, dtype=np.uint8):
    """Labels: name -> value in `values`; organs it does not name are left out."""
    places, out = world(matrix, shape), np.zeros(shape, dtype)
    for name, value in values.items():
        if name in ORGANS:
            centre, radius = ORGANS[name]
            away = places - np.array(centre, float).reshape(3, 1, 1, 1)
            out[(away**2).sum(0) < radius**2] = value
    return out


def scan(path: Path, number=0, axes="LPS", offset=0):
    """Write an image; returns its affine."""
    matrix = grid(number, axes)
    save(path, image(matrix, offset=offset), matrix)
    return matrix


def truth(path: Path, matrix, values, dtype=np.uint8):
    """Write a label on that grid."""
    save(path, organs(matrix, values, dtype=dtype), matrix)
    return path


def assert_true(case, labels, offset=0):
    """Image and label of an opened case are what the body's coordinates say, voxel for voxel."""
    for number, path in enumerate(case.images):
        found = nib.load(path)
        array = np.asarray(found.dataobj)
        expected = image(found.affine, array.shape, offset + 10 * number)
        # A voxel exactly on a rounding edge may differ by one after the affine's float32.
        assert np.abs(array.astype(int) - expected).max() <= 1, path
    if case.label is not None:
        found = nib.load(case.label)
        array = np.asarray(found.dataobj)
        assert array.any()
        np.testing.assert_array_equal(array, organs(found.affine, labels, array.shape, np.int32))
        np.testing.assert_allclose(found.affine, nib.load(case.images[0]).affine, atol=1e-4)
