"""The experiment at a glance: mean Dice of every row and seed; for Fig. 5 a curve over tau."""

import io
import math
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from unpaired.evaluation.evaluate import PREPARED
from unpaired.experiments.cells import DICE, Result, Results, paper, seed_mean
from unpaired.experiments.curves import curve_figure, finish
from unpaired.experiments.published import MEAN
from unpaired.files import atomic

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
Points = dict[str, list[float]]


def figures(results: Results) -> dict[str, bytes]:
    """File name -> PNG: the scores and the validation curves, where there are any."""
    ran = [result for result in results.rows if result.records]
    if not ran:
        return {}
    name = results.experiment.name
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 9}):
        scores = _curve(results, ran) if results.experiment.tau else _dots(results, ran)
        found = {f"{name}.png": _png(scores)}
        if (picture := curve_figure(results)) is not None:
            found[f"{name}_curves.png"] = _png(picture)
    return found


def write_figures(results: Results, folder: Path) -> list[Path]:
    """Each whole or not at all."""
    paths = []
    for name, png in figures(results).items():
        paths.append(folder / name)
        with atomic(paths[-1]) as temporary:
            temporary.write_bytes(png)
    return paths


def _png(picture: Figure) -> bytes:
    FigureCanvasAgg(picture)
    data = io.BytesIO()
    picture.savefig(data, format="png", dpi=130, metadata={"Software": None})
    return data.getvalue()


def points(results: Results, result: Result, modality: str) -> list[float]:
    """The mean Dice over the classes of each seed, in percent."""
    keys = [(modality, cls) for cls in results.classes]
    found = [seed_mean(scores, keys, DICE) for scores in result.scores(PREPARED).values()]
    return [value for value in found if not math.isnan(value)]


def _dots(results: Results, ran: list[Result]) -> Figure:
    """A panel a modality, a line a row: seeds as dots, their mean as a bar, the paper's a cross."""
    count = len(results.modalities)
    picture = Figure(figsize=(2.2 + 3.2 * count, 0.9 + 0.36 * len(ran)), layout="constrained")
    panels = picture.subplots(1, count, sharey=True, squeeze=False)[0]
    for axes, m, colour in zip(panels, results.modalities, COLOURS, strict=False):
        for place, result in enumerate(ran):
            values = points(results, result, m)
            if not values:
                continue
            axes.plot(values, [place] * len(values), "o", color=colour, alpha=0.45, ms=5, mew=0)
            mean = sum(values) / len(values)
            axes.plot([mean, mean], [place - 0.3, place + 0.3], color=colour, lw=2)
            if (one := paper(results, result.row.name, DICE, (m, MEAN))) is not None:
                axes.plot([one.mean], [place], "x", color="#333333", ms=6)
        axes.set_yticks(range(len(ran)), [result.row.name for result in ran])
        axes.set_ylim(len(ran) - 0.5, -0.5)
        finish(axes, m, "mean Dice of the test cases (%)")
    return picture


def _curve(results: Results, ran: list[Result]) -> Figure:
    """Dice over the temperature: seeds as dots, their mean as a line."""
    picture = Figure(figsize=(5.4, 3.4), layout="constrained")
    axes = picture.subplots()
    taus = [float(result.row.name.removeprefix("tau = ")) for result in ran]
    for m, colour in zip(results.modalities, COLOURS, strict=False):
        values = [points(results, result, m) for result in ran]
        for tau, found in zip(taus, values, strict=True):
            axes.plot([tau] * len(found), found, "o", color=colour, alpha=0.4, ms=4, mew=0)
        means = [sum(found) / len(found) if found else math.nan for found in values]
        axes.plot(taus, means, color=colour, lw=1.8, label=m)
    axes.set_xticks(taus)
    axes.set_ylabel("mean Dice of the test cases (%)")
    axes.legend(frameon=False)
    finish(axes, "", "temperature τ")
    return picture
