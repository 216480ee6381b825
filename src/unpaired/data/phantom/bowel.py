"""Hollow organs: stomach, colon and small bowel, with wall, content and an air level."""

from dataclasses import dataclass

import numpy as np

from unpaired.data.phantom.field import Key, stream
from unpaired.data.phantom.level import Level, Number
from unpaired.data.phantom.shapes import Blend, Ellipsoid, Solid, Tube, rotation


@dataclass(frozen=True)
class Loop:
    """One hollow piece.

    Attributes:
        solid: outer surface.
        wall_mm: thickness of the wall.
        level_mm: y of the air-fluid level (the patient lies on the back, air gathers in front).
        number: tells contents apart.
    """

    solid: Solid
    wall_mm: Number
    level_mm: float
    number: int


def stomach(key: Key, level: Level) -> Loop:
    """Body and antrum grown together, nearly always with an air level."""
    random = stream(key, "stomach")
    size = float(np.clip(np.exp(random.normal(0, 0.2)), 0.7, 1.2))
    centre = np.array([50.0, -30, 42]) + random.normal(0, 6, 3) * level.pose
    radii = np.array([42.0, 42, 54]) * size
    bend = (float(random.normal(-8, 4)), float(random.normal(0, 4)))
    body = Ellipsoid(centre, radii, rotation(random.normal(0, 8, 3)), bend)
    points = centre + np.array([[-4.0, -10, -34], [-36, -20, -48], [-66, -8, -44]]) * size
    antrum = Tube(points, np.array([24.0, 17, 11]) * size, fold_mm=2, period_mm=19)
    air = centre[1] + radii[1] * random.uniform(-0.8, 0.2)
    return Loop(Blend(body, antrum, 14), 4, float(air), 0)


def bowel(key: Key, level: Level) -> tuple[Loop, ...]:
    """Three pieces of colon and a random number of small bowel loops."""
    random = stream(key, "bowel")
    loops = [_small(random, i) for i in range(random.poisson(level.bowel))]
    return (*_colon(stream(key, "colon")), *loops)


def _colon(random: np.random.Generator) -> list[Loop]:
    paths = (
        [[-102, 26, -160], [-104, 22, -110], [-98, 8, -66], [-92, -14, -44]],
        [[-90, -34, -40], [-45, -62, -58], [5, -68, -62], [50, -64, -44], [88, -40, -16]],
        [[104, 4, -12], [108, 28, -50], [106, 32, -110], [96, 24, -160]],
    )
    loops = []
    for number, path in enumerate(paths, start=1):
        points = np.array(path, dtype=float) + random.normal(0, 5, (len(path), 3))
        radii = random.uniform(15, 22) * random.uniform(0.8, 1.1, len(path))
        tube = Tube(points, radii, random.uniform(3, 7), random.uniform(20, 30))
        loops.append(Loop(tube, random.uniform(2, 3), _level(random, tube, 0.6), number))
    return loops


def _small(random: np.random.Generator, number: int) -> Loop:
    start = random.uniform((-95, -78, -130), (100, 12, 8))
    steps = random.normal(size=(3, 3)) * (1, 0.7, 0.5)
    steps *= random.uniform(16, 27, (3, 1)) / np.linalg.norm(steps, axis=1, keepdims=True)
    steps[1:] += 0.5 * steps[:1]
    points = np.concatenate([start[None], start + np.cumsum(steps, 0)])
    radii = random.uniform(8, 16) * random.uniform(0.85, 1.1, 4)
    tube = Tube(points, radii, random.uniform(1, 4), random.uniform(9, 16))
    return Loop(tube, random.uniform(2, 3), _level(random, tube, 0.35), 10 + number)


def _level(random: np.random.Generator, tube: Tube, probability: float) -> float:
    low, high = tube.bounds
    level = low[1] + (high[1] - low[1]) * random.uniform(0.25, 0.7)
    return float(level) if random.random() < probability else float(low[1]) - 50
