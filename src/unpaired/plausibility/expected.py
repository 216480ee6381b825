"""What is usual in the training labels of one modality, and how far from it a result may lie."""

import warnings
from collections.abc import Sequence
from math import sqrt

import numpy as np
from pydantic import BaseModel, ConfigDict
from scipy.special import ndtr, stdtrit

from unpaired.plausibility.measure import EDGE, INTENSITY, ML, PIECES, PLACE, Measures

SOUND = 0.5
"""A class, or a case by its worst class, is sound from this Dice on."""
CLASS_KINDS = ("volume", "pieces", "position", "intensity")
SCAN_KINDS = ("spacing", "extent", "levels")
# Limits in deviations: at least (of a scan more, since an unusual one may be segmented well), and
# where no validation says what this network does.
_AT_LEAST, _UNKNOWN = 3.0, 5.0
_OF_SCAN = 4.0
# Of validation cases that may lie beyond a limit, before its margin for their number.
_WITHIN, _MARGIN = 0.98, 3.0
# The least deviation: of a logarithm, of a number of pieces, of intensities in deviations of the
# image; that of a place is the largest spacing.
_LOG, _PIECES, _LEVEL = 0.1, 0.5, 0.1
_AGREEMENT, _OF_DICE = 0.6, 0.9


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Usual(_Strict):
    """A number over the training cases: its median, and a deviation that is wide for few cases."""

    middle: float
    spread: float

    def deviation(self, value: float) -> float:
        """How many spreads the value lies above the middle."""
        return (value - self.middle) / self.spread

    def within(self, limit: float) -> tuple[float, float]:
        """The values up to `limit` spreads from the middle."""
        return self.middle - limit * self.spread, self.middle + limit * self.spread


Place = tuple[Usual, Usual, Usual]


class ExpectedClass(_Strict):
    """A class in the training labels of one modality.

    Attributes:
        share: of the cases that hold it.
        at_edge: of those, the share in which it reaches the edge of the scan.
        log_ml: logarithm of its volume in ml.
        place_mm: of its centre, once the cases are laid on each other.
        agreement: least mean Dice of the models of an ensemble with their mean.
    """

    share: float
    at_edge: float
    log_ml: Usual
    pieces: Usual
    place_mm: Place
    intensity: tuple[Usual, ...]
    agreement: float = _AGREEMENT


class Expected(_Strict):
    """What is usual in one modality.

    Attributes:
        cases: training cases it comes from.
        middle_mm: where the middle of the scan lies among the classes.
        classes: by index; those that fewer than two cases hold are left out.
        log_spacing, log_extent: logarithms of mm (slice, row, column).
        levels: per channel, quartiles of the intensities that the network sees; empty where
            training looks at a part of the scan only.
        limits: kind of measure -> spreads within which a result is not odd.
        validated: validation cases that the limits come from; 0: they are the defaults.
    """

    cases: int
    middle_mm: tuple[float, float, float]
    classes: dict[int, ExpectedClass]
    log_spacing: Place
    log_extent: Place
    levels: tuple[Place, ...]
    limits: dict[str, float] = dict.fromkeys((*CLASS_KINDS, *SCAN_KINDS), _UNKNOWN)
    validated: int = 0


def gather(cases: Sequence[Measures], voxel_mm: float) -> Expected | None:
    """What is usual in these cases; None of fewer than two.

    Args:
        voxel_mm: the largest spacing of the plan; places are not known better.
    """
    if len(cases) < 2:
        return None
    rows = np.stack([case.classes for case in cases])
    aligned, middle = _aligned(rows[..., PLACE])
    classes = {}
    for z in range(rows.shape[1]):
        held = rows[:, z, ML] > 0
        if held.sum() < 2:
            continue
        own = rows[held, z]
        classes[z + 1] = ExpectedClass(
            share=float(held.mean()),
            at_edge=_short(np.nanmean(own[:, EDGE])) if np.isfinite(own[:, EDGE]).any() else 0.0,
            log_ml=usual(np.log(own[:, ML]), _LOG),
            pieces=usual(own[:, PIECES], _PIECES),
            place_mm=_place(aligned[held, z], voxel_mm),
            intensity=tuple(usual(column, _LEVEL) for column in own[:, INTENSITY].T),
        )
    levels = np.stack([case.levels for case in cases])
    return Expected(
        cases=len(cases),
        middle_mm=(_short(middle[0]), _short(middle[1]), _short(middle[2])),
        classes=classes,
        log_spacing=_place(np.log([case.spacing_mm for case in cases]), _LOG),
        log_extent=_place(np.log([case.extent_mm for case in cases]), _LOG),
        levels=tuple(_place(levels[:, k], _LEVEL) for k in range(levels.shape[1]))
        if np.isfinite(levels).all()
        else (),
    )


