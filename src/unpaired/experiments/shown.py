"""Which case of each modality a picture shows, and every row's prediction of it."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from unpaired.evaluation.evaluate import PREPARED
from unpaired.experiments.cells import DICE, Result, Results, case_values
from unpaired.experiments.jobs import Job
from unpaired.inference.predictor import Predictor
from unpaired.run import RunFolder


def median_case(results: Results, modality: str, seed: int) -> str | None:
    """By the mean Dice of the last row that was run: neither its best nor its worst."""
    ran = [result for result in results.rows if seed in result.records]
    if not ran:
        return None
    scores = ran[-1].scores(PREPARED)[seed]
    tables = [case_values(scores, (modality, cls), DICE) for cls in results.classes]
    cases = dict.fromkeys(case for table in tables for case in table)
    means = {case: np.mean([table[case] for table in tables if case in table]) for case in cases}
    ordered = sorted(means, key=lambda case: (means[case], case))
    return ordered[len(ordered) // 2] if ordered else None


def predictions_of(
    results: Results, jobs: Mapping[str, Job], modality: str, case: str, seed: int
) -> dict[str, Path]:
    """Predict a case with every row's network into its run folder; what is there is kept.

    Returns:
        row -> run folder. Rows that are only tested otherwise are left out.

    Raises:
        DataError: the case or a model is at fault.
    """
    found: dict[str, Path] = {}
    for result in results.rows:
        if seed not in result.records or result.row.at_test:
            continue
        own = _runs(result, jobs.values(), modality, seed)
        for job in own[:1]:
            images = RunFolder(job.folder).data.cases[modality][case].images
            target = job.folder / "predictions" / modality
            predictor = Predictor.from_folder(job.folder, device=job.config.train.device)
            outcome = predictor.predict_cases({case: images}, target, modality)
            outcome.raise_failures()
            found[result.row.name] = job.folder
    return found


def _runs(result: Result, jobs: Iterable[Job], modality: str, seed: int) -> list[Job]:
    return [job for job in jobs if (result.row.name, seed) in job.rows and modality in job.data]
