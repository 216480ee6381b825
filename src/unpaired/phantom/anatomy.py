"""The partition: which tissue is where. Layers are laid over each other, organs last.

Air and other contents keep GAP_MM from every organ, so no labelled voxel is partly air: bowel has
its wall, lung has the diaphragm.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32

from unpaired.phantom.kidney import Kidney
from unpaired.phantom.level import Number
from unpaired.phantom.shapes import Grid, Solid, smooth_min
from unpaired.phantom.slab import FAR, SPINE_BOX, Box, Slab, ellipse
from unpaired.phantom.subject import ORGANS, Loop

GAP_MM = np.float32(4.5)
ALL: Box = (slice(None), slice(None), slice(None))


@dataclass(frozen=True)
class Layer:
    """One tissue, where `distance` < 0 within `box`; `organ` (1..4) also sets the label."""

    box: Box
    distance: Grid
    tissue: str
    number: int = 0
    organ: int = 0


# A box of the slab, and distances in it (a box has a size of its own, so the axes go unnamed).
Shape = tuple[Box, Float32[np.ndarray, "_ _ _"]]


def organ_shapes(slab: Slab) -> dict[str, Shape]:
    """Distances to the organs present in the slab; those of two organs do not overlap inside."""
    shapes: dict[str, Shape] = {}
    pressed = slab.full(slab.subject.stomach.solid)
    for name, kidney in slab.subject.kidneys.items():
        shape = _kidney(slab, name, kidney)
        if shape is None:
            continue
        shapes[name] = shape
        box, _ = shape
        outline = kidney.outline.distance(*slab.at(box)) + slab.rough(name, box)
        outline -= np.float32(kidney.rim_mm)
        np.minimum(pressed[box], outline, out=pressed[box])
    others = slab.subject.solids
    names = ("notch", "fissure", "cava", "aorta", "gallbladder")
    liver = [slab.full(others[name]) for name in names if name in others]
    for name, against in (("liver", liver), ("spleen", [slab.full(others["scoop"])])):
        shape = _pressed(slab, name, (pressed, *against))
        if shape is not None:
            shapes[name] = shape
    return shapes


def _pressed(slab: Slab, name: str, against: Sequence[Grid]) -> Shape | None:
    """Distance to a solid into which others press, within the abdominal cavity."""
    solid = slab.subject.solids[name]
    box = slab.box(solid.bounds)
    if box is None:
        return None
    inside = solid.distance(*slab.at(box)) + slab.rough(name, box)
    for press in against:
        inside = np.maximum(inside, -press[box])
    return box, _within(slab, box, inside, 1.5)


def _within(slab: Slab, box: Box, inside: Grid, away_mm: Number) -> Grid:
    for limit in (slab.cavity, slab.dome):
        inside = np.maximum(inside, limit[box] + np.float32(away_mm))
    return np.maximum(inside, np.float32(away_mm) - slab.spine[box])


def _kidney(slab: Slab, name: str, kidney: Kidney) -> Shape | None:
    box = slab.box(kidney.outline.bounds)
    if box is None:
        return None
    place = slab.at(box)
    inside = kidney.outline.distance(*place) + slab.rough(name, box)
    hollow = smooth_min(kidney.hilum.distance(*place), kidney.sinus.distance(*place), 6)
    return box, _within(slab, box, np.maximum(inside, -hollow), 2.5)


def partition(slab: Slab) -> Iterator[Layer]:
    """All layers of the slab, in the order in which they are laid."""
    shapes = organ_shapes(slab)
    organs = np.full(slab.x.shape, FAR, np.float32)
    for box, distance in shapes.values():
        np.minimum(organs[box], distance, out=organs[box])
    yield from _wall(slab)
    yield from _chest(slab, organs)
    yield from _back(slab)
    yield from _soft(slab)
    for loop in (*slab.subject.loops, slab.subject.stomach):
        yield from _loop(slab, loop, organs)
    yield from _liver(slab, shapes)
    if "spleen" in shapes:
        yield Layer(*shapes["spleen"], "spleen", organ=ORGANS.index("spleen") + 1)
    for name, kidney in slab.subject.kidneys.items():
        if name in shapes:
            yield from _kidney_layers(slab, name, kidney, shapes[name])


def _wall(slab: Slab) -> Iterator[Layer]:
    trunk, cavity = slab.subject.trunk, slab.cavity
    wall = np.float32(trunk.wall_mm)
    # Fat lies thicker behind, thinner at the flanks.
    share = np.clip(slab.y / 92, -0.6, 1) * np.float32(0.5) + 1 - np.abs(slab.x) * np.float32(2e-3)
    outer = cavity - wall - share * np.float32(trunk.fat_mm)
    yield Layer(ALL, outer - 3, "skin")
    yield Layer(ALL, outer, "fat")
    yield Layer(ALL, cavity - wall, "muscle")
    yield Layer(ALL, cavity, "omentum")
    turn = slab.z + np.float32(0.45) * slab.y - np.float32(trunk.rib_phase)  # ribs slant down
    turn -= 27 * np.round(turn / 27)
    rib = np.sqrt(((cavity - 5) / np.float32(0.75)) ** 2 + turn * turn) - 5
    ends = np.maximum(-25 - slab.z - slab.y * np.float32(0.55), 30 - np.abs(slab.x))
    rib = np.maximum(rib, ends)
    yield Layer(ALL, rib, "bone")
    yield Layer(ALL, rib + 2, "marrow")


def _back(slab: Slab) -> Iterator[Layer]:
    box = slab.box(SPINE_BOX, 0)
    if box is None:
        return
    x, y, z = slab.at(box)
    side = np.abs(x)
    yield Layer(box, ellipse(side, y, (31, 99), (27, 18)), "muscle")
    for name in ("psoas_right", "psoas_left"):
        solid = slab.subject.solids[name]
        inner = slab.box(solid.bounds, 4)
        if inner is not None:
            yield Layer(inner, solid.distance(*slab.at(inner)), "muscle")
    turn = z - np.float32(slab.subject.trunk.disc_phase)
    turn = np.abs(turn - 36 * np.round(turn / 36))
    column = ellipse(x, y, (0, 60), (25, 19)) + np.cos(turn * np.float32(np.pi / 18)) * 2
    body = np.maximum(column, turn - 13)
    arch = np.maximum(ellipse(x, y, (0, 86), (13, 13)), turn - 14)
    spike = np.maximum(np.maximum(side - 3, np.abs(y - 108) - 14), turn - 9)
    wings = np.maximum(ellipse(side, y, (26, 91), (17, 4)), turn - 6)
    yield Layer(box, column, "disc")
    for bone, shell in ((body, 2), (arch, 2), (spike, 1.5), (wings, 1.5)):
        yield Layer(box, bone, "bone")
        yield Layer(box, bone + np.float32(shell), "marrow")
    yield Layer(box, ellipse(x, y, (0, 86), (8.5, 8)), "canal")
    yield Layer(box, ellipse(x, y, (0, 86.5), (4.5, 4)), "cord")


def _chest(slab: Slab, organs: Grid) -> Iterator[Layer]:
    if float(slab.dome.max()) < -8:
        return
    solids = slab.subject.solids
    inside = np.maximum(slab.cavity + 2, slab.dome * np.float32(-1))
    yield Layer(ALL, np.maximum(inside - 4, slab.cavity), "muscle")
    lung = np.maximum(inside, GAP_MM - organs)
    yield Layer(ALL, lung, "lung")
    middle = np.maximum(slab.full(solids["mediastinum"]), np.maximum(inside, slab.cavity))
    yield Layer(ALL, middle, "fat")
    heart = np.maximum(slab.full(solids["heart"]), inside)
    yield Layer(ALL, heart, "fat")
    yield Layer(ALL, heart + 5, "heart")


def _soft(slab: Slab) -> Iterator[Layer]:
    tissues = {"aorta": "artery", "cava": "cava", "mesenteric": "artery"}
    solids = slab.subject.solids
    for name in ("pancreas", "splenic", "mesenteric", "portal", "aorta", "cava", "gallbladder"):
        box = slab.box(solids[name].bounds, 6) if name in solids else None
        if box is None:
            continue
        distance = solids[name].distance(*slab.at(box))
        if name == "pancreas":
            distance = distance + slab.rough("gut", box)
        tissue = name if name in ("pancreas", "gallbladder") else tissues.get(name, "vein")
        yield Layer(box, distance, tissue)


def _loop(slab: Slab, loop: Loop, organs: Grid) -> Iterator[Layer]:
    box = slab.box(loop.solid.bounds, 6)
    if box is None:
        return
    outer = loop.solid.distance(*slab.at(box)) + np.float32(0.4) * slab.rough("gut", box)
    outer = np.maximum(outer, slab.cavity[box] + 1)
    outer = np.maximum(np.maximum(outer, slab.dome[box] + 2), 3 - slab.spine[box])
    yield Layer(box, outer, "gut")
    content = np.maximum(outer + np.float32(loop.wall_mm), GAP_MM - organs[box])
    yield Layer(box, content, "content", loop.number)
    air = np.maximum(content, slab.y[box] - np.float32(loop.level_mm))
    if float(air.min()) < 4:
        yield Layer(box, air, "air")


def _liver(slab: Slab, shapes: dict[str, Shape]) -> Iterator[Layer]:
    if "liver" not in shapes:
        return
    outer, liver = shapes["liver"]
    yield Layer(outer, liver, "liver", organ=ORGANS.index("liver") + 1)
    depth = np.full(slab.x.shape, FAR, np.float32)
    depth[outer] = liver
    inner: list[tuple[str, int, Solid]] = [("vein", 0, tube) for tube in slab.subject.vessels]
    inner += [("lesion", i, tumour) for i, tumour in enumerate(slab.subject.tumours)]
    for tissue, number, solid in inner:
        box = slab.box(solid.bounds, 5)
        if box is not None:
            distance = np.maximum(solid.distance(*slab.at(box)), depth[box] + 1)
            yield Layer(box, distance, tissue, number)


def _kidney_layers(slab: Slab, name: str, kidney: Kidney, shape: Shape) -> Iterator[Layer]:
    box, organ = shape
    place = slab.at(box)
    outline = kidney.outline.distance(*place) + slab.rough(name, box)
    outline = np.maximum(outline, slab.cavity[box])
    fat = np.maximum(outline - np.float32(kidney.rim_mm), 2 - slab.spine[box])
    yield Layer(box, fat, "fat")
    yield Layer(box, organ, "cortex", organ=ORGANS.index(name) + 1)
    columns = np.cos(place[2] * np.float32(2 * np.pi / 17)) * np.cos(place[1] * np.float32(0.35))
    medulla = np.maximum(outline + 7 + np.float32(2.5) * columns, organ + 1)
    yield Layer(box, medulla, "medulla")
    pelvis = np.maximum(kidney.pelvis.distance(*place), 1 - organ)
    yield Layer(box, pelvis, "pelvis")
    for i, cyst in enumerate(kidney.cysts):
        yield Layer(box, np.maximum(cyst.distance(*place), organ), "cyst", i)
