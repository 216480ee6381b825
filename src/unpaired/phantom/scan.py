"""Two scanners: from ideal values to what CT and MR give, with noise and artefacts."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int16
from scipy.ndimage import gaussian_filter1d

from unpaired.phantom.field import Key, smooth, stream
from unpaired.phantom.level import Level, Number
from unpaired.phantom.render import Axes, Ideal

Image = Float32[np.ndarray, "d h w"]
Physics = Callable[[Ideal, Axes, Level, Key], Image]


@dataclass(frozen=True)
class Geometry:
    """How a scanner samples the patient.

    Attributes:
        width_mm, slice_mm, extent_mm: ranges of in-plane spacing, slice distance, scanned height.
        matrix: columns and rows at quality 1.
        parts: sub-slices a slice is the mean of.
        codes: nibabel's letters, where each file axis runs to.
    """

    width_mm: tuple[Number, Number]
    slice_mm: tuple[Number, Number]
    extent_mm: tuple[Number, Number]
    matrix: int
    parts: int
    codes: tuple[str, str, str]


CT_GEOMETRY = Geometry((1.4, 1.6), (3.0, 3.0), (195, 225), 256, 1, ("L", "A", "S"))
MR_GEOMETRY = Geometry((1.55, 1.75), (5.5, 6.5), (180, 215), 224, 3, ("A", "L", "I"))


def slices(geometry: Geometry, quality: Number, key: Key) -> tuple[Axes, float]:
    """The voxel centres of one scan, sub-slices included, and the slice distance in mm.

    `quality` multiplies the in-plane spacing and divides the matrix: the field of view stays.
    """
    random = stream(key, "geometry")
    width = random.uniform(*geometry.width_mm) * quality
    thick = random.uniform(*geometry.slice_mm)
    count = int(random.uniform(*geometry.extent_mm) / thick)
    x, y, z = random.uniform((-8, -8, -12), (8, 8, 12))
    plane = (np.arange(round(geometry.matrix / quality)) + 0.5) * width
    plane -= plane.mean()
    height = (np.arange(count * geometry.parts) + 0.5) * thick / geometry.parts
    return Axes(height - height.mean() + z, plane + y, plane + x, width), thick


def ct(ideal: Ideal, axes: Axes, level: Level, key: Key) -> Image:
    """Hounsfield units: blur, streaks, the table, and noise that grows with depth."""
    image = _table(ideal.value, axes)
    image = _blur(image, 0.6)
    _streaks(image, axes, stream(key, "streaks"))
    random = stream(key, "noise")
    sigma = random.uniform(14, 30) * level.noise
    noise = _blur(random.standard_normal(image.shape, dtype=np.float32), 0.7)
    noise *= np.float32(sigma / noise[::4, ::4, ::4].std())
    noise *= np.float32(0.4) + np.minimum(ideal.depth / 65, 1) * np.float32(1.1)
    image += noise
    return np.clip(np.round(image), -1024, 3000)


def mr(ideal: Ideal, axes: Axes, level: Level, key: Key) -> Image:
    """Arbitrary units: thick slices, shading, ghost, gain jumps, Rician noise."""
    parts = MR_GEOMETRY.parts
    image = ideal.value.reshape(-1, parts, *ideal.value.shape[1:]).mean(1)
    middle = axes.z[parts // 2 :: parts]
    image = np.maximum(_blur(image, 0.55), 0)
    bias = smooth(stream(key, "bias"), 130, 0.27 * level.bias).on(middle, axes.y, axes.x)
    depth = ideal.depth[parts // 2 :: parts]
    image *= np.exp(bias) * (1 + np.float32(0.3) * np.exp(-depth / 35))
    random = stream(key, "artefacts")
    weight, shift = random.uniform(0, level.ghost), round(random.uniform(25, 70) / axes.width_mm)
    image += np.float32(weight / 2) * (np.roll(image, shift, 1) + np.roll(image, -shift, 1))
    image *= np.exp(random.normal(0, 0.04, len(image))).astype(np.float32)[:, None, None]
    sigma = np.float32(random.uniform(0.018, 0.045) * level.noise)
    gain = np.exp(random.uniform(np.log(200), np.log(1400)))
    random = stream(key, "noise")
    real = image + sigma * random.standard_normal(image.shape, dtype=np.float32)
    imaginary = sigma * random.standard_normal(image.shape, dtype=np.float32)
    return np.round(np.float32(gain) * np.sqrt(real * real + imaginary * imaginary))


def as_int16(image: Image) -> Int16[np.ndarray, "d h w"]:
    """The image as it is stored."""
    return np.clip(image, -32768, 32767).astype(np.int16)


def _blur(image: Image, sigma: float) -> Image:
    for axis in (1, 2):
        image = gaussian_filter1d(image, sigma, axis, truncate=3, mode="nearest")
    return image


def _table(image: Image, axes: Axes) -> Image:
    """A curved couch under the back, of -250 HU where there was air."""
    body = (image > -500).any((0, 2))
    back = axes.y[np.flatnonzero(body)[-1]] if body.any() else 0.0
    radius = 420.0
    away = np.hypot(axes.x[None], axes.y[:, None] - (back + 4 - radius)) - radius
    couch = (np.abs(away - 5) < 5) & (axes.y[:, None] > back - 70)
    return np.where(couch & (image < -900), np.float32(-250), image)


def _streaks(image: Image, axes: Axes, random: np.random.Generator) -> None:
    """Straight faint lines through one or two slices, as beside dense contrast."""
    for _ in range(random.poisson(3)):
        place, turn = random.uniform(), random.uniform(0, np.pi)
        offset, amount = random.uniform(-60, 60), random.uniform(-30, 30)
        at = int(place * len(image))
        away = axes.x[None] * np.cos(turn) + axes.y[:, None] * np.sin(turn) - offset
        line = np.float32(amount) * np.exp(-((away / 5) ** 2)).astype(np.float32)
        part = image[at : at + 2]
        part += line * (part > -500)
