"""A run's test cases: predicted with its model, scored on the native grid, beside the floor."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unpaired.artifact.model import Member, load_member
from unpaired.artifact.safetensors import load_model
from unpaired.data.cache import PreparedCase
from unpaired.data.preprocess import preprocess, slices, to_classes
from unpaired.datasets.dataset import Case
from unpaired.device import autocast_dtype, find_device
from unpaired.errors import DataError
from unpaired.evaluation.prior import run_floor
from unpaired.evaluation.scores import evaluate_pairs
from unpaired.files import shown, write_json
from unpaired.inference.folder import predict_cases
from unpaired.inference.images import volumes_of
from unpaired.inference.inferer import (
    best_class,
    labels_into,
    native_slices,
    segment_labels,
    segment_slices,
    told_for,
)
from unpaired.inference.predictor import Predictor
from unpaired.io.read import read_label_image
from unpaired.metrics import asd, keep_largest, score
from unpaired.metrics.score import EXTRA
from unpaired.models import fold
from unpaired.progress import Progress
from unpaired.run import RunFolder
from unpaired.run.data import RunData
from unpaired.run.folder import Part
from unpaired.run.scores import Evaluation, Score, summarise, write_evaluation
from unpaired.training.validate import Intensities

log = logging.getLogger(__name__)


def evaluate_run(
    run: Path,
    progress: Progress | None = None,
    *,
    overwrite: bool = False,
    part: Part = "test",
    device: str = "auto",
    workers: int = 0,
) -> dict[str, Any]:
    """Predict and score one part of a run's cases; predictions that are done are kept.

    Writes RUN/predictions/<modality>/<case>.nii.gz, RUN/evaluation/ and RUN/floor.json; for
    another part than "test" the two folders end in its name (`predictions_val`) and the floor is
    not written.

    Args:
        progress: called with (done, all, "modality/case"); each case counts twice, for its
            prediction and its scores.
        workers: processes for scoring.

    Returns:
        `summarise(scores)`: per modality the statistics; ["mean"]["dice"]["mean"] is the mean
        foreground Dice. Cases that failed are listed in evaluation.json.

    Raises:
        DataError: no model, no such cases, or the run's records are damaged.
    """
    folder = RunFolder(run)
    cases = folder.cases(part)
    total = sum(map(len, cases.values()))
    if not total:
        raise DataError(f"{shown(run)}: the split has no {part} case; choose another part.")
    steps = _Steps(progress, 2 * total)
    predictor = Predictor.from_folder(run, device=device)
    failures: dict[str, str] = {}
    pairs = []
    for m, members in cases.items():
        found = predict_cases(
            predictor,
            {i: case.images for i, case in members.items()},
            folder.files.predictions(part) / m,
            m,
            overwrite=overwrite,
            progress=steps.named(m),
        )
        failures.update({f"{m}/{i}": why for i, why in found.failures.items()})
        done = {**found.written, **found.kept}
        pairs += [(m, i, done[i], c.label) for i, c in members.items() if i in done and c.label]
    tolerance, data = folder.config.evaluate.tolerance_mm, folder.data
    scores = evaluate_pairs(
        pairs, data.classes, data.tables, tolerance, steps.named(), workers, None, failures
    )
    evaluation = Evaluation(tuple(scores), failures, (), tolerance)
    write_evaluation(evaluation, folder.files.evaluation(part))
    if part == "test":
        _write_floor(folder)
    return summarise(scores)


class _Steps:
    """Counts over several loops, each of which counts from 1."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self.progress, self.total, self.done = progress, total, 0

    def named(self, modality: str | None = None) -> Progress:
        def step(_done: int, _all: int, name: str) -> None:
            self.done += 1
            if self.progress is not None:
                self.progress(self.done, self.total, f"{modality}/{name}" if modality else name)

        return step


