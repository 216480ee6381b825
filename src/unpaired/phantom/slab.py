"""A few slices of the patient: canonical coordinates, body outline, and distances to solids."""

import numpy as np
from jaxtyping import Float

from unpaired.phantom.level import Number
from unpaired.phantom.shapes import Bounds, Grid, Solid
from unpaired.phantom.subject import Subject

FAR = np.float32(60)
MARGIN_MM = 14.0  # distances are known this far beyond a solid
CAVITY_MM = (142.0, 92.0)  # half width and half depth inside the body wall
Box = tuple[slice, slice, slice]


class Slab:
    """Canonical coordinates x, y, z [d h w] of some slices, and what lies in them.

    Attributes:
        cavity, dome, spine: distances to the wall of the trunk (negative inside), the diaphragm
            (negative below) and the spine.
    """

    def __init__(
        self,
        subject: Subject,
        z_mm: Float[np.ndarray, " d"],
        y_mm: Float[np.ndarray, " h"],
        x_mm: Float[np.ndarray, " w"],
    ) -> None:
        self.subject = subject
        z, y, x = np.meshgrid(z_mm, y_mm, x_mm, indexing="ij", sparse=True)
        place = []
        for row, warp in zip(subject.frame, subject.warp, strict=True):
            straight = row[0] * x + row[1] * y + row[2] * z
            place.append(warp.on(z_mm, y_mm, x_mm) + straight.astype(np.float32))
        self.x, self.y, self.z = place
        self.surface = [field.on(z_mm, y_mm, x_mm) for field in subject.surface]
        # Where each array index lies along its own canonical axis: boxes are found from these.
        self._spans = [
            (grid.min(other), grid.max(other))
            for grid, other in zip((self.z, self.y, self.x), ((1, 2), (0, 2), (0, 1)), strict=True)
        ]
        self.cavity = _cavity(self.x, self.y)
        self.dome = _dome(self, *subject.trunk.dome_mm)
        self.spine = _spine(self)

    def box(self, bounds: Bounds, margin_mm: Number = MARGIN_MM) -> Box | None:
        """The part of the slab that reaches into `bounds` and the margin; None if there is none."""
        parts = []
        for (low, high), axis in zip(self._spans, (2, 1, 0), strict=True):
            inside = (high >= bounds[0][axis] - margin_mm) & (low <= bounds[1][axis] + margin_mm)
            hit = np.flatnonzero(inside)
            if not len(hit):
                return None
            parts.append(slice(int(hit[0]), int(hit[-1]) + 1))
        return parts[0], parts[1], parts[2]

    def at(self, box: Box) -> tuple[Grid, Grid, Grid]:
        """x, y, z within a box."""
        return self.x[box], self.y[box], self.z[box]

    def full(self, *solids: Solid) -> Grid:
        """Distance to the nearest solid over the whole slab, FAR beyond the margin."""
        nearest = np.full(self.x.shape, FAR, np.float32)
        for solid in solids:
            box = self.box(solid.bounds)
            if box is not None:
                np.minimum(nearest[box], solid.distance(*self.at(box)), out=nearest[box])
        return nearest

    def rough(self, name: str, box: Box) -> Grid:
        """The roughness added to the surface of `name`, mm."""
        a, b, c = self.subject.mixes[name].astype(np.float32)
        return a * self.surface[0][box] + b * self.surface[1][box] + c * self.surface[2][box]


def _cavity(x: Grid, y: Grid) -> Grid:
    """First-order distance to the superellipse |x/a|^2.5 + |y/b|^2.5 = 1."""
    u, v = np.abs(x) / np.float32(CAVITY_MM[0]), np.abs(y) / np.float32(CAVITY_MM[1])
    du, dv = u * np.sqrt(u), v * np.sqrt(v)  # power 1.5, the gradient's
    radius = (u * du + v * dv + np.float32(1e-9)) ** np.float32(0.4)
    du /= np.float32(CAVITY_MM[0])
    dv /= np.float32(CAVITY_MM[1])
    slope = np.sqrt(du * du + dv * dv) / (radius * np.sqrt(radius))
    return np.maximum((radius - 1) / (slope + np.float32(1e-9)), -FAR)


def _dome(slab: Slab, right_mm: Number, left_mm: Number) -> Grid:
    """Distance above the diaphragm: two domes that fall off towards the wall."""
    if float(slab.z.max()) < -40:
        return np.full(slab.x.shape, -FAR, np.float32)
    heights, slopes = [], []
    for top, x, y in ((right_mm, -58, 0), (left_mm, 58, 4)):
        v = (slab.y - np.float32(y)) / 104
        v = np.maximum(v, v * np.float32(-0.55))  # in front the diaphragm hardly falls off
        u = ((slab.x - np.float32(x)) / 84) ** 2 + v * v
        heights.append(np.float32(top) - 74 * u * np.sqrt(u))
        slopes.append(np.float32(2.6) * u)
    gap = np.maximum(24 - np.abs(heights[0] - heights[1]), 0)
    height = np.maximum(heights[0], heights[1]) + gap * gap / 96
    slope = np.minimum(slopes[0], slopes[1])
    return np.clip((slab.z - height) / np.sqrt(1 + slope * slope), -FAR, FAR)


SPINE_BOX: Bounds = (np.array([-66.0, 34, -1e4]), np.array([66.0, 128, 1e4]))


def ellipse(x: Grid, y: Grid, at: tuple[Number, Number], radii: tuple[Number, Number]) -> Grid:
    """First-order distance to an upright cylinder of elliptic section."""
    u, v = (x - np.float32(at[0])) / radii[0], (y - np.float32(at[1])) / radii[1]
    length = np.sqrt(u * u + v * v)
    slope = np.sqrt((u / radii[0]) ** 2 + (v / radii[1]) ** 2)
    return length * (length - 1) / (slope + np.float32(1e-6))


def _spine(slab: Slab) -> Grid:
    distance = np.full(slab.x.shape, FAR, np.float32)
    box = slab.box(SPINE_BOX, 0)
    if box is not None:
        x, y, _ = slab.at(box)
        distance[box] = np.minimum(
            ellipse(x, y, (0, 60), (25, 19)), ellipse(x, y, (0, 86), (13, 13))
        )
    return distance
