"""As the paper's Fig. 4: one case a line, the image, the truth, and what each row found."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from unpaired.report.figures import DPI, FONT, INK, class_colours, plain, to_png
from unpaired.report.overlays import paint
from unpaired.report.run import open_run
from unpaired.report.slices import Slice, load_slice

PANEL = 1.9
OPACITY = 0.42


@dataclass(frozen=True)
class Line:
    """One case.

    Attributes:
        runs: row -> the run folder whose predictions/<modality>/<case> is shown.
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
    slices: list[dict[str, Slice]] = []
    classes: tuple[str, ...] = ("background",)
    for line in lines:
        found: dict[str, Slice] = {}
        for row, root in line.runs.items():
            run = open_run(root)
            classes = run.classes
            found[row] = load_slice(run, line.modality, line.case, by_truth=True)
        slices.append(found)
    tall = [_aspect(next(iter(found.values()))) for found in slices]
    figure = Figure(figsize=(PANEL * len(head), PANEL * sum(tall) + 0.8), dpi=DPI)
    figure.set_layout_engine("constrained", h_pad=0.08)  # room for the names above
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(lines), len(head), squeeze=False, height_ratios=tall)
    for line, found, places in zip(lines, slices, panels, strict=True):
        first = next(iter(found.values()))
        paint(places[0], first, classes, fill=None, line=None)
        paint(places[1], first, classes, fill="truth", line=None)
        for row, place in zip(rows, places[2:], strict=True):
            place.set_axis_off()
            if row in found:
                paint(place, found[row], classes, fill="prediction", line=None)
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


def _aspect(shown: Slice) -> float:
    """Height over width, in millimetres."""
    rows, columns = shown.image.shape
    return rows * shown.spacing_mm[0] / (columns * shown.spacing_mm[1])
