"""Several runs at a time, each a process of its own: how long they will take, and running them.

What only a run needs, such as torch, is imported when it runs: its process first sees to its
output and to the signs to stop.
"""

import _thread
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from time import monotonic, sleep
from typing import TYPE_CHECKING

from unpaired.errors import Interrupted, UnpairedError
from unpaired.files import write_text
from unpaired.signals import stopping_signals
from unpaired.workers import Halt

if TYPE_CHECKING:
    from unpaired.experiments.jobs import Job
    from unpaired.experiments.study import Study

SPAWN = get_context("spawn")
"""A new interpreter for each run, on every system."""
FAILURE, OUTPUT = "failure.txt", "output.txt"
"""In a run's folder: why it failed, and what its process wrote."""
INTERRUPTED = Interrupted.exit_code
TICK_SECONDS = 0.1
"""Between looks at what has ended; on Windows Ctrl-C is not heard within one."""
PATIENCE_SECONDS, SAME_WISH_SECONDS = 600.0, 2.0
"""For runs to save themselves after an interruption; a second one after a while ends them."""
Task = Callable[["Job", Path], None]


@dataclass(frozen=True)
class Ended:
    """How a run ended; `failure` is empty where it went well."""

    job: "Job"
    seconds: float
    failure: str


@dataclass(frozen=True)
class _Wish:
    """What all runs are asked for: to save and stop, then to end at once."""

    stop: threading.Event = field(default_factory=threading.Event)
    kill: threading.Event = field(default_factory=threading.Event)


def run_jobs(
    jobs: "Sequence[Job]",
    prepared: Path,
    at_a_time: int,
    report: Callable[[Ended], None],
    task: Task | None = None,
) -> None:
    """Run every job that lacks a record; one that fails does not stop the others.

    Args:
        at_a_time: processes; each takes its share of the CPU's cores unless train.threads says
            otherwise.
        report: called after each run.
        task: what a run's process does, an importable function; `execute` by default.

    Raises:
        Interrupted: a run was stopped by a signal; every run has saved itself.
        KeyboardInterrupt: this process was; the same holds.
    """
    if task is None:
        from unpaired.experiments.execute import execute

        task = execute
    wish = _Wish()
    with ThreadPoolExecutor(at_a_time) as slots:
        runs = {
            slots.submit(_run, _shared(job, at_a_time), prepared, task, wish)
            for job in jobs
            if job.missing
        }
        try:
            while runs:
                done, runs = wait(runs, TICK_SECONDS, FIRST_COMPLETED)
                for run in done:
                    report(run.result())
        finally:
            wish.stop.set()
            slots.shutdown(wait=False, cancel_futures=True)
            _wait_for(runs, wish)


