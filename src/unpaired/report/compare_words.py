"""A comparison in words: one sentence per modality, and what makes it less sure."""

import math
from collections.abc import Iterator, Sequence

from unpaired.metrics.statistics import smallest_n
from unpaired.report.compare import Comparison
from unpaired.report.compare_effects import Effect
from unpaired.tables import printed


def direction(effect: Effect) -> str:
    """ "raised" or "lowered" where the interval does not hold zero; "" where it does or is none."""
    if effect.low > 0:
        return "raised"
    return "lowered" if effect.high < 0 else ""


def sentence(found: Comparison, modality: str, metric: str) -> str:
    """The answer: what b did to this metric of this modality, against a, and how sure that is."""
    effect = found.of(modality, metric)
    how = printed(metric)
    what = f"{shown_modality(modality)} {how.title}"
    subject, against = _subjects(found)
    if math.isnan(effect.low):
        count = effect.difference.n_cases
        return (
            f"Nothing can be said of {what}: {count} test case{'s' * (count != 1)} of "
            f"{subject[0].lower() + subject[1:]} and {against} can be compared; two are the least."
        )
    mean = effect.difference.mean
    sure = f"({_interval(effect, found.level)}; {_numbers(effect, found)}; {_p_value(effect)})"
    if word := direction(effect):
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


def caveats(found: Comparison, modality: str, metric: str) -> Iterator[str]:
    """What a reader of the sentence must know, most important first."""
    effect = found.of(modality, metric)
    cases, least = effect.difference.n_cases, smallest_n(found.level)
    if 2 <= cases < least:
        yield (
            f"{cases} test cases are too few to be sure: no signed-rank test over them can reach "
            f"{1 - found.level:.2g} (that needs {least}), and the interval takes them for typical."
        )
    if found.note:
        yield found.note
    elif len(found.pairs) == 1:
        yield (
            "One run a side: the interval holds the chance of the test cases, not that of the "
            "training; another seed may say otherwise."
        )
    elif len(found.pairs) == 2:
        yield f"Two {found.unit}s are few: what another training would give is hardly known."
    word = direction(effect)
    if word and effect.p > 1 - found.level:
        yield (
            f"The interval does not hold zero, but the signed-rank test does not confirm it "
            f"(p = {p_text(effect.p)}): call it a hint."
        )
    if not word and effect.p <= 1 - found.level:
        yield (
            f"The signed-rank test alone would call it an effect (p = {p_text(effect.p)}): it asks "
            f"for the sign over the test cases, the interval for the mean"
            f"{', over the runs too' if len(found.pairs) > 1 else ''}."
        )
    if word and effect.adjusted > 1 - found.level >= effect.p:
        yield (
            f"After Holm's correction for the comparisons made here p is "
            f"{p_text(effect.adjusted)}: call it a hint."
        )
    yield from _incomplete(found, effect)


def _incomplete(found: Comparison, effect: Effect) -> Iterator[str]:
    counts = effect.undefined_a, effect.undefined_b
    if any(counts):
        yield (
            f"{printed(effect.metric).title} is undefined for {counts[0]} "
            f"organ{'s' * (counts[0] != 1)} of {found.a.name} and {counts[1]} of {found.b.name} "
            "(nothing was predicted); these are left out on both sides, which flatters the side "
            "that has more of them."
        )
    if effect.missing:
        yield f"{effect.missing} scores exist on one side only and are left out; evaluate again."


def left_out(found: Comparison) -> Iterator[str]:
    """Modalities that only one side has."""
    for modality, side in found.left_out.items():
        yield f"{shown_modality(modality)} is left out: only {side} has it."


def pairs_text(found: Comparison) -> str:
    """ "3 seeds", "2 draws of the cases", "one run a side"."""
    count = len(found.pairs)
    if found.note:
        return f"{len(found.a.runs)} and {len(found.b.runs)} runs"
    if count == 1:
        return "one run a side"
    return f"{count} seeds" if found.unit == "seed" else f"{count} draws of the cases"


def shown_modality(name: str) -> str:
    """Short names are abbreviations: ct is CT."""
    return name.upper() if len(name) <= 4 else name


def p_text(value: float) -> str:
    """Two digits, or "< 0.001"; an en dash where there is none."""
    if math.isnan(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}" if value < 0.1 else f"{value:.2f}"


def _subjects(found: Comparison) -> tuple[str, str]:
    """Who did it, and against whom."""
    a, b = found.a.modalities, found.b.modalities
    if set(a) == set(b):
        return found.b.name, found.a.name
    left, right = (_listed(names) + (" alone" if len(names) == 1 else "") for names in (a, b))
    return f"Training with {right}", left


def _listed(names: Sequence[str]) -> str:
    words = [shown_modality(name) for name in names]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _interval(effect: Effect, level: float) -> str:
    low, high = (printed(effect.metric).number(value) for value in (effect.low, effect.high))
    return f"{100 * level:g} % interval {low} to {high}"


def _numbers(effect: Effect, found: Comparison) -> str:
    return f"n = {effect.difference.n_cases} test cases, {pairs_text(found)}"


def _p_value(effect: Effect) -> str:
    if not effect.tested:
        return "too few for a signed-rank test" if "needed" in effect.why_not else "no difference"
    over = " over the runs" if effect.tested == "runs" else ""
    text = p_text(effect.p)
    return f"Wilcoxon{over} p {text if text.startswith('<') else '= ' + text}"
