"""A slice of a case with its truth as contours and its prediction filled in."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from unpaired.errors import DataError
from unpaired.report.figures import DPI, FONT, Picture, class_colours, to_png
from unpaired.report.markup import join, tag
from unpaired.report.run import Run
from unpaired.report.slices import Slice, best_median_worst, load_slice
from unpaired.report.tables import case_means
from unpaired.tables import printed

Layer = Literal["truth", "prediction"]
WIDTH = 4.2
# Letters at the left, right and top edge, by slice axis; as in a reading room the patient's right
# is on the left.
EDGES: dict[str, tuple[str, str, str]] = {
    "S": ("R", "L", "A"),
    "P": ("R", "L", "S"),
    "L": ("A", "P", "S"),
}
PLANES = {"S": "axial", "P": "coronal", "L": "sagittal"}


def overlays(run: Run, modality: str) -> tuple[list[Picture], list[str]]:
    """The pictures of a modality, and a sentence for each that could not be made."""
    pictures, problems = [], []
    number = run.modalities.index(modality) + 1
    for kind, case in best_median_worst(run, modality).items():
        try:
            shown = load_slice(run, modality, case)
        except DataError as error:
            problems.append(f"no picture of {modality}/{case}: {error}")
            continue
        name = f"overlay_{number}_{kind.split()[0]}"
        png = draw(shown, run.classes)
        pictures.append(_picture(run, name, png, kind, modality, case, shown))
    return pictures, problems


def _picture(
    run: Run, name: str, png: bytes, kind: str, modality: str, case: str, shown: Slice
) -> Picture:
    assert run.evaluation is not None
    dice = printed("dice")
    mean = dice.number(case_means(run.evaluation, modality)[case])
    own = [
        f"{one.cls} {dice.number(one.dice)}"
        for one in run.evaluation.scores
        if one.modality == modality and one.case == case and one.truth_voxels
    ]
    place = f"{PLANES[shown.axis]} slice {shown.index + 1} of {shown.count}"
    alt = f"{kind.capitalize()} {modality} case {case}, {place}: truth outlined, prediction filled."
    lines = (
        tag("strong", f"{kind.capitalize()} · {mean} %"),
        f" {case}",
        tag("span", f"{place.capitalize()}. Dice (%): {', '.join(own)}", cls="small"),
    )
    return Picture(name, png, alt, join(lines))


def draw(shown: Slice, classes: Sequence[str]) -> bytes:
    """The slice as PNG: truth outlined, prediction filled."""
    height_mm, width_mm = (n * s for n, s in zip(shown.image.shape, shown.spacing_mm, strict=True))
    figure = Figure(figsize=(WIDTH, WIDTH * height_mm / width_mm), dpi=DPI, facecolor="black")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    paint(axes, shown, classes, fill="prediction", line="truth")
    return to_png(figure)


def paint(
    axes: Axes, shown: Slice, classes: Sequence[str], fill: Layer | None, line: Layer | None
) -> None:
    """Draw onto axes, in millimetres, so that voxels keep their true aspect."""
    rows, columns = shown.image.shape
    high, wide = rows * shown.spacing_mm[0], columns * shown.spacing_mm[1]
    extent = (0.0, wide, high, 0.0)
    axes.imshow(
        shown.image, cmap="gray", vmin=shown.low, vmax=shown.high, extent=extent,
        interpolation="bilinear",
    )  # fmt: skip
    colours = class_colours(classes)
    labels = {"truth": shown.truth, "prediction": shown.prediction}
    if fill:
        axes.imshow(_fill(labels[fill], classes, colours, 0.42), extent=extent)
    for index, name in enumerate(classes[1:], start=1):
        if line:
            _outline(axes, labels[line] == index, shown.spacing_mm, colours[name])
    axes.set_xlim(0, wide)
    axes.set_ylim(high, 0)
    axes.set_aspect("equal")
    axes.set_axis_off()
    _marks(axes, shown.axis, high, wide)


def _fill(
    labels: np.ndarray, classes: Sequence[str], colours: Mapping[str, str], alpha: float
) -> np.ndarray:
    table = np.zeros((len(classes), 4))
    for index, name in enumerate(classes[1:], start=1):
        table[index] = (*to_rgb(colours[name]), alpha)
    return table[np.minimum(labels, len(classes) - 1)]


def _outline(axes: Axes, mask: np.ndarray, spacing_mm: tuple[float, float], colour: str) -> None:
    if not mask.any():
        return
    # A frame of background closes the contour of a mask that the crop or the image cuts.
    framed = np.pad(mask, 1).astype(np.float32)
    y, x = ((np.arange(n) - 0.5) * s for n, s in zip(framed.shape, spacing_mm, strict=True))
    axes.contour(x, y, framed, levels=[0.5], colors=["black"], linewidths=2.4, alpha=0.55)
    axes.contour(x, y, framed, levels=[0.5], colors=[colour], linewidths=1.3)


def _marks(axes: Axes, axis: str, high: float, wide: float) -> None:
    """Letters of the patient's sides, and a bar of 5 cm (1 cm in a small field)."""
    left, right, top = EDGES[axis]
    style: dict[str, Any] = {
        "color": "white", "fontsize": 9, "fontfamily": FONT, "alpha": 0.9,
    }  # fmt: skip
    edge = 0.018 * wide
    axes.text(edge, high / 2, left, ha="left", va="center", **style)
    axes.text(wide - edge, high / 2, right, ha="right", va="center", **style)
    axes.text(wide / 2, edge, top, ha="center", va="top", **style)
    bar = 50.0 if wide >= 150 else 10.0
    y = high - 2 * edge
    axes.plot([wide - edge - bar, wide - edge], [y, y], color="white", linewidth=2, alpha=0.9)
    axes.text(
        wide - edge - bar / 2, y - edge / 2, f"{bar / 10:g} cm", ha="center", va="bottom",
        **{**style, "fontsize": 7},
    )  # fmt: skip
