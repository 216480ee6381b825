"""Several runs at a time, each a process of its own; one that fails does not stop the others."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

from unpaired.errors import Interrupted
from unpaired.experiments.execute import write_job
from unpaired.experiments.jobs import Job
from unpaired.experiments.worker import FAILURE

INTERRUPTED = 5
WORKER = (sys.executable, "-m", "unpaired.experiments.worker")
PATIENCE_SECONDS, SAME_WISH_SECONDS = 600.0, 2.0
"""For runs to save themselves after an interruption; a second one after a while ends them."""


@dataclass(frozen=True)
class Ended:
    """How a run ended; `failure` is empty where it went well."""

    job: Job
    seconds: float
    failure: str


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    began: float


def run_jobs(
    jobs: Sequence[Job],
    prepared: Path,
    at_a_time: int,
    ended: Callable[[Ended], None],
    worker: Sequence[str] | None = None,
) -> list[Ended]:
    """Run every job that lacks a record.

    Args:
        at_a_time: processes; each takes its share of the CPU's cores unless train.threads says
            otherwise.
        ended: called after each run.
        worker: the command of a run's process, to which job.json is added; WORKER by default.

    Raises:
        Interrupted: a signal came, or a run was stopped by one; every run has saved itself.
    """
    waiting = [job for job in jobs if job.missing]
    threads = threads_of(at_a_time)
    found: list[Ended] = []
    running: list[_Running] = []
    with _stopped_at_the_end(running):
        while waiting or running:
            while waiting and len(running) < at_a_time:
                running.append(
                    _start(_with_threads(waiting.pop(0), threads), prepared, worker or WORKER)
                )
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                found.append(_ended(one))
                ended(found[-1])
            sleep(0.1)
    return found


def threads_of(at_a_time: int) -> int:
    """The share of the cores that each of so many runs has."""
    return max(1, (os.cpu_count() or 1) // max(1, at_a_time))


def _with_threads(job: Job, threads: int) -> Job:
    if job.config.train.threads is None:
        train = job.config.train.model_copy(update={"threads": threads})
        job.config = job.config.model_copy(update={"train": train})
    return job


def _start(job: Job, prepared: Path, worker: Sequence[str]) -> _Running:
    path = write_job(job, prepared)
    with (job.folder / "output.txt").open("ab") as output:
        process = subprocess.Popen(
            [*worker, str(path)],
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
        )
    return _Running(job, process, monotonic())


def _ended(one: _Running) -> Ended:
    code = one.process.returncode
    _close(one)
    if code == INTERRUPTED:
        raise Interrupted(f"stopped in {one.job.folder}; everything is saved.")
    failure = ""
    if code:
        path = one.job.folder / FAILURE
        failure = path.read_text(encoding="utf-8") if path.exists() else _died(code)
    return Ended(one.job, monotonic() - one.began, failure)


def _died(code: int) -> str:
    how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    return (
        f"the process ended {how}, most often for lack of memory. "
        "Use fewer --jobs, or a smaller train.batch_size."
    )


@contextmanager
def _stopped_at_the_end(running: list[_Running]) -> Iterator[None]:
    """Whatever happens, no process stays behind: asked to save, then waited for."""
    try:
        yield
    finally:
        for one in running:
            _close(one)
        began = monotonic()
        while any(one.process.poll() is None for one in running):
            try:
                sleep(0.1)
                late = monotonic() - began > PATIENCE_SECONDS
            except KeyboardInterrupt:  # twice at once is one wish, later it is impatience
                late = monotonic() - began > SAME_WISH_SECONDS
            if late:
                for one in running:
                    one.process.kill()


def _close(one: _Running) -> None:
    """The end of its input is the sign to stop."""
    if one.process.stdin is not None:
        one.process.stdin.close()
