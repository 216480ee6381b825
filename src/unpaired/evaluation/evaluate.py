"""A run's cases: predicted with its model and scored on the files' grid, the prepared one, or both.

The literature scores resampled volumes; a user wants the scan's own grid.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from unpaired.artifact.model import Model
from unpaired.config import config_from_toml
from unpaired.config.schema import PredictConfig
from unpaired.data.cache import Intensities, PreparedCase, open_prepared
from unpaired.data.preprocess import preprocess, to_classes
from unpaired.datasets.dataset import Case
from unpaired.datasets.nnunet import check_ids
from unpaired.datasets.split import Split, read_splits
from unpaired.device import find_device
from unpaired.errors import DataError
from unpaired.evaluation.prior import location_floor
from unpaired.evaluation.tables import Evaluation, Score, evaluate_pairs, write_evaluation
from unpaired.files import read_json, shown, write_json
from unpaired.inference.ensemble import told_for
from unpaired.inference.images import volumes_of
from unpaired.inference.inferer import Inferer
from unpaired.inference.predictor import Predictor
from unpaired.io.read import read_label_image
from unpaired.metrics import asd, keep_largest, score
from unpaired.metrics.score import EXTRA
from unpaired.run import RunFolder

log = logging.getLogger(__name__)
Progress = Callable[[int, int, str], None]
Part = Literal["train", "val", "test"]
PREPARED, NATIVE = "prepared", "native"
VOXELS = "asd_voxels"


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


def evaluate(
    run: Path,
    part: Part = "test",
    grids: Sequence[str] = (NATIVE,),
    *,
    device: str = "auto",
    overwrite: bool = False,
    model: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Evaluation]:
    """Predict and score one part of a run's cases.

    On the native grid alone, predictions are files, and those that are done are kept. It writes
    RUN/predictions/<modality>/<case>.nii.gz, RUN/evaluation/ and RUN/floor.json; for another part
    than "test" the two folders end in its name (`predictions_val`) and the floor is not written.

    With the prepared grid, the network runs once and its scores go both ways, in memory; nothing
    is written, and a case at fault ends it.

    Args:
        grids: "native", the files' own, and "prepared".
        overwrite: predict what is done again.
        model: another export than the run's own, such as one without gains; for both grids.
        progress: called with (done, all, "modality/case"); a case that is written counts twice,
            for its prediction and its scores.

    Returns:
        grid -> scores, with what failed; those of the prepared grid hold the ASD in voxels too, as
        `extra["asd_voxels"]`.

    Raises:
        DataError: no model, no such cases, or the run's records are damaged.
    """
    record = read_recorded(run)
    if not any(record.part(part).values()):
        raise DataError(f"{shown(run)}: the split has no {part} case; choose another part.")
    if PREPARED in grids:
        found = _in_memory(run, record, part, device, model, progress)
        return {grid: found[grid] for grid in grids}
    return {NATIVE: _in_files(run, record, part, device, overwrite, progress)}


# On the files' grid: predictions are files.


def _in_files(
    run: Path,
    record: Recorded,
    part: Part,
    device: str,
    overwrite: bool,
    progress: Progress | None,
) -> Evaluation:
    cases = record.part(part)
    suffix = "" if part == "test" else f"_{part}"
    steps = _Steps(progress, 2 * sum(map(len, cases.values())))
    predictor = Predictor.from_folder(run, device=device)
    failures: dict[str, str] = {}
    pairs = []
    for m, members in cases.items():
        outcome = predictor.predict_cases(
            {i: case.images for i, case in members.items()},
            run / f"predictions{suffix}" / m,
            m,
            overwrite=overwrite,
            progress=steps.named(m),
        )
        failures.update({f"{m}/{i}": why for i, why in outcome.failures.items()})
        done = {**outcome.written, **outcome.kept}
        pairs += [(m, i, done[i], c.label) for i, c in members.items() if i in done and c.label]
    tolerance = config_from_toml(RunFolder(run).config).evaluate.tolerance_mm
    scores = evaluate_pairs(
        pairs, record.classes, record.tables, tolerance, steps.named(), failures=failures
    )
    evaluation = Evaluation(tuple(scores), failures, (), tolerance)
    write_evaluation(evaluation, run / f"evaluation{suffix}")
    if part == "test":
        _write_floor(run, record)
    return evaluation


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


# On both grids: one pass, in memory.


def _in_memory(
    run: Path,
    record: Recorded,
    part: Part,
    device: str,
    model: Path | None,
    progress: Progress | None,
) -> dict[str, Evaluation]:
    config = config_from_toml(RunFolder(run).config)
    cases = [case for known in record.part(part).values() for case in known.values()]
    cached = {
        (m, one.id): one
        for m, known in open_prepared(record.prepared).cases.items()
        for one in known
    }
    loaded, where = Model.load(model or RunFolder(run).model), find_device(device)
    loaded.segmenter.to(where)
    scorer = _Scorer(record, loaded, where, config.predict, config.evaluate.tolerance_mm)
    scores: dict[str, list[Score]] = {PREPARED: [], NATIVE: []}
    for done, case in enumerate(cases, 1):
        for grid, found in scorer.scores(case, cached[case.modality, case.id]).items():
            scores[grid] += found
        if progress is not None:
            progress(done, len(cases), f"{case.modality}/{case.id}")
    return {
        grid: Evaluation(tuple(found), tolerance_mm=scorer.tolerance_mm)
        for grid, found in scores.items()
    }


@dataclass(frozen=True)
class _Scorer:
    """Segments and scores the cases of a run on both grids."""

    record: Recorded
    model: Model
    device: torch.device
    settings: PredictConfig
    """Of the run; those of the model hold for the network."""
    tolerance_mm: float | Mapping[str, float]

    def scores(self, case: Case, cached: PreparedCase) -> dict[str, list[Score]]:
        assert case.label is not None
        truth, prepared_truth = read_label_image(case.label), cached.label()
        assert prepared_truth is not None
        prepared, native = self._labels(case, cached)
        classes, tolerance = self.record.classes, self.tolerance_mm
        values = to_classes(truth.array.T, self.record.tables[case.modality], str(case.label))
        extra = {**EXTRA, VOXELS: _asd_voxels}
        both = {
            PREPARED: score(
                prepared, np.asarray(prepared_truth), classes, cached.spacing_mm, tolerance, extra
            ),
            NATIVE: score(native.T, values, classes, truth.spacing_mm[::-1], tolerance),
        }
        return {
            grid: [Score(modality=case.modality, case=case.id, **vars(one)) for one in found]
            for grid, found in both.items()
        }

    def _labels(self, case: Case, cached: PreparedCase) -> tuple[np.ndarray, np.ndarray]:
        """uint8 [d h w] on the prepared grid and [i j k] on the file's."""
        inferer = Inferer.of(self.model, case.modality, self.device)
        volumes = volumes_of(list(case.images))
        with told_for(volumes[0]):
            image = preprocess(volumes, case.modality, self.model.plan)
            prepared, native = inferer.both(image)
        if cached.frame is not None:  # the literature's network sees the crop, not the scan
            prepared = inferer.labels(Intensities(cached))
        names = self.settings.largest_component
        largest = tuple(self.record.classes.index(name) for name in names)
        if largest:
            prepared, native = (keep_largest(labels, largest) for labels in (prepared, native))
        return prepared, image.orientation.undo(native)


