"""The one road from files to what the network sees, for training and for prediction alike."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import floor

import numpy as np
import torch

from unpaired.data.content import Box, content_box
from unpaired.data.frame import cut, frame_without_label, inside, put_back
from unpaired.data.plan import Clip, ModalityPlan, Plan
from unpaired.datasets.dataset import IGNORED
from unpaired.errors import DataError
from unpaired.io.resample import resample_image, resample_label
from unpaired.io.volume import SAME_GRID_MM, Orientation, Volume, same_grid

# Percentiles of larger volumes are taken from evenly spaced voxels.
_PERCENTILE_VOXELS = 1 << 22
# Of a size in voxels: the last digits of 32-bit numbers and of decimal texts.
_HALF_WIDTH = 1e-5


@dataclass(frozen=True)
class Placement:
    """Where an image lies on the plan's grid, and the way back to its file.

    Attributes:
        orientation: file axes -> canonical axes.
        native_shape: the file's shape, canonical axes.
        box: what was kept of it, (start, stop) per canonical axis.
        grid: the box's shape on the plan's grid.
        spacing_mm: of that grid; the plan's, up to rounding the shape to whole voxels.
    """

    orientation: Orientation
    native_shape: tuple[int, int, int]
    box: Box
    grid: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]

    @property
    def box_shape(self) -> tuple[int, int, int]:
        """Native voxels in the box, canonical axes: the size that labels go back to."""
        a, b, c = (stop - start for start, stop in self.box)
        return a, b, c

    @property
    def native_mm(self) -> np.ndarray:
        """Spacing [3] of the file's voxels, canonical axes."""
        return self.extent_mm / self.box_shape

    @property
    def extent_mm(self) -> np.ndarray:
        """Size [3] of the box."""
        return np.multiply(self.grid, self.spacing_mm)

    @property
    def middle(self) -> tuple[float, float, float]:
        """The middle of the file's image, in voxels of the grid from the box's edge."""
        a, b, c = (
            (n / 2 - start) * size / (stop - start)
            for n, size, (start, stop) in zip(self.native_shape, self.grid, self.box, strict=True)
        )
        return a, b, c


@dataclass(frozen=True)
class PreparedImage(Placement):
    """An image on the plan's grid and scale.

    Attributes:
        array: float32 [K d h w], canonical axes; of the grid's shape, or the frame's.
        frame: what was cut out of the grid for training, (start, stop) per axis; None: nothing.
    """

    array: np.ndarray
    frame: Box | None = None


def middle_of(grid: Sequence[int], frame: Box | None) -> list[float]:
    """The middle of the grid, in voxels of what the frame cut out of it."""
    starts = [0, 0, 0] if frame is None else [start for start, _ in frame]
    return [n / 2 - start for n, start in zip(grid, starts, strict=True)]


def place(volumes: Sequence[Volume], modality: str, plan: Plan) -> Placement:
    """Find orientation, content and grid of an image.

    Args:
        volumes: one a channel, in the order of the plan's channel names.

    Raises:
        DataError: the plan does not know the modality, channels are missing, or lie on
            different grids.
    """
    check_volumes(volumes, modality, plan)
    turn = plan.orientation(volumes[0])
    box = content_box([turn.apply(volume.array) for volume in volumes])
    native = turn.spacing(volumes[0].spacing_mm)
    extent_mm = [(stop - start) * mm for (start, stop), mm in zip(box, native, strict=True)]
    a, b, c = (_voxels(e / mm) for e, mm in zip(extent_mm, plan.spacing_mm, strict=True))
    d, h, w = (e / n for e, n in zip(extent_mm, (a, b, c), strict=True))
    shape = turn.apply(volumes[0].array).shape
    return Placement(turn, (shape[0], shape[1], shape[2]), box, (a, b, c), (d, h, w))


def _voxels(size: float) -> int:
    """Rounded, a half up. What counts as a half is a little wide: 17.5 voxels come out as 17.4999
    where a header holds 0.7 mm as 0.69999999, and must be as many from every format."""
    return max(1, floor(size + 0.5 + _HALF_WIDTH * size))


def preprocess(
    volumes: Sequence[Volume],
    modality: str,
    plan: Plan,
    frame: Box | None = None,
    placement: Placement | None = None,
) -> PreparedImage:
    """Orient, crop the constant border, resample, clip, z-score; for training, cut the frame.

    Clip, mean and deviation are those of the frame. Without one, as in prediction, the image stays
    whole and they are of as much of the frame as needs no label.

    Args:
        volumes: one a channel, in the order of the plan's channel names.
        frame: what to cut out of the grid.
        placement: what `place` found, if it was called before.

    Raises:
        DataError: as `place`, or nothing of the image lies in the frame.
    """
    where = placement or place(volumes, modality, plan)
    recipe = plan.modalities[modality]
    span = inside(frame or frame_without_label(where.grid, where.middle, plan, recipe), where.grid)
    channels = []
    for k, volume in enumerate(volumes):
        # In place from here on: one float copy of the box is all that a channel needs.
        box = where.orientation.apply(volume.array)[slices(where.box)]
        image = np.array(box, dtype=np.float32, order="C")
        if image.shape != where.grid:
            image = resample_image(torch.from_numpy(image), where.grid, plan.order).numpy()
        part = image if image[span].shape == image.shape else image[span].copy()
        if frame is not None:
            image = part
        _scale_(image, _measured(part, volume, where, span), recipe, k)
        if frame is not None:
            image = cut(image, _shifted(frame, span), float(image.min()))
        channels.append(image)
    out = channels[0][None] if len(channels) == 1 else np.stack(channels)
    return PreparedImage(**vars(where), array=out, frame=frame)


