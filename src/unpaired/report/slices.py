"""Which cases and slices to show, read and turned upright."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import uniform_filter

from unpaired.data.preprocess import to_classes
from unpaired.datasets.dataset import IGNORED
from unpaired.datasets.planes import Planes, lattice_of, orient
from unpaired.errors import DataError
from unpaired.io.read import read_image, read_label_image
from unpaired.io.volume import SAME_GRID_MM, SliceAxis, same_grid
from unpaired.metrics import largest_component
from unpaired.names import file_name
from unpaired.report.tables import case_means
from unpaired.run.contents import RunContents


@dataclass(frozen=True)
class Slice:
    """One slice, upright: rows run down, columns to the right.

    Attributes:
        image: float32 [h w]; low and high are the window's ends.
        truth, prediction: class indices [h w].
        spacing_mm: (rows, columns).
        index, count: number of the slice and of all.
    """

    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    low: float
    high: float
    spacing_mm: tuple[float, float]
    index: int
    count: int
    axis: SliceAxis

    @property
    def size_mm(self) -> tuple[float, float]:
        """Height and width."""
        (rows, columns), (row_mm, column_mm) = self.image.shape, self.spacing_mm
        return rows * row_mm, columns * column_mm


def best_median_worst(run: RunContents, modality: str) -> dict[str, str]:
    """Kind -> case by mean Dice; fewer kinds where there are fewer cases."""
    if run.evaluation is None:
        return {}
    cases = list(case_means(run.evaluation, modality))
    kinds = {"best": len(cases) - 1, "median": len(cases) // 2, "worst": 0}
    chosen: dict[str, str] = {}
    for kind, index in kinds.items():
        if cases and cases[index] not in chosen.values():
            chosen[kind] = cases[index]
    return chosen if len(cases) != 1 else {"only case": cases[0]}


def load_slice(run: RunContents, modality: str, case: str, by_truth: bool = False) -> Slice:
    """Read a case and choose the slice that shows most of every class of the truth.

    Args:
        by_truth: crop to the body and the truth only, so that pictures of several runs are alike.

    Raises:
        DataError: a file is missing or at fault, or the three lie on different grids.
    """
    known = run.data.get("modalities", {}).get(modality, {})
    files = known.get("cases", {}).get(case)
    if not files or not files.get("label"):
        raise DataError(f"data.json does not say where the image and label of {case} are")
    image = read_image(Path(files["images"][0]))
    truth = read_label_image(Path(files["label"]))
    prediction = read_label_image(prediction_file(run.root, modality, case))
    for label in (truth, prediction):
        if same_grid(image, label) > SAME_GRID_MM:
            raise DataError(f"{label.path} does not lie on the grid of {image.path}")
    values = known.get("values", {}).items()
    table = {int(value): 0 if index == IGNORED else index for value, index in values}
    indices = to_classes(truth.array, table, str(truth.path))
    axis, planes = run.plan.get("slice_axis", "S"), run.plan.get("planes")
    rows_of = next(letter for letter in "SPL" if letter != axis)
    if planes is not None:
        planes = Planes.model_validate(planes)
        rows_of = planes.letters[1]
    turn = orient(lattice_of(image), axis, planes)
    arrays = [turn.apply(a) for a in (image.array, indices, prediction.array)]
    _, rows, columns = turn.spacing(image.spacing_mm)
    if rows_of == "S":
        # The index grows to Superior: a standing patient has the head at the top.
        arrays = [a[:, ::-1] for a in arrays]
    low, high = window(run, modality, image.measured)
    best = richest_slice(arrays[1])
    picture = [np.ascontiguousarray(a[best]) for a in arrays]
    inside = picture[1] if by_truth else np.maximum(picture[1], picture[2])
    box = body_box(picture[0], inside, low, high)
    image_2d, truth_2d, prediction_2d = (a[box] for a in picture)
    return Slice(
        image_2d.astype(np.float32), truth_2d, prediction_2d, low, high, (rows, columns),
        best, len(arrays[0]), axis,
    )  # fmt: skip


def prediction_file(root: Path, modality: str, case: str) -> Path:
    """The prediction of a case in a run folder, compressed or not."""
    folder = root / "predictions" / modality
    name = file_name(case)
    plain, packed = folder / f"{name}.nii", folder / f"{name}.nii.gz"
    return plain if plain.is_file() and not packed.is_file() else packed


def richest_slice(truth: np.ndarray) -> int:
    """The slice [d h w -> d] that shows most classes well: at least 0.4 of their largest cut."""
    shares = np.zeros(len(truth))
    for cls in np.unique(truth[truth > 0]):
        area = np.count_nonzero(truth == cls, axis=(1, 2))
        share = area / area.max()
        shares += np.minimum(share, 0.4) + 0.1 * share
    return int(np.argmax(shares)) if shares.any() else len(truth) // 2


def window(run: RunContents, modality: str, image: np.ndarray) -> tuple[float, float]:
    """Grey-value limits: the plan's window of the first channel, else percentiles of the image."""
    clips = run.plan.get("modalities", {}).get(modality, {}).get("clip") or [{}]
    clip: Mapping[str, Any] = clips[0]
    if clip.get("kind") == "window":
        return float(clip["low"]), float(clip["high"])
    low, high = np.percentile(image, (1, 99))
    return float(low), float(high) if high > low else float(low) + 1.0


def body_box(image: np.ndarray, labels: np.ndarray, low: float, high: float) -> tuple[slice, slice]:
    """The part of a slice that is not air, and every label, with a small margin."""
    # Smoothed, and the largest piece only: noise, cables and the table do not count.
    smooth = uniform_filter(image.astype(np.float32), 5, mode="nearest")
    inside = largest_component(smooth > low + 0.1 * (high - low)) | (labels > 0)
    box = []
    for axis in (0, 1):
        used = np.flatnonzero(inside.any(axis=1 - axis))
        size = image.shape[axis]
        first, last = (int(used[0]), int(used[-1])) if used.size else (0, size - 1)
        margin = max(2, size // 50)
        box.append(slice(max(0, first - margin), min(size, last + 1 + margin)))
    return box[0], box[1]