def _asd_voxels(prediction: np.ndarray, truth: np.ndarray, spacing_mm: object) -> float:
    return float(asd(prediction, truth, (1.0,) * truth.ndim))


# The fold check.


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
    model = Model.load(RunFolder(run).model)
    model.segmenter.double()
    cached = open_prepared(record.prepared).cases
    differing = {}
    for m in model.modalities:
        wanted = [*record.split.test.get(m, ()), *record.split.train.get(m, ())][:cases]
        plain = model.fold(m)
        live, folded = (
            Inferer(network, model.plan, PredictConfig(), torch.device("cpu"))
            for network in (
                lambda x, m=m: model.segmenter(x.double(), m).logits,
                lambda x, plain=plain: plain(x.double()).logits,
            )
        )
        images = [
            _middle(Intensities(case), model.plan.patch) for case in cached[m] if case.id in wanted
        ]
        differing[m] = sum(
            int((live.labels(image) != folded.labels(image)).sum()) for image in images
        )
    return differing


def _middle(image: Intensities, patch: tuple[int, ...]) -> np.ndarray:
    """One patch about the middle (and every slice, where a patch is one): float64 is slow."""
    sizes = image.shape[-len(patch) :]
    starts = [max(0, (n - size) // 2) for n, size in zip(sizes, patch, strict=True)]
    window = [slice(a, a + size) for a, size in zip(starts, patch, strict=True)]
    return image[(slice(None), *[slice(None)] * (3 - len(patch)), *window)]
