"""Preparing data sets: every case through `preprocess` into the cache; restartable, parallel."""

import logging
import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
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
from unpaired.data.content import Box
from unpaired.data.frame import cut, labelled_frame, needs_label
from unpaired.data.lost import (
    MAX_LABELS,
    Loss,
    Volumes,
    class_volumes,
    losses,
    placement_of,
    spacing_that_keeps,
)
from unpaired.data.plan import ModalityPlan, Plan
from unpaired.data.preprocess import (
    Placement,
    PreparedImage,
    check_label_grid,
    middle_of,
    place,
    preprocess,
    preprocess_label,
)
from unpaired.data.units import value_range
from unpaired.datasets.dataset import IGNORED, Case, Dataset, source_files, value_table
from unpaired.errors import CasesError, DataError, ResourceError, UnpairedError
from unpaired.files import cannot_write, make_folder, printable, sha256_of
from unpaired.io.read import read_image, read_label_image
from unpaired.leftovers import sweep
from unpaired.plausibility.measure import Measures, levels_of, measure_classes
from unpaired.progress import Progress
from unpaired.workers import Work, Workers, share_out

log = logging.getLogger(__name__)
# Raise when the same plan leads to other prepared arrays than before.
_FORMAT = 2
# Markers of cases in work, and temporaries as earlier versions named them.
_LEFT_OVER = re.compile(r"\..*\.(working|[0-9a-f]{8}\..*(npy|json))", re.DOTALL)


@dataclass(frozen=True)
class _Job:
    case: Case
    table: dict[int, int]
    plan: Plan
    folder: Path
    in_this_process: bool
    known: Mapping[str, str]
    caller: int

    @property
    def name(self) -> str:
        return f"{self.case.modality}/{self.case.id}"


@dataclass(frozen=True)
class _Outcome:
    job: _Job
    fault: Literal["none", "data", "resource"] = "none"
    message: str = ""
    again: str = ""
    """Why what was there was prepared anew."""


def prepare(
    datasets: Mapping[str, Dataset],
    plan: Plan,
    folder: Path,
    workers: int | Workers = 0,
    progress: Progress | None = None,
    known: Mapping[str, str] | None = None,
) -> PreparedSet:
    """Prepare every case into `folder`; cases that are whole and whose files are the same, by
    their sha256, are kept. Why others are prepared anew is said in one line of the log.

    Cases of other calls with this plan stay in the index, so that runs on different cases of the
    same data may share the folder.

    Args:
        workers: processes; 0 or 1 stays in this one. `Workers` also says when one is stalled.
        progress: called with (cases done, cases in all, "modality/case") after each case.
        known: path -> sha256 of files that the caller has just read.

    Raises:
        DataError: cases are at fault; all are listed, the others are prepared.
        ResourceError: a worker died, memory or disk ran out; the same call goes on.
    """
    crew = workers if isinstance(workers, Workers) else Workers(workers)
    jobs = [
        _Job(
            case, value_table(dataset, plan.classes), plan, folder / modality, crew.count <= 1,
            {} if known is None else {path: known[path] for path in _paths(case) & known.keys()},
            os.getpid(),
        )
        for modality, dataset in datasets.items()
        for case in dataset.cases
    ]  # fmt: skip
    _make_ready(folder, jobs)
    failures, again = [], []
    for done, outcome in enumerate(_run(jobs, crew), 1):
        if outcome.fault != "none":
            failures.append(outcome)
        if outcome.again:
            again.append(f"{outcome.job.name} ({outcome.again})")
        if progress is not None:
            progress(done, len(jobs), outcome.job.name)
    if again:
        log.warning("prepared anew: %s", "; ".join(sorted(again)))
    _raise(failures, len(jobs))
    index = {m: [case.id for case in dataset.cases] for m, dataset in datasets.items()}
    write_index(folder, plan, with_others(folder, plan, index))
    return open_prepared(folder)


