"""The pictures of an experiment: scores of every row and seed, validation curves, predictions."""

import io
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from unpaired.evaluation.evaluate import PREPARED
from unpaired.experiments.jobs import Runs
from unpaired.experiments.paper import MEAN
from unpaired.experiments.results import DICE, Result, Results, case_means, seed_mean
from unpaired.experiments.tables import Curve, curves
from unpaired.files import atomic
from unpaired.inference.predictor import Predictor
from unpaired.run import RunFolder

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")


def figures(results: Results) -> dict[str, bytes]:
    """File name -> PNG: the scores and the validation curves, where there are any."""
    ran = [result for result in results.rows if result.records]
    if not ran:
        return {}
    name = results.experiment.name
    with matplotlib.rc_context({"font.family": "DejaVu Sans", "font.size": 9}):
        scores = _curve(results, ran) if results.experiment.tau else _dots(results, ran)
        pictures = {f"{name}.png": _png(scores)}
        if any(curves(result, m) for result in ran for m in results.modalities):
            pictures[f"{name}_curves.png"] = _png(_validation(results))
    return pictures


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
    means = [seed_mean(scores, keys, DICE) for scores in result.scores(PREPARED).values()]
    return [value for value in means if not math.isnan(value)]


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
            if (one := results.published(result.row.name, DICE, (m, MEAN))) is not None:
                axes.plot([one.mean], [place], "x", color="#333333", ms=6)
        axes.set_yticks(range(len(ran)), [result.row.name for result in ran])
        axes.set_ylim(len(ran) - 0.5, -0.5)
        _finish(axes, m, "mean Dice of the test cases (%)")
    return picture


def _curve(results: Results, ran: list[Result]) -> Figure:
    """Dice over the temperature: seeds as dots, their mean as a line."""
    picture = Figure(figsize=(5.4, 3.4), layout="constrained")
    axes = picture.subplots()
    taus = [float(result.row.name.removeprefix("tau = ")) for result in ran]
    for m, colour in zip(results.modalities, COLOURS, strict=False):
        values = [points(results, result, m) for result in ran]
        for tau, own in zip(taus, values, strict=True):
            axes.plot([tau] * len(own), own, "o", color=colour, alpha=0.4, ms=4, mew=0)
        means = [sum(own) / len(own) if own else math.nan for own in values]
        axes.plot(taus, means, color=colour, lw=1.8, label=m)
    axes.set_xticks(taus)
    axes.set_ylabel("mean Dice of the test cases (%)")
    axes.legend(frameon=False)
    _finish(axes, "", "temperature τ")
    return picture


def _validation(results: Results) -> Figure:
    """A panel a modality, a line a row: the mean of its seeds."""
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
        _finish(axes, m, "step")
    panels[0].set_ylabel("mean Dice of the validation cases (%)")
    lines = {text: line for axes in panels for line, text in _legend(axes)}
    picture.legend(list(lines.values()), list(lines), loc="outside right center", frameon=False)
    return picture


def _mean_curve(seeds: Sequence[Curve]) -> Iterator[tuple[int, float]]:
    """Over the seeds, at the steps that all of them have."""
    for step in sorted(set.intersection(*map(set, seeds))) if seeds else ():
        yield step, float(np.mean([one[step] for one in seeds]))


def _legend(axes: Axes) -> Iterator[tuple[Artist, str]]:
    lines, names = axes.get_legend_handles_labels()
    yield from zip(lines, names, strict=True)


def _finish(axes: Axes, title: str, label: str) -> None:
    """What all figures of experiments have in common."""
    axes.set_title(title, loc="left")
    axes.set_xlabel(label)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def median_case(results: Results, modality: str, seed: int) -> str | None:
    """By the mean Dice of the last row that was run: neither its best nor its worst."""
    ran = [result for result in results.rows if seed in result.records]
    means = case_means(ran[-1].scores(PREPARED)[seed], modality) if ran else {}
    ordered = sorted(means, key=lambda case: (means[case], case))
    return ordered[len(ordered) // 2] if ordered else None


def predictions_of(
    results: Results, runs: Runs, modality: str, case: str, seed: int
) -> dict[str, Path]:
    """Predict a case with every row's network into its run folder; what is there is kept.

    Returns:
        row -> run folder. Rows that are only tested otherwise are left out.

    Raises:
        DataError: the case or a model is at fault.
    """
    folders: dict[str, Path] = {}
    for result in results.rows:
        if seed not in result.records or result.row.at_test:
            continue
        own = [job for job in runs.of(result.row.name, seed) if modality in job.data]
        for job in own[:1]:
            images = RunFolder(job.folder).data.cases[modality][case].images
            predictor = Predictor.from_folder(job.folder, device=job.config.train.device)
            target = job.folder / "predictions" / modality
            predictor.predict_cases({case: images}, target, modality).raise_failures()
            folders[result.row.name] = job.folder
    return folders
