"""Slices of cases with truth and prediction: of the report, of a front page, of rows of runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from unpaired.colours import Look, class_colours, class_looks
from unpaired.datasets.dataset import canonical_name
from unpaired.errors import DataError
from unpaired.files import atomic
from unpaired.report.figures import DPI, FONT, INK, MUTED, Picture, plain, to_png
from unpaired.report.slices import Slice, best_median_worst, load_slice
from unpaired.report.tables import case_means
from unpaired.run.contents import RunContents, read_contents
from unpaired.tables import printed

Layer = Literal["truth", "prediction"]
WIDTH = 4.2
PANEL = 1.9
OPACITY = 0.42
ROW_INCHES = 2.5
# Letters at the left, right and top edge, by slice axis; as in a reading room the patient's right
# is on the left.
EDGES: dict[str, tuple[str, str, str]] = {
    "S": ("R", "L", "A"),
    "P": ("R", "L", "S"),
    "L": ("A", "P", "S"),
}
PLANES = {"S": "axial", "P": "coronal", "L": "sagittal"}


def overlays(run: RunContents, modality: str) -> tuple[list[Picture], list[str]]:
    """The pictures of a modality, and a sentence for each that could not be made."""
    pictures, problems = [], []
    number = run.modalities.index(modality) + 1
    for kind, case in best_median_worst(run, modality).items():
        try:
            cut = load_slice(run, modality, case)
        except DataError as error:
            problems.append(f"no picture of {modality}/{case}: {error}")
            continue
        name = f"overlay_{number}_{kind.split()[0]}"
        pictures.append(
            Picture(name, draw(cut, run.classes), **_words(run, modality, kind, case, cut))
        )
    return pictures, problems


def _words(run: RunContents, modality: str, kind: str, case: str, cut: Slice) -> dict[str, str]:
    """Of a picture: its alternative text, heading, caption and detail."""
    assert run.evaluation is not None
    dice = printed("dice")
    mean = dice.number(case_means(run.evaluation, modality)[case])
    own = [
        f"{one.cls} {dice.number(one.dice)}"
        for one in run.evaluation.scores
        if one.modality == modality and one.case == case and one.truth_voxels
    ]
    place = f"{PLANES[cut.axis]} slice {cut.index + 1} of {cut.count}"
    return {
        "alt": f"{kind.capitalize()} {modality} case {case}, {place}: truth outlined, prediction "
        "filled.",
        "heading": f"{kind.capitalize()} · {mean} %",
        "caption": case,
        "detail": f"{place.capitalize()}. Dice (%): {', '.join(own)}",
    }


def draw(cut: Slice, classes: Sequence[str]) -> bytes:
    """The slice as PNG: truth outlined, prediction filled."""
    height_mm, width_mm = cut.size_mm
    figure = Figure(figsize=(WIDTH, WIDTH * height_mm / width_mm), dpi=DPI, facecolor="black")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    paint(axes, cut, classes, fill="prediction", line="truth")
    return to_png(figure)


def paint(
    axes: Axes, cut: Slice, classes: Sequence[str], fill: Layer | None, line: Layer | None
) -> None:
    """Draw onto axes, in millimetres, so that voxels keep their true aspect."""
    high, wide = cut.size_mm
    extent = (0.0, wide, high, 0.0)
    axes.imshow(
        cut.image, cmap="gray", vmin=cut.low, vmax=cut.high, extent=extent,
        interpolation="bilinear",
    )  # fmt: skip
    looks = class_looks(classes)
    labels = {"truth": cut.truth, "prediction": cut.prediction}
    if fill:
        colours = [looks[name].colour for name in classes[1:]]
        axes.imshow(_fill(labels[fill], colours), extent=extent)
    for index, name in enumerate(classes[1:], start=1):
        if line:
            _outline(axes, labels[line] == index, cut.spacing_mm, looks[name])
    axes.set_xlim(0, wide)
    axes.set_ylim(high, 0)
    axes.set_aspect("equal")
    axes.set_axis_off()
    _marks(axes, cut.axis, high, wide)


def _fill(labels: np.ndarray, colours: Sequence[str]) -> np.ndarray:
    table = np.zeros((len(colours) + 1, 4))
    for index, colour in enumerate(colours, start=1):
        table[index] = (*to_rgb(colour), OPACITY)
    return table[np.minimum(labels, len(colours))]


def _outline(axes: Axes, mask: np.ndarray, spacing_mm: tuple[float, float], look: Look) -> None:
    if not mask.any():
        return
    # A frame of background closes the contour of a mask that the crop or the image cuts.
    framed = np.pad(mask, 1).astype(np.float32)
    y, x = ((np.arange(n) - 0.5) * s for n, s in zip(framed.shape, spacing_mm, strict=True))
    axes.contour(x, y, framed, levels=[0.5], colors=["black"], linewidths=2.4, alpha=0.55)
    axes.contour(x, y, framed, levels=[0.5], colors=[look.colour], linewidths=1.3,
                 linestyles=[(0, look.dashes or None)])  # fmt: skip


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


def hero(run: Path, path: Path, cases: dict[str, str] | None = None) -> Path:
    """Draw the median test case of the first two modalities, truth and prediction side by side.

    Args:
        run: an evaluated run folder with its predictions.
        path: the PNG to write.
        cases: modality -> case, to choose others.

    Raises:
        DataError: not evaluated, or a file is missing.
    """
    opened = read_contents(run)
    chosen = dict(cases or {})
    if not chosen:
        for modality in opened.modalities[:2]:
            kinds = best_median_worst(opened, modality)
            if kinds:
                chosen[modality] = kinds.get("median") or next(iter(kinds.values()))
    if not chosen:
        raise DataError(f"{run} holds no scores; run `unpaired evaluate` first.")
    slices = {m: load_slice(opened, m, case) for m, case in chosen.items()}
    with atomic(path) as temporary:
        temporary.write_bytes(_draw_hero(slices, opened.classes))
    return path


def _draw_hero(slices: dict[str, Slice], classes: tuple[str, ...]) -> bytes:
    widths = [cut.size_mm[1] / cut.size_mm[0] for cut in slices.values() for _ in range(2)]
    figure = Figure(
        figsize=(ROW_INCHES * sum(widths), ROW_INCHES + 0.75), dpi=DPI, facecolor="white"
    )
    FigureCanvasAgg(figure)
    high = ROW_INCHES / (ROW_INCHES + 0.75)
    left = 0.0
    layers: tuple[Layer, ...] = ("truth", "prediction")
    panels = [(m, cut, layer) for m, cut in slices.items() for layer in layers]
    for (modality, cut, layer), width in zip(panels, widths, strict=True):
        share = width / sum(widths)
        axes = figure.add_axes((left + 0.002, 0.12, share - 0.004, high))
        paint(axes, cut, classes, fill=layer, line=layer)
        axes.set_title(
            f"{plain(modality.upper() if len(modality) <= 3 else modality)} · {layer}",
            loc="left", fontsize=10, color=INK, fontfamily=FONT, fontweight="bold", pad=5,
        )  # fmt: skip
        left += share
    colours = class_colours(classes)
    figure.legend(
        handles=[Patch(color=colours[n], label=plain(canonical_name(n))) for n in classes[1:]],
        loc="lower center", ncols=len(classes) - 1, frameon=False,
        prop={"family": FONT, "size": 9}, labelcolor=MUTED,
    )  # fmt: skip
    return to_png(figure)


@dataclass(frozen=True)
class Line:
    """One case.

    Attributes:
        runs: row -> the run folder whose predictions/<modality>/<case> is drawn.
    """

    modality: str
    case: str
    runs: Mapping[str, Path]


def gallery(lines: Sequence[Line]) -> bytes:
    """PNG: the truth and every row's prediction filled in the paper's colours.

    Raises:
        DataError: a file is missing or at fault.
    """
    rows = list(dict.fromkeys(row for line in lines for row in line.runs))
    head = ["image", "truth", *rows]
    runs = {root: read_contents(root) for line in lines for root in line.runs.values()}
    classes = next(iter(runs.values())).classes
    slices = [
        {
            row: load_slice(runs[root], line.modality, line.case, by_truth=True)
            for row, root in line.runs.items()
        }
        for line in lines
    ]
    tall = []
    for by_row in slices:
        high, wide = next(iter(by_row.values())).size_mm
        tall.append(high / wide)
    figure = Figure(figsize=(PANEL * len(head), PANEL * sum(tall) + 0.8), dpi=DPI)
    figure.set_layout_engine("constrained", h_pad=0.08)  # room for the names above
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(lines), len(head), squeeze=False, height_ratios=tall)
    for line, by_row, places in zip(lines, slices, panels, strict=True):
        first = next(iter(by_row.values()))
        paint(places[0], first, classes, fill=None, line=None)
        paint(places[1], first, classes, fill="truth", line=None)
        for row, place in zip(rows, places[2:], strict=True):
            place.set_axis_off()
            if row in by_row:
                paint(place, by_row[row], classes, fill="prediction", line=None)
        places[0].set_title(plain(line.modality), fontsize=8, color=INK, loc="left", family=FONT)
    for name, place in zip(head[1:], panels[0][1:], strict=True):
        place.set_title(plain(name), fontsize=8, color=INK, family=FONT)
    colours = class_colours(classes)
    keys = [Patch(color=colour, alpha=OPACITY, label=name) for name, colour in colours.items()]
    figure.legend(
        handles=keys, loc="outside lower center", ncols=len(keys), frameon=False,
        prop={"family": FONT, "size": 8},
    )  # fmt: skip
    return to_png(figure)
