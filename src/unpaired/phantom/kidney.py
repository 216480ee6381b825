"""The kidneys: outline, hilum, sinus, fat around, cysts."""

from dataclasses import dataclass

import numpy as np

from unpaired.phantom.field import Key, stream
from unpaired.phantom.level import Level, Number
from unpaired.phantom.shapes import Ellipsoid, rotation


@dataclass(frozen=True)
class Kidney:
    """One kidney: its outline, what is hollow in it, its fat, and its cysts."""

    outline: Ellipsoid
    hilum: Ellipsoid
    sinus: Ellipsoid
    pelvis: Ellipsoid
    rim_mm: float
    cysts: tuple[Ellipsoid, ...]


def draw_kidney(key: Key, level: Level, name: str, fit: Number) -> Kidney:
    """One kidney, `fit` times its drawn size."""
    random = stream(key, name)
    size = float(1.03 * np.exp(random.normal(0, 0.09)) * fit)
    side = 1.0 if name == "right_kidney" else -1.0  # towards the spine
    centre = (-62.0, 46.0, -34.0) if side > 0 else (61.0, 44.0, -20.0)
    shift = random.normal(0, 5, 3) * level.pose + [0, 0, random.normal(0, 6) * level.pose]
    x, y, z = np.array(centre) + shift
    radii = np.array([28.0, 25.0, 52.0]) * size
    tilt = rotation(random.normal(0, 1, 3) * 8 * level.pose + [-6, 8 * side, 0])
    bend = (float(-side * random.uniform(1, 7)), float(random.normal(0, 2)))

    def inner(dx: Number, dy: Number, dz: Number, rx: Number, ry: Number, rz: Number) -> Ellipsoid:
        offset = tilt.T @ (np.array([side * dx, dy, dz]) * size)
        return Ellipsoid(np.array([x, y, z]) + offset, np.array([rx, ry, rz]) * size, tilt)

    outline = Ellipsoid(np.array([x, y, z]), radii, tilt, bend)
    rim = random.uniform(0.2, 1) * 7 if random.random() < 0.75 else 0.0
    return Kidney(
        outline=outline,
        hilum=inner(25, -9, random.normal(0, 3), 17, 12, 19),
        sinus=inner(8, -3, 0, 10, 8, 24),
        pelvis=inner(13, -5, 0, 9, 4.5, 12),
        rim_mm=rim,
        cysts=_cysts(stream(key, name, "cysts"), outline, level),
    )


def _cysts(random: np.random.Generator, kidney: Ellipsoid, level: Level) -> tuple[Ellipsoid, ...]:
    """Balls that bulge from the inside towards the surface."""
    cysts = []
    for _ in range(random.poisson(0.6 * level.lesions)):
        way = random.normal(size=3)
        way *= random.uniform(0.6, 0.9) / np.linalg.norm(way)
        place = kidney.centre + kidney.tilt.T @ (kidney.radii * way)
        cysts.append(Ellipsoid(place, np.full(3, random.uniform(4, 13)), np.eye(3)))
    return tuple(cysts)
