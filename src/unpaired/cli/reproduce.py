"""`unpaired reproduce`: a table of the paper, from data to ours | paper | gap."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Annotated

import typer

from unpaired.cli.options import ConfigFile, Json, Overrides, Preset, parse_data
from unpaired.cli.output import memory, note, say, say_json, say_lines
from unpaired.errors import UsageError
from unpaired.progress import ProgressBar, duration

if TYPE_CHECKING:
    from unpaired.experiments.jobs import Job, Runs
    from unpaired.experiments.pool import Ended
    from unpaired.experiments.results import Results
    from unpaired.experiments.rows import Experiment
    from unpaired.experiments.study import Request, Study

PHANTOM = "phantom"

Which = Annotated[
    str | None,
    typer.Argument(
        metavar="EXPERIMENT",
        help="table1, table2, table4, table5, table6, table7, fig5, draws, three, scaling or "
        "comparators.",
    ),
]
Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        metavar="NAME=FOLDER|phantom",
        help="A modality's name and folder, in the order first, second; or phantom.",
    ),
]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Where everything goes.")]
Seeds = Annotated[int | None, typer.Option("--seeds", min=1, help="Seeds, or draws, of each row.")]
Jobs = Annotated[int, typer.Option("--jobs", min=1, help="Runs at a time.")]
Quick = Annotated[bool, typer.Option("--quick", help="A smoke test of minutes, not a result.")]
Rows = Annotated[
    str | None, typer.Option("--rows", metavar="A;B", help="Only these rows, parted by ';'.")
]
Fixed = Annotated[
    bool, typer.Option("--one-split", help="The same split for all seeds, not one a seed.")
]
Dry = Annotated[bool, typer.Option("--plan", help="Only say what would be run.")]
Paper = Annotated[
    bool, typer.Option("--paper", help="These are the paper's data: print its numbers beside.")
]
Pretrained = Annotated[
    Path | None,
    typer.Option(
        "--pretrained",
        metavar="FILE",
        help="ImageNet weights for the rows that have them in the paper (docs/pretrained.md).",
    ),
]
Store = Annotated[
    Path | None,
    typer.Option("--store", metavar="DIR", help="Also copy the records, without weights, here."),
]
Overlays = Annotated[
    bool, typer.Option("--overlays", help="Also a picture as Fig. 4: a case a modality, all rows.")
]
Stored = Annotated[
    Path | None,
    typer.Option("--results", metavar="DIR", help="Run nothing: write --page from stored records."),
]
Page = Annotated[Path, typer.Option("--page", metavar="FILE", help="Of --results.")]


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
    pretrained: Pretrained = None,
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
    from unpaired.experiments.jobs import plan_runs
    from unpaired.experiments.rows import EXPERIMENTS, as_overrides
    from unpaired.experiments.study import Request

    if which not in EXPERIMENTS:
        raise UsageError(f"there is no experiment {which!r}; choose {', '.join(EXPERIMENTS)}.")
    experiment = EXPERIMENTS[which]
    start = () if pretrained is None else as_overrides({"model.pretrained": str(pretrained)})
    layers = (preset, config, (*start, *(overrides or ())))
    scans = None if data == [PHANTOM] else parse_data(data)
    study = _study(experiment, Request(scans, out, *layers, quick, one_split, paper), jobs)
    chosen = _rows(experiment, rows)
    count = seeds or (1 if quick else experiment.seeds)
    runs = plan_runs(experiment, study, range(count))
    todo = runs.of_rows(chosen)
    announce(runs, study, todo, jobs, note if as_json else say)
    if plan_only:
        return
    failures = run_all(todo, out, jobs)
    table, paths = _write(runs, study, failures, overlays)
    if store is not None:
        from unpaired.experiments.store import store as store_records

        paths["stored"] = store_records(table, runs, store)
    _print(runs, table, failures, paths, as_json)


def _write_page(folder: Path, page: Path) -> None:
    from unpaired.experiments.store import write_page

    for path in write_page(folder, page):
        say(f"Written: {path}")


def _study(experiment: "Experiment", request: "Request", at_a_time: int) -> "Study":
    """On scans that are there, or that are made now."""
    from unpaired.experiments.pool import threads_of
    from unpaired.experiments.study import new_study, open_study

    with ProgressBar("scans") as bar:
        study = new_study(experiment, request, bar)
    return open_study(study, threads_of(at_a_time))


def _rows(experiment: "Experiment", names: str | None) -> list[str]:
    known = [row.name for row in experiment.rows]
    if names is None:
        return known
    wanted = [name.strip() for name in names.split(";") if name.strip()]
    if bad := [name for name in wanted if name not in known]:
        raise UsageError(f"{experiment.name} has no row {bad[0]!r}. It has: {'; '.join(known)}.")
    return wanted


def announce(
    runs: "Runs",
    study: "Study",
    jobs: "Sequence[Job]",
    at_a_time: int,
    tell: Callable[[str], None],
) -> None:
    """Runs, hours and memory, before the first step."""
    from unpaired.experiments.pool import forecast

    missing = [job for job in jobs if job.missing]
    done = len(jobs) - len(missing)
    tell(f"{runs.experiment.title}: {len(jobs)} runs, {done} of them done.")
    for line in _about(runs, jobs):
        tell(line)
    for name, why in runs.refused.items():
        tell(f"not run: {name}: {why}")
    if missing:
        ahead = forecast(study, jobs, at_a_time)
        tell(
            f"{len(missing)} runs to do, {at_a_time} at a time: about {duration(ahead.seconds)} "
            f"({ahead.basis}), {memory(ahead.memory_bytes)} of memory."
        )


def _about(runs: "Runs", jobs: "Sequence[Job]") -> Iterator[str]:
    """Network, grid and start of the rows, their cases, and whether the network is the paper's."""
    from unpaired.experiments.record import network_of, settings_of

    rows: dict[tuple[str, str], list[str]] = {}
    for job in jobs:
        data, weights = job.config.data, job.config.model.pretrained
        grid = "spacing of its own" if data.spacing_mm is None else f"{_by(data.spacing_mm)} mm"
        patch = "" if data.patch is None else f", patch {_by(data.patch)}"
        start = f"from {weights}" if weights else "from random weights"
        network = str(network_of(settings_of(job.config)))
        names = rows.setdefault((network, f"{grid}{patch}, {start}"), [])
        names += [name for name, _ in job.rows if name not in names]
    for (network, how), names in rows.items():
        yield f"{network}, {how}: {'; '.join(names)}."
    if jobs:
        largest = max(jobs, key=lambda job: len(job.data))
        parts = (largest.split.train, largest.split.val, largest.split.test)
        cases = (
            f"{m} {'/'.join(str(len(part.get(m, ()))) for part in parts)}" for m in largest.data
        )
        yield (
            f"Cases to train/validate/test: {', '.join(cases)}; {len(runs.seeds)} "
            f"seed{'s' * (len(runs.seeds) != 1)}."
        )
    wanted = runs.experiment.network
    own = [settings_of(job.config) for job in jobs if job.config.model.name == "consistency"]
    if wanted and own and network_of(own[0]) != wanted:
        yield (
            f"This is not the paper's network: its rows are {wanted}, these {network_of(own[0])}. "
            "The table will say so, and print none of the paper's numbers beside."
        )


