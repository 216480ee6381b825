"""An image with its place in the patient: affines, spacing, orientation; arrays as volumes.

Affines are nibabel's: voxel index -> millimetres, axes to the patient's Right, Anterior, Superior.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path
from typing import Any, Literal

import nibabel as nib
import numpy as np

from unpaired.errors import DataError, UsageError

SAME_GRID_MM = 1e-3
SPACING_RANGE_MM = (0.01, 100.0)
# Further off a header's 32-bit numbers do not tell voxels apart.
ORIGIN_MM = 1e5
# The cosine between two voxel axes: below, rounding; above, a note; far above, a tilted gantry.
SHEAR_NOTE, SHEAR_REFUSED = 1e-3, 0.02
# Cosines that differ by less are one: headers hold 7 digits.
_MIDWAY_DIGITS = 4
# The axes of the prepared arrays: index grows to Superior, Posterior, Left.
WORLD_AXES = {"S": (0.0, 0.0, 1.0), "P": (0.0, -1.0, 0.0), "L": (-1.0, 0.0, 0.0)}
Number = float | int | np.number
# A scan longer than the first, which another order of its spacings would make a body's part.
_TOO_LONG_MM, _USUAL_MM = 1000.0, 600.0
SliceAxis = Literal["S", "P", "L"]


@dataclass(frozen=True)
class Volume:
    """A three-dimensional image, or label, with its geometry.

    Attributes:
        array: [i j k] in the file's order (a trailing fourth axis of 1 is dropped).
        affine: float64 [4 4], voxel index to millimetres (Right, Anterior, Superior).
        header: the file's header, to write results back on exactly this grid.
        notes: what was odd, yet accepted, one sentence each.
        source: what a format other than NIfTI needs to write results back beside the image, such
            as `unpaired.io.dicom.DicomSource`.
        padding: bool [i j k], True where the file declares that nothing was measured; the array
            holds its lowest value there. None: nowhere.
    """

    array: np.ndarray
    affine: np.ndarray
    header: nib.Nifti1Header | None = None
    path: Path | None = None
    notes: tuple[str, ...] = ()
    source: object | None = None
    padding: np.ndarray | None = None

    @property
    def measured(self) -> np.ndarray:
        """The voxels that statistics are about: the array, or [n] of it without the padding."""
        return self.array if self.padding is None else self.array[~self.padding]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbours along each array axis, from the affine."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)


@dataclass(frozen=True)
class Orientation:
    """A signed permutation of the file's axes into canonical order.

    Attributes:
        axes: for each canonical axis, the file axis it comes from.
        flips: for each canonical axis, whether the file runs the other way.
    """

    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]

    def apply(self, array: Any) -> Any:
        """File order -> canonical order on the last three axes; numpy (a view) or torch."""
        lead = array.ndim - 3
        order = [*range(lead), *(lead + axis for axis in self.axes)]
        return _flip(_permute(array, order), self.flips)

    def undo(self, array: Any) -> Any:
        """Canonical order -> file order on the last three axes; the inverse of `apply`."""
        lead = array.ndim - 3
        order = [*range(lead), *(lead + self.axes.index(axis) for axis in range(3))]
        return _permute(_flip(array, self.flips), order)

    def spacing(self, spacing_mm: Sequence[float]) -> tuple[float, float, float]:
        """The spacing of the file's axes, in canonical order."""
        a, b, c = (float(spacing_mm[axis]) for axis in self.axes)
        return a, b, c

    def affine(self, affine: np.ndarray, shape: Sequence[int]) -> np.ndarray:
        """The affine of the canonical array, given the file's affine and [i j k] shape."""
        change = np.zeros((4, 4))
        change[3, 3] = 1
        for new, (old, flip) in enumerate(zip(self.axes, self.flips, strict=True)):
            change[old, new] = -1 if flip else 1
            change[old, 3] = shape[old] - 1 if flip else 0
        return affine @ change


def _permute(array: Any, order: list[int]) -> Any:
    return array.transpose(order) if isinstance(array, np.ndarray) else array.permute(order)


def _flip(array: Any, flips: tuple[bool, bool, bool]) -> Any:
    axes = tuple(axis - 3 for axis, flip in enumerate(flips) if flip)
    if not axes:
        return array
    # Torch has no negative strides, so there a flip is a copy.
    return np.flip(array, axes) if isinstance(array, np.ndarray) else array.flip(axes)


