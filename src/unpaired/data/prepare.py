"""Preparing data sets: every case through `preprocess` into the cache; restartable, parallel."""

import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import joblib
import torch

from unpaired.data.cache import (
    PreparedSet,
    open_prepared,
    read_case,
    record_path,
    with_others,
    write_case,
    write_index,
)
from unpaired.data.frame import cut, labelled_frame, needs_label
from unpaired.data.plan import Plan
from unpaired.data.preprocess import (
    PreparedImage,
    check_label_grid,
    place,
    preprocess,
    preprocess_label,
)
from unpaired.datasets.dataset import Case, Dataset, sha256_of, source_files, unchanged, value_table
from unpaired.errors import DataError, ResourceError, UnpairedError
from unpaired.io.read import read_image, read_label_image
from unpaired.progress import Progress

# Raise when the same plan leads to other prepared arrays than before.
_FORMAT = 2
# Temporary files of `files.atomic`, markers of cases in work.
_LEFT_OVER = re.compile(r"\..*\.(working|[0-9a-f]{8}\..*(npy|json))", re.DOTALL)


@dataclass(frozen=True)
class _Job:
    case: Case
    table: dict[int, int]
    plan: Plan
    folder: Path
    in_this_process: bool

    @property
    def name(self) -> str:
        return f"{self.case.modality}/{self.case.id}"

    @property
    def marker(self) -> Path:
        """There while the case is in work: names the case when its worker is killed."""
        return self.folder / f".{self.case.id}.working"


@dataclass(frozen=True)
class _Outcome:
    job: _Job
    fault: Literal["none", "data", "resource"] = "none"
    message: str = ""


def prepare(
    datasets: Mapping[str, Dataset],
    plan: Plan,
    folder: Path,
    workers: int = 0,
    progress: Progress | None = None,
) -> PreparedSet:
    """Prepare every case into `folder`; cases that are done and unchanged are kept.

    Cases of other calls with this plan stay in the index, so that runs on different cases of the
    same data may share the folder.

    Args:
        workers: processes; 0 or 1 stays in this one.
        progress: called with (cases done, cases in all, "modality/case") after each case.

    Raises:
        DataError: cases are at fault; all are listed, the others are prepared.
        ResourceError: a worker died, memory or disk ran out; the same call goes on.
    """
    jobs = [
        _Job(case, value_table(dataset, plan.classes), plan, folder / modality, workers <= 1)
        for modality, dataset in datasets.items()
        for case in dataset.cases
    ]
    _make_ready(folder, jobs)
    failures = []
    for done, outcome in enumerate(_run(jobs, workers), 1):
        if outcome.fault != "none":
            failures.append(outcome)
        if progress is not None:
            progress(done, len(jobs), outcome.job.name)
    _raise(failures, len(jobs))
    index = {m: [case.id for case in dataset.cases] for m, dataset in datasets.items()}
    write_index(folder, plan, with_others(folder, plan, index))
    return open_prepared(folder)


def _make_ready(folder: Path, jobs: Sequence[_Job]) -> None:
    """Make the folders, and sweep out what a process that was killed while writing has left."""
    try:
        for place in {job.folder for job in jobs}:
            place.mkdir(parents=True, exist_ok=True)
            for stale in place.glob(".*"):
                if _LEFT_OVER.fullmatch(stale.name):
                    stale.unlink(missing_ok=True)
    except OSError as error:
        raise _cannot_write(folder, error) from error


def _cannot_write(folder: Path, error: OSError) -> ResourceError:
    return ResourceError(
        f"cannot write into {folder}: {error.strerror or error}. "
        "Choose a folder that is yours to write and has space left."
    )


