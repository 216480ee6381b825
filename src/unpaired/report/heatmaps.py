"""Matrices as heat maps: semantic correlations E, and the likeness of class embeddings."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize

from unpaired.report.figures import FONT, INK, MUTED, Picture, new_figure, plain, title, to_png
from unpaired.report.run import Run

NUMBERS_UP_TO = 10


def correlation_maps(run: Run) -> list[Picture]:
    """E per modality, then scale; the maps of one scale share their colours."""
    found: dict[tuple[int, str], np.ndarray] = {}
    for name, matrix in run.semantics.items():
        kind, *rest = name.split("/")
        if kind == "correlation" and len(rest) >= 2 and rest[-1].isdigit() and matrix.ndim == 2:
            found[int(rest[-1]), "/".join(rest[:-1])] = matrix
    pictures: list[Picture] = []
    for scale, modality in sorted(found, key=lambda key: (key[1], key[0])):
        same = np.concatenate([m.ravel() for (s, _), m in found.items() if s == scale])
        limits = float(np.nanmin(same)), float(np.nanmax(same))
        matrix = found[scale, modality]
        png = heat_map(
            matrix, _names(run, len(matrix)), f"{modality}, scale {scale}", limits, "cividis"
        )
        alt = (
            f"Semantic correlations E of {modality} at scale {scale}, {len(matrix)} classes, "
            f"values from {matrix.min():.3g} to {matrix.max():.3g}."
        )
        pictures.append(Picture(f"correlation_{len(pictures) + 1}", png, alt))
    return pictures


def embedding_map(run: Run) -> Picture | None:
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
        for name in _names(run, len(table))
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
    side = 2.2 + 0.36 * max(count, 4)
    figure, axes = new_figure(side, side * 0.9)
    image = axes.imshow(matrix, cmap=colours, vmin=limits[0], vmax=limits[1])
    axes.spines[:].set_visible(False)
    labels = [plain(name) for name in names]
    axes.set_xticks(range(count), labels, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(count), labels)
    axes.tick_params(labelcolor=INK, labelsize=8, labelfontfamily=FONT)
    for edge in rules:
        axes.axhline(edge - 0.5, color="white", linewidth=2.5)
        axes.axvline(edge - 0.5, color="white", linewidth=2.5)
    if count <= NUMBERS_UP_TO:
        _numbers(axes, matrix, image)
    bar = figure.colorbar(image, ax=axes, shrink=0.75, pad=0.03)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7.5, colors=MUTED, length=0, labelfontfamily=FONT)
    title(axes, heading)
    return to_png(figure)


def _numbers(axes: Axes, matrix: np.ndarray, image: ScalarMappable) -> None:
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


def _names(run: Run, count: int) -> list[str]:
    names = list(run.classes)
    return names if len(names) == count else [f"class {index}" for index in range(count)]
