"""Classes that preparation loses: what is thinner than the grid's voxels, or outside the crop."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from unpaired.data.cache import PreparedCase
from unpaired.data.content import count_values
from unpaired.data.plan import Plan
from unpaired.data.preprocess import Placement, preprocess_label
from unpaired.datasets.dataset import IGNORED
from unpaired.io.volume import Orientation, Volume
from unpaired.names import some

LOST = 0.1
"""A class is lost in a case that keeps less than this share of its volume."""
_KEPT = 0.5
# Of the spacings of the plan, down to the labels' own.
_SHARES = (0.75, 0.5, 0.35, 0.25, 0.15, 0.1, 0.0)
_SHIFTS = (0, 1, 2)
MAX_LABELS = 3
"""Labels that a finer spacing is tried on."""


class Volumes(NamedTuple):
    """A class in one case, in mm3: in its file, on the plan's grid, in the crop."""

    native: float
    grid: float
    crop: float


@dataclass(frozen=True)
class Loss:
    """A class that some cases of a modality lose.

    Attributes:
        cases: that lose it, of `held` whose label holds it.
        by: what loses it.
        spacing_mm: on which they would keep it (slice, row, column); None: not found.
    """

    modality: str
    cls: str
    cases: tuple[str, ...]
    held: int
    by: Literal["grid", "crop"]
    spacing_mm: tuple[float, float, float] | None = None

    def what(self, plan: Plan) -> str:
        """What is lost, where, and of how many cases."""
        where = f"{self.cls!r} in {len(self.cases)} of {self.held} labels of {self.modality}"
        names = some(self.cases)
        if self.by == "crop":
            return f"the crop leaves out all or nearly all of {where} ({names})"
        return (
            f"on the grid of {_mm(plan.spacing_mm)} mm all or nearly all voxels vanish of {where} "
            f"({names})"
        )

    def mend(self) -> str:
        """What keeps it."""
        if self.by == "crop":
            return "give a larger data.plane, or plane_centre=labels and slices=all"
        if self.spacing_mm is None:
            return "leave the class out (data.classes), or give a finer data.spacing_mm"
        numbers = ", ".join(f"{mm:g}" for mm in self.spacing_mm)
        return f"data.spacing_mm=[{numbers}] keeps it"


def class_volumes(
    label: Volume, table: Mapping[int, int], grid: np.ndarray, crop: np.ndarray, voxel_mm3: float
) -> dict[int, Volumes]:
    """The foreground classes of a label and what became of them.

    Args:
        table: value in the file -> class index.
        grid, crop: class indices on the plan's grid, and what is kept of it.
        voxel_mm3: of that grid.
    """
    own_mm3 = float(abs(np.linalg.det(label.affine[:3, :3])))
    native: dict[int, float] = {}
    for value, count in count_values(label.array).items():
        index = table.get(value, 0)
        if index not in (0, IGNORED):
            native[index] = native.get(index, 0.0) + count * own_mm3
    on_grid, kept = count_values(grid), count_values(crop)
    return {
        index: Volumes(size, on_grid.get(index, 0) * voxel_mm3, kept.get(index, 0) * voxel_mm3)
        for index, size in sorted(native.items())
    }


def losses(
    modality: str, cases: Mapping[str, Mapping[int, Volumes]], classes: Sequence[str]
) -> list[Loss]:
    """The classes of one modality that cases lose; `cases` is id -> volumes by class index."""
    found = []
    for index, cls in enumerate(classes):
        held = {case: volumes[index] for case, volumes in cases.items() if index in volumes}
        thin = [case for case, v in held.items() if v.grid < LOST * v.native]
        cut = [c for c, v in held.items() if c not in thin and v.crop < LOST * v.native]
        if thin:
            found.append(Loss(modality, cls, tuple(thin), len(held), "grid"))
        if cut:
            found.append(Loss(modality, cls, tuple(cut), len(held), "crop"))
    return found


def placement_of(case: PreparedCase) -> Placement:
    """Where its image lies on the plan's grid."""
    turn = case.record["orientation"]
    (i, j, k), (u, v, w) = turn["axes"], turn["flips"]
    a, b, c = case.record["native_shape"]
    return Placement(
        Orientation((i, j, k), (u, v, w)),
        (a, b, c),
        case.box,
        case.grid or case.shape,
        case.spacing_mm,
    )


def spacing_that_keeps(
    index: int,
    labels: Iterable[tuple[Volume, Placement, Mapping[int, int]]],
    spacing_mm: Sequence[float],
) -> tuple[float, float, float] | None:
    """The coarsest of some spacings on which these labels keep at least half of a class.

    Args:
        index: of the class.
        labels: with where their images lie on the plan's grid, and the meaning of their values.
        spacing_mm: of the plan.

    Returns:
        (slice, row, column); None where even the labels' own voxels do not keep it.
    """
    known = list(labels)
    own = [where.native_mm for _, where, _ in known]
    finest = np.minimum(np.min(own, axis=0), spacing_mm)
    tried = None
    for share in _SHARES:
        a, b, c = (float(f"{mm:.3g}") for mm in np.maximum(finest, share * np.array(spacing_mm)))
        if (a, b, c) != tried and all(_keeps(index, one, (a, b, c)) for one in known):
            return a, b, c
        tried = (a, b, c)
    return None


def _keeps(
    index: int,
    one: tuple[Volume, Placement, Mapping[int, int]],
    spacing_mm: tuple[float, float, float],
) -> bool:
    """Also where the box begins a voxel or two later: not only by luck."""
    label, where, table = one
    only = {value: int(meant == index) for value, meant in table.items()}
    for shift in _SHIFTS:
        placed = _on_spacing(where, spacing_mm, shift)
        grid = preprocess_label(label, placed, only, 2)
        found = class_volumes(label, only, grid, grid, float(np.prod(placed.spacing_mm)))
        if 1 in found and found[1].grid < _KEPT * found[1].native:
            return False
    return True


def _on_spacing(where: Placement, spacing_mm: Sequence[float], shift: int) -> Placement:
    """The same image on a grid of about this spacing, its box begun `shift` voxels later."""
    native_mm = where.native_mm
    s, p, q = ((min(start + shift, stop - 1), stop) for start, stop in where.box)
    extent_mm = native_mm * [stop - start for start, stop in (s, p, q)]
    a, b, c = (max(1, round(float(e) / mm)) for e, mm in zip(extent_mm, spacing_mm, strict=True))
    d, h, w = (float(e) / n for e, n in zip(extent_mm, (a, b, c), strict=True))
    return Placement(where.orientation, where.native_shape, (s, p, q), (a, b, c), (d, h, w))


def _mm(spacing_mm: Sequence[float]) -> str:
    return " x ".join(f"{mm:.3g}" for mm in spacing_mm)