def threads_of(at_a_time: int) -> int:
    """The share of the cores that each of so many runs has, and no more than the user allows."""
    share = (os.cpu_count() or 1) // max(1, at_a_time)
    allowed = [os.environ.get(name, "") for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")]
    return max(1, min([share, *(int(number) for number in allowed if number.isdecimal())]))


def _shared(job: "Job", at_a_time: int) -> "Job":
    """With its share of the cores, unless train.threads says otherwise."""
    if job.config.train.threads is None:
        train = job.config.train.model_copy(update={"threads": threads_of(at_a_time)})
        job.config = job.config.model_copy(update={"train": train})
    return job


def _run(job: "Job", prepared: Path, task: Task, wish: _Wish) -> Ended:
    """Start the process of a job and wait for its end; in a thread of its own."""
    began = monotonic()
    theirs, ours = SPAWN.Pipe(duplex=False)
    # What is prepared remembers its scans: absolute, for a later call from another folder.
    placed = replace(job, data={m: Path(root).resolve() for m, root in job.data.items()})
    call = pickle.dumps((task, placed, prepared.resolve()))
    process = SPAWN.Process(target=_work, args=(call, job.folder, theirs))
    process.start()
    theirs.close()
    halt, stopped = Halt(process.pid, job.config.train.heartbeat_seconds), False
    while process.is_alive() and not wish.stop.is_set() and not stopped:
        process.join(TICK_SECONDS)
        stopped = halt.too_long
    if stopped:
        process.kill()
        process.join()
        write_text(job.folder / FAILURE, f"its process {process.pid} was stopped; it was ended.")
    ours.close()  # the sign to save and stop; the system gives it too if this process dies
    while process.is_alive() and not wish.kill.is_set():
        process.join(TICK_SECONDS)
    process.kill()
    process.join()
    if process.exitcode == INTERRUPTED:
        raise Interrupted(f"stopped in {job.folder}; everything is saved.")
    return Ended(job, monotonic() - began, _failure(job.folder, process.exitcode or 0))


def _failure(folder: Path, code: int) -> str:
    """Why a run failed; empty where it did not."""
    if code == 0:
        return ""
    path = folder / FAILURE
    if path.exists():
        return path.read_text(encoding="utf-8")
    how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
    return (
        f"the process ended {how}, most often for lack of memory. "
        "Use fewer --jobs, or a smaller train.batch_size."
    )


def _wait_for(runs: set[Future[Ended]], wish: _Wish) -> None:
    """Whatever happens, no process stays behind: all have been asked to save."""
    began = monotonic()
    while not all(run.done() for run in runs):
        try:
            sleep(TICK_SECONDS)
            late = monotonic() - began > PATIENCE_SECONDS
        except KeyboardInterrupt:  # twice at once is one wish, later it is impatience
            late = monotonic() - began > SAME_WISH_SECONDS
        if late:
            wish.kill.set()


def _work(call: bytes, folder: Path, caller: Connection) -> None:
    """What a run's process does; its exit code is 0 where all went well.

    Args:
        call: the pickled task, job and folder of prepared data.
        folder: of the run; what is printed goes into output.txt, why it failed into failure.txt.
        caller: the end of a pipe whose other end only the caller holds. When that is closed, or the
            caller dies, however, the run saves itself and ends too, so that the same command can
            go on at once.
    """
    _print_into(folder / OUTPUT)
    for number in stopping_signals():  # a shell may have had them ignored
        signal.signal(number, signal.default_int_handler)
    threading.Thread(target=_leave_with, args=(caller,), daemon=True).start()
    failure = folder / FAILURE
    failure.unlink(missing_ok=True)  # of an earlier call
    try:
        task, job, prepared = pickle.loads(call)
        task(job, prepared)
    except UnpairedError as error:
        write_text(failure, str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except Exception as error:  # the other runs go on; this one says what it was
        write_text(failure, f"{type(error).__name__}: {error}")
        traceback.print_exc()
        sys.exit(1)
    finally:
        _end_helpers()


def _end_helpers() -> None:
    """End what joblib started: it keeps its processes for five minutes after their last task, and
    the end of a process of `multiprocessing` waits for them."""
    if "joblib" in sys.modules:
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown(kill_workers=True)


def _print_into(path: Path) -> None:
    """Whatever writes to the standard streams, Python or not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)


def _leave_with(caller: Connection) -> None:
    """Wait for the pipe's end, then ask this process to save and stop.

    A pipe of its own: on Windows no library can be loaded while a thread waits on the standard
    input. And no signal of the system: on Windows that of `os.kill` ends a process there and then.
    """
    try:
        caller.recv_bytes()
    except (EOFError, OSError):
        _thread.interrupt_main(signal.SIGTERM)


@dataclass(frozen=True)
class Forecast:
    """What is to come; `basis` says what it rests on."""

    seconds: float
    memory_bytes: int
    basis: str


def forecast(study: "Study", jobs: "Sequence[Job]", at_a_time: int) -> Forecast:
    """How long the runs without a record will take, from those that are done, or one step."""
    missing = [job for job in jobs if job.missing]
    known = _seconds_per_step(jobs)
    measured = study.forecast["seconds_per_step"]
    everyone = study.forecast.get("modalities", len(study.data))
    total = 0.0
    for job in missing:
        if tested := [job.read(t).seconds["test"] for t in job.tests if t not in job.missing]:
            total += len(job.missing) * median(tested)  # it is trained
            continue
        of_one = measured * len(job.data) / everyone
        step = median(known[len(job.data)]) if len(job.data) in known else of_one
        total += step * job.config.train.steps
    at_once = max(1, min(at_a_time, len(missing)))
    basis = "from the runs that are done" if known else "from one step, scoring not counted"
    return Forecast(total / at_once, int(study.forecast["memory_bytes"]) * at_once, basis)


def _seconds_per_step(jobs: "Sequence[Job]") -> dict[int, list[float]]:
    """Number of modalities -> seconds of whole runs by step."""
    seconds: dict[int, list[float]] = {}
    for job in jobs:
        for test in job.tests:
            if job.record(test).exists():
                spent = sum(job.read(test).seconds.values()) / job.config.train.steps
                seconds.setdefault(len(job.data), []).append(spent)
    return seconds
