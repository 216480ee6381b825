"""One patient: every solid and number of the anatomy, each drawn from its own stream.

Patient frame: x to the left, y to the back, z up; millimetres; the second lumbar vertebra near 0.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from unpaired.phantom.field import Key, Smooth, smooth, stream
from unpaired.phantom.kidney import Kidney, draw_kidney
from unpaired.phantom.level import Level, Number
from unpaired.phantom.shapes import Blend, Ellipsoid, Solid, Tube, Vector, rotation

ORGANS = ("liver", "right_kidney", "left_kidney", "spleen")
_WARP = 0.4  # mm of deformation for one unit of `warp`


@dataclass(frozen=True)
class Loop:
    """One hollow piece: stomach, colon or small bowel.

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


@dataclass(frozen=True)
class Trunk:
    """Body wall, spine and diaphragm."""

    wall_mm: float
    fat_mm: float
    rib_phase: float
    disc_phase: float
    dome_mm: tuple[float, float]  # height of the right and left dome


@dataclass(frozen=True)
class Subject:
    """Everything that fixes one anatomy, whatever the scanner or the voxel size.

    Attributes:
        frame: [3 3], patient mm -> canonical mm (rotation, then size).
        warp: the three components of the smooth deformation.
        surface: three fields that roughen surfaces; `mixes` says how, by organ.
        solids: single solids by name (liver, notch, spleen, scoop, aorta, cava, ...).
        vessels: inside the liver.
    """

    frame: Float[np.ndarray, "3 3"]
    warp: tuple[Smooth, Smooth, Smooth]
    surface: tuple[Smooth, Smooth, Smooth]
    mixes: Mapping[str, Vector]
    trunk: Trunk
    solids: Mapping[str, Solid]
    kidneys: Mapping[str, Kidney]
    stomach: Loop
    loops: tuple[Loop, ...]
    vessels: tuple[Tube, ...]
    tumours: tuple[Ellipsoid, ...]


def draw_subject(key: Key, level: Level, fit: Mapping[str, Number]) -> Subject:
    """Draw a subject; `fit` scales organs by name (1 where missing)."""
    pose = stream(key, "pose")
    turn = rotation((0, 0, pose.normal(0, 3 * level.pose)))
    size = np.array([pose.uniform(0.90, 1.10), pose.uniform(0.90, 1.10), pose.uniform(0.91, 1.09)])
    warp = [smooth(stream(key, "warp", i), 75, _WARP * level.warp) for i in range(3)]
    rough = [smooth(stream(key, "surface", i), 26, level.surface_mm) for i in range(3)]
    mixes = {}
    for name in (*ORGANS, "gut"):
        mix = stream(key, "mix", name).normal(size=3)
        mixes[name] = mix / np.linalg.norm(mix)
    liver = _liver(key, level, fit.get("liver", 1))
    return Subject(
        frame=turn / size[:, None],
        warp=(warp[0], warp[1], warp[2]),
        surface=(rough[0], rough[1], rough[2]),
        mixes=mixes,
        trunk=_trunk(key),
        solids={
            **liver,
            **_spleen(key, level, fit.get("spleen", 1)),
            **_vessels(key),
            **_others(key, level),
        },
        kidneys={
            name: draw_kidney(key, level, name, fit.get(name, 1))
            for name in ("right_kidney", "left_kidney")
        },
        stomach=_stomach(key, level),
        loops=_bowel(key, level),
        vessels=_liver_vessels(key),
        tumours=_tumours(key, level, liver["liver"]),
    )


def _trunk(key: Key) -> Trunk:
    random = stream(key, "trunk")
    return Trunk(
        wall_mm=random.uniform(9, 13),
        fat_mm=random.uniform(6, 30),
        rib_phase=random.uniform(0, 27),
        disc_phase=random.uniform(0, 36),
        dome_mm=(random.normal(92, 5), random.normal(84, 5)),
    )


def _liver(key: Key, level: Level, fit: Number) -> dict[str, Solid]:
    random = stream(key, "liver")
    size = 1.02 * np.exp(random.normal(0, 0.07)) * fit
    shift = random.normal(0, 6, 3) * level.pose
    tilt = 6 * level.pose
    reach = 70 + random.uniform(-15, 15)
    right = _ellipsoid(
        random,
        (-70 + shift[0], 2 + shift[1], 28 + shift[2]),
        (63 * size, 76 * size, 70 * size),
        0,
        tilt,
        6,
    )
    left = _ellipsoid(
        random,
        (-2 + shift[0], -44 + shift[1], 44 + shift[2]),
        (reach * size, 36 * size, 38 * size),
        0,
        tilt,
        6,
    )
    # What presses into the underside; the fissure between the lobes.
    notch = _ellipsoid(random, (-8, 18, -28), (58, 52, 62), 5 * level.pose, 8)
    fissure = _ellipsoid(random, (-22, -60, 6), (6, 26, 32), 4 * level.pose, 10)
    return {"liver": Blend(right, left, 18), "notch": notch, "fissure": fissure}


