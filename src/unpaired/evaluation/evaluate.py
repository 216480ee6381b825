"""A run's cases: predicted with its model and scored on the files' grid, the prepared one, or both.

The literature scores resampled volumes; a user wants the scan's own grid.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from unpaired.artifact.model import Model
from unpaired.config import Config
from unpaired.config.schema import PredictConfig
from unpaired.data.cache import Intensities, PreparedCase
from unpaired.data.preprocess import preprocess, to_classes
from unpaired.datasets.dataset import Case
from unpaired.device import find_device
from unpaired.errors import DataError
from unpaired.evaluation.prior import run_floor
from unpaired.evaluation.scores import Labels, evaluate_pairs
from unpaired.files import printable, write_json
from unpaired.inference.ensemble import told_for
from unpaired.inference.images import volumes_of
from unpaired.inference.inferer import Inferer
from unpaired.inference.outcome import Outcome
from unpaired.inference.predictor import Predictor
from unpaired.io.read import read_label_image
from unpaired.leftovers import sweep
from unpaired.metrics import asd, keep_largest, score
from unpaired.metrics.score import EXTRA
from unpaired.progress import Progress
from unpaired.run import RunFolder
from unpaired.run.data import RunData
from unpaired.run.folder import Part
from unpaired.run.inputs import changed_cases
from unpaired.run.scores import Evaluation, Score, Tolerance, write_evaluation

log = logging.getLogger(__name__)
PREPARED, NATIVE = "prepared", "native"
VOXELS = "asd_voxels"


def evaluate(
    run: Path,
    part: Part = "test",
    grids: Sequence[str] = (NATIVE,),
    *,
    device: str = "auto",
    overwrite: bool = False,
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
        progress: called with (done, all, "modality/case"); a case that is written counts twice,
            for its prediction and its scores.

    Returns:
        grid -> scores, with what failed; those of the prepared grid hold the ASD in voxels too, as
        `extra["asd_voxels"]`.

    Raises:
        DataError: no model, no such cases, or the run's records are damaged.
    """
    if PREPARED in grids:
        found = evaluate_both_grids(run, part, device=device, progress=progress)
        return {grid: found[grid] for grid in grids}
    return {NATIVE: _in_files(_swept(run, part), part, device, overwrite, progress)}


def evaluate_both_grids(
    run: Path,
    part: Part = "test",
    *,
    model: Path | None = None,
    device: str = "auto",
    progress: Progress | None = None,
) -> dict[str, Evaluation]:
    """As `evaluate` with both grids; nothing is written.

    Args:
        model: another export than the run's own, such as one without gains.

    Raises:
        as `evaluate`.
    """
    return _in_memory(_swept(run, part), part, device, model, progress)


def _swept(run: Path, part: Part) -> RunFolder:
    folder = RunFolder(run)
    sweep(folder.root, deep=True)
    if not any(folder.cases(part).values()):
        raise DataError(f"{printable(run)}: the split has no {part} case; choose another part.")
    return folder


# On the files' grid: predictions are files.


def _in_files(
    run: RunFolder, part: Part, device: str, overwrite: bool, progress: Progress | None
) -> Evaluation:
    cases = run.cases(part)
    steps = Steps(progress, 2 * sum(map(len, cases.values())))
    predictor = Predictor.from_folder(run.root, device=device)
    scoring = Scoring(predictor, scale_of(run), overwrite, steps)
    evaluation = scoring.evaluate(cases, run.files.predictions(part), _notes(run, part))
    write_evaluation(evaluation, run.files.evaluation(part))
    if part == "test":
        _write_floor(run)
    return evaluation


@dataclass(frozen=True)
class Scale:
    """By what cases are scored: the meaning of their labels, and the NSD's tolerance."""

    labels: Labels
    tolerance_mm: Tolerance


def scale_of(run: RunFolder) -> Scale:
    """As a run is configured."""
    return Scale(Labels(run.data.classes, run.data.tables), run.config.evaluate.tolerance_mm)


