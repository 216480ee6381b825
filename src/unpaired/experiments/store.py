"""Results: collected from run folders, stored without weights, and a page written from them."""

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unpaired.errors import DataError, UsageError
from unpaired.experiments.jobs import DEFAULT, Job, Runs, record_name
from unpaired.experiments.pictures import write_figures
from unpaired.experiments.record import Record, read_record
from unpaired.experiments.results import Result, Results
from unpaired.experiments.rows import EXPERIMENTS, Row
from unpaired.experiments.study import Study
from unpaired.experiments.tables import latex, markdown, summary, to_csv
from unpaired.files import atomic, read_json, write_json, write_text
from unpaired.leftovers import sweep

RECORDS = "records"
SUMMARY = "summary"
BEGIN, END = "<!-- reproduce {}: begin -->", "<!-- reproduce {}: end -->"


def collect(runs: Runs, study: Study, failures: Mapping[str, str] | None = None) -> Results:
    """What is there of every row of the experiment; a seed counts when all its runs are there.

    Args:
        failures: identity of a job -> what went wrong.

    Raises:
        UsageError: a record was made under another configuration. DataError: one is damaged.
    """
    rows = tuple(_result(row, runs, failures or {}) for row in runs.experiment.rows)
    refused = (f"{name} was not run: {why}" for name, why in runs.refused.items())
    notes = (*study.notes, *refused)
    return Results(runs.experiment, rows, runs.modalities, study.printed, notes)


def _result(row: Row, runs: Runs, failures: Mapping[str, str]) -> Result:
    records: dict[int, list[Record]] = {}
    reason, test = "", record_name(row)
    for seed in runs.seeds:
        jobs = runs.of(row.name, seed)
        if jobs and all(job.record(test).exists() for job in jobs):
            records[seed] = [job.read(test) for job in jobs]
        if failed := [failures[job.identity] for job in jobs if job.identity in failures]:
            reason = f"failed: {failed[0]}"
    return Result(row, records, len(runs.seeds), reason)


def write_results(results: Results, folder: Path) -> dict[str, Path]:
    """`<experiment>.md`, `.csv`, `.tex` and, where something was run, `.png` (scores) and
    `_curves.png` (validation), by these endings."""
    texts = {"md": markdown(results), "csv": to_csv(results), "tex": latex(results)}
    paths = {}
    for ending, text in texts.items():
        paths[ending] = folder / f"{results.experiment.name}.{ending}"
        write_text(paths[ending], text)
    for path in write_figures(results, folder):
        paths["curves" if path.stem.endswith("_curves") else "png"] = path
    return paths


def store(results: Results, runs: Runs, folder: Path) -> Path:
    """Copy the records of an experiment into `folder`, with an index of its rows.

    Returns:
        the index, `folder`/<experiment>.json.
    """
    sweep(folder, deep=True)
    rows: dict[str, dict[str, list[str]]] = {}
    for result in results.rows:
        test = record_name(result.row)
        rows[result.row.name] = {}
        for seed in result.records:
            jobs = runs.of(result.row.name, seed)
            names = [_copy(job, test, folder / RECORDS) for job in jobs]
            rows[result.row.name][str(seed)] = names
    path = folder / f"{results.experiment.name}.json"
    index: dict[str, Any] = {
        "experiment": results.experiment.name,
        "modalities": list(results.modalities),
        "printed": dict(results.printed),
        "seeds": max((result.wanted for result in results.rows), default=0),
        "rows": rows,
        "failed": {r.row.name: r.reason for r in results.rows if r.reason},
        "notes": list(results.notes),
    }
    write_json(path, index)
    return path


def _copy(job: Job, test: str, folder: Path) -> str:
    name = job.folder.name if test == DEFAULT else f"{job.folder.name}-{test}"
    folder.mkdir(parents=True, exist_ok=True)
    with atomic(folder / f"{name}.json") as temporary:
        shutil.copyfile(job.record(test), temporary)
    return name


def load(index: Path) -> Results:
    """The results that an index and its records hold.

    Raises:
        DataError: a file is missing or damaged.
    """
    content = read_json(index)
    try:
        experiment = EXPERIMENTS[content["experiment"]]
        known = [row.name for row in experiment.rows]
        if other := [name for name in content["rows"] if name not in known]:
            raise ValueError(f"there is no row {other[0]}; the rows are {'; '.join(known)}")
        rows = tuple(
            _row(index.parent, row, content["rows"].get(row.name, {}), content)
            for row in experiment.rows
        )
        names, printed = tuple(content["modalities"]), content["printed"]
        return Results(experiment, rows, names, printed, tuple(content["notes"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{index} is no index of results ({error!r}). Store them again with "
            "`unpaired reproduce ... --store DIR`."
        ) from error


def _row(folder: Path, row: Row, seeds: Mapping[str, Sequence[str]], content: Any) -> Result:
    records = {
        int(seed): [read_record(folder / RECORDS / f"{name}.json") for name in names]
        for seed, names in seeds.items()
    }
    return Result(row, records, content["seeds"], content["failed"].get(row.name, ""))


def write_page(folder: Path, page: Path) -> list[Path]:
    """Write every stored experiment into its place on a page, and its figure beside the index.

    `folder` holds one folder a study; `<study>/<experiment>` stands between the marks
    `<!-- reproduce <study>/<experiment>: begin -->` and `... end -->`, a table of what Ours gave in
    all of them between those of `summary`; what has no place yet is put at the end. The rest of the
    page is left as it is.

    Returns:
        the files written.

    Raises:
        UsageError: there is nothing stored. DataError: a record is damaged.
    """
    indices = sorted(folder.glob("*/*.json"))
    if not indices:
        raise UsageError(
            f"{folder} holds no stored results. Run `unpaired reproduce EXPERIMENT ... --store "
            f"{folder / 'NAME'}` first."
        )
    text = page.read_text(encoding="utf-8") if page.exists() else "# Results\n"
    written = [page]
    stored = {(index.parent.name, index.stem): load(index) for index in _in_order(indices)}
    text = _put(text, SUMMARY, summary(stored))
    for (study, experiment), results in stored.items():
        name, index = f"{study}/{experiment}", folder / study / f"{experiment}.json"
        body = [markdown(results, 3)]
        for picture in write_figures(results, index.parent):
            written.append(picture)
            link = Path(os.path.relpath(picture, page.parent)).as_posix()
            body.append(f"![{results.title}]({link})\n")
        text = _put(text, name, "\n".join(body))
    write_text(page, text)
    return written


def _in_order(indices: Sequence[Path]) -> list[Path]:
    """By study, and the experiments as `reproduce` lists them."""
    order = {name: place for place, name in enumerate(EXPERIMENTS)}
    return sorted(indices, key=lambda path: (path.parent.name, order.get(path.stem, len(order))))


def _put(page: str, name: str, body: str) -> str:
    """The page with a section in its place."""
    begin, end = BEGIN.format(name), END.format(name)
    section = f"{begin}\n{body}{end}"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if pattern.search(page):
        return pattern.sub(lambda _: section, page, count=1)
    return f"{page.rstrip()}\n\n{section}\n"