def _spleen(key: Key, level: Level, fit: Number) -> dict[str, Solid]:
    random = stream(key, "spleen")
    size = float(np.exp(random.normal(0, 0.13)) * fit)
    shift = random.normal(0, 6, 3) * level.pose
    x, y, z = 96 + shift[0], 38 + shift[1], 32 + shift[2]
    tilt = 9 * level.pose
    outer = _ellipsoid(random, (x, y, z), (38 * size, 56 * size, 60 * size), 0, tilt, 4)
    centre = (x - 29 * size, y - 17 * size, z - 2)
    scoop = _ellipsoid(random, centre, (32 * size, 46 * size, 64 * size), 2, tilt, 5)
    return {"spleen": outer, "scoop": scoop}


def _vessels(key: Key) -> dict[str, Solid]:
    random = stream(key, "vessels")
    a, c = random.uniform(8.5, 12), random.uniform(9, 13)
    return {
        "aorta": _tube(random, [[10, 44, -170], [9, 36, -40], [12, 42, 130]], [a * 0.8, a, a], 2),
        "cava": _tube(
            random, [[-20, 42, -170], [-22, 34, -20], [-22, 26, 62], [-12, 8, 100]], [c] * 4, 2
        ),
        "portal": _tube(random, [[2, 8, -30], [-4, 6, 0], [-30, 0, 26]], [5, 6.5, 6], 3),
        "splenic": _tube(random, [[78, 34, 36], [40, 22, 22], [-4, 8, 0]], [4, 4, 5], 3),
        "mesenteric": _tube(random, [[8, 26, 0], [6, 8, -30], [0, 0, -90]], [4, 4, 3], 3),
    }


def _others(key: Key, level: Level) -> dict[str, Solid]:
    random = stream(key, "others")
    solids: dict[str, Solid] = {
        "pancreas": _tube(
            random,
            [[-24, 4, -20], [-8, -4, -6], [26, 2, 8], [62, 22, 24]],
            [12, 10, 9, random.uniform(7, 10)],
            5,
        ),
        "heart": _ellipsoid(random, (18, -30, 118), (58, 46, 44), 5, 8),
        "mediastinum": _ellipsoid(random, (6, 12, 120), (34, 70, 200)),
        "psoas_right": _tube(random, [[-28, 62, 40], [-44, 64, -150]], [9, 27], 2),
        "psoas_left": _tube(random, [[28, 62, 40], [44, 64, -150]], [9, 27], 2),
    }
    if random.random() < 0.85:
        solids["gallbladder"] = _ellipsoid(random, (-42, -34, -14), (13, 20, 22), 4, 12)
    return solids


def _liver_vessels(key: Key) -> tuple[Tube, ...]:
    random = stream(key, "liver vessels")
    tubes = []
    for end in ([-118, 10, 45], [-70, -45, 60], [0, -52, 58]):  # three veins, to the cava
        radii = [random.uniform(2, 3), random.uniform(3, 4), 4.5]
        tubes.append(_tube(random, [end, [-55, 0, 66], [-22, 22, 74]], radii, 6))
    for end in ([-115, 20, 5], [-95, -40, 25], [-70, 45, 35], [-5, -50, 40]):  # the portal tree
        radii = [2, random.uniform(2.5, 3.5), random.uniform(3, 4.5)]
        tubes.append(_tube(random, [end, [-65, -2, 28], [-30, 0, 26]], radii, 6))
    return tuple(tubes)


def _tumours(key: Key, level: Level, liver: Solid) -> tuple[Ellipsoid, ...]:
    random = stream(key, "tumours")
    assert isinstance(liver, Blend) and isinstance(liver.one, Ellipsoid)
    tumours = []
    for _ in range(random.poisson(1.5 * level.lesions)):
        way = random.normal(size=3)
        way *= random.uniform(0.2, 0.85) / np.linalg.norm(way)
        radii = random.uniform(5, 17) * random.uniform(0.8, 1.2, 3)
        place = liver.one.centre + liver.one.radii * way
        tumours.append(Ellipsoid(place, radii, rotation(random.normal(0, 30, 3))))
    return tuple(tumours)


def _stomach(key: Key, level: Level) -> Loop:
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


def _bowel(key: Key, level: Level) -> tuple[Loop, ...]:
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


def _ellipsoid(
    random: np.random.Generator,
    centre: tuple[Number, Number, Number],
    radii: tuple[Number, Number, Number],
    jitter_mm: Number = 0,
    tilt_degrees: Number = 0,
    bend_mm: Number = 0,
) -> Ellipsoid:
    bend = random.normal(0, 1, 2) * bend_mm
    return Ellipsoid(
        np.array(centre) + random.normal(0, 1, 3) * jitter_mm,
        np.array(radii, dtype=float),
        rotation(random.normal(0, 1, 3) * tilt_degrees),
        (float(bend[0]), float(bend[1])),
    )


def _tube(random: np.random.Generator, points: list, radii: list, jitter_mm: Number) -> Tube:
    place = np.array(points, dtype=float)
    place += random.normal(0, 1, place.shape) * jitter_mm
    return Tube(place, np.array(radii, dtype=float))
