"""A run's test cases: predicted with its model, scored on the native grid, beside the floor."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from unpaired.artifact.model import Member, load_member
from unpaired.artifact.safetensors import load_model
from unpaired.config import config_from_toml
from unpaired.data.cache import PreparedCase, open_prepared
from unpaired.data.preprocess import preprocess, slices, to_classes
from unpaired.datasets.dataset import Case
from unpaired.datasets.nnunet import check_ids
from unpaired.datasets.split import Split, read_splits
from unpaired.device import autocast_dtype, find_device
from unpaired.errors import DataError
from unpaired.evaluation.prior import location_floor
from unpaired.evaluation.tables import (
    Evaluation,
    Score,
    evaluate_pairs,
    summarise,
    write_evaluation,
)
from unpaired.files import read_json, shown, write_json
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
from unpaired.run import RunFolder
from unpaired.training.validate import Intensities

log = logging.getLogger(__name__)
Progress = Callable[[int, int, str], None]
Part = Literal["train", "val", "test"]


@dataclass(frozen=True)
class Recorded:
    """What data.json and splits_final.json of a run say."""

    classes: tuple[str, ...]
    prepared: Path
    tables: dict[str, dict[int, int]]
    """modality -> value in its label files -> class index."""
    cases: dict[str, dict[str, Case]]
    split: Split

    def part(self, name: Part) -> dict[str, dict[str, Case]]:
        """modality -> case id -> case, of one part of the split."""
        ids: Mapping[str, tuple[str, ...]] = getattr(self.split, name)
        return {m: {i: known[i] for i in ids.get(m, ())} for m, known in self.cases.items()}


def read_recorded(run: Path) -> Recorded:
    """Read where a run's data lie and how they were split.

    Raises:
        DataError: a file is missing or damaged.
    """
    folder = RunFolder(run)
    content = read_json(folder.data)
    try:
        modalities = content["modalities"]
        tables = {
            m: {int(value): index for value, index in part["values"].items()}
            for m, part in modalities.items()
        }
        cases = {
            m: {i: _case(i, m, about) for i, about in part["cases"].items()}
            for m, part in modalities.items()
        }
        check_ids(modalities, folder.data)
        for known in cases.values():
            check_ids(known, folder.data)
        classes, prepared = tuple(content["classes"]), Path(content["prepared"])
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{shown(folder.data)} is not what training writes ({error!r}). Start the training "
            "again with the same command: it writes the file anew."
        ) from error
    split = read_splits(folder.splits, {m: list(known.values()) for m, known in cases.items()})[0]
    return Recorded(classes, prepared, tables, cases, split)


def _case(case: str, modality: str, about: Mapping[str, Any]) -> Case:
    label = None if about["label"] is None else Path(about["label"])
    return Case(case, modality, tuple(map(Path, about["images"])), label, about["patient"])


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
    record = read_recorded(run)
    cases = record.part(part)
    total = sum(map(len, cases.values()))
    if not total:
        raise DataError(f"{shown(run)}: the split has no {part} case; choose another part.")
    suffix = "" if part == "test" else f"_{part}"
    steps = _Steps(progress, 2 * total)
    predictor = Predictor.from_folder(run, device=device)
    failures: dict[str, str] = {}
    pairs = []
    for m, members in cases.items():
        found = predict_cases(
            predictor,
            {i: case.images for i, case in members.items()},
            run / f"predictions{suffix}" / m,
            m,
            overwrite=overwrite,
            progress=steps.named(m),
        )
        failures.update({f"{m}/{i}": why for i, why in found.failures.items()})
        done = {**found.written, **found.kept}
        pairs += [(m, i, done[i], c.label) for i, c in members.items() if i in done and c.label]
    tolerance = config_from_toml(RunFolder(run).config).evaluate.tolerance_mm
    scores = evaluate_pairs(
        pairs, record.classes, record.tables, tolerance, steps.named(), workers, None, failures
    )
    evaluation = Evaluation(tuple(scores), failures, (), tolerance)
    write_evaluation(evaluation, run / f"evaluation{suffix}")
    if part == "test":
        _write_floor(run, record)
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


def _write_floor(run: Path, record: Recorded) -> None:
    """floor.json: what position alone scores; without the cache it is left out."""
    try:
        cached = open_prepared(record.prepared).cases
    except DataError as error:
        log.warning("no floor.json: %s", error)
        return
    split = record.split
    labels = [_labels(cached, ids) for ids in (split.train, split.test)]
    write_json(run / "floor.json", location_floor(labels[0], labels[1], record.classes))


def _labels(
    cached: Mapping[str, tuple[PreparedCase, ...]], ids: Mapping[str, tuple[str, ...]]
) -> dict[str, list[np.ndarray]]:
    found: dict[str, list[np.ndarray]] = {}
    for m, members in cached.items():
        maps = [case.label() for case in members if case.id in ids.get(m, ())]
        found[m] = [label for label in maps if label is not None]
    return found


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
    record = read_recorded(run)
    segmenter, plan, _ = load_model(RunFolder(run).model)
    segmenter.double()
    cached = open_prepared(record.prepared).cases
    found = {}
    for m in plan.modalities:
        wanted = [*record.split.test.get(m, ()), *record.split.train.get(m, ())][:cases]
        plain = fold(segmenter, m)
        networks = (
            lambda x, m=m: segmenter(x.double(), m).logits,
            lambda x, plain=plain: plain(x.double()).logits,
        )
        found[m] = sum(
            _differing(networks, case, plan.context, plan.patch)
            for case in cached[m]
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