def _run(jobs: Sequence[_Job], workers: int) -> Iterator[_Outcome]:
    if workers <= 1:
        yield from map(_attempt, jobs)
        return
    pool = joblib.Parallel(n_jobs=workers, return_as="generator_unordered", batch_size=1)
    try:
        yield from pool(joblib.delayed(_attempt)(job) for job in jobs)
    except (BrokenProcessPool, OSError) as error:  # joblib's TerminatedWorkerError is the first
        working = [job.name for job in jobs if job.marker.exists()]
        raise ResourceError(
            f"a worker process died while preparing {' or '.join(working) or 'a case'}, most "
            f"often because memory ran out ({type(error).__name__}). Run again with fewer "
            f"workers than {workers} (0: no extra process); finished cases are kept."
        ) from error


def _raise(failures: Sequence[_Outcome], total: int) -> None:
    if not failures:
        return
    lines = sorted(f"  {failure.job.name}: {failure.message}" for failure in failures)
    text = f"{len(failures)} of {total} cases could not be prepared:\n" + "\n".join(lines)
    if any(failure.fault == "resource" for failure in failures):
        raise ResourceError(text)
    raise DataError(text)


def _attempt(job: _Job) -> _Outcome:
    """One case; whatever goes wrong is told to the caller, so that the other cases go on."""
    try:
        if not job.in_this_process:
            torch.set_num_threads(1)
        _prepare_case(job)
    except ResourceError as error:
        return _Outcome(job, "resource", str(error))
    except UnpairedError as error:
        return _Outcome(job, "data", str(error))
    except MemoryError:
        return _Outcome(job, "resource", "memory ran out; use fewer workers.")
    except Exception as error:
        memory = "allocate memory" in str(error)  # torch has no error class of its own for it
        return _Outcome(job, "resource" if memory else "data", f"{type(error).__name__}: {error}")
    return _Outcome(job)


def _prepare_case(job: _Job) -> None:
    sources = source_files(job.case)
    record: dict[str, Any] = {
        "format": _FORMAT,
        "id": job.case.id,
        "modality": job.case.modality,
        "patient": job.case.patient,
        "plan": job.plan.fingerprint(job.case.modality),
        "table": [list(pair) for pair in sorted(job.table.items())],
    }
    if _is_done(job, record, sources):
        return
    try:
        job.marker.touch()
        image, label = _arrays(job)
        record["sources"] = [{**source, "sha256": sha256_of(source)} for source in sources]
        record["versions"] = _versions()
        write_case(job.folder, image, label, record)
    except OSError as error:
        raise _cannot_write(job.folder, error) from error
    finally:
        job.marker.unlink(missing_ok=True)


def _arrays(job: _Job) -> tuple[PreparedImage, Any]:
    case = job.case
    volumes = [read_image(path) for path in case.images]
    label = None if case.label is None else read_label_image(case.label)
    if label is not None:
        check_label_grid(volumes[0], label)
    if label is None:  # as in prediction: the whole scan
        return preprocess(volumes, case.modality, job.plan), None
    where = place(volumes, case.modality, job.plan)
    classes = preprocess_label(label, where, job.table, len(job.plan.classes))
    recipe = job.plan.modalities[case.modality]
    if job.plan.plane is None and not needs_label(job.plan, recipe):
        return preprocess(volumes, case.modality, job.plan, None, where), classes
    frame = labelled_frame(classes, where.middle, job.plan, recipe)
    return preprocess(volumes, case.modality, job.plan, frame, where), cut(classes, frame)


def _is_done(job: _Job, record: Mapping[str, Any], sources: Sequence[Mapping]) -> bool:
    if not record_path(job.folder, job.case.id).is_file():
        return False
    try:
        before = read_case(job.folder, job.case.id).record
        same = all(before[key] == value for key, value in record.items())
        old = before["sources"]
        return (
            same
            and len(old) == len(sources)
            and all(unchanged(a, b) for a, b in zip(old, sources, strict=True))
        )
    except (DataError, KeyError, TypeError):
        return False


def _versions() -> dict[str, str]:
    names = ("unpaired", "numpy", "scipy", "torch", "nibabel")
    return {"python": platform.python_version(), **{n: metadata.version(n) for n in names}}
