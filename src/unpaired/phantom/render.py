"""From the partition to ideal images: tissue values composed by coverage, and labels."""

from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float32, UInt8

from unpaired.phantom.anatomy import Layer, organ_shapes, partition
from unpaired.phantom.field import Key, Smooth, smooth, stream
from unpaired.phantom.level import Level, Number
from unpaired.phantom.shapes import Grid
from unpaired.phantom.slab import Slab
from unpaired.phantom.subject import ORGANS, Subject, draw_subject
from unpaired.phantom.tissue import Contrast, Values

# Organs outside these volumes are scaled back in: a warp can make absurd kidneys.
PLAUSIBLE_ML = {
    "liver": (950.0, 2000.0),
    "right_kidney": (95.0, 240.0),
    "left_kidney": (95.0, 240.0),
    "spleen": (100.0, 350.0),
}
_SLAB = 8
_COARSE_MM = 5.0


@dataclass(frozen=True)
class Axes:
    """Voxel centres in the patient frame, mm, ascending; `width_mm` is the in-plane spacing."""

    z: Float[np.ndarray, " d"]
    y: Float[np.ndarray, " h"]
    x: Float[np.ndarray, " w"]
    width_mm: float


@dataclass(frozen=True)
class Ideal:
    """What a perfect scanner would see.

    Attributes:
        value: tissue values, partial volume included.
        label: 0 or 1 + the index in ORGANS.
        depth: mm below the inner body wall (0 outside).
    """

    value: Float32[np.ndarray, "d h w"]
    label: UInt8[np.ndarray, "d h w"]
    depth: Float32[np.ndarray, "d h w"]


def fitted_subject(key: Key, level: Level) -> Subject:
    """A subject whose organ volumes are plausible."""
    fit: dict[str, float] = {}
    for _ in range(3):
        subject = draw_subject(key, level, fit)
        wrong = {}
        for name, ml in volumes_ml(subject).items():
            low, high = PLAUSIBLE_ML[name]
            if not low <= ml <= high:
                aim = min(max(ml, low * 1.06), high * 0.94)
                wrong[name] = (aim / max(ml, 1.0)) ** (1 / 3)
        if not wrong:
            return subject
        fit = {name: fit.get(name, 1) * wrong.get(name, 1) for name in ORGANS}
    return draw_subject(key, level, fit)


def volumes_ml(subject: Subject) -> dict[str, float]:
    """Organ volumes, measured on a coarse grid of its own."""
    z, y, x = (np.arange(-r, r + 1, _COARSE_MM) for r in (150, 120, 170))
    slab = Slab(subject, z, y, x)
    counts = {name: int((d < 0).sum()) for name, (_, d) in organ_shapes(slab).items()}
    return {name: counts.get(name, 0) * _COARSE_MM**3 / 1000 for name in ORGANS}


def render(subject: Subject, contrast: Contrast, level: Level, key: Key, axes: Axes) -> Ideal:
    """Compose the subject on a grid, a few slices at a time."""
    look = _Look(
        contrast=contrast,
        values=Values(contrast, level, key),
        fat_failure=level.fat_failure,
        texture=smooth(stream(key, "texture"), 9, 1),
        unsuppressed=smooth(stream(key, "unsuppressed"), 130, 1),
    )
    shape = (len(axes.z), len(axes.y), len(axes.x))
    value, depth = np.empty(shape, np.float32), np.empty(shape, np.float32)
    label = np.zeros(shape, np.uint8)
    for start in range(0, shape[0], _SLAB):
        part = slice(start, min(start + _SLAB, shape[0]))
        some = replace(axes, z=axes.z[part])
        slab = Slab(subject, some.z, some.y, some.x)
        canvas = _Canvas(look, some)
        for layer in partition(slab):
            canvas.lay(layer)
        value[part] = canvas.finished()
        label[part] = canvas.label
        depth[part] = np.maximum(-slab.cavity, 0)
    return Ideal(value, label, depth)


@dataclass(frozen=True)
class _Look:
    """How one subject's tissues appear: their values, texture, and fat that escapes suppression."""

    contrast: Contrast
    values: Values
    fat_failure: Number
    texture: Smooth
    unsuppressed: Smooth


class _Canvas:
    """The image of one slab while layers are laid over it."""

    def __init__(self, look: _Look, axes: Axes) -> None:
        contrast, shape = look.contrast, (len(axes.z), len(axes.y), len(axes.x))
        self._values = look.values
        self._width = np.float32(1.3 * axes.width_mm)
        self.value = np.full(shape, contrast.air, np.float32)
        self.fat = np.zeros(shape, np.float32) if contrast.unsuppressed else None
        self.label = np.zeros(shape, np.uint8)
        grid = (axes.z, axes.y, axes.x)
        self._texture = look.texture.on(*grid)
        # Sheets where the texture crosses zero stand for vessels and folds running through fat.
        sheets = np.maximum(1 - np.abs(self._texture) * np.float32(3.5), 0)
        self._strands = sheets * np.float32(contrast.strands * 0.7)
        self._failure: Grid | None = None
        if contrast.unsuppressed and look.fat_failure:
            where = look.unsuppressed.on(*grid) - np.float32(1 - look.fat_failure)
            self._failure = np.clip(where, 0, 1) * np.float32(contrast.unsuppressed)

    def lay(self, layer: Layer) -> None:
        """Cover what is there with one more tissue, by its share of each voxel."""
        box, name = layer.box, layer.tissue
        share = np.clip(np.float32(0.5) - layer.distance / self._width, 0, 1)
        strands = name == "omentum"
        name = "fat" if strands else name
        target = self._texture[box] * np.float32(self._values.texture(name))
        target += np.float32(self._values.of(name, layer.number))
        if strands:
            target += self._strands[box]
        target -= self.value[box]
        target *= share
        self.value[box] += target
        if self.fat is not None:
            self.fat[box] += share * (np.float32(self._values.fat(name)) - self.fat[box])
        if layer.organ:
            self.label[box][layer.distance < 0] = layer.organ

    def finished(self) -> Grid:
        """The slab's values, with the fat that escaped suppression."""
        if self._failure is not None and self.fat is not None:
            self.value += self._failure * self.fat
        return self.value
