"""A comparison in words: one sentence per modality, and what makes it less sure."""

import math
from collections.abc import Iterator, Sequence

from unpaired.metrics.effect import Effect
from unpaired.metrics.statistics import smallest_n
from unpaired.report.compare import Comparison
from unpaired.tables import printed

RAISED = {"higher": "raised", "lower": "lowered", "": ""}
"""What b did, by the direction of its effect."""


def sentence(comparison: Comparison, modality: str, metric: str) -> str:
    """The answer: what b did to this metric of this modality, against a, and how sure that is."""
    effect = comparison.of(modality, metric)
    how = printed(metric)
    what = f"{modality_name(modality)} {how.title}"
    subject, against = _subjects(comparison)
    if math.isnan(effect.low):
        count = effect.difference.n_cases
        return (
            f"Nothing can be said of {what}: {count} test case{'s' * (count != 1)} of "
            f"{subject[0].lower() + subject[1:]} and {against} can be compared; two are the least."
        )
    mean = effect.difference.mean
    interval = _interval(effect, metric, comparison.level)
    sure = f"({interval}; {_counts(effect, comparison)}; {_p_value(effect)})"
    if word := RAISED[effect.direction]:
        judged = ""
        if how.higher_is_better is False:
            judged = ", which is better," if word == "lowered" else ", which is worse,"
        over = f"{'over' if word == 'raised' else 'against'} {against}"
        return f"{subject} {word} {what} by {how.difference(abs(mean))}{judged} {over} {sure}."
    name = subject[0].lower() + subject[1:] if subject.startswith("Training") else subject
    return (
        f"No effect of {name} on {what} can be shown: "
        f"{how.difference(mean, signed=True)} against {against} {sure}."
    )


def caveats(comparison: Comparison, modality: str, metric: str) -> Iterator[str]:
    """What a reader of the sentence must know, most important first."""
    effect = comparison.of(modality, metric)
    cases, least = effect.difference.n_cases, smallest_n(comparison.level)
    if 2 <= cases < least:
        yield (
            f"{cases} test cases are too few to be sure: no signed-rank test over them can reach "
            f"{1 - comparison.level:.2g} (that needs {least}), and the interval takes them for "
            "typical."
        )
    if comparison.note:
        yield comparison.note
    elif len(comparison.pairs) == 1:
        yield (
            "One run a side: the interval holds the chance of the test cases, not that of the "
            "training; another seed may say otherwise."
        )
    elif len(comparison.pairs) == 2:
        yield f"Two {comparison.unit}s are few: what another training would give is hardly known."
    word = effect.direction
    if word and effect.p > 1 - comparison.level:
        yield (
            f"The interval does not hold zero, but the signed-rank test does not confirm it "
            f"(p = {p_text(effect.p)}): call it a hint."
        )
    if not word and effect.p <= 1 - comparison.level:
        yield (
            f"The signed-rank test alone would call it an effect (p = {p_text(effect.p)}): it asks "
            f"for the sign over the test cases, the interval for the mean"
            f"{', over the runs too' if len(comparison.pairs) > 1 else ''}."
        )
    if word and effect.adjusted > 1 - comparison.level >= effect.p:
        yield (
            f"After Holm's correction for the comparisons made here p is "
            f"{p_text(effect.adjusted)}: call it a hint."
        )
    yield from _incomplete(comparison, effect, metric)


def _incomplete(comparison: Comparison, effect: Effect, metric: str) -> Iterator[str]:
    counts = effect.undefined_a, effect.undefined_b
    if any(counts):
        yield (
            f"{printed(metric).title} is undefined for {counts[0]} organ{'s' * (counts[0] != 1)} "
            f"of {comparison.a.name} and {counts[1]} of {comparison.b.name} (nothing was "
            "predicted); these are left out on both sides, which flatters the side that has more "
            "of them."
        )
    if effect.missing:
        yield f"{effect.missing} scores exist on one side only and are left out; evaluate again."


def left_out(comparison: Comparison) -> Iterator[str]:
    """Modalities that only one side has."""
    for modality, side in comparison.left_out.items():
        yield f"{modality_name(modality)} is left out: only {side} has it."


def pairs_text(comparison: Comparison) -> str:
    """ "3 seeds", "2 draws of the cases", "one run a side"."""
    count = len(comparison.pairs)
    if comparison.note:
        return f"{len(comparison.a.runs)} and {len(comparison.b.runs)} runs"
    if count == 1:
        return "one run a side"
    return f"{count} seeds" if comparison.unit == "seed" else f"{count} draws of the cases"


def modality_name(name: str) -> str:
    """Short names are abbreviations: ct is CT."""
    return name.upper() if len(name) <= 4 else name


def p_text(value: float) -> str:
    """Two digits, or "< 0.001"; an en dash where there is none."""
    if math.isnan(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def _subjects(comparison: Comparison) -> tuple[str, str]:
    """Who did it, and against whom."""
    a, b = comparison.a.modalities, comparison.b.modalities
    if set(a) == set(b):
        return comparison.b.name, comparison.a.name
    left, right = (_listed(names) + (" alone" if len(names) == 1 else "") for names in (a, b))
    return f"Training with {right}", left


def _listed(names: Sequence[str]) -> str:
    words = [modality_name(name) for name in names]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _interval(effect: Effect, metric: str, level: float) -> str:
    low, high = (printed(metric).number(value) for value in (effect.low, effect.high))
    return f"{100 * level:g} % interval {low} to {high}"


def _counts(effect: Effect, comparison: Comparison) -> str:
    return f"n = {effect.difference.n_cases} test cases, {pairs_text(comparison)}"


def _p_value(effect: Effect) -> str:
    if not effect.tested:
        return "too few for a signed-rank test" if "needed" in effect.why_not else "no difference"
    over = " over the runs" if effect.tested == "runs" else ""
    text = p_text(effect.p)
    return f"Wilcoxon{over} p {text if text.startswith('<') else '= ' + text}"
