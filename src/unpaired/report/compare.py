"""Two sides of runs, case by case: what one has more than the other, and how sure that is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from unpaired.errors import DataError, UsageError
from unpaired.metrics.statistics import holm
from unpaired.report.compare_effects import MEAN, Effect, effects_of
from unpaired.report.compare_fair import differing, unit_of, warnings_of
from unpaired.report.compare_sides import Pair, Side, check_alike, pair_runs


@dataclass(frozen=True)
class Comparison:
    """b against a.

    Attributes:
        unit: what distinguishes the pairs of runs: "seed", or "draw" of cases.
        left_out: modality -> the side that alone has it.
        warnings: what makes the comparison unfair, sentences.
        differs: setting -> its values on either side.
        note: how runs were averaged, "" if they were not.
    """

    a: Side
    b: Side
    pairs: tuple[Pair, ...]
    unit: str
    modalities: tuple[str, ...]
    left_out: Mapping[str, str]
    effects: tuple[Effect, ...]
    warnings: tuple[str, ...]
    differs: Mapping[str, tuple[str, str]]
    note: str
    level: float

    def of(self, modality: str, metric: str, cls: str = MEAN) -> Effect:
        """One effect."""
        key = (modality, metric, cls)
        return next(e for e in self.effects if (e.modality, e.metric, e.cls) == key)


def compare(
    sides: Sequence[Side], metrics: Sequence[str] = ("dice", "asd_mm"), level: float = 0.95
) -> list[Comparison]:
    """Hold every further side against the first.

    Raises:
        UsageError: fewer than two sides, a metric that was not scored.
        DataError: no modality in common, other test cases, classes or grids.
    """
    if len(sides) < 2:
        raise UsageError("a comparison needs two runs or more.")
    found = [_one(sides[0], side, metrics, level) for side in sides[1:]]
    return _adjusted(found)


def _one(a: Side, b: Side, metrics: Sequence[str], level: float) -> Comparison:
    modalities = tuple(m for m in a.modalities if m in b.modalities)
    if not modalities:
        raise DataError(
            f"{a.name} ({', '.join(a.modalities)}) and {b.name} ({', '.join(b.modalities)}) have "
            "no modality in common. Compare runs that were tested on the same one."
        )
    left_out = {m: a.name for m in a.modalities if m not in modalities}
    left_out |= {m: b.name for m in b.modalities if m not in modalities}
    pairs, note = pair_runs(a, b, modalities)
    effects = []
    for m in modalities:
        for pair in pairs:
            check_alike(pair, m)
        for metric in metrics:
            effects += effects_of(pairs, m, metric, level)
    return Comparison(
        a, b, tuple(pairs), unit_of(pairs, modalities), modalities, left_out, tuple(effects),
        tuple(warnings_of(pairs, modalities)), differing(pairs), note, level,
    )  # fmt: skip


def _adjusted(found: Sequence[Comparison]) -> list[Comparison]:
    """Holm over all comparisons and modalities: a family for the means, one for the classes."""
    effects = [effect for one in found for effect in one.effects]
    families: dict[tuple[str, bool], list[int]] = {}
    for i, effect in enumerate(effects):
        families.setdefault((effect.metric, effect.cls == MEAN), []).append(i)
    for members in families.values():
        for i, p in zip(members, holm([effects[i].p for i in members]), strict=True):
            effects[i] = replace(effects[i], adjusted=p)
    rest = iter(effects)
    return [replace(one, effects=tuple(next(rest) for _ in one.effects)) for one in found]
