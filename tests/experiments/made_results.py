"""Records of runs that never ran, with random scores."""

from dataclasses import replace
from typing import Any

import numpy as np

from unpaired.evaluation.evaluate import NATIVE, PREPARED, VOXELS
from unpaired.experiments.record import Record
from unpaired.experiments.results import Result, Results
from unpaired.experiments.rows import EXPERIMENTS, HEART, NETWORKS, Network, Row
from unpaired.run.scores import Score

CLASSES = ("liver", "spleen", "right kidney", "left kidney")
SETTINGS = {
    "model.backbone": "swin_unet", "data.dims": 2, "data.spacing_mm": [6.0, 3.0, 3.0],
    "train.steps": 100, "loss.tau": 32.0, "loss.mask_absent": True, "model.maps": "raw",
    "loss.alpha": 0.4, "loss.beta": 0.1, "loss.gamma": 0.1,
}  # fmt: skip


def made_scores(rng: np.random.Generator, modality: str, cases: int) -> list[Score]:
    """Cases whose first lacks a class, and whose second has an empty prediction."""
    found = []
    for n in range(cases):
        for cls in CLASSES:
            absent, empty = n == 0 and cls == "spleen", n == 1 and cls == "liver"
            dice = np.nan if absent else 0.0 if empty else round(rng.uniform(0.5, 1), 5)
            asd = np.nan if absent or empty else round(rng.uniform(0.5, 3), 3)
            found.append(
                Score(
                    modality, f"{modality}_{n}", cls,
                    float(dice), float(asd), float(asd), float(dice),
                    0 if absent else 100, 0 if empty else 90, {VOXELS: float(asd) / 2},
                )
            )  # fmt: skip
    return found


def made_record(row: str, seed: int, *modalities: str, cases: int = 4) -> Record:
    """One run of these modalities."""
    rng = np.random.default_rng([len(row), seed, len(modalities)])
    scores = [one for m in modalities for one in made_scores(rng, m, cases)]
    native = [one for m in modalities for one in made_scores(rng, m, cases)]
    ids = {m: [f"{m}_{n}" for n in range(cases)] for m in modalities}
    return Record(
        identity=f"{row}-{seed}-{'_'.join(modalities)}",
        test="as_trained",
        modalities=modalities,
        settings=SETTINGS,
        split={"train": ids, "val": {m: [] for m in modalities}, "test": ids},
        scores={PREPARED: scores, NATIVE: native},
        floor={m: dict.fromkeys(CLASSES, 0.5 + 0.01 * seed) for m in modalities},
        parameters={"training": 2000, "test": 1000},
        seconds={"train": 60.0 + seed, "test": 5.0},
        curve=[{"step": 100, "score": 0.5, "mean": dict.fromkeys(modalities, 0.5)}],
        environment={"cpu": "a processor", "gpu": None, "versions": {"torch": "2"}},
    )


def made_result(row: Row, seeds: int, network: Network) -> Result:
    groups = [("ct", "mr")] if row.who == "all" else [("ct",), ("mr",)]
    records = {s: [made_record(row.name, s, *group) for group in groups] for s in range(seeds)}
    return with_settings(
        Result(row, records, seeds),
        {"model.backbone": network.name, "data.dims": network.dims},
    )


def with_settings(result: Result, more: dict[str, Any]) -> Result:
    """The same records of runs with other settings."""
    records = {
        seed: [replace(one, settings={**one.settings, **more}) for one in own]
        for seed, own in result.records.items()
    }
    return replace(result, records=records)


def made_results(name: str, seeds: int = 3, paper: bool = False, left_out: int = 0) -> Results:
    """All rows of an experiment but the last `left_out`, which were not run; its own network."""
    experiment = EXPERIMENTS[name]
    cut = len(experiment.rows) - left_out
    network = experiment.network or NETWORKS[HEART]
    rows = [made_result(row, seeds, network) for row in experiment.rows[:cut]]
    rows += [Result(row, {}, seeds) for row in experiment.rows[cut:]]
    printed = {"ct": "CT", "mr": "MR"} if paper else {}
    return Results(experiment, tuple(rows), ("ct", "mr"), printed)
