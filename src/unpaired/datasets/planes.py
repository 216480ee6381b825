"""Which axes of a scan are its slices, rows and columns: those it was acquired along.

A scan is seldom taken square to the body: the short axis of a heart lies midway between the
patient's axes. Turned to the nearest of them, one scan would keep its planes and the next be cut
across its slices. So the axis across thick slices always comes first, and within the plane rows and
columns are turned to directions that all scans of the data sets have in common.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from unpaired.io.volume import (
    WORLD_AXES,
    Orientation,
    SliceAxis,
    Volume,
    canonical_orientation,
    orientation_along,
)

# From this ratio of its two largest spacings on, a scan has slices.
ANISOTROPIC = 1.5
# Where scans agree on their slices' axis, another scan further off is resliced to it.
NEAR_DEG = 60.0
# A direction midway between two choices leans to S, P and L: a scan square to the others is then
# never mirrored by a tilt of a few degrees.
_LEAN = 0.85
_LETTERS: tuple[SliceAxis, ...] = ("S", "P", "L")
_ROUNDS = 20

Direction = tuple[float, float, float]


@dataclass(frozen=True)
class Lattice:
    """Where the voxels of a scan lie, in the file's order of axes.

    Attributes:
        axes: [3 3], column a is the step in mm (Right, Anterior, Superior) along the file's axis a.
        shape: voxels along each axis.
    """

    axes: np.ndarray
    shape: tuple[int, int, int]

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between neighbours along each axis."""
        a, b, c = np.linalg.norm(self.axes, axis=0).tolist()
        return a, b, c

    @property
    def through_plane(self) -> int | None:
        """The axis across the acquired planes; None where no axis is clearly the coarsest."""
        single = [axis for axis, n in enumerate(self.shape) if n == 1]
        if len(single) == 1:
            return single[0]
        spacing = np.array(self.spacing_mm)
        coarsest = int(spacing.argmax())
        # Headers hold 7 digits: 1.5 may come as 1.4999999.
        clear = spacing[coarsest] > (ANISOTROPIC - 1e-4) * np.delete(spacing, coarsest).max()
        return coarsest if clear else None


def lattice_of(volume: Volume) -> Lattice:
    """Where the voxels of an image or a label lie."""
    a, b, c = volume.array.shape
    return Lattice(volume.affine[:3, :3], (a, b, c))


class Planes(BaseModel):
    """The directions that slices, rows and columns are turned to, as the plan stores them.

    Attributes:
        directions: three vectors (Right, Anterior, Superior): where the slices' index grows, the
            rows' and the columns'. Common to all scans; longer where they agree better.
        within_deg: a scan with thick slices keeps its own planes if they are turned this far or
            less against the first direction; 90: always.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    directions: tuple[Direction, Direction, Direction]
    within_deg: float = Field(ge=0, le=90)

    def orientation(self, scan: Lattice) -> Orientation:
        """How the scan's axes become slices, rows and columns.

        It depends on where the axes point, never on the order in which the file stores them.
        """
        towards = np.array(self.directions)
        through = scan.through_plane
        if through is not None and self.within_deg < 90:
            step = scan.axes[:, through] / scan.spacing_mm[through]
            cosine = abs(step @ towards[0]) / np.linalg.norm(towards[0])
            if cosine < np.cos(np.radians(self.within_deg)) - 1e-6:
                through = None
        return orientation_along(scan.axes, towards, through)

    @property
    def units(self) -> tuple[Direction, Direction, Direction]:
        """The directions, each of length 1."""
        rows = np.array(self.directions)
        return _directions(rows / np.linalg.norm(rows, axis=1, keepdims=True))

    @property
    def letters(self) -> tuple[SliceAxis, SliceAxis, SliceAxis]:
        """The patient axis that is closest to each direction: a permutation of S, P, L."""
        turn = orientation_along(_patient(), np.array(self.directions))
        a, b, c = (_LETTERS[axis] for axis in turn.axes)
        return a, b, c


def orient(scan: Lattice, slice_axis: SliceAxis, planes: Planes | None) -> Orientation:
    """How the axes of a scan become slices, rows and columns under a plan.

    Args:
        slice_axis: the patient axis along which slices are stacked.
        planes: None: the scan's axes count as the patient's axes they are closest to.
    """
    if planes is None:
        return canonical_orientation(scan.axes, slice_axis)
    return planes.orientation(scan)


def common_planes(scans: Sequence[Lattice], usual: SliceAxis) -> tuple[Planes, SliceAxis, bool]:
    """The planes of these scans, the patient axis closest to their slices, and whether all agree.

    Scans agree if the thick slices of each are stacked along the same patient axis: then slices,
    rows and columns are the patient's axes. Otherwise the directions are those that turn the scans
    into each other best.

    Args:
        usual: the patient axis to stack along where no scan has thick slices.
    """
    thick = [scan for scan in scans if scan.through_plane is not None]
    letters = Counter(_letter(scan) for scan in thick)
    if len(letters) <= 1:
        letter = next(iter(letters), usual)
        return Planes(directions=_directions(_square(letter)), within_deg=NEAR_DEG), letter, True
    best: tuple[float, np.ndarray] | None = None
    for letter in _LETTERS:
        towards, agreement = _mean_directions(thick, _square(letter))
        if best is None or agreement > best[0] + 1e-6:
            best = agreement, towards
    assert best is not None
    planes = Planes(directions=_directions(best[1]), within_deg=90)
    if _LETTERS.index(planes.letters[1]) > _LETTERS.index(planes.letters[2]):
        first, second, third = planes.directions  # rows and columns as in slices along an axis
        planes = Planes(directions=(first, third, second), within_deg=90)
    return planes, planes.letters[0], False


def _mean_directions(scans: Sequence[Lattice], towards: np.ndarray) -> tuple[np.ndarray, float]:
    """Turn every scan to the directions, take the mean of all, and again until nothing moves."""
    chosen: list[Orientation] = []
    for _ in range(_ROUNDS):
        turns = [orientation_along(scan.axes, towards, scan.through_plane) for scan in scans]
        if turns == chosen:
            break
        chosen = turns
        mean = np.mean([_turned(s, turn) for s, turn in zip(scans, turns, strict=True)], axis=0)
        towards = mean + _LEAN * np.sum(_square("S"), axis=0) / np.sqrt(3)
    return towards, float(np.square(mean).sum())


def _turned(scan: Lattice, turn: Orientation) -> np.ndarray:
    """Unit vectors of the scan's slices, rows and columns, [3 3]."""
    unit = scan.axes / scan.spacing_mm
    return np.array(
        [-unit[:, a] if flip else unit[:, a] for a, flip in zip(turn.axes, turn.flips, strict=True)]
    )


def _letter(scan: Lattice) -> SliceAxis:
    """The patient axis that the scan's thick slices are stacked along, more or less."""
    return _LETTERS[canonical_orientation(scan.axes).axes.index(scan.through_plane or 0)]


def _square(letter: Literal["S", "P", "L"]) -> np.ndarray:
    """The patient's axes with this one first, [3 3]."""
    rest = [other for other in _LETTERS if other != letter]
    return np.array([WORLD_AXES[name] for name in (letter, *rest)], float)


def _patient() -> np.ndarray:
    """Steps of 1 mm along S, P and L, as the columns of a lattice."""
    return _square("S").T


def _directions(rows: np.ndarray) -> tuple[Direction, Direction, Direction]:
    # Four digits: headers of other formats must lead to the same plan.
    first, second, third = (
        (round(float(x), 4), round(float(y), 4), round(float(z), 4)) for x, y, z in rows
    )
    return first, second, third