def _paths(case: Case) -> set[str]:
    return {str(path) for path in (*case.images, case.label)}


def lost_classes(prepared: PreparedSet, datasets: Mapping[str, Dataset]) -> list[Loss]:
    """Classes that cases have lost, each with the spacing that would keep it."""
    plan, found = prepared.plan, []
    for m, dataset in datasets.items():
        known = {case.id: case for case in dataset.cases if case.label is not None}
        cases = {case.id: case for case in prepared.cases[m] if case.id in known}
        volumes = {i: _volumes(case.record.get("class_mm3", {})) for i, case in cases.items()}
        table = value_table(dataset, plan.classes)
        for loss in losses(m, volumes, plan.classes):
            labels = [
                (read_label_image(known[i].label or Path()), placement_of(cases[i]), table)
                for i in loss.cases[:MAX_LABELS]
            ]
            keeps = None
            if loss.by == "grid":
                index = plan.classes.index(loss.cls)
                keeps = spacing_that_keeps(index, labels, plan.spacing_mm)
            found.append(replace(loss, spacing_mm=keeps))
    return found


def _volumes(stored: Mapping[str, Sequence[float]]) -> dict[int, Volumes]:
    return {int(index): Volumes(*values) for index, values in stored.items()}


def _make_ready(folder: Path, jobs: Sequence[_Job]) -> None:
    """Make the folders, and sweep out what a process that was killed while writing has left."""
    try:
        for place in {job.folder for job in jobs}:
            make_folder(place)
            sweep(place)
            for left in place.glob(".*"):  # nobody else prepares here
                if _LEFT_OVER.fullmatch(left.name):
                    left.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(folder, error) from error


def _run(jobs: Sequence[_Job], crew: Workers) -> Iterator[_Outcome]:
    if crew.count <= 1:
        yield from map(_attempt, jobs)
        return
    names = [job.name for job in jobs]
    work = Work(_attempt, [(j,) for j in jobs], names, "preparing", "; finished cases are kept")
    yield from share_out(work, crew.count, crew.stall_seconds)


def _raise(failures: Sequence[_Outcome], total: int) -> None:
    if not failures:
        return
    lines = sorted(f"  {failure.job.name}: {failure.message}" for failure in failures)
    text = f"{len(failures)} of {total} cases could not be prepared:\n" + "\n".join(lines)
    if any(failure.fault == "resource" for failure in failures):
        raise ResourceError(text)
    raise CasesError(text, {failure.job.name: failure.message for failure in failures})


def _attempt(job: _Job) -> _Outcome:
    """One case; whatever goes wrong is told to the caller, so that the other cases go on."""
    try:
        if not job.in_this_process:
            torch.set_num_threads(1)
        return _Outcome(job, again=_prepare_case(job))
    except ResourceError as error:
        return _Outcome(job, "resource", str(error))
    except UnpairedError as error:
        return _Outcome(job, "data", str(error))
    except MemoryError:
        return _Outcome(job, "resource", "memory ran out; use fewer workers.")
    except Exception as error:
        memory = "allocate memory" in str(error)  # torch has no error class of its own for it
        return _Outcome(job, "resource" if memory else "data", f"{type(error).__name__}: {error}")


def _prepare_case(job: _Job) -> str:
    """Prepare a case unless that is done; why it was done again, or nothing."""
    sources = [
        {**source, "sha256": job.known.get(source["path"]) or sha256_of(Path(source["path"]))}
        for source in source_files(job.case)
    ]
    record: dict[str, Any] = {
        "format": _FORMAT,
        "id": job.case.id,
        "modality": job.case.modality,
        "patient": job.case.patient,
        "plan": job.plan.fingerprint(job.case.modality),
        "table": [list(pair) for pair in sorted(job.table.items())],
    }
    again = _why_not_done(job, record, sources)
    if again is None:
        return ""
    try:
        image, label, facts = _arrays(job)
        record |= {**facts, "sources": sources, "versions": _versions()}
        if job.in_this_process or os.getppid() == job.caller or os.name == "nt":
            write_case(job.folder, image, label, record)  # else the caller was killed meanwhile
    except OSError as error:
        raise cannot_write(job.folder, error) from error
    return again


