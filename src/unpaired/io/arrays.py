"""Arrays and tensors with their geometry as volumes."""

from collections.abc import Sequence
from itertools import permutations
from typing import Any

import numpy as np

from unpaired.errors import DataError, UsageError
from unpaired.io.volume import Volume, check_affine

Number = float | int | np.number
# A scan longer than the first, which another order of its spacings would make a body's part.
_TOO_LONG_MM, _USUAL_MM = 1000.0, 600.0


def volumes_of_arrays(
    image: Any, affine: Any = None, spacing_mm: Sequence[Number] | None = None
) -> list[Volume]:
    """One volume a channel, of an array, a tensor, a volume, or a sequence of these.

    Raises:
        UsageError, DataError: as `volume_of_array`.
    """
    several = isinstance(image, list | tuple)
    return [volume_of_array(one, affine, spacing_mm) for one in (image if several else [image])]


def volume_of_array(
    image: Any, affine: Any = None, spacing_mm: Sequence[Number] | None = None
) -> Volume:
    """The volume of one channel.

    Args:
        image: an array or tensor [i j k] (a trailing axis of 1 is dropped), or a volume as it is.
        affine: voxel index to millimetres (Right, Anterior, Superior).
        spacing_mm: without an affine, along i, j, k, which then run to Right, Anterior, Superior.

    Raises:
        UsageError: no geometry, or one that cannot be this array's.
        DataError: it is no image, or its values or its geometry are damaged.
    """
    if isinstance(image, Volume):
        return image
    if affine is None and spacing_mm is None:
        raise UsageError(
            "an array needs its geometry: give affine=... (voxel index to millimetres), or "
            "spacing_mm=(...) if its axes run to the patient's Right, Anterior, Superior."
        )
    array = image.detach().cpu().numpy() if hasattr(image, "detach") else np.asarray(image)
    array = array[..., 0] if array.ndim == 4 and array.shape[3] == 1 else array
    if array.ndim != 3 or not array.size or array.dtype.kind not in "biuf":
        raise DataError(
            f"an array of shape {array.shape} and type {array.dtype} is not an image; give numbers "
            "[i j k], and several channels as a list."
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise DataError("the array holds NaN or infinity; replace them by the background's value.")
    place = _place(array.shape, affine, spacing_mm)
    return Volume(array, place, notes=tuple(check_affine(place, "the array")))


def _place(shape: Sequence[int], affine: Any, spacing_mm: Sequence[Number] | None) -> np.ndarray:
    if affine is not None:
        place = np.asarray(affine, float)
        if place.shape != (4, 4):
            raise UsageError(
                f"affine must be 4 x 4 (or spacing_mm three numbers), got {place.shape}."
            )
        return place
    spacing = [float(mm) for mm in spacing_mm or ()]
    if len(spacing) != 3:
        raise UsageError(
            f"spacing_mm must be three numbers, one an axis [i j k], got {len(spacing)}."
        )
    _check_order(shape, spacing)
    return np.diag([*spacing, 1.0])


def _check_order(shape: Sequence[int], spacing: Sequence[float]) -> None:
    """Refuse a spacing whose numbers stand in another order than the array's axes."""
    if np.multiply(shape, spacing).max() <= _TOO_LONG_MM:
        return
    for other in permutations(spacing):
        if np.multiply(shape, other).max() <= _USUAL_MM:
            size = " x ".join(f"{n * mm:.0f}" for n, mm in zip(shape, spacing, strict=True))
            raise UsageError(
                f"spacing_mm={tuple(spacing)} makes an array of {tuple(shape)} voxels {size} mm "
                f"large. Did you mean {other}? The order is that of the array's axes."
            )
