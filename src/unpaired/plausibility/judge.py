"""A result compared with what is usual: every measure with its range, and what is odd in a line."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite, nan

import numpy as np

from unpaired.plausibility.expected import (
    Expected,
    ExpectedClass,
    deviations,
    displacement,
    is_cut,
    seat_of,
    worst,
)
from unpaired.plausibility.measure import INTENSITY, ML, PIECES, QUARTERS, Measures

SCAN = "scan"
_ALWAYS = 0.95
"""A class that at least this share of the training cases hold is missed."""
_SAID = 4
_AXES = ("slices", "rows", "columns")


@dataclass(frozen=True)
class Measured:
    """One measure of a result.

    Attributes:
        about: a class, or "scan".
        measure: its name, with its unit.
        value, low, high: what came, and the range that is not odd; nan where there is none.
        odd: whether it speaks against the result.
        says: in words, where it is odd or deserves a look; else empty.
    """

    about: str
    measure: str
    value: float
    low: float = nan
    high: float = nan
    odd: bool = False
    says: str = ""


@dataclass(frozen=True)
class Plausibility:
    """What a result was compared with, and what came of it.

    Attributes:
        compared: False where the model does not know what its training labels looked like.
        measures: all of them, those of the scan first.
    """

    modality: str
    compared: bool
    measures: tuple[Measured, ...] = ()

    @property
    def odd(self) -> bool:
        """Whether anything speaks against the result."""
        return any(one.odd for one in self.measures)

    @property
    def line(self) -> str:
        """What is odd or deserves a look, in one line; empty where nothing does."""
        told = sorted((one for one in self.measures if one.says), key=lambda one: not one.odd)
        says = [one.says for one in told[:_SAID]]
        return "; ".join(says + [f"and {len(told) - _SAID} more"] * (len(told) > _SAID))


def judge(
    case: Measures,
    expected: Expected,
    names: Sequence[str],
    agreement: Sequence[float] | None = None,
) -> list[Measured]:
    """Every measure of a case beside what is usual.

    Args:
        names: of the foreground classes.
        agreement: of an ensemble: mean Dice of its models with their mean, a class each.
    """
    return [*_scan(case, expected), *_classes(case, expected, names, agreement)]


def _scan(case: Measures, expected: Expected) -> Iterator[Measured]:
    found = deviations(case, expected)
    for kind, own, place in (
        ("spacing", case.spacing_mm, expected.log_spacing),
        ("extent", case.extent_mm, expected.log_extent),
    ):
        limit = expected.limits[kind]
        for axis, value, usual, z in zip(_AXES, own, place, found[kind], strict=True):
            low, high = _exponentials(usual.within(limit))
            odd, said = bool(abs(z) > limit), f"{value:.3g} mm (usually {low:.3g} to {high:.3g})"
            what = f"its {axis} are spaced" if kind == "spacing" else f"across its {axis} it spans"
            yield Measured(
                SCAN, f"{kind}_mm of {axis}", float(value), low, high, odd,
                f"of the scan, {what} {said}" if odd else "",
            )  # fmt: skip
    yield from _levels(case, expected, found["levels"])


def _levels(case: Measures, expected: Expected, found: np.ndarray) -> Iterator[Measured]:
    """The quartiles of all channels; only the worst of those that are odd is said."""
    limit = expected.limits["levels"]
    farthest = worst(found)
    pairs = [
        (k, part, value, own)
        for k, (levels, usual) in enumerate(zip(case.levels, expected.levels, strict=False))
        for part, value, own in zip(QUARTERS, levels, usual, strict=True)
    ]
    for (k, part, value, own), z in zip(pairs, found, strict=True):
        (low, high), odd = own.within(limit), bool(abs(z) > limit)
        channel = f" of channel {k}" if len(expected.levels) > 1 else ""
        says = ""
        if odd and z == farthest:
            says = (
                f"the scan's intensities are spread unlike those in training (prepared, {part} % of"
                f" the voxels{channel} lie below {value:.2g}, usually {low:.2g} to {high:.2g})"
            )
        yield Measured(SCAN, f"intensity at {part} %{channel}", float(value), low, high, odd, says)


def _classes(
    case: Measures,
    expected: Expected,
    names: Sequence[str],
    agreement: Sequence[float] | None,
) -> Iterator[Measured]:
    off = displacement(case, expected)
    for z, name in enumerate(names, 1):
        row, known = case.classes[z - 1], expected.classes.get(z)
        if known is None:
            yield Measured(name, "volume_ml", float(row[ML]))
            continue
        yield _volume(name, z, case, expected)
        if np.isnan(row[PIECES]):  # not there, or too few voxels
            continue
        yield _pieces(name, row, known, expected.limits["pieces"])
        yield _position(name, off[z - 1], known, expected.limits["position"])
        yield from _intensity(name, row[INTENSITY], known, expected.limits["intensity"])
        if agreement is not None and isfinite(agreement[z - 1]):
            yield _agreement(name, agreement[z - 1], known.agreement)


def _volume(name: str, z: int, case: Measures, expected: Expected) -> Measured:
    row, known = case.classes[z - 1], expected.classes[z]
    low, high = _exponentials(known.log_ml.within(expected.limits["volume"]))
    ml, usually = float(row[ML]), f"(usually {_ml(low)} to {_ml(high)} ml)"
    odd, says = not low <= ml <= high, ""
    if not ml and known.share < _ALWAYS:
        odd = False
    elif not ml and (np.abs(seat_of(z, case, expected)) > case.extent_mm / 2).any():
        odd, says = False, f"{name} was not found: it would lie outside of the scan"
    elif not ml:
        odd, says = True, f"{name} is missing {usually}"
    elif ml < low and is_cut(z, case, expected):
        odd, says = False, f"{name} has {_ml(ml)} ml {usually}: the edge of the scan cuts it"
    elif odd:
        says = f"{name} has {_ml(ml)} ml {usually}"
    return Measured(name, "volume_ml", ml, low, high, odd, says)


def _pieces(name: str, row: np.ndarray, known: ExpectedClass, limit: float) -> Measured:
    count, high = float(row[PIECES]), known.pieces.within(limit)[1]
    odd = count > high
    says = f"{name} is in {count:.0f} pieces (usually up to {max(1, int(high))})"
    return Measured(name, "pieces", count, 1.0, high, odd, says if odd else "")


def _position(name: str, off: np.ndarray, known: ExpectedClass, limit: float) -> Measured:
    """Of the axis that is farthest off, in its own spreads."""
    axis = int(np.argmax(np.abs(off) / [one.spread for one in known.place_mm]))
    value, high = float(abs(off[axis])), limit * known.place_mm[axis].spread
    odd = value > high
    says = f"{name} lies {value:.0f} mm off its place (usually up to {high:.0f})"
    return Measured(name, "position_mm", value, 0.0, high, odd, says if odd else "")


def _intensity(
    name: str, values: np.ndarray, known: ExpectedClass, limit: float
) -> Iterator[Measured]:
    for k, (value, usual) in enumerate(zip(map(float, values), known.intensity, strict=True)):
        low, high = usual.within(limit)
        odd, channel = not low <= value <= high, f" in channel {k}" if len(values) > 1 else ""
        than = "darker" if value < low else "brighter"
        says = (
            f"{name} is {than} than usual{channel} (prepared {value:.2g}, usually {low:.2g} to "
            f"{high:.2g})"
        )
        yield Measured(name, f"intensity{channel}", value, low, high, odd, says if odd else "")


def _agreement(name: str, value: float, low: float) -> Measured:
    odd = value < low
    says = f"the models disagree on {name} (Dice {value:.2f}, usually above {low:.2f})"
    return Measured(name, "agreement", float(value), low, 1.0, odd, says if odd else "")


def _exponentials(logarithms: Sequence[float]) -> tuple[float, float]:
    low, high = np.exp(np.clip(logarithms, -700, 700))  # beyond it no number holds them
    return float(low), float(high)


def _ml(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2g}"
