"""One picture for a front page: a case of each modality, truth beside prediction."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from unpaired.errors import DataError
from unpaired.files import atomic
from unpaired.names import canonical_name
from unpaired.report.figures import DPI, FONT, INK, MUTED, class_colours, plain, to_png
from unpaired.report.overlays import Layer, paint
from unpaired.report.run import open_run
from unpaired.report.slices import Slice, best_median_worst, load_slice

ROW_INCHES = 2.5


def hero(run: Path, path: Path, cases: dict[str, str] | None = None) -> Path:
    """Draw the median test case of the first two modalities, truth and prediction side by side.

    Args:
        run: an evaluated run folder with its predictions.
        path: the PNG to write.
        cases: modality -> case, to choose others.

    Raises:
        DataError: not evaluated, or a file is missing.
    """
    found = open_run(run)
    chosen = cases or {}
    if not chosen:
        for modality in found.modalities[:2]:
            kinds = best_median_worst(found, modality)
            if kinds:
                chosen[modality] = kinds.get("median") or next(iter(kinds.values()))
    if not chosen:
        raise DataError(f"{run} holds no scores; run `unpaired evaluate` first.")
    slices = {m: load_slice(found, m, case) for m, case in chosen.items()}
    with atomic(path) as temporary:
        temporary.write_bytes(_draw(slices, found.classes))
    return path


def _draw(slices: dict[str, Slice], classes: tuple[str, ...]) -> bytes:
    widths = [
        shown.image.shape[1] * shown.spacing_mm[1] / (shown.image.shape[0] * shown.spacing_mm[0])
        for shown in slices.values()
        for _ in range(2)
    ]
    figure = Figure(
        figsize=(ROW_INCHES * sum(widths), ROW_INCHES + 0.75), dpi=DPI, facecolor="white"
    )
    FigureCanvasAgg(figure)
    high = ROW_INCHES / (ROW_INCHES + 0.75)
    left = 0.0
    layers: tuple[Layer, ...] = ("truth", "prediction")
    panels = [(m, shown, layer) for m, shown in slices.items() for layer in layers]
    for (modality, shown, layer), width in zip(panels, widths, strict=True):
        share = width / sum(widths)
        axes = figure.add_axes((left + 0.002, 0.12, share - 0.004, high))
        paint(axes, shown, classes, fill=layer, line=layer)
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