def canonical_orientation(affine: np.ndarray, slice_axis: SliceAxis = "S") -> Orientation:
    """The orientation that brings a file into canonical order: `slice_axis` first, then the rest
    of S, P, L. Oblique axes count as the patient axes that they are closest to together; which
    these are does not depend on the order and direction in which the file stores them."""
    letters = [slice_axis, *(letter for letter in "SPL" if letter != slice_axis)]
    return orientation_along(affine, np.array([WORLD_AXES[letter] for letter in letters]))


def orientation_along(
    affine: np.ndarray, directions: np.ndarray, first: int | None = None
) -> Orientation:
    """The orientation whose axes run along three directions as closely as they can together.

    Args:
        affine: voxel index to millimetres, [4 4] or its upper left [3 3].
        directions: [3 3], a row for each axis to come: where its index shall grow (Right,
            Anterior, Superior).
        first: the file's axis that comes first, wherever it points; None: whichever fits.
    """
    unit = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    # [axis to come, file axis]: how far the file's axis runs its way.
    along = directions @ unit
    best: tuple[tuple[float, ...], Orientation] | None = None
    for a, b, c in permutations(range(3)):
        if first is not None and a != first:
            continue
        cosines = along[[0, 1, 2], [a, b, c]]
        flips = cosines < 0
        turned = along[:, [a, b, c]] * np.where(flips, -1, 1)
        # Where axes lie midway, what decides must not hang on the file's order: the directions.
        key = tuple(np.round([np.abs(cosines).sum(), *turned.ravel()], _MIDWAY_DIGITS).tolist())
        if best is None or key > best[0]:
            orientation = Orientation((a, b, c), (bool(flips[0]), bool(flips[1]), bool(flips[2])))
            best = key, orientation
    assert best is not None
    return best[1]


def same_grid(a: Volume, b: Volume) -> float:
    """The largest distance in millimetres between equal corners; infinite if the shapes differ.

    Up to `SAME_GRID_MM` two volumes lie on one grid.
    """
    if a.array.shape != b.array.shape:
        return float("inf")
    return corner_offset(a.affine, b.affine, a.array.shape)


def corner_offset(a: np.ndarray, b: np.ndarray, shape: Sequence[int]) -> float:
    """The largest distance in mm between the corner voxels' centres under two affines."""
    corners = np.array(np.meshgrid(*((0, n - 1) for n in shape))).reshape(3, -1)
    difference = a - b
    with np.errstate(all="ignore"):  # a damaged header may hold 1e300: infinitely far
        moved = difference[:3, :3] @ corners + difference[:3, 3:]
        far = float(np.linalg.norm(moved, axis=0).max())
    return float("inf") if np.isnan(far) else far


def check_affine(affine: np.ndarray, name: str, stored_in: str = "mm") -> list[str]:
    """Notes on a usable affine, in millimetres.

    Args:
        stored_in: the unit of length that the file's header names.

    Raises:
        DataError: not finite, singular, spacing outside `SPACING_RANGE_MM`, an origin beyond
            `ORIGIN_MM`, or sheared axes.
    """
    if not np.isfinite(affine).all():
        raise DataError(f"{name}: the affine holds NaN or infinity; write the geometry again.")
    with np.errstate(over="ignore"):
        spacing = np.linalg.norm(affine[:3, :3], axis=0)
    low, high = SPACING_RANGE_MM
    if not ((spacing >= low) & (spacing <= high)).all():
        doubt = (
            "are its units millimetres?"
            if stored_in == "mm"
            else f"the header says its units are {stored_in}"
        )
        raise DataError(
            f"{name}: the spacing is {_numbers(spacing)} mm, outside {low:g} to {high:g} mm; "
            f"correct pixdim or the affine ({doubt})."
        )
    if np.abs(affine[:3, 3]).max() > ORIGIN_MM:
        raise DataError(
            f"{name}: the first voxel lies at {_numbers(affine[:3, 3])} mm, more than "
            f"{ORIGIN_MM:g} mm away; the header is damaged, write the geometry again."
        )
    unit = affine[:3, :3] / spacing
    cosine = np.abs(unit.T @ unit - np.eye(3)).max()
    if cosine > SHEAR_REFUSED:
        degrees = np.degrees(np.arcsin(min(cosine, 1.0)))
        raise DataError(
            f"{name}: the voxel axes are sheared by {degrees:.1f} degrees (a tilted gantry, or a "
            "singular affine); resample the image to right angles first."
        )
    if cosine > SHEAR_NOTE:
        return [f"the voxel axes are sheared slightly (cosine {cosine:.4f})"]
    return []


def _numbers(values: Sequence[float] | np.ndarray) -> str:
    return " x ".join(f"{value:.4g}" for value in values)


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
