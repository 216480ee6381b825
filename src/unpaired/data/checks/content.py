"""A scan's content, whatever the file's type, compression and axis order: for finding copies."""

import hashlib

import numpy as np

from unpaired.io.volume import Volume, canonical_orientation

_CHUNK = 1 << 22


def digest(volume: Volume) -> str:
    """A hash of the voxels in patient order: equal for int16 and float32, for RAS and LPS files.

    Slice by slice, so that no second array of the volume's size is made.
    """
    turned = canonical_orientation(volume.affine).apply(volume.array)
    state = hashlib.blake2b(str(turned.shape).encode(), digest_size=16)
    with np.errstate(over="ignore"):
        for plane in turned:
            state.update(np.ascontiguousarray(plane, np.float32).data)
    return state.hexdigest()


def count_values(array: np.ndarray) -> dict[int, int]:
    """Value -> voxels of a label without negative values, without sorting the volume."""
    high = int(array.max())
    if high > 65535:
        values, counts = np.unique(array, return_counts=True)
        return {int(v): int(n) for v, n in zip(values, counts, strict=True)}
    total = np.zeros(high + 1, np.int64)
    flat = array.ravel(order="K")
    for start in range(0, flat.size, _CHUNK):
        total += np.bincount(flat[start : start + _CHUNK], minlength=high + 1)
    return {int(v): int(total[v]) for v in np.flatnonzero(total)}


def first_at(mask: np.ndarray) -> tuple[int, int, int]:
    """The index [i j k] of the first voxel that is set."""
    i, j, k = np.unravel_index(int(mask.argmax()), mask.shape)
    return int(i), int(j), int(k)
