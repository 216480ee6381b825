"""`unpaired reproduce`: a table of the paper, from data to ours | paper | gap."""

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any

from unpaired.cli.options import ConfigFile, Json, Overrides, Preset, parse_data
from unpaired.cli.output import memory, note, say, say_json
from unpaired.cli.reproduce_options import (
    Data,
    Dry,
    Fixed,
    Jobs,
    Out,
    Overlays,
    Page,
    Paper,
    Quick,
    Rows,
    Seeds,
    Store,
    Stored,
    Which,
)
from unpaired.errors import UsageError
from unpaired.progress import ProgressBar, duration

if TYPE_CHECKING:
    from unpaired.experiments.cells import Results
    from unpaired.experiments.jobs import Job
    from unpaired.experiments.pool import Ended
    from unpaired.experiments.rows import Experiment, Row
    from unpaired.experiments.study import Study

NAME = "reproduce"
PHANTOM = "phantom"


def command(
    which: Which = None,
    overrides: Overrides = None,
    out: Out = None,
    data: Data = None,
    preset: Preset = None,
    config: ConfigFile = None,
    seeds: Seeds = None,
    jobs: Jobs = 1,
    rows: Rows = None,
    quick: Quick = False,
    one_split: Fixed = False,
    plan_only: Dry = False,
    paper: Paper = False,
    store: Store = None,
    overlays: Overlays = False,
    results: Stored = None,
    page: Page = Path("docs/results.md"),
    as_json: Json = False,
) -> None:
    """Run what a table needs and is missing, then print it. The same command goes on."""
    if results is not None:
        _write_page(results, page)
        return
    if which is None or out is None:
        raise UsageError("say which experiment and where: unpaired reproduce table5 --out DIR ...")
    from unpaired.experiments.jobs import plan_jobs
    from unpaired.experiments.pool import threads_of
    from unpaired.experiments.rows import EXPERIMENTS
    from unpaired.experiments.study import open_study

    if which not in EXPERIMENTS:
        raise UsageError(f"there is no experiment {which!r}; choose {', '.join(EXPERIMENTS)}.")
    experiment = EXPERIMENTS[which]
    count = seeds or (1 if quick else experiment.seeds)
    study, printed = _study(
        experiment, out, data, preset, config, overrides or [], quick, one_split, paper
    )
    study = open_study(study, threads_of(jobs))
    chosen = {row.name for row in _rows(experiment, rows)}
    known, reasons = plan_jobs(experiment, study, range(count), experiment.rows)
    todo = [job for job in known.values() if chosen & {row for row, _ in job.rows}]
    _announce(experiment, study, todo, reasons, jobs, as_json)
    if plan_only:
        return
    failures = _run(todo, out, jobs)
    _finish(
        experiment, study, known, reasons, count, failures, printed, quick, store, overlays, as_json
    )


def _write_page(folder: Path, page: Path) -> None:
    from unpaired.experiments.store import write_page

    for path in write_page(folder, page):
        say(f"Written: {path}")


def _study(
    experiment: "Experiment",
    out: Path,
    data: Sequence[str] | None,
    preset: str | None,
    config: Path | None,
    overrides: Sequence[str],
    quick: bool,
    one_split: bool,
    paper: bool,
) -> "tuple[Study, dict[str, str]]":
    """The study, and the paper's names of its modalities where they are the paper's data."""
    from unpaired.experiments import papers, phantom
    from unpaired.experiments.study import Study

    if data == [PHANTOM]:
        with ProgressBar("scans") as bar:
            folder = out / ("data_quick" if quick else "data")
            roots = phantom.scans(folder, experiment.modalities, quick, bar)
        layers = (*(phantom.QUICK if quick else ()), *overrides)
        chosen = preset or (None if config else phantom.PRESET)
        return Study(roots, out, chosen, config, layers, redraw=False), {}
    roots, layers = papers.in_order(parse_data(data)), (phantom.QUICK_STEPS if quick else ())
    if paper or papers.is_papers(experiment, roots):
        preset = preset or (None if config else experiment.preset)
        layers, paper = (*papers.protocol(experiment, roots), *layers), True
    study = Study(roots, out, preset, config, (*layers, *overrides), redraw=not one_split)
    return study, papers.printed_names(roots) if paper else {}


