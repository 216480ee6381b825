"""Curves over the training: loss terms, validation Dice, and how the modalities come together."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from unpaired.report.figures import (
    INK,
    MUTED,
    SAFE,
    Picture,
    axis_labels,
    class_colours,
    grid,
    legend_below,
    new_figure,
    plain,
    title,
    to_png,
)
from unpaired.report.run import Run

SIZE = (5.4, 3.3)
SMOOTH_FROM = 20
STYLES = ("-", "--", ":", "-.")
FAMILIES = ("seg", "aux", "mcr", "icr")
NAMES = {"seg": "segmentation", "aux": "auxiliary", "mcr": "L_mcr", "icr": "L_icr"}


def loss_curves(run: Run) -> Picture | None:
    """The loss and every weighted term, on a logarithmic scale."""
    if not run.steps:
        return None
    figure, axes = new_figure(*SIZE)
    x = np.array([record["step"] for record in run.steps])
    names = list(dict.fromkeys(n for record in run.steps for n in record.get("weighted", {})))
    members = {family: [n for n in names if n.split("/")[0] == family] for family in FAMILIES}
    colours = dict(zip(FAMILIES, SAFE, strict=False))
    _line(axes, x, [record.get("loss") for record in run.steps], INK, "-", "total", 2.0)
    for name in names:
        family, _, modality = name.partition("/")
        style = STYLES[members.get(family, [name]).index(name) % len(STYLES)]
        label = f"{NAMES.get(family, family)} {plain(modality)}".strip()
        values = [record.get("weighted", {}).get(name) for record in run.steps]
        _line(axes, x, values, colours.get(family, MUTED), style, label)
    axes.set_yscale("log")
    _finish(axes, "Loss and its weighted terms", "step", "loss (log scale)", 3)
    last = run.steps[-1]
    alt = f"Curves of the loss over {x[-1]} steps; the last total is {_number(last.get('loss'))}."
    caption = "Thin: as logged; bold: running mean." if len(x) >= SMOOTH_FROM else ""
    return Picture("loss", to_png(figure), alt, caption)


def validation_curves(run: Run) -> list[Picture]:
    """Dice on the validation cases, one picture per modality."""
    found = []
    colours = class_colours(run.classes)
    modalities = list(dict.fromkeys(m for r in run.validations for m in r.get("dice", {})))
    for index, modality in enumerate(modalities, start=1):
        records = [record for record in run.validations if modality in record.get("dice", {})]
        figure, axes = new_figure(*SIZE)
        x = [record["step"] for record in records]
        for cls in records[-1]["dice"][modality]:
            y = [_percent(record["dice"][modality].get(cls)) for record in records]
            axes.plot(x, y, color=colours.get(cls, MUTED), linewidth=1.3, label=plain(cls))
        mean = [_percent(record.get("mean", {}).get(modality)) for record in records]
        axes.plot(x, mean, color=INK, linewidth=2.2, label="mean", marker="o", markersize=2.5)
        axes.set_ylim(0, 102)
        _finish(axes, f"Validation Dice, {modality}", "step", "Dice (%)", 5)
        alt = f"Validation Dice of {modality} per class; the last mean is {_number(mean[-1])} %."
        found.append(Picture(f"validation_{index}", to_png(figure), alt))
    return found


def consistency_curves(run: Run) -> list[Picture]:
    """Distance of the gains, L_mcr and L_icr before weighting; those that were logged."""
    kinds = (
        ("gain_distance", "Distance of the gains between modalities", "‖Φᵃ − Φᵇ‖", SAFE[3]),
        ("mcr", "L_mcr, class embeddings (Eq. 10)", "L_mcr", SAFE[2]),
        ("icr", "L_icr, semantic correlations (Eq. 11)", "L_icr", SAFE[4]),
    )
    found = []
    for name, heading, label, colour in kinds:
        values = [
            record.get(name) if name == "gain_distance" else record.get("terms", {}).get(name)
            for record in run.steps
        ]
        if not any(isinstance(value, int | float) for value in values):
            continue
        figure, axes = new_figure(*SIZE)
        x = np.array([record["step"] for record in run.steps])
        _line(axes, x, values, colour, "-", label, smooth=name != "gain_distance")
        ends = [value for value in values if isinstance(value, int | float)]
        axes.set_ylim(0, 1.08 * max(ends) or 1)
        _finish(axes, heading, "step", label, 0)
        alt = f"{heading}: from {_number(ends[0])} to {_number(ends[-1])}."
        found.append(Picture(name, to_png(figure), alt))
    return found


def _line(
    axes: Any,
    x: np.ndarray,
    values: Sequence[float | None],
    colour: str,
    style: str,
    label: str,
    width: float = 1.6,
    smooth: bool = True,
) -> None:
    """The raw curve faintly, its running mean on top."""
    y = np.array([np.nan if value is None else float(value) for value in values])
    if smooth and len(y) >= SMOOTH_FROM:
        axes.plot(x, y, color=colour, linewidth=0.6, alpha=0.25)
        y = running_mean(y, max(3, len(y) // 25))
    marker = "o" if len(y) < 5 else None  # one point draws no line
    axes.plot(
        x, y, color=colour, linewidth=width, linestyle=style, label=label, marker=marker,
        markersize=3.5,
    )  # fmt: skip


def running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Centred mean over `width` neighbours; nan counts as absent, shorter windows at the ends."""
    known = np.isfinite(values)
    totals = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    index = np.arange(len(values))
    low = np.maximum(index - width // 2, 0)
    high = np.minimum(index + width // 2 + 1, len(values))
    count = counts[high] - counts[low]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(count > 0, (totals[high] - totals[low]) / count, np.nan)


def _finish(axes: Any, heading: str, x: str, y: str, columns: int) -> None:
    title(axes, heading)
    axis_labels(axes, x, y)
    grid(axes)
    axes.margins(x=0.01)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    if columns:
        legend_below(axes, columns)


def _percent(value: float | None) -> float:
    return math.nan if value is None else 100.0 * float(value)


def _number(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, int | float) and math.isfinite(value) else "unknown"
