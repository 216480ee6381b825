"""The one road from files to what the network sees, for training and for prediction alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch

from unpaired.data.plan import Clip, Plan
from unpaired.data.resample import resample_image, resample_label
from unpaired.data.volume import (
    SAME_GRID_MM,
    Orientation,
    Volume,
    canonical_orientation,
    same_grid,
)
from unpaired.errors import DataError

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
# Percentiles of larger volumes are taken from evenly spaced voxels.
_PERCENTILE_VOXELS = 1 << 22


@dataclass(frozen=True)
class PreparedImage:
    """An image on the plan's grid and scale, and the way back to its file.

    Attributes:
        array: float32 [K d h w], canonical axes.
        orientation: file axes -> canonical axes.
        native_shape: the file's shape, canonical axes.
        box: what was kept of it, (start, stop) per canonical axis.
        spacing_mm: of `array`; the plan's, up to rounding the shape to whole voxels.
    """

    array: np.ndarray
    orientation: Orientation
    native_shape: tuple[int, int, int]
    box: Box
    spacing_mm: tuple[float, float, float]

    @property
    def box_shape(self) -> tuple[int, int, int]:
        """Native voxels in the box, canonical axes: the size that labels go back to."""
        a, b, c = (stop - start for start, stop in self.box)
        return a, b, c


def preprocess(volumes: Sequence[Volume], modality: str, plan: Plan) -> PreparedImage:
    """Orient, crop the constant border, resample, clip, z-score.

    Args:
        volumes: one a channel, in the order of the plan's channel names.

    Raises:
        DataError: the plan does not know the modality, channels are missing, or lie on
            different grids.
    """
    _check(volumes, modality, plan)
    recipe = plan.modalities[modality]
    turn = canonical_orientation(volumes[0].affine, plan.slice_axis)
    turned = [turn.apply(volume.array) for volume in volumes]
    box = content_box(turned)
    native = turn.spacing(volumes[0].spacing_mm)
    extent_mm = [(stop - start) * mm for (start, stop), mm in zip(box, native, strict=True)]
    shape = [max(1, round(e / mm)) for e, mm in zip(extent_mm, plan.spacing_mm, strict=True)]
    channels = []
    for k, array in enumerate(turned):
        # In place from here on: one float copy of the box is all that a channel needs.
        image = np.array(array[slices(box)], dtype=np.float32, order="C")
        if list(image.shape) != shape:
            image = resample_image(torch.from_numpy(image), tuple(shape), plan.order).numpy()
        clip_(image, recipe.clip[k])
        fixed = (recipe.mean[k], recipe.std[k]) if recipe.zscore == "dataset" else None
        zscore_(image, fixed)
        channels.append(image)
    out = channels[0][None] if len(channels) == 1 else np.stack(channels)
    d, h, w = (e / n for e, n in zip(extent_mm, shape, strict=True))
    a, b, c = turned[0].shape
    return PreparedImage(out, turn, (a, b, c), box, (d, h, w))


def preprocess_label(
    label: Volume, image: PreparedImage, table: Mapping[int, int], classes: int
) -> np.ndarray:
    """The label on the grid of `image`: uint8 [d h w] of class indices.

    Args:
        table: value in the file -> class index.

    Raises:
        DataError: the label holds a value that `table` does not.
    """
    cropped = image.orientation.apply(label.array)[slices(image.box)]
    indices = to_classes(np.ascontiguousarray(cropped), table, str(label.path))
    return resample_label(indices, image.array.shape[1:], classes).astype(np.uint8, copy=False)


def restore_labels(label: np.ndarray, image: PreparedImage) -> np.ndarray:
    """Put a label of the native box back into the file's grid and axis order; 0 elsewhere.

    Args:
        label: [d h w] of `image.box_shape`.
    """
    whole = np.zeros(image.native_shape, label.dtype)
    whole[slices(image.box)] = label
    return np.ascontiguousarray(image.orientation.undo(whole))


def slices(box: Box) -> tuple[slice, slice, slice]:
    """The box as an index."""
    a, b, c = (slice(start, stop) for start, stop in box)
    return a, b, c


def content_box(channels: Sequence[np.ndarray]) -> Box:
    """The smallest box that holds every voxel other than the border's constant value.

    Each channel's border value is the one most of its eight corners hold; a channel that is
    constant altogether does not count. With no constant border the box is the whole array.
    """
    spans = [_content_span(channel) for channel in channels]
    known = [span for span in spans if span is not None]
    if not known:
        a, b, c = channels[0].shape
        return (0, a), (0, b), (0, c)
    a, b, c = (
        (min(span[axis][0] for span in known), max(span[axis][1] for span in known))
        for axis in range(3)
    )
    return a, b, c


def _content_span(array: np.ndarray) -> Box | None:
    corners = [array[corner] for corner in product((0, -1), repeat=3)]
    values, counts = np.unique(corners, return_counts=True)
    content = array != values[counts.argmax()]
    spans = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        inside = np.flatnonzero(content.any(axis=others))
        if not len(inside):
            return None
        spans.append((int(inside[0]), int(inside[-1]) + 1))
    return spans[0], spans[1], spans[2]


def clip_(array: np.ndarray, clip: Clip) -> None:
    """Clip float32 `array` in place."""
    low, high = clip.low, clip.high
    if clip.kind == "percentile":
        step = max(1, array.size // _PERCENTILE_VOXELS)
        low, high = np.percentile(array.reshape(-1)[::step], (low, high))
    np.clip(array, np.float32(low), np.float32(high), out=array)


def zscore_(array: np.ndarray, fixed: tuple[float, float] | None = None) -> None:
    """Bring float32 `array` to mean 0 and deviation 1 in place; a constant array becomes 0.

    Args:
        fixed: mean and deviation to use instead of the array's own.
    """
    mean, std = fixed or _moments(array)
    array -= np.float32(mean)
    # Rounding leaves a deviation of about 1e-7 of the mean in a constant image.
    if std > 1e-6 * max(1.0, abs(mean)):
        array /= np.float32(std)
    elif fixed is None:
        array[:] = 0


def _moments(array: np.ndarray) -> tuple[float, float]:
    """Mean and deviation in double precision; a plane at a time, since `std` copies the array."""
    mean = float(array.mean(dtype=np.float64))
    squares = sum(float(np.square(plane - mean, dtype=np.float64).sum()) for plane in array)
    return mean, float(np.sqrt(squares / array.size))


def to_classes(label: np.ndarray, table: Mapping[int, int], name: str) -> np.ndarray:
    """Label values -> class indices, uint8.

    Raises:
        DataError: a value that `table` does not hold.
    """
    values = np.unique(label)
    unknown = [int(value) for value in values if int(value) not in table]
    if unknown:
        raise DataError(
            f"{name} holds the label values {unknown[:10]}, which dataset.json does not name; "
            "add them under `labels` or mend the label."
        )
    if not len(values) or int(values[-1]) > 1 << 16:
        indices = np.array([table[int(value)] for value in values], np.uint8)
        return indices[np.searchsorted(values, label)]
    lookup = np.zeros(int(values[-1]) + 1, np.uint8)
    for value in values:
        lookup[int(value)] = table[int(value)]
    return lookup[label]


def check_label_grid(image: Volume, label: Volume) -> None:
    """Refuse a label that lies elsewhere than its image.

    Raises:
        DataError: with both shapes, or the largest offset in millimetres.
    """
    _same(image, label, "the label", "Resample the label onto the image, or mend its header.")


def _check(volumes: Sequence[Volume], modality: str, plan: Plan) -> None:
    if modality not in plan.modalities:
        known = ", ".join(plan.modalities)
        raise DataError(f"the plan does not know the modality {modality!r}; it knows {known}.")
    names = plan.modalities[modality].channel_names
    if len(volumes) != len(names):
        raise DataError(
            f"{modality} needs {len(names)} channel(s) ({', '.join(names)}), got {len(volumes)}: "
            f"{', '.join(str(volume.path) for volume in volumes)}."
        )
    for volume in volumes[1:]:
        _same(volumes[0], volume, "another channel", "Register and resample the channels first.")


def _same(first: Volume, second: Volume, what: str, mend: str) -> None:
    offset_mm = same_grid(first, second)
    if offset_mm <= SAME_GRID_MM:
        return
    if first.array.shape != second.array.shape:
        how = f"has {_times(second.array.shape)} voxels instead of {_times(first.array.shape)}"
    else:
        how = f"is off by up to {offset_mm:.3g} mm"
    raise DataError(f"{what} {second.path} {how} of the image {first.path}. {mend}")


def _times(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))
