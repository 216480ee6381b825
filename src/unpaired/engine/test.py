"""A run's test cases: predicted with its model, scored on the native grid, beside the floor."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from unpaired.artifact.safetensors import load_model
from unpaired.config import config_from_toml
from unpaired.data.cache import PreparedCase, open_prepared
from unpaired.data.paths import shown
from unpaired.datasets.dataset import Case
from unpaired.datasets.nnunet import check_ids
from unpaired.datasets.split import Split, read_splits
from unpaired.engine.evaluate import Evaluation, evaluate_pairs, summarise, write_evaluation
from unpaired.engine.prior import location_floor
from unpaired.engine.run_folder import RunFolder
from unpaired.engine.validate import Intensities
from unpaired.errors import DataError
from unpaired.files import read_json, write_json
from unpaired.inference.folder import predict_cases
from unpaired.inference.inferer import segment_labels
from unpaired.inference.predictor import Predictor
from unpaired.models import fold

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
