"""Solids as implicit functions: negative inside, approximate millimetres near the surface."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from unpaired.phantom.level import Number

Grid = Float32[np.ndarray, "d h w"]
Vector = Float[np.ndarray, " 3"]
Bounds = tuple[Vector, Vector]
_TINY = np.float32(1e-6)


@dataclass(frozen=True)
class Ellipsoid:
    """A tilted, slightly bent ellipsoid.

    Attributes:
        centre, radii: mm, in the order x (left), y (back), z (up).
        tilt: [3 3] rotation from the patient's axes to the solid's.
        bend: how far (mm) x and y drift where z is one radius from the centre.
    """

    centre: Vector
    radii: Vector
    tilt: Float[np.ndarray, "3 3"]
    bend: tuple[float, float] = (0.0, 0.0)

    @property
    def bounds(self) -> Bounds:
        """Lower and upper corner of a box that holds the solid."""
        reach = np.sqrt(self.tilt.T**2 @ self.radii**2) + max(np.abs(self.bend))
        return self.centre - reach, self.centre + reach

    def distance(self, x: Grid, y: Grid, z: Grid) -> Grid:
        """First-order distance in mm (exact on the surface)."""
        near = [v - np.float32(c) for v, c in zip((x, y, z), self.centre, strict=True)]
        tilt = self.tilt.astype(np.float32)
        own = [r[0] * near[0] + r[1] * near[1] + r[2] * near[2] for r in tilt]
        inverse = (1 / self.radii).astype(np.float32)
        if any(self.bend):
            along = (own[2] * inverse[2]) ** 2
            own[0] -= np.float32(self.bend[0]) * along
            own[1] -= np.float32(self.bend[1]) * along
        scaled = [v * s for v, s in zip(own, inverse, strict=True)]
        length = np.sqrt(scaled[0] ** 2 + scaled[1] ** 2 + scaled[2] ** 2)
        steep = [v * s for v, s in zip(scaled, inverse, strict=True)]
        slope = np.sqrt(steep[0] ** 2 + steep[1] ** 2 + steep[2] ** 2)
        return length * (length - 1) / (slope + _TINY)


@dataclass(frozen=True)
class Tube:
    """A chain of tapered capsules.

    Attributes:
        points: [n 3] mm.
        radii: [n] mm at the points.
        fold_mm: depth of folds across the tube; 0 for a smooth one.
        period_mm: distance between folds.
    """

    points: Float[np.ndarray, "n 3"]
    radii: Float[np.ndarray, " n"]
    fold_mm: Number = 0
    period_mm: Number = 25

    @property
    def bounds(self) -> Bounds:
        """Lower and upper corner of a box that holds the solid."""
        reach = self.radii[:, None] + self.fold_mm
        return (self.points - reach).min(0), (self.points + reach).max(0)

    def distance(self, x: Grid, y: Grid, z: Grid) -> Grid:
        """Distance in mm to the nearest capsule; with folds, an approximation."""
        nearest: Grid | None = None
        start = 0.0
        for i in range(len(self.points) - 1):
            one = self._segment(i, start, x, y, z)
            start += float(np.linalg.norm(self.points[i + 1] - self.points[i]))
            nearest = one if nearest is None else np.minimum(nearest, one, out=nearest)
        assert nearest is not None
        return nearest

    def _segment(self, i: int, start: float, x: Grid, y: Grid, z: Grid) -> Grid:
        a, step = self.points[i], self.points[i + 1] - self.points[i]
        length = float(np.linalg.norm(step)) + 1e-6
        near = [v - np.float32(c) for v, c in zip((x, y, z), a, strict=True)]
        unit = (step / length).astype(np.float32)
        along = near[0] * unit[0] + near[1] * unit[1] + near[2] * unit[2]
        np.clip(along, 0, np.float32(length), out=along)
        off = sum((v - along * u) ** 2 for v, u in zip(near, unit, strict=True))
        taper = np.float32((self.radii[i + 1] - self.radii[i]) / length)
        away: Grid = np.sqrt(off) - (np.float32(self.radii[i]) + taper * along)
        if self.fold_mm:
            turn = (along + np.float32(start)) * np.float32(2 * np.pi / self.period_mm)
            away += np.float32(self.fold_mm) * (np.cos(turn) - 1) / 2 + np.float32(self.fold_mm)
        return away


def smooth_min(a: Grid, b: Grid, k: Number) -> Grid:
    """The smaller of two, rounded where they are within `k` mm of each other."""
    h = np.maximum(np.float32(k) - np.abs(a - b), 0) / np.float32(k)
    return np.minimum(a, b) - h * h * np.float32(k / 4)


def rotation(degrees: Sequence[Number] | Vector) -> Float[np.ndarray, "3 3"]:
    """Rotation about x, then y, then z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        one = np.eye(3)
        one[i, i] = one[j, j] = np.cos(angle)
        one[i, j], one[j, i] = -np.sin(angle), np.sin(angle)
        matrix = one @ matrix
    return matrix


@dataclass(frozen=True)
class Blend:
    """Two solids grown together over about `k` mm."""

    one: "Ellipsoid | Tube"
    two: "Ellipsoid | Tube"
    k: Number

    @property
    def bounds(self) -> Bounds:
        """Lower and upper corner of a box that holds the solid."""
        (a, b), (c, d) = self.one.bounds, self.two.bounds
        return np.minimum(a, c), np.maximum(b, d)

    def distance(self, x: Grid, y: Grid, z: Grid) -> Grid:
        """First-order distance in mm."""
        return smooth_min(self.one.distance(x, y, z), self.two.distance(x, y, z), self.k)


Solid = Ellipsoid | Tube | Blend
