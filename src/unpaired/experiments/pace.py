"""How long the missing runs will take, from runs that are done, or from one measured step."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from unpaired.experiments.collect import read_checked
from unpaired.experiments.jobs import Job
from unpaired.experiments.study import Study


@dataclass(frozen=True)
class Ahead:
    """What is to come; `basis` says what it rests on."""

    seconds: float
    memory_bytes: int
    basis: str


def forecast(study: Study, jobs: Sequence[Job], at_a_time: int) -> Ahead:
    """For the runs without a record."""
    missing = [job for job in jobs if job.missing]
    paces = _paces(jobs)
    measured = study.forecast["seconds_per_step"]
    everyone = study.forecast.get("modalities", len(study.data))
    total = 0.0
    for job in missing:
        if tested := _tests(job):
            total += len(job.missing) * float(np.median(tested))
            continue
        known = paces.get(len(job.data))
        step = measured * len(job.data) / everyone if known is None else float(np.median(known))
        total += step * job.config.train.steps
    memory = int(study.forecast["memory_bytes"]) * min(at_a_time, max(1, len(missing)))
    basis = "from the runs that are done" if paces else "from one step, scoring not counted"
    return Ahead(total / max(1, min(at_a_time, len(missing))), memory, basis)


def _tests(job: Job) -> list[float]:
    """Seconds of each test that a trained run has behind it: another takes about as long."""
    done = [test for test in job.tests if test not in job.missing]
    return [read_checked(job, test).seconds["test"] for test in done]


def _paces(jobs: Sequence[Job]) -> dict[int, list[float]]:
    """Number of modalities -> seconds of whole runs by step."""
    found: dict[int, list[float]] = {}
    for job in jobs:
        for test in job.tests:
            if job.record(test).exists():
                record = read_checked(job, test)
                spent = sum(record.seconds.values()) / job.config.train.steps
                found.setdefault(len(job.data), []).append(spent)
    return found