def _arrays(job: _Job) -> tuple[PreparedImage, Any, dict[str, Any]]:
    """Image, label, and for the record what intensities it reaches and what became of classes."""
    case = job.case
    volumes = [read_image(path) for path in case.images]
    facts: dict[str, Any] = {"range": [value_range(volume.measured) for volume in volumes]}
    label = None if case.label is None else read_label_image(case.label)
    if label is not None:
        check_label_grid(volumes[0], label)
    if label is None:  # as in prediction: the whole scan
        return preprocess(volumes, case.modality, job.plan), None, facts
    where = place(volumes, case.modality, job.plan)
    classes = preprocess_label(label, where, job.table, len(job.plan.classes))
    crop, frame = cropped(classes, where, job.plan, job.plan.modalities[case.modality])
    voxel_mm3 = float(np.prod(where.spacing_mm))
    facts["class_mm3"] = class_volumes(label, job.table, classes, crop, voxel_mm3)
    image = preprocess(volumes, case.modality, job.plan, frame, where)
    if not (crop == IGNORED).any():  # else its classes are not whole
        facts["measures"] = measured(crop, image, len(job.plan.classes) - 1).record()
    return image, crop, facts


def measured(labels: np.ndarray, image: PreparedImage, classes: int) -> Measures:
    """What a prepared label measures; the scan's intensities are unknown where it was cut.

    Args:
        labels: [d h w] of the image's array.
        classes: number of foreground classes.
    """
    middle = middle_of(image.grid, image.frame)
    rows = measure_classes(labels, image.array, image.spacing_mm, classes, middle)
    levels = levels_of(image.array)
    if image.frame is not None:
        levels[:] = np.nan
    return Measures(rows, image.native_mm, image.extent_mm, levels)


def cropped(
    classes: np.ndarray, where: Placement, plan: Plan, recipe: ModalityPlan
) -> tuple[np.ndarray, Box | None]:
    """What training keeps of a label on the grid, and the frame that was cut; None: all of it.

    Raises:
        DataError: the frame comes from the label, and the label holds no class.
    """
    if plan.plane is None and not needs_label(plan, recipe):
        return classes, None
    frame = labelled_frame(classes, where.middle, plan, recipe)
    return cut(classes, frame), frame


def _why_not_done(
    job: _Job, record: Mapping[str, Any], sources: Sequence[Mapping[str, Any]]
) -> str | None:
    """None where the case is whole and the same; else why not, empty where it was never there."""
    if not record_path(job.folder, job.case.id).is_file():
        return ""
    try:
        case = read_case(job.folder, job.case.id)
        case.verify()
        if any(case.record[key] != value for key, value in record.items()):
            return ""  # another plan: nothing is wrong with what was there
        before = [Path(source["path"]).name for source in case.record["sources"]]
        digests = [source["sha256"] for source in case.record["sources"]]
    except DataError as error:
        return str(error).removesuffix("; prepare again.").removesuffix(".")
    except (KeyError, TypeError):
        return "its record is damaged"
    if digests == [source["sha256"] for source in sources]:
        return None
    now = {Path(source["path"]).name: source["sha256"] for source in sources}
    pairs = zip(before, digests, strict=True)
    changed = [name for name, digest in pairs if now.get(name) != digest]
    return f"changed since: {', '.join(map(printable, changed)) or 'the names of its files'}"


def _versions() -> dict[str, str]:
    names = ("unpaired", "numpy", "scipy", "torch", "nibabel")
    return {"python": platform.python_version(), **{n: metadata.version(n) for n in names}}