def _measured(
    part: np.ndarray, volume: Volume, where: Placement, span: tuple[slice, slice, slice]
) -> np.ndarray:
    """The voxels of a part of the grid that statistics are about: itself, or [1 n] of it without
    declared padding. A part that is padding alone counts as it is."""
    if volume.padding is None:
        return part
    padding = where.orientation.apply(volume.padding)[slices(where.box)]
    grid = resample_label(np.ascontiguousarray(padding).astype(np.uint8), where.grid, 2)[span]
    return part if grid.all() or not grid.any() else part[grid == 0][None]


def _scale_(image: np.ndarray, counted: np.ndarray, recipe: ModalityPlan, k: int) -> None:
    """Clip and z-score one channel in place by the percentiles and moments of `counted`."""
    fixed = (recipe.mean[k], recipe.std[k]) if recipe.zscore == "dataset" else None
    if counted is image:
        clip_(image, recipe.clip[k])
        zscore_(image, fixed)
        return
    low, high = clip_limits(counted, recipe.clip[k])
    np.clip(image, low, high, out=image)
    zscore_(image, fixed or moments(counted.clip(low, high)))


def _shifted(frame: Box, span: tuple[slice, slice, slice]) -> Box:
    """The frame in the voxels of the part that was kept."""
    a, b, c = (
        (start - part.start, stop - part.start)
        for (start, stop), part in zip(frame, span, strict=True)
    )
    return a, b, c


def preprocess_label(
    label: Volume, image: Placement, table: Mapping[int, int], classes: int
) -> np.ndarray:
    """The label on the grid of `image`: uint8 [d h w] of class indices, `IGNORED` where nobody
    annotated.

    Args:
        image: where the image lies; its frame, if it has one, is not cut.
        table: value in the file -> class index.

    Raises:
        DataError: the label holds a value that `table` does not.
    """
    cropped = image.orientation.apply(label.array)[slices(image.box)]
    indices = to_classes(np.ascontiguousarray(cropped), table, str(label.path))
    known = IGNORED + 1 if IGNORED in table.values() else classes
    return resample_label(indices, image.grid, known).astype(np.uint8, copy=False)


def restore_prepared(label: np.ndarray, image: PreparedImage, classes: int) -> np.ndarray:
    """Labels of a prepared image, back on the file's grid and axis order; 0 outside its frame.

    Args:
        label: class indices [d h w] of `image.array`.
    """
    grid = label if image.frame is None else put_back(label, image.frame, image.grid)
    return restore_labels(resample_label(grid, image.box_shape, classes), image)


def restore_labels(label: np.ndarray, image: Placement) -> np.ndarray:
    """Put a label of the native box back into the file's grid and axis order; 0 elsewhere.

    Args:
        label: [d h w] of `image.box_shape`.
    """
    native = np.zeros(image.native_shape, label.dtype)
    native[slices(image.box)] = label
    return np.ascontiguousarray(image.orientation.undo(native))


def slices(box: Box) -> tuple[slice, slice, slice]:
    """The box as an index."""
    a, b, c = (slice(start, stop) for start, stop in box)
    return a, b, c


def clip_(array: np.ndarray, clip: Clip) -> None:
    """Clip float32 `array` in place."""
    low, high = clip_limits(array, clip)
    np.clip(array, low, high, out=array)


def clip_limits(array: np.ndarray, clip: Clip) -> tuple[np.float32, np.float32]:
    """The limits in the units of `array`, float32."""
    low, high = clip.low, clip.high
    if clip.kind == "percentile" and (low, high) == (0, 100):
        return np.float32(-np.inf), np.float32(np.inf)
    if clip.kind == "percentile":
        step = max(1, array.size // _PERCENTILE_VOXELS)
        low, high = np.percentile(array.reshape(-1)[::step], (low, high))
    return np.float32(low), np.float32(high)


def zscore_(array: np.ndarray, fixed: tuple[float, float] | None = None) -> None:
    """Bring float32 `array` to mean 0 and deviation 1 in place; a constant array becomes 0.

    Args:
        fixed: mean and deviation to use instead of the array's own.
    """
    mean, std = fixed or moments(array)
    array -= np.float32(mean)
    # Rounding leaves a deviation of about 1e-7 of the mean in a constant image.
    if std > 1e-6 * max(1.0, abs(mean)):
        array /= np.float32(std)
    elif fixed is None:
        array[:] = 0


def moments(array: np.ndarray) -> tuple[float, float]:
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


def check_volumes(volumes: Sequence[Volume], modality: str, plan: Plan) -> None:
    """Refuse what is no image of the modality.

    Raises:
        DataError: the plan does not know the modality, channels are missing, or lie on
            different grids.
    """
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
