"""Validation while training: where each row ended, and whether it was still rising."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from unpaired.experiments.cells import Result, Results
from unpaired.experiments.table import Table

FIFTH = 0.8
"""Where the last fifth of a run begins: one that adds less than a point there has converged."""
TITLE = "Validation cases: mean Dice (%) at the last step, and what the last fifth of the run added"
Curve = dict[int, float]
"""Step -> mean Dice in percent."""


def curves(result: Result, modality: str) -> list[Curve]:
    """One of each seed, of the network that learns this modality."""
    found: list[Curve] = []
    for records in result.records.values():
        for record in records:
            steps = [one for one in record.curve if modality in one["mean"]]
            if steps:
                found.append({one["step"]: 100 * one["mean"][modality] for one in steps})
    return found


def gained(curve: Curve) -> float:
    """The last value minus the one that was known when the last fifth began; nan if none was."""
    last = max(curve)
    before = [step for step in curve if step <= FIFTH * last]
    return curve[last] - curve[max(before)] if before else math.nan


def validation_tables(results: Results) -> list[Table]:
    """Mean over the seeds, with the deviation between seeds in brackets."""
    rows = []
    for result in results.rows:
        found = [curves(result, m) for m in results.modalities]
        if any(found):
            ends = [_shown([c[max(c)] for c in own], "") for own in found]
            rose = [_shown([gained(c) for c in own], "+") for own in found]
            rows.append((result.row.name, *ends, *rose))
    head = ("row", *results.modalities, *(f"{m}, last fifth" for m in results.modalities))
    return [Table(TITLE, head, tuple(rows))] if rows else []


def _shown(values: Sequence[float], sign: str) -> str:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "-"
    between = f" ({np.std(known, ddof=1):.1f})" if len(known) > 1 else ""
    return f"{np.mean(known):{sign}.1f}{between}"


def curve_figure(results: Results) -> Figure | None:
    """A panel a modality, a line a row: the mean of its seeds. None without validation cases."""
    if not validation_tables(results):
        return None
    count = len(results.modalities)
    picture = Figure(figsize=(3.2 * count + 2.2, 3.2), layout="constrained")
    panels = picture.subplots(1, count, sharey=True, squeeze=False)[0]
    for axes, m in zip(panels, results.modalities, strict=True):
        for colour, result in enumerate(results.rows):
            points = list(_mean_curve(curves(result, m)))
            if points:
                steps, means = zip(*points, strict=True)
                style = {"color": f"C{colour % 10}", "marker": "o", "markersize": 3}
                axes.plot(steps, means, label=result.row.name, **style)
        finish(axes, m, "step")
    panels[0].set_ylabel("mean Dice of the validation cases (%)")
    lines = {text: line for axes in panels for line, text in _legend(axes)}
    picture.legend(list(lines.values()), list(lines), loc="outside right center", frameon=False)
    return picture


def _mean_curve(found: Sequence[Curve]) -> Iterator[tuple[int, float]]:
    """Over the seeds, at the steps that all of them have."""
    for step in sorted(set.intersection(*map(set, found))) if found else ():
        yield step, float(np.mean([one[step] for one in found]))


def _legend(axes: Axes) -> Iterator[tuple[Artist, str]]:
    lines, names = axes.get_legend_handles_labels()
    yield from zip(lines, names, strict=True)


def finish(axes: Axes, title: str, label: str) -> None:
    """What all figures of experiments have in common."""
    axes.set_title(title, loc="left")
    axes.set_xlabel(label)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
