"""Pictures of the training: curves of its log, and heat maps of what the modalities share."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.ticker import MaxNLocator

from unpaired.colours import SAFE, Look, class_looks
from unpaired.report.figures import (
    FONT,
    INK,
    LINE,
    MUTED,
    Picture,
    axis_labels,
    grid,
    legend_below,
    new_figure,
    plain,
    title,
    to_png,
)
from unpaired.run.contents import RunContents

SIZE = (5.4, 3.3)
SMOOTH_FROM = 20
STYLES = ("-", "--", ":", "-.")
FAMILIES = ("seg", "aux", "mcr", "icr", "view", "prototypes", "seg_view")
NAMED_CLASSES, NAMED_OF_MANY = 12, 8
"""With more classes than the first a picture names so many, those of the lowest scores."""
NUMBERS_UP_TO = 10
"""Classes; in a larger heat map the numbers in the cells would overlap."""
NAMES_UP_TO = 24
"""In a larger heat map only every second name, or third, has room."""
NAMES = {
    "seg": "segmentation",
    "aux": "auxiliary",
    "mcr": "L_mcr",
    "icr": "L_icr",
    "view": "two views,",
    "tie": "tie of Q,",
    "kd": "distillation",
    "seg_view": "second view,",
}


def loss_curves(run: RunContents) -> Picture | None:
    """The loss and every weighted term, on a logarithmic scale."""
    if not run.steps:
        return None
    figure, axes = new_figure(*SIZE)
    x = np.array([record["step"] for record in run.steps])
    names = list(dict.fromkeys(n for record in run.steps for n in record.get("weighted", {})))
    members = {family: [n for n in names if n.split("/")[0] == family] for family in FAMILIES}
    colours = dict(zip(FAMILIES, SAFE, strict=False))
    total = [record.get("loss") for record in run.steps]
    _line(axes, x, total, color=INK, label="total", linewidth=2.0)
    for name in names:
        family, _, modality = name.partition("/")
        style = STYLES[members.get(family, [name]).index(name) % len(STYLES)]
        label = f"{NAMES.get(family, family)} {plain(modality)}".strip()
        values = [record.get("weighted", {}).get(name) for record in run.steps]
        colour = colours.get(family, MUTED)
        _line(axes, x, values, color=colour, linestyle=style, label=label)
    axes.set_yscale("log")
    _finish(axes, "Loss and its weighted terms", "step", "loss (log scale)", 3)
    last = run.steps[-1]
    alt = f"Curves of the loss over {x[-1]} steps; the last total is {_number(last.get('loss'))}."
    caption = "Thin: as logged; bold: running mean." if len(x) >= SMOOTH_FROM else ""
    return Picture("loss", to_png(figure), alt, caption)


def validation_curves(run: RunContents) -> list[Picture]:
    """Dice on the validation cases, one picture per modality."""
    pictures = []
    looks = class_looks(run.classes)
    modalities = list(dict.fromkeys(m for r in run.validations for m in r.get("dice", {})))
    for index, modality in enumerate(modalities, start=1):
        records = [record for record in run.validations if modality in record.get("dice", {})]
        figure, axes = new_figure(*SIZE)
        x = [record["step"] for record in records]
        last = records[-1]["dice"][modality]
        named = lowest({cls: _percent(value) for cls, value in last.items()})
        for cls in [*(cls for cls in last if cls not in named), *named]:
            y = [_percent(record["dice"][modality].get(cls)) for record in records]
            axes.plot(x, y, **_line_of(cls, looks, cls in named))
        mean = [_percent(record.get("mean", {}).get(modality)) for record in records]
        axes.plot(x, mean, color=INK, linewidth=2.2, label="mean", marker="o", markersize=2.5)
        axes.set_ylim(0, 102)
        _finish(axes, f"Validation Dice, {modality}", "step", "Dice (%)", 5)
        alt = f"Validation Dice of {modality} per class; the last mean is {_number(mean[-1])} %."
        caption = others_sentence(len(last), len(named))
        pictures.append(Picture(f"validation_{index}", to_png(figure), alt, caption))
    return pictures


def _line_of(cls: str, looks: Mapping[str, Look], named: bool) -> dict[str, Any]:
    """How the curve of a class is drawn; one of many without a name is a thin grey line."""
    look = looks.get(cls)
    if look is None or not named:
        return {"color": LINE, "linewidth": 0.8, "label": plain(cls) if named else None}
    style = (0, look.dashes) if look.dashes else "-"
    return {"color": look.colour, "linewidth": 1.4, "linestyle": style, "label": plain(cls)}


def lowest(values: Mapping[str, float]) -> list[str]:
    """Of many classes those of the lowest values, which get a name; of few all, in their order."""
    if len(values) <= NAMED_CLASSES:
        return list(values)
    ranked = sorted(values, key=lambda cls: (not math.isfinite(values[cls]), values[cls], cls))
    chosen = set(ranked[:NAMED_OF_MANY])
    return [cls for cls in values if cls in chosen]


def others_sentence(count: int, named: int) -> str:
    """What a picture of many classes leaves without a name; empty where each has one."""
    return f"The {named} lowest of {count} classes have a colour." if named < count else ""


def consistency_curves(run: RunContents) -> list[Picture]:
    """Distance of the gains, L_mcr and L_icr before weighting; those that were logged."""
    kinds = (
        ("gain_distance", "Distance of the gains between modalities", "‖Φᵃ − Φᵇ‖", SAFE[3]),
        ("mcr", "L_mcr, class embeddings (Eq. 10)", "L_mcr", SAFE[2]),
        ("icr", "L_icr, semantic correlations (Eq. 11)", "L_icr", SAFE[4]),
    )
    pictures = []
    for name, heading, label, colour in kinds:
        values = [
            record.get(name) if name == "gain_distance" else record.get("terms", {}).get(name)
            for record in run.steps
        ]
        if not any(isinstance(value, int | float) for value in values):
            continue
        figure, axes = new_figure(*SIZE)
        x = np.array([record["step"] for record in run.steps])
        _line(axes, x, values, name != "gain_distance", color=colour, label=label)
        ends = [value for value in values if isinstance(value, int | float)]
        axes.set_ylim(0, 1.08 * max(ends) or 1)
        _finish(axes, heading, "step", label, 0)
        alt = f"{heading}: from {_number(ends[0])} to {_number(ends[-1])}."
        pictures.append(Picture(name, to_png(figure), alt))
    return pictures


def _line(
    axes: Axes,
    x: np.ndarray,
    values: Sequence[float | None],
    smooth: bool = True,
    **look: Any,
) -> None:
    """The raw curve faintly, its running mean on top in the given look."""
    y = np.array([np.nan if value is None else float(value) for value in values])
    if smooth and len(y) >= SMOOTH_FROM:
        axes.plot(x, y, color=look["color"], linewidth=0.6, alpha=0.25)
        y = running_mean(y, max(3, len(y) // 25))
    marker = "o" if len(y) < 5 else None  # one point draws no line
    axes.plot(x, y, marker=marker, markersize=3.5, **{"linewidth": 1.6, **look})


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


def _finish(axes: Axes, heading: str, x: str, y: str, columns: int) -> None:
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


def correlation_maps(run: RunContents) -> list[Picture]:
    """E per modality, then scale; the maps of one scale share their colours."""
    maps: dict[tuple[int, str], np.ndarray] = {}
    for name, matrix in run.semantics.items():
        kind, *rest = name.split("/")
        if kind == "correlation" and len(rest) >= 2 and rest[-1].isdigit() and matrix.ndim == 2:
            maps[int(rest[-1]), "/".join(rest[:-1])] = matrix
    pictures: list[Picture] = []
    for scale, modality in sorted(maps, key=lambda key: (key[1], key[0])):
        same = np.concatenate([m.ravel() for (s, _), m in maps.items() if s == scale])
        limits = float(np.nanmin(same)), float(np.nanmax(same))
        matrix = maps[scale, modality]
        png = heat_map(
            matrix, _class_names(run, len(matrix)), f"{modality}, scale {scale}", limits, "cividis"
        )
        alt = (
            f"Semantic correlations E of {modality} at scale {scale}, {len(matrix)} classes, "
            f"values from {matrix.min():.3g} to {matrix.max():.3g}."
        )
        pictures.append(Picture(f"correlation_{len(pictures) + 1}", png, alt))
    return pictures


def embedding_map(run: RunContents) -> Picture | None:
    """Cosine of the class embeddings, within and between the modalities."""
    tables = {
        name.removeprefix("embedding/"): table
        for name, table in run.semantics.items()
        if name.startswith("embedding/") and table.ndim == 2
    }
    if not tables:
        return None
    cosine = cosines(np.concatenate(list(tables.values())))
    names = [
        f"{modality} {name}" if len(tables) > 1 else name
        for modality, table in tables.items()
        for name in _class_names(run, len(table))
    ]
    ends = np.cumsum([len(table) for table in tables.values()])[:-1]
    png = heat_map(
        cosine, names, "Likeness of the class embeddings", (-1.0, 1.0), "RdBu_r", ends.tolist()
    )
    alt = "Cosine between class embeddings. " + same_class_sentence(tables)
    return Picture("embeddings", png, alt, same_class_sentence(tables), "wide")


def same_class_sentence(tables: dict[str, np.ndarray]) -> str:
    """Mean cosine of equal classes of the first two modalities, in words."""
    if len(tables) < 2:
        return "One modality: the cosine of each class with the others."
    (a, first), (b, second) = list(tables.items())[:2]
    count = min(len(first), len(second))
    across = cosines(np.concatenate([first[:count], second[:count]]))[:count, count:]
    return f"Equal classes of {a} and {b} have a mean cosine of {np.trace(across) / count:.2f}."


def cosines(vectors: np.ndarray) -> np.ndarray:
    """Cosine between all rows [n C] -> [n n]; 0 for a row of zeros."""
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.where(length > 0, length, 1)
    return unit @ unit.T


def heat_map(
    matrix: np.ndarray,
    names: Sequence[str],
    heading: str,
    limits: tuple[float, float],
    colours: str,
    rules: Sequence[int] = (),
) -> bytes:
    """One square matrix with its names, numbers in the cells where there is room."""
    count = len(matrix)
    side = 2.2 + 0.36 * min(max(count, 4), NAMES_UP_TO)
    figure, axes = new_figure(side, side * 0.9)
    image = axes.imshow(matrix, cmap=colours, vmin=limits[0], vmax=limits[1])
    axes.spines[:].set_visible(False)
    every = -(-count // NAMES_UP_TO)
    labels = [plain(name) for name in names][::every]
    axes.set_xticks(range(0, count, every), labels, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(0, count, every), labels)
    axes.tick_params(labelcolor=INK, labelsize=8, labelfontfamily=FONT)
    for edge in rules:
        axes.axhline(edge - 0.5, color="white", linewidth=2.5)
        axes.axvline(edge - 0.5, color="white", linewidth=2.5)
    if count <= NUMBERS_UP_TO:
        _cell_numbers(axes, matrix, image)
    bar = figure.colorbar(image, ax=axes, shrink=0.75, pad=0.03)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7.5, colors=MUTED, length=0, labelfontfamily=FONT)
    title(axes, heading)
    return to_png(figure)


def _cell_numbers(axes: Axes, matrix: np.ndarray, image: ScalarMappable) -> None:
    """Values in the cells, black or white by the brightness behind them."""
    scale = image.norm if isinstance(image.norm, Normalize) else Normalize()
    spread = float(np.nanmax(np.abs(matrix))) if matrix.size else 0.0
    decimals = 1 if spread >= 10 else 2 if spread >= 0.1 else 3 if spread >= 0.01 else 4
    for (i, j), value in np.ndenumerate(matrix):
        red, green, blue, _ = image.cmap(scale(value))
        bright = 0.299 * red + 0.587 * green + 0.114 * blue > 0.55
        words = f"{value:z.{decimals}f}".replace("-", "−")
        axes.text(
            j, i, words, ha="center", va="center", fontsize=6.8, fontfamily=FONT,
            color=INK if bright else "white",
        )  # fmt: skip


def _class_names(run: RunContents, count: int) -> list[str]:
    names = list(run.classes)
    return names if len(names) == count else [f"class {index}" for index in range(count)]
