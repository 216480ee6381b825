"""Pictures of a comparison: every test case's difference, and every class with its interval."""

import math
from collections.abc import Sequence

from matplotlib.axes import Axes

from unpaired.colours import SAFE
from unpaired.metrics.effect import Effect
from unpaired.report.compare import Comparison
from unpaired.report.compare_words import modality_name, pairs_text
from unpaired.report.figures import (
    FONT,
    INK,
    LINE,
    MUTED,
    Picture,
    axis_labels,
    new_figure,
    plain,
    to_png,
)
from unpaired.report.figures import title as heading
from unpaired.tables import printed

BETTER, WORSE = SAFE[0], SAFE[3]
"""Blue and vermilion, told apart by all common forms of colour vision."""
WIDTH = 5.8
"""Inches."""
NAMED_CASES = 40
"""With more rows than these the names of the cases would overlap."""


def case_picture(comparison: Comparison, modality: str, metric: str, name: str) -> Picture:
    """Difference of each test case, mean over the classes, with the mean and its interval."""
    effect = comparison.of(modality, metric)
    cases = sorted(effect.cases, key=lambda case: effect.cases[case])
    rows = len(cases) + 1
    figure, axes = new_figure(WIDTH, 1.5 + 0.24 * min(rows, NAMED_CASES))
    _zero(axes)
    how = printed(metric)
    factor = how.factor
    for row, case in enumerate(cases, start=1):
        values = [by[case] * factor for by in effect.pairs.values() if case in by]
        mean = effect.cases[case] * factor
        colour = _colour(metric, mean)
        axes.plot([0, mean], [row, row], color=colour, linewidth=1.4, alpha=0.45)
        if len(values) > 1:
            axes.plot(values, [row] * len(values), "o", color=colour, markersize=3, alpha=0.5,
                      markeredgewidth=0)  # fmt: skip
        axes.plot([mean], [row], "o", color=colour, markersize=6, markeredgewidth=0)
    _interval(axes, effect, 0, factor)
    _rows(axes, ["mean", *(plain(case) for case in cases)])
    heading(axes, f"{_minus(comparison, modality)}, by test case")
    axis_labels(axes, _axis_words(metric), "")
    caption = (
        f"Each row is a test case, mean over the classes{_runs(effect)} Below: the mean and its "
        f"{100 * comparison.level:g} % interval."
    )
    up = sum(value > 0 for value in effect.cases.values())
    alt = (
        f"Differences of {how.title} of {len(cases)} test cases of {modality}: {up} above "
        f"zero; mean {how.difference(effect.difference.mean, signed=True)}."
    )
    return Picture(name, to_png(figure), alt, caption, "wide")


def class_picture(comparison: Comparison, modality: str, metric: str, name: str) -> Picture:
    """Mean difference and interval of each class, over the dots of its test cases."""
    effects = list(comparison.rows(modality, metric).items())[::-1]  # the mean lowest
    figure, axes = new_figure(WIDTH, 1.3 + 0.36 * len(effects))
    _zero(axes)
    factor = printed(metric).factor
    for row, (_, effect) in enumerate(effects):
        for value in effect.cases.values():
            axes.plot([value * factor], [row + 0.18], "o", markersize=3.5, alpha=0.5,
                      color=_colour(metric, value), markeredgewidth=0)  # fmt: skip
        _interval(axes, effect, row - 0.08, factor)
    _rows(axes, [plain(cls or "mean") for cls, _ in effects])
    heading(axes, f"{_minus(comparison, modality)}, by class")
    axis_labels(axes, _axis_words(metric), "")
    caption = (
        f"Dots: test cases. Below them the mean and its {100 * comparison.level:g} % interval "
        f"({pairs_text(comparison)})."
    )
    means = [
        f"{cls or 'mean'} {printed(metric).number(effect.difference.mean, signed=True)}"
        for cls, effect in effects[::-1]
    ]
    alt = f"Mean difference of {printed(metric).title} of {modality} by class: {', '.join(means)}."
    return Picture(name, to_png(figure), alt, caption, "wide")


def _minus(comparison: Comparison, modality: str) -> str:
    return f"{modality_name(modality)}: {comparison.b.name} minus {comparison.a.name}"


def _zero(axes: Axes) -> None:
    axes.axvline(0, color=MUTED, linewidth=0.9)
    axes.grid(axis="x", color=LINE, linewidth=0.7)
    axes.set_axisbelow(True)


def _interval(axes: Axes, effect: Effect, row: float | int, factor: float) -> None:
    """The mean as a diamond on its interval."""
    if math.isfinite(effect.low):
        axes.plot([effect.low * factor, effect.high * factor], [row, row], color=INK,
                  linewidth=2.2, solid_capstyle="butt")  # fmt: skip
    if effect.cases:
        axes.plot([effect.difference.mean * factor], [row], "D", color=INK, markersize=5.5)


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_ylim(-0.7, len(names) - 0.3)
    if len(names) > NAMED_CASES:
        names = [names[0]]
    axes.set_yticks(range(len(names)), names, fontfamily=FONT, fontsize=8, color=INK)
    axes.spines["left"].set_visible(False)
    axes.margins(x=0.06)


def _colour(metric: str, value: float) -> str:
    """Whether the difference is for the better; one colour where nobody knows."""
    higher_is_better = printed(metric).higher_is_better
    if higher_is_better is None or value == 0:
        return MUTED
    return BETTER if (value > 0) == higher_is_better else WORSE


def _axis_words(metric: str) -> str:
    how = printed(metric)
    unit = {"%": " (points)", "": ""}.get(how.unit, f" ({how.unit})")
    words = f"difference in {how.title}{unit}"
    if how.higher_is_better is None:
        return words
    return words + ("; right is better" if how.higher_is_better else "; left is better")


def _runs(effect: Effect) -> str:
    """End of the caption's first sentence, and what the small dots are, if there are any."""
    several = sum(map(len, effect.pairs.values())) > len(effect.cases)
    return " and the runs. Small dots: single runs." if several else "."
