"""Resampling by separable exact splines: per axis one small matrix or one pair of neighbours.

Positions follow nnU-Net and skimage: output voxel i reads x = (i + 1/2) n_in / n_out - 1/2, so the
outer faces of the first and last voxel stay where they are; beyond the edge the last voxel repeats.
There is no smoothing before shrinking, as in nnU-Net.
"""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from jaxtyping import Float
from scipy import ndimage
from torch import Tensor

from unpaired.data.neighbours import checked_sizes, largest_shrink_first, neighbours
from unpaired.data.resample_linear import resample_argmax, resample_label, resample_scores

__all__ = ["resample_argmax", "resample_image", "resample_label", "resample_scores"]

# The spline's prefilter forgets by 0.27 a voxel: 12 repeats of the edge are exact in float32.
_PAD = 12


def resample_image(
    image: Float[Tensor, "*space"], shape: Sequence[int], order: int = 3
) -> Float[Tensor, "*out"]:
    """Resample to `shape`, clipped to the input's range; order 0 (nearest), 1 or 3 (B-spline).

    Equal to skimage's `resize(..., order, mode="edge", clip=True, anti_aliasing=False)`.

    Raises:
        ValueError: another order, a size below 1, or another number of axes.
    """
    sizes = checked_sizes(image.shape, shape)
    if order not in (0, 1, 3):
        raise ValueError(f"order must be 0, 1 or 3, not {order}")
    out = image
    for axis in largest_shrink_first(image.shape, sizes):
        n_in, n_out = image.shape[axis], sizes[axis]
        if order == 0:
            out = out.index_select(axis, _nearest(n_in, n_out).to(image.device))
        else:
            matrix = torch.from_numpy(_matrix(n_in, n_out, order)).to(image.device, image.dtype)
            out = _along(out, matrix, axis)
    if order == 3 and out is not image:
        low, high = torch.aminmax(image)
        out = out.clamp_(low, high)
    return out.clone() if out is image else out


def _along(array: Tensor, matrix: Tensor, axis: int) -> Tensor:
    """Multiply one axis by `matrix` [n_out n_in], without moving memory."""
    old = array.shape
    shape = (*old[:axis], matrix.shape[0], *old[axis + 1 :])
    if axis == array.ndim - 1:
        return (array.reshape(-1, old[axis]) @ matrix.T).reshape(shape)
    stacked = array.reshape(-1, old[axis], int(np.prod(old[axis + 1 :])))
    return (matrix @ stacked).reshape(shape)


def _positions(n_in: int, n_out: int) -> np.ndarray:
    """Where output voxels read, in input voxels: float64 [n_out]."""
    return (np.arange(n_out) + 0.5) * (n_in / n_out) - 0.5


def _nearest(n_in: int, n_out: int) -> Tensor:
    index = np.floor(_positions(n_in, n_out) + 0.5).clip(0, n_in - 1)
    return torch.from_numpy(index.astype(np.int64))


@lru_cache(maxsize=64)
def _matrix(n_in: int, n_out: int, order: int) -> np.ndarray:
    """The linear map from input to output voxels of one axis, float64 [n_out n_in]."""
    x = _positions(n_in, n_out)
    if order == 1:
        pair, rows = neighbours(n_in, n_out), np.arange(n_out)
        matrix = np.zeros((n_out, n_in))
        np.add.at(matrix, (rows, pair.below), 1 - pair.weight / pair.total)
        np.add.at(matrix, (rows, pair.above), pair.weight / pair.total)
        return matrix
    padded = np.pad(np.eye(n_in), ((_PAD, _PAD), (0, 0)), mode="edge")
    coefficients = ndimage.spline_filter1d(padded, order=3, axis=0, mode="reflect")
    first = np.floor(x).astype(int) - 1
    fraction = x - np.floor(x)
    weights = _cubic(np.stack([1 + fraction, fraction, 1 - fraction, 2 - fraction]))
    return sum(weights[k, :, None] * coefficients[first + k + _PAD] for k in range(4))


def _cubic(distance: np.ndarray) -> np.ndarray:
    """The cubic B-spline at `distance` in [0, 2]."""
    near = 2 / 3 - distance**2 + distance**3 / 2
    far = (2 - distance) ** 3 / 6
    return np.where(distance < 1, near, far)