def usual(values: np.ndarray, least: float) -> Usual:
    """Median and deviation (of the median deviation) of a sample; values that are nan are left out.

    The deviation covers a further case as surely as that of a normal law would: it is wider by
    Student's law for few cases. Of fewer than two it is infinite in effect.

    Args:
        least: added in squares, since no measure is better known.
    """
    known = values[np.isfinite(values)]
    if len(known) < 2:
        return Usual(middle=float(known[0]) if len(known) else 0.0, spread=1e9)
    middle = float(np.median(known))
    spread = np.hypot(1.4826 * float(np.median(np.abs(known - middle))), least)
    tail = stdtrit(len(known) - 1, ndtr(_AT_LEAST)) / _AT_LEAST
    return Usual(middle=_short(middle), spread=_short(spread * tail * sqrt(1 + 1 / len(known))))


def _place(values: np.ndarray, least: float) -> Place:
    a, b, c = (usual(column, least) for column in values.T)
    return a, b, c


def _short(value: float) -> float:
    return float(f"{value:.6g}")


# Laying cases on each other: fields of view begin anywhere, so places are relative.


def _aligned(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Places [n Z-1 3] shifted so that the classes of all cases lie on each other, and where the
    middle of the scan then is."""
    middles = np.zeros((len(places), 1, 3))
    every = np.concatenate([middles, places], 1)
    shift = np.zeros((len(places), 3))
    for _ in range(5):
        model = median(every - shift[:, None], 0)
        shift = np.stack([shift_of(case, model) for case in every])
    placed = every - shift[:, None]
    return placed[:, 1:], median(placed[:, 0], 0)


def shift_of(case: np.ndarray, model: np.ndarray) -> np.ndarray:
    """The shift [3] of a case's places from the model's, both [Z 3] with the middle of the scan
    first: the median over the classes, which a few at a wrong place do not move.

    Of one class there is nothing to lay it on but the scan.
    """
    rows = slice(None, 1) if len(case) == 2 else slice(None)
    return median(case[rows] - model[rows], 0)


def median(values: np.ndarray, axis: int) -> np.ndarray:
    """That of those that are known; nan where none is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmedian(values, axis))


# How far a case lies from what is usual, and how far sound ones may.


def deviations(case: Measures, expected: Expected) -> dict[str, np.ndarray]:
    """Kind -> spreads from what is usual, signed: of the classes [Z-1], of the scan [n]; nan where
    nothing is known. The place's is that of its worst axis. Of a class that the edge of the scan
    cuts a small volume says nothing, and is nan.
    """
    found = {kind: np.full(len(case.classes), np.nan) for kind in CLASS_KINDS}
    off = displacement(case, expected)
    for z, known in expected.classes.items():
        row = case.classes[z - 1]
        if not row[ML]:
            continue
        volume = known.log_ml.deviation(float(np.log(row[ML])))
        if volume > 0 or not is_cut(z, case, expected):
            found["volume"][z - 1] = volume
        found["pieces"][z - 1] = known.pieces.deviation(row[PIECES])
        axes = [d / u.spread for d, u in zip(off[z - 1], known.place_mm, strict=True)]
        found["position"][z - 1] = worst(axes)
        pairs = zip(row[INTENSITY], known.intensity, strict=True)
        found["intensity"][z - 1] = worst([u.deviation(value) for value, u in pairs])
    found["spacing"] = _from(np.log(case.spacing_mm), expected.log_spacing)
    found["extent"] = _from(np.log(case.extent_mm), expected.log_extent)
    channels = [_from(level, own) for level, own in zip(case.levels, expected.levels, strict=False)]
    found["levels"] = np.concatenate([np.empty(0), *channels])
    return found


