"""Worker processes: work shared out among them, and those that die or stand still named in time."""

import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any, TypeVar

import joblib
import psutil

from unpaired.errors import ResourceError

STALL_SECONDS = 60.0
"""Without computing, reading or writing anything for so long, a worker counts as stalled."""
Result = TypeVar("Result")


@dataclass(frozen=True)
class Workers:
    """How many, and the seconds after which one that does nothing is ended."""

    count: int
    stall_seconds: float = STALL_SECONDS


@dataclass(frozen=True)
class Work:
    """What is shared out.

    Attributes:
        call: an importable function, of the arguments of one job.
        jobs: those arguments.
        names: of the jobs, for messages.
        doing: "preparing".
        again: what the same command does after one was lost.
    """

    call: Callable[..., Any]
    jobs: Sequence[tuple[Any, ...]]
    names: Sequence[str]
    doing: str
    again: str = ""


def share_out(
    work: Work, workers: int, limit: float = STALL_SECONDS, in_order: bool = False
) -> Iterator[Any]:
    """Results as they come, or in the order of the jobs.

    Raises:
        ResourceError: a worker died, or stood still for `limit` seconds and was ended; the sentence
            names what it was at.
    """
    kind = "generator" if in_order else "generator_unordered"
    with TemporaryDirectory(prefix="unpaired-", ignore_cleanup_errors=True) as place:
        watch = _Watch(Path(place), limit)
        pool = joblib.Parallel(n_jobs=workers, return_as=kind, batch_size=1)
        tasks = zip(work.names, work.jobs, strict=True)
        results = pool(joblib.delayed(_named)(place, name, work.call, job) for name, job in tasks)
        watch.start()
        try:
            yield from results
        except (BrokenProcessPool, OSError) as error:  # joblib's TerminatedWorkerError is the first
            raise ResourceError(watch.sentence(work, workers, error)) from error
        finally:
            watch.end()
            with warnings.catch_warnings():
                # Interrupted, joblib says how many results nobody asked for.
                warnings.filterwarnings("ignore", message=".*tasks ", category=UserWarning)
                results.close()


def _named(place: str, name: str, call: Callable[..., Result], job: tuple[Any, ...]) -> Result:
    """The call, in a worker; while it lasts a file named after the process says what it is at."""
    mark = Path(place, str(os.getpid()))
    mark.write_text(name, encoding="utf-8", errors="surrogateescape")
    try:
        return call(*job)
    finally:
        mark.unlink(missing_ok=True)


class Halt:
    """Whether a process has been stopped, as by `kill -STOP`, for longer than a limit.

    Asked again and again; what stopped together with this process, as after Ctrl-Z, is forgiven.
    """

    def __init__(self, pid: int | None, limit: float = STALL_SECONDS) -> None:
        self._pid, self._limit = pid, limit
        self._asked = self._moved = monotonic()

    @property
    def too_long(self) -> bool:
        now = monotonic()
        stood = now - self._asked > self._limit / 2
        self._asked = now
        with suppress(psutil.Error):
            if stood or psutil.Process(self._pid).status() != psutil.STATUS_STOPPED:
                self._moved = now
        return now - self._moved > self._limit


class _Watch:
    """A thread beside the pool: it waits where a worker that is stopped is never missed.

    A worker's own signs of life would depend on what it computes. The system knows better: a
    process at work uses its processor, reads or writes.
    """

    def __init__(self, place: Path, limit: float) -> None:
        self._place, self._limit, self._tick = place, limit, min(1.0, limit / 5)
        self._seen: dict[int, tuple[object, float]] = {}
        self._stalled: list[str] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self._ended.set()
        self._thread.join()

    def sentence(self, work: Work, workers: int, error: Exception) -> str:
        """What happened to the pool."""
        fewer = f"fewer workers than {workers} (0: no extra process)"
        if self._stalled:
            names = " or ".join(sorted(set(self._stalled)))
            return (
                f"a worker process stood still for {self._limit:g} s while {work.doing} "
                f"{names} and was ended: it had been stopped, or its disk did not answer. Run the "
                f"same command again{work.again}."
            )
        at_work = " or ".join(sorted(self._at_work().values())) or "a case"
        return (
            f"a worker process died while {work.doing} {at_work}, most often because memory ran "
            f"out ({type(error).__name__}). Run again with {fewer}{work.again}."
        )

    def _run(self) -> None:
        looked = monotonic()
        while not self._ended.wait(self._tick):
            now = monotonic()
            if now - looked > max(self._limit / 2, 5 * self._tick):
                self._seen.clear()  # all of us stood still, as after Ctrl-Z: begin anew
            looked = now
            at_work = self._at_work()
            for pid in at_work.keys() | _stopped_workers():
                self._look(pid, at_work.get(pid, "a case"), now)

    def _at_work(self) -> dict[int, str]:
        """Process -> what it is at."""
        found = {}
        with suppress(OSError):
            for mark in self._place.iterdir():
                with suppress(OSError):
                    found[int(mark.name)] = mark.read_text("utf-8", "surrogateescape")
        return found

    def _look(self, pid: int, name: str, now: float) -> None:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            state = (name, _used(process))
            if self._seen.get(pid, (None, now))[0] != state:
                self._seen[pid] = (state, now)
            elif now - self._seen[pid][1] > self._limit:
                self._stalled.append(name)
                process.kill()  # the pool then sees that it is gone


def _stopped_workers() -> set[int]:
    """Workers of this process that somebody has stopped, whether or not they are at something."""
    found = set()
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if child.status() == psutil.STATUS_STOPPED and "Loky" in " ".join(child.cmdline()):
                found.add(child.pid)
    return found


def _used(process: psutil.Process) -> tuple[Any, ...]:
    """What a process has used so far: processor and, where the system says it, files."""
    times = process.cpu_times()
    files: tuple[Any, ...] = ()
    if hasattr(process, "io_counters"):
        with suppress(psutil.AccessDenied):
            files = tuple(process.io_counters())
    return (times.user, times.system, *files)