def _write_floor(run: RunFolder) -> None:
    """floor.json: what position alone scores; without the cache it is left out."""
    try:
        write_json(run.files.floor, run_floor(run))
    except DataError as error:
        log.warning("no floor.json: %s", error)


def folded_differences(run: Path, cases: int = 1) -> dict[str, int]:
    """Voxels in which the folded network labels test cases otherwise than the live gains form.

    One patch about the middle of each, and every slice where a patch is one.

    In float64, where both differ by rounding of 1e-15 only: anything but 0 is a fault.

    Args:
        cases: test cases per modality (training cases where there are fewer).

    Returns:
        modality -> number of voxels on the prepared grid.

    Raises:
        DataError: the run has no model or no prepared cases.
    """
    folder = RunFolder(run)
    segmenter, plan, _ = load_model(folder.files.model)
    segmenter.double()
    split, found = folder.split, {}
    for m in plan.modalities:
        wanted = [*split.test.get(m, ()), *split.train.get(m, ())][:cases]
        plain = fold(segmenter, m)
        networks = (
            lambda x, m=m: segmenter(x.double(), m).logits,
            lambda x, plain=plain: plain(x.double()).logits,
        )
        found[m] = sum(
            _differing(networks, case, plan.context, plan.patch)
            for case in folder.prepared[m].values()
            if case.id in wanted
        )
    return found


def folded_agree(run: Path, cases: int = 1) -> bool:
    """Whether folding changes no label of these test cases; see `folded_differences`."""
    return not any(folded_differences(run, cases).values())


def _differing(
    networks: tuple[Callable[..., Tensor], Callable[..., Tensor]],
    case: PreparedCase,
    context: int,
    patch: tuple[int, ...],
) -> int:
    image = _middle(Intensities(case), patch)
    a, b = (
        segment_labels(network, image, context=context, patch=patch, device=torch.device("cpu"))
        for network in networks
    )
    return int((a != b).sum())


def _middle(image: Intensities, patch: tuple[int, ...]) -> np.ndarray:
    """One patch about the middle (and every slice, where a patch is one): float64 is slow."""
    sizes = image.shape[-len(patch) :]
    starts = [max(0, (n - size) // 2) for n, size in zip(sizes, patch, strict=True)]
    window = [slice(a, a + size) for a, size in zip(starts, patch, strict=True)]
    return image[(slice(None), *[slice(None)] * (3 - len(patch)), *window)]


# A run's cases scored twice in one pass: on the prepared grid, and on the grid of the files.
#
# The literature scores resampled volumes; a user wants the scan's own grid. The network runs once,
# and its scores go both ways.


PREPARED, NATIVE = "prepared", "native"
VOXELS = "asd_voxels"


@dataclass(frozen=True)
class _Task:
    """What all cases of a run have in common."""

    member: Member
    data: RunData
    device: torch.device
    largest: tuple[int, ...]
    tolerance_mm: float | Mapping[str, float]


def score_both(
    run: Path,
    part: Part = "test",
    device: str = "auto",
    progress: Progress | None = None,
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
    folder = RunFolder(run)
    config, data = folder.config, folder.data
    cases = [(m, case) for m, found in folder.cases(part).items() for case in found.values()]
    if not cases:
        raise DataError(f"{run}: the split has no {part} case; choose another part.")
    member = load_member(model or folder.files.model)
    where = find_device(device)
    member.segmenter.to(where)
    largest = tuple(data.classes.index(name) for name in config.predict.largest_component)
    task = _Task(member, data, where, largest, config.evaluate.tolerance_mm)
    cached = folder.prepared
    found: dict[str, list[Score]] = {PREPARED: [], NATIVE: []}
    for done, (m, case) in enumerate(cases, 1):
        for grid, scores in _score_case(task, m, case, cached[m][case.id]).items():
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
    classes, tolerance = task.data.classes, task.tolerance_mm
    values = to_classes(truth.array.T, task.data.tables[modality], str(case.label))
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
