"""A run's cases scored twice in one pass: on the prepared grid, and on the grid of the files.

The literature scores resampled volumes; a user wants the scan's own grid. The network runs once,
and its scores go both ways.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unpaired.artifact.model import Member, load_member
from unpaired.config import config_from_toml
from unpaired.data.cache import PreparedCase, open_prepared
from unpaired.data.preprocess import preprocess, slices, to_classes
from unpaired.datasets.dataset import Case
from unpaired.engine.device import autocast_dtype, find_device
from unpaired.engine.evaluate import Score
from unpaired.engine.run_folder import RunFolder
from unpaired.engine.test import Part, Recorded, read_recorded
from unpaired.engine.validate import Intensities
from unpaired.errors import DataError
from unpaired.inference.images import volumes_of
from unpaired.inference.inferer import (
    best_class,
    labels_into,
    native_slices,
    segment_labels,
    segment_slices,
    told_for,
)
from unpaired.io.read import read_label_image
from unpaired.metrics import asd, keep_largest, score
from unpaired.metrics.score import EXTRA

PREPARED, NATIVE = "prepared", "native"
VOXELS = "asd_voxels"
_GridProgress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class _Task:
    """What all cases of a run have in common."""

    member: Member
    record: Recorded
    device: torch.device
    largest: tuple[int, ...]
    tolerance_mm: float | Mapping[str, float]


def score_both(
    run: Path,
    part: Part = "test",
    device: str = "auto",
    progress: _GridProgress | None = None,
    model: Path | None = None,
) -> dict[str, list[Score]]:
    """Segment and score one part of a run's cases.

    Args:
        progress: called with (done, all, "modality/case").
        model: another export than the run's own, such as one without gains.

    Returns:
        "prepared" and "native" -> the scores; those of the prepared grid hold the ASD in voxels
        too, as `extra["asd_voxels"]`.

    Raises:
        DataError: no model, no such cases, or a file is at fault.
    """
    record = read_recorded(run)
    config = config_from_toml(RunFolder(run).config)
    cases = [(m, case) for m, found in record.part(part).items() for case in found.values()]
    if not cases:
        raise DataError(f"{run}: the split has no {part} case; choose another part.")
    member = load_member(model or RunFolder(run).model)
    where = find_device(device)
    member.segmenter.to(where)
    largest = tuple(record.classes.index(name) for name in config.predict.largest_component)
    task = _Task(member, record, where, largest, config.evaluate.tolerance_mm)
    cached = {
        (m, one.id): one
        for m, known in open_prepared(record.prepared).cases.items()
        for one in known
    }
    found: dict[str, list[Score]] = {PREPARED: [], NATIVE: []}
    for done, (m, case) in enumerate(cases, 1):
        for grid, scores in _score_case(task, m, case, cached[m, case.id]).items():
            found[grid] += scores
        if progress is not None:
            progress(done, len(cases), f"{m}/{case.id}")
    return found


def _score_case(
    task: _Task, modality: str, case: Case, cached: PreparedCase
) -> dict[str, list[Score]]:
    assert case.label is not None
    truth, prepared_truth = read_label_image(case.label), cached.label()
    assert prepared_truth is not None
    prepared, native = _segment(task, modality, case)
    if cached.frame is not None:  # the literature's network sees the crop, not the scan
        prepared = _of_crop(task, modality, cached)
    classes, tolerance = task.record.classes, task.tolerance_mm
    values = to_classes(truth.array.T, task.record.tables[modality], str(case.label))
    extra = {**EXTRA, VOXELS: _asd_voxels}
    both = {
        PREPARED: score(
            prepared, np.asarray(prepared_truth), classes, cached.spacing_mm, tolerance, extra
        ),
        NATIVE: score(native.T, values, classes, truth.spacing_mm[::-1], tolerance),
    }
    return {
        grid: [Score(modality=modality, case=case.id, **vars(one)) for one in scores]
        for grid, scores in both.items()
    }


def _asd_voxels(prediction: np.ndarray, truth: np.ndarray, spacing_mm: object) -> float:
    return float(asd(prediction, truth, (1.0,) * truth.ndim))


def _segment(task: _Task, modality: str, case: Case) -> tuple[np.ndarray, np.ndarray]:
    """uint8 labels [d h w] on the prepared grid and [i j k] on the file's."""
    plan, options = task.member.plan, task.member.config.predict
    volumes = volumes_of(list(case.images))
    with told_for(volumes[0]):
        image = preprocess(volumes, modality, plan)
        prepared = np.empty(image.array.shape[1:], np.uint8)
        runs = segment_slices(
            task.member.network(modality, options.mirror == "auto"),
            image.array,
            context=plan.context,
            patch=plan.patch,
            overlap=options.overlap,
            batch_size=options.batch_size,
            device=task.device,
            autocast=autocast_dtype(task.member.config.train.precision, task.device),
        )
        whole = np.zeros(image.native_shape, np.uint8)
        between = native_slices(_copied(runs, prepared), len(prepared), image.box_shape)
        labels_into(whole[slices(image.box)], between)
    if task.largest:
        prepared, whole = (keep_largest(labels, task.largest) for labels in (prepared, whole))
    return prepared, image.orientation.undo(whole)


def _of_crop(task: _Task, modality: str, cached: PreparedCase) -> np.ndarray:
    """uint8 labels [d h w] of a prepared case that was cut by its labels."""
    plan, options = task.member.plan, task.member.config.predict
    labels = segment_labels(
        task.member.network(modality, options.mirror == "auto"),
        Intensities(cached),
        context=plan.context,
        patch=plan.patch,
        overlap=options.overlap,
        batch_size=options.batch_size,
        device=task.device,
        autocast=autocast_dtype(task.member.config.train.precision, task.device),
    )
    return keep_largest(labels, task.largest) if task.largest else labels


def _copied(runs: Iterator[tuple[int, Tensor]], labels: np.ndarray) -> Iterator[tuple[int, Tensor]]:
    """Pass the runs on, noting the class of the highest score of every slice."""
    for start, scores in runs:
        labels[start : start + len(scores)] = best_class(scores).cpu().numpy()
        yield start, scores