def displacement(case: Measures, expected: Expected) -> np.ndarray:
    """Millimetres [Z-1 3] by which classes lie off the place that the other classes tell."""
    own, model = _places(case, expected)
    return (own - model - shift_of(own, model))[1:]


def seat_of(z: int, case: Measures, expected: Expected) -> np.ndarray:
    """Where class z, which was not found, would be: mm [3] from the middle of the scan."""
    own, model = _places(case, expected)
    return np.asarray(model[z] + shift_of(own, model))


def _places(case: Measures, expected: Expected) -> tuple[np.ndarray, np.ndarray]:
    """Of the case and of the model, both [Z 3] with the middle of the scan first."""
    model = np.full((len(case.classes) + 1, 3), np.nan)
    model[0] = expected.middle_mm
    for z, known in expected.classes.items():
        model[z] = [axis.middle for axis in known.place_mm]
    return np.concatenate([np.zeros((1, 3)), case.classes[:, PLACE]]), model


def is_cut(z: int, case: Measures, expected: Expected) -> bool:
    """Whether class z reaches the edge of a scan that is smaller than usual, as it seldom does in
    training."""
    sizes = _from(np.log(case.extent_mm), expected.log_extent)
    at_edge = bool(case.classes[z - 1, EDGE] == 1)
    return at_edge and expected.classes[z].at_edge < 0.5 and float(sizes.min()) < -1


def worst(values: Sequence[float] | np.ndarray) -> float:
    """The one farthest from 0; nan where none is known."""
    known = [float(value) for value in values if np.isfinite(value)]
    return max(known, key=abs, default=float("nan"))


def _from(values: np.ndarray, expected: Place) -> np.ndarray:
    pairs = zip(values, expected, strict=True)
    return np.array([one.deviation(value) for value, one in pairs])


def calibrate(
    expected: Expected, cases: Sequence[Measures], dice: Sequence[np.ndarray]
) -> Expected:
    """The limits that sound validation cases keep, with a margin for their number.

    Args:
        cases: what the network made of the validation cases.
        dice: of their foreground classes; what is below `SOUND`, or nan, does not count.
    """
    if not cases:
        return expected
    found = [deviations(case, expected) for case in cases]
    sound = [own >= SOUND for own in dice]
    limits = {}
    for kind in expected.limits:
        own = [
            np.where(ok, one[kind], np.nan) if kind in CLASS_KINDS else one[kind]
            for one, ok in zip(found, sound, strict=True)
        ]
        least = _AT_LEAST if kind in CLASS_KINDS else _OF_SCAN
        limits[kind] = _limit([abs(worst(one)) for one in own], least)
    lowest = _lowest(dice)
    classes = {
        z: known.model_copy(update={"agreement": _short(_OF_DICE * lowest[z - 1])})
        if np.isfinite(lowest[z - 1])
        else known
        for z, known in expected.classes.items()
    }
    return expected.model_copy(
        update={"limits": limits, "classes": classes, "validated": len(cases)}
    )


def _limit(largest: Sequence[float], least: float) -> float:
    """From the largest deviation of each case."""
    known = [value for value in largest if np.isfinite(value)]
    if not known:
        return _UNKNOWN
    margin = 1 + _MARGIN / len(known)
    return _short(max(least, margin * float(np.quantile(known, _WITHIN))))


def _lowest(dice: Sequence[np.ndarray]) -> list[float]:
    """Of each class the lowest Dice of a sound case; nan where there is none."""
    columns = zip(*dice, strict=True)
    return [
        min((float(value) for value in column if value >= SOUND), default=float("nan"))
        for column in columns
    ]
