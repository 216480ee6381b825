"""Results that travel: records without weights in one folder, and a page written from them."""

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from unpaired.errors import DataError, UsageError
from unpaired.experiments.cells import Result, Results
from unpaired.experiments.collect import classes_of
from unpaired.experiments.figure import write_figures
from unpaired.experiments.jobs import DEFAULT, Job, record_name
from unpaired.experiments.record import read_record
from unpaired.experiments.render import markdown
from unpaired.experiments.rows import EXPERIMENTS
from unpaired.experiments.summary import summary
from unpaired.files import atomic, read_json, write_json, write_text

RECORDS = "records"
SUMMARY = "summary"
BEGIN, END = "<!-- reproduce {}: begin -->", "<!-- reproduce {}: end -->"


def store(results: Results, jobs: Mapping[str, Job], folder: Path) -> Path:
    """Copy the records of an experiment into `folder`, with an index of its rows.

    Returns:
        the index, `folder`/<experiment>.json.
    """
    rows: dict[str, dict[str, list[str]]] = {}
    for result in results.rows:
        test = record_name(result.row)
        rows[result.row.name] = {}
        for seed in result.records:
            own = [job for job in jobs.values() if (result.row.name, seed) in job.rows]
            names = [_copy(job, test, folder / RECORDS) for job in own]
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
        rows = tuple(
            _row(index.parent, row, content["rows"].get(row.name, {}), content)
            for row in experiment.rows
        )
        names, printed = tuple(content["modalities"]), content["printed"]
        return Results(experiment, rows, names, classes_of(rows), printed, tuple(content["notes"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{index} is no index of results ({error!r}). Store them again with "
            "`unpaired reproduce ... --store DIR`."
        ) from error


def _row(folder: Path, row: Any, seeds: Mapping[str, Sequence[str]], content: Any) -> Result:
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
