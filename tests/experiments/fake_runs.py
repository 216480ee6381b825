"""Jobs that train nothing, and what their processes do. Imports nothing heavy: they start often."""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from unpaired.errors import DataError, Interrupted
from unpaired.experiments.pool import Ended, run_jobs


class Settings(SimpleNamespace):
    """Of a configuration, as far as the pool looks into it."""

    def model_copy(self, update: dict[str, Any]) -> "Settings":
        return Settings(**{**vars(self), **update})


def settings(threads: int | None, heartbeat_seconds: float = 60.0) -> Settings:
    """Those of `train` that the pool looks at."""
    return Settings(train=Settings(threads=threads, heartbeat_seconds=heartbeat_seconds))


@dataclass
class FakeJob:
    """A job as far as the pool looks into it."""

    folder: Path
    seed: int
    config: Settings = field(default_factory=lambda: settings(None))
    data: dict[str, Path] = field(default_factory=dict)

    @property
    def missing(self) -> bool:
        return not (self.folder / "ended").exists()


def fake(job: FakeJob, prepared: Path) -> None:
    """What a run does, by its seed."""
    (job.folder / "began").write_text(str(job.config.train.threads))
    if job.seed == 1:
        raise DataError("the scans are gone. Find them.")
    if job.seed == 2:
        os.abort()
    if job.seed in (3, 4):  # ends only when the other has begun
        until(lambda: all((job.folder.parent / f"run{n}" / "began").exists() for n in (3, 4)))
    if job.seed == 5:
        raise Interrupted("stopped.")
    if job.seed == 6:
        print("about to divide", flush=True)
        _ = 1 / 0
    if job.seed == 30:
        os.kill(os.getpid(), signal.SIGSTOP)
    if job.seed == 8:
        from joblib import Parallel, delayed

        Parallel(2)(delayed(abs)(n) for n in range(2))
    if job.seed >= 10:
        try:
            until(lambda: False, 1000)
        except KeyboardInterrupt:
            (job.folder / "saved").write_text("")
            if job.seed >= 20:
                until(lambda: False, 1000)
            raise
    (job.folder / "ended").write_text("")


def until(true: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for it, but not for ever."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.05)


def run_fakes(root: Path, *seeds: int) -> dict[int, str]:
    """Two at a time. Seed -> why it failed."""
    ended: list[Ended] = []
    jobs: list[Any] = [FakeJob(root / f"run{seed}", seed) for seed in seeds]
    run_jobs(jobs, root / "prepared", 2, ended.append, fake)
    return {one.job.seed: one.failure for one in ended}