def _by(sizes: Sequence[float | int]) -> str:
    return " x ".join(f"{size:g}" for size in sizes)


def run_all(jobs: "list[Job]", out: Path, at_a_time: int) -> dict[str, str]:
    """Identity -> what went wrong."""
    from unpaired.experiments.pool import run_jobs

    total = sum(bool(job.missing) for job in jobs)
    done: list[Ended] = []
    began = monotonic()

    def report(one: "Ended") -> None:
        done.append(one)
        how = f"failed: {one.failure}" if one.failure else f"done in {duration(one.seconds)}"
        left = (monotonic() - began) / len(done) * (total - len(done))
        ahead = f", about {duration(left)} left" if len(done) < total else ""
        note(f"[{len(done)}/{total}] {one.job.folder.name}: {how}{ahead}")

    run_jobs(jobs, out / "prepared", at_a_time, report)
    return {one.job.identity: one.failure for one in done if one.failure}


def _write(
    runs: "Runs", study: "Study", failures: dict[str, str], overlays: bool
) -> "tuple[Results, dict[str, Path]]":
    """The results, and the files that hold them."""
    from unpaired.experiments.store import collect, write_results

    results = collect(runs, study, failures)
    paths = write_results(results, study.out)
    if overlays and (picture := draw_overlays(results, runs, study.out)) is not None:
        paths["overlays"] = picture
    return results, paths


def _print(
    runs: "Runs",
    results: "Results",
    failures: dict[str, str],
    paths: dict[str, Path],
    as_json: bool,
) -> None:
    from unpaired.experiments.tables import markdown, to_csv

    if not as_json:
        say_lines(markdown(results))
        say(f"Written: {', '.join(str(path) for path in paths.values())}")
        return
    say_json(
        {
            "experiment": runs.experiment.name,
            "files": paths,
            "cells": list(csv.DictReader(io.StringIO(to_csv(results)))),
            "runs": {job.folder.name: not job.missing for job in runs.jobs.values()},
            "failures": {runs.jobs[i].folder.name: why for i, why in failures.items()},
            "not_run": runs.refused,
        }
    )


def draw_overlays(results: "Results", runs: "Runs", out: Path) -> Path | None:
    """`<experiment>_overlays.png`: the median case of each modality, of the first seed."""
    from unpaired.experiments.pictures import median_case, predictions_of
    from unpaired.files import atomic
    from unpaired.report.overlays import Line, gallery

    lines = [
        Line(m, case, folders)
        for m in results.modalities
        if (case := median_case(results, m, 0)) is not None
        and (folders := predictions_of(results, runs, m, case, 0))
    ]
    if not lines:
        return None
    path = out / f"{results.experiment.name}_overlays.png"
    with atomic(path) as temporary:
        temporary.write_bytes(gallery(lines))
    return path