@dataclass(frozen=True)
class Scoring:
    """Predicts cases into files, and scores these."""

    predictor: Predictor
    scale: Scale
    overwrite: bool
    steps: "Steps"

    def evaluate(
        self, cases: Mapping[str, Mapping[str, Case]], predictions: Path, notes: Sequence[str] = ()
    ) -> Evaluation:
        """Into `predictions`/<modality>; files that are done are kept, unless `overwrite`."""
        failures, odd = dict[str, str](), dict[str, str]()
        pairs = []
        for m, members in cases.items():
            outcome = self.predictor.predict_cases(
                {i: case.images for i, case in members.items()},
                predictions / m,
                m,
                overwrite=self.overwrite,
                progress=self.steps.named(m),
            )
            failures.update({f"{m}/{i}": why for i, why in outcome.failures.items()})
            odd.update(_compared(m, outcome))
            done = {**outcome.written, **outcome.kept}
            pairs += [(m, i, done[i], c.label) for i, c in members.items() if i in done and c.label]
        labels, tolerance = self.scale.labels, self.scale.tolerance_mm
        scores = evaluate_pairs(pairs, labels, tolerance, self.steps.named(), failures=failures)
        return Evaluation(tuple(scores), failures, (), tolerance, tuple(notes), (), odd)


def _compared(modality: str, outcome: Outcome) -> dict[str, str]:
    """ "modality/case" -> what is odd, of the cases that were compared with the training."""
    return {
        f"{modality}/{case}": found.line if found.odd else ""
        for case, found in outcome.plausibility.items()
        if found.compared or found.odd
    }


def _notes(run: RunFolder, part: Part) -> tuple[str, ...]:
    """Which of the cases are not those that the run was given."""
    cases = [case for known in run.cases(part).values() for case in known.values()]
    there = [c for c in cases if all(path.exists() for path in (*c.images, c.label or run.root))]
    changed = changed_cases(run.inputs, there)
    if not changed:
        return ()
    note = f"Changed since the training began: {', '.join(changed)}."
    log.warning("%s", note)
    return (note,)


class Steps:
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
        write_json(run.files.floor, run_floor(run), seal=True)
    except DataError as error:
        log.warning("no floor.json: %s", error)


# On both grids: one pass, in memory.


def _in_memory(
    run: RunFolder, part: Part, device: str, model: Path | None, progress: Progress | None
) -> dict[str, Evaluation]:
    cases = [case for known in run.cases(part).values() for case in known.values()]
    loaded, where = Model.load(model or run.files.model), find_device(device)
    loaded.segmenter.to(where)
    scorer = _Scorer(run.data, loaded, where, run.config)
    prepared, notes = run.prepared, _notes(run, part)
    scores: dict[str, list[Score]] = {PREPARED: [], NATIVE: []}
    for done, case in enumerate(cases, 1):
        prepared[case.modality][case.id].verify()
        for grid, found in scorer.scores(case, prepared[case.modality][case.id]).items():
            scores[grid] += found
        if progress is not None:
            progress(done, len(cases), f"{case.modality}/{case.id}")
    return {
        grid: Evaluation(tuple(found), {}, (), run.config.evaluate.tolerance_mm, notes)
        for grid, found in scores.items()
    }


@dataclass(frozen=True)
class _Scorer:
    """Segments and scores the cases of a run on both grids."""

    data: RunData
    model: Model
    device: torch.device
    config: Config
    """Of the run; the model's own holds for its network."""

    def scores(self, case: Case, cached: PreparedCase) -> dict[str, list[Score]]:
        assert case.label is not None
        truth, prepared_truth = read_label_image(case.label), cached.label()
        assert prepared_truth is not None
        prepared, native = self._labels(case, cached)
        classes, tolerance = self.data.classes, self.config.evaluate.tolerance_mm
        values = to_classes(truth.array.T, self.data.tables[case.modality], str(case.label))
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
        names = self.config.predict.largest_component
        largest = tuple(self.data.classes.index(name) for name in names)
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
    folder = RunFolder(run)
    model = Model.load(folder.files.model)
    model.segmenter.double()
    split, prepared = folder.split, folder.prepared
    differing = {}
    for m in model.modalities:
        wanted = [*split.test.get(m, ()), *split.train.get(m, ())][:cases]
        plain = model.fold(m)
        live, folded = (
            Inferer(network, model.plan, PredictConfig(), torch.device("cpu"))
            for network in (
                lambda x, m=m: model.segmenter(x.double(), m).logits,
                lambda x, plain=plain: plain(x.double()).logits,
            )
        )
        images = [
            _middle(Intensities(case), model.plan.patch)
            for case in prepared[m].values()
            if case.id in wanted
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
