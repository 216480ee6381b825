"""Two sides of runs, case by case: what one has more than the other, and how sure that is."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from unpaired.errors import DataError, UsageError
from unpaired.metrics.effect import Effect, RunCase, adjusted, effect_of
from unpaired.report.compare_fair import differing, unit_of, warnings_of
from unpaired.report.compare_sides import Pair, Side, check_alike, mean_of, pair_runs, scores_of
from unpaired.run.contents import RunContents
from unpaired.run.scores import METRICS, value_of

MEAN = ""
"""Stands for the mean over the classes, case by case."""
WITHIN_ONE = ("dice", "nsd")
"""Scores in [0, 1]: their differences end at -1 and 1, and so do intervals."""
ByClass = dict[str, dict[RunCase, float]]
"""Class -> (number of the pair of runs, case) -> value."""


class About(NamedTuple):
    """What an effect is an effect on."""

    modality: str
    cls: str
    metric: str


@dataclass(frozen=True)
class Comparison:
    """b against a.

    Attributes:
        unit: what distinguishes the pairs of runs: "seed", or "draw" of cases.
        left_out: modality -> the side that alone has it.
        effects: in stored units (fractions, mm), over the cases that both sides define; adjusted
            among the classes (or the means) of all modalities and comparisons.
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
    effects: Mapping[About, Effect]
    warnings: tuple[str, ...]
    differs: Mapping[str, tuple[str, str]]
    note: str
    level: float

    def of(self, modality: str, metric: str, cls: str = MEAN) -> Effect:
        """One effect."""
        return self.effects[About(modality, cls, metric)]

    def rows(self, modality: str, metric: str) -> dict[str, Effect]:
        """Class -> effect, then that of their mean where there are several."""
        wanted = (modality, metric)
        rows = {k.cls: e for k, e in self.effects.items() if (k.modality, k.metric) == wanted}
        if len(rows) == 2:
            del rows[MEAN]
        return rows

    @property
    def metrics(self) -> list[str]:
        """Those that were compared, in order."""
        return list(dict.fromkeys(about.metric for about in self.effects))


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
    return compare_pairs([(sides[0], side) for side in sides[1:]], metrics, level)


def compare_pairs(
    pairs: Sequence[tuple[Side, Side]],
    metrics: Sequence[str] = ("dice", "asd_mm"),
    level: float = 0.95,
) -> list[Comparison]:
    """Hold the second of each pair against its first; p-values are adjusted over all pairs.

    Raises:
        as `compare`.
    """
    return _adjusted([_compared(a, b, metrics, level) for a, b in pairs])


def _compared(a: Side, b: Side, metrics: Sequence[str], level: float) -> Comparison:
    modalities = tuple(m for m in a.modalities if m in b.modalities)
    if not modalities:
        raise DataError(
            f"{a.name} ({', '.join(a.modalities)}) and {b.name} ({', '.join(b.modalities)}) have "
            "no modality in common. Compare runs that were tested on the same one."
        )
    left_out = {m: a.name for m in a.modalities if m not in modalities}
    left_out |= {m: b.name for m in b.modalities if m not in modalities}
    pairs, note = pair_runs(a, b, modalities)
    effects: dict[About, Effect] = {}
    for m in modalities:
        for pair in pairs:
            check_alike(pair, m)
        for metric in metrics:
            by_class = _effects(pairs, m, metric, level)
            effects |= {About(m, cls, metric): effect for cls, effect in by_class.items()}
    return Comparison(
        a, b, tuple(pairs), unit_of(pairs, modalities), modalities, left_out, effects,
        tuple(warnings_of(pairs, modalities)), differing(pairs), note, level,
    )  # fmt: skip


def _adjusted(comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Holm over all comparisons and modalities: a family for the means, one for the classes."""
    families: dict[tuple[str, bool], dict[tuple[int, About], Effect]] = {}
    for n, one in enumerate(comparisons):
        for about, effect in one.effects.items():
            families.setdefault((about.metric, about.cls == MEAN), {})[n, about] = effect
    done = {key: e for family in families.values() for key, e in adjusted(family).items()}
    return [
        replace(one, effects={about: done[n, about] for about in one.effects})
        for n, one in enumerate(comparisons)
    ]


def _effects(pairs: Sequence[Pair], modality: str, metric: str, level: float) -> dict[str, Effect]:
    """Class -> its effect, then that of their mean; not yet adjusted.

    Raises:
        UsageError: the metric was not scored.
    """
    a = _by_class([pair.a for pair in pairs], modality, metric)
    b = _by_class([pair.b for pair in pairs], modality, metric)
    limit = 1.0 if metric in WITHIN_ONE else math.inf
    effects = {
        cls: effect_of(values, b.get(cls, {}), level, limit, or_runs=True)
        for cls, values in a.items()
    }
    means = _class_means(a, effects), _class_means(b, effects)
    over = effect_of(means[0], means[1], level, limit, or_runs=True)
    parts = effects.values()
    effects[MEAN] = replace(
        over,
        undefined_a=sum(part.undefined_a for part in parts),
        undefined_b=sum(part.undefined_b for part in parts),
        missing=sum(part.missing for part in parts),
    )
    return effects


def _by_class(runs: Iterable[Sequence[RunContents]], modality: str, metric: str) -> ByClass:
    """Of one side; where a pair has several runs of it, their mean."""
    by_class: ByClass = {}
    for number, alike in enumerate(runs):
        for (case, cls), value in _values(alike, modality, metric).items():
            by_class.setdefault(cls, {})[number, case] = value
    return by_class


def _values(
    runs: Sequence[RunContents], modality: str, metric: str
) -> dict[tuple[str, str], float]:
    """(case, class) -> value, mean over the runs; classes that the truth lacks are no pairs."""
    tables = [scores_of(run, modality) for run in runs]
    if metric not in METRICS and not any(metric in s.extra for t in tables for s in t.values()):
        known = [*METRICS, *sorted({n for t in tables for s in t.values() for n in s.extra})]
        raise UsageError(f"{runs[0].root} has no metric {metric}; it has {', '.join(known)}.")
    keys = [k for k, one in tables[0].items() if one.truth_voxels and all(k in t for t in tables)]
    return {key: mean_of([value_of(table[key], metric) for table in tables]) for key in keys}


def _class_means(side: ByClass, effects: Mapping[str, Effect]) -> dict[RunCase, float]:
    """Mean over the classes, case by case, of what both sides define."""
    values: dict[RunCase, list[float]] = {}
    for cls, effect in effects.items():
        for number, cases in effect.pairs.items():
            for case in cases:
                values.setdefault((number, case), []).append(side[cls][number, case])
    return {key: mean_of(by_class) for key, by_class in values.items()}