def _rows(experiment: "Experiment", names: str | None) -> "tuple[Row, ...]":
    if names is None:
        return experiment.rows
    wanted = [name.strip() for name in names.split(";") if name.strip()]
    known = {row.name: row for row in experiment.rows}
    if bad := [name for name in wanted if name not in known]:
        raise UsageError(f"{experiment.name} has no row {bad[0]!r}. It has: {'; '.join(known)}.")
    return tuple(known[name] for name in wanted)


def _announce(
    experiment: "Experiment",
    study: "Study",
    jobs: "Sequence[Job]",
    reasons: dict[str, str],
    at_a_time: int,
    as_json: bool,
) -> None:
    """Runs, hours and memory, before the first step."""
    from unpaired.experiments.pace import forecast

    tell = note if as_json else say
    missing = [job for job in jobs if job.missing]
    tell(f"{experiment.title}: {len(jobs)} runs, {len(jobs) - len(missing)} of them done.")
    for name, why in reasons.items():
        tell(f"not run: {name}: {why}")
    if missing:
        ahead = forecast(study, jobs, at_a_time)
        tell(
            f"{len(missing)} runs to do, {at_a_time} at a time: about {duration(ahead.seconds)} "
            f"({ahead.basis}), {memory(ahead.memory_bytes)} of memory."
        )


def _run(jobs: "list[Job]", out: Path, at_a_time: int) -> dict[str, str]:
    """Identity -> what went wrong."""
    from unpaired.experiments.pool import run_jobs

    total = sum(bool(job.missing) for job in jobs)
    done: list[Any] = []
    began = monotonic()

    def ended(one: "Ended") -> None:
        done.append(one)
        how = f"failed: {one.failure}" if one.failure else f"done in {duration(one.seconds)}"
        left = (monotonic() - began) / len(done) * (total - len(done))
        ahead = f", about {duration(left)} left" if len(done) < total else ""
        note(f"[{len(done)}/{total}] {one.job.folder.name}: {how}{ahead}")

    found = run_jobs(jobs, out / "prepared", at_a_time, ended)
    return {one.job.identity: one.failure for one in found if one.failure}


def _finish(
    experiment: "Experiment",
    study: "Study",
    jobs: "dict[str, Job]",
    reasons: dict[str, str],
    seeds: int,
    failures: dict[str, str],
    printed: dict[str, str],
    quick: bool,
    folder: Path | None,
    pictures: bool,
    as_json: bool,
) -> None:
    from unpaired.experiments.collect import collect, write_results
    from unpaired.experiments.phantom import SMOKE
    from unpaired.experiments.render import markdown, to_csv
    from unpaired.experiments.store import store
    from unpaired.experiments.study import modalities_of

    names = modalities_of(experiment, study)
    results = collect(experiment, jobs, reasons, names, range(seeds), printed, failures)
    if quick:
        results = replace(results, notes=(SMOKE, *results.notes))
    paths = write_results(results, study.out)
    if pictures and (picture := draw_overlays(results, jobs, study.out)) is not None:
        paths["overlays"] = picture
    if folder is not None:
        paths["stored"] = store(results, jobs, folder)
    if as_json:
        say_json(
            {
                "experiment": experiment.name,
                "files": paths,
                "cells": list(csv.DictReader(io.StringIO(to_csv(results)))),
                "runs": {job.folder.name: not job.missing for job in jobs.values()},
                "failures": {jobs[i].folder.name: why for i, why in failures.items()},
                "not_run": reasons,
            }
        )
        return
    say(markdown(results))
    say(f"Written: {', '.join(str(path) for path in paths.values())}")


def draw_overlays(results: "Results", jobs: "dict[str, Job]", out: Path) -> Path | None:
    """`<experiment>_overlays.png`: the median case of each modality, of the first seed."""
    from unpaired.experiments.shown import median_case, predictions_of
    from unpaired.files import atomic
    from unpaired.report.overlays import Line, gallery

    lines = []
    for m in results.modalities:
        if (case := median_case(results, m, 0)) is not None:
            lines.append(Line(m, case, predictions_of(results, jobs, m, case, 0)))
    if not any(line.runs for line in lines):
        return None
    path = out / f"{results.experiment.name}_overlays.png"
    with atomic(path) as temporary:
        temporary.write_bytes(gallery([line for line in lines if line.runs]))
    return path
