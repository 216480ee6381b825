"""Records of a study -> results of an experiment; and the files written from them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from unpaired.errors import UsageError
from unpaired.evaluation.evaluate import PREPARED
from unpaired.experiments.cells import Result, Results
from unpaired.experiments.facts import in_use, named_facts
from unpaired.experiments.figure import write_figures
from unpaired.experiments.jobs import Job, record_name
from unpaired.experiments.record import Record, read_record
from unpaired.experiments.render import latex, markdown, to_csv
from unpaired.experiments.rows import Experiment, Row
from unpaired.files import write_text


def collect(
    experiment: Experiment,
    jobs: Mapping[str, Job],
    reasons: Mapping[str, str],
    modalities: Sequence[str],
    seeds: Sequence[int],
    printed: Mapping[str, str] | None = None,
    failures: Mapping[str, str] | None = None,
) -> Results:
    """What is there of every row of the experiment; a seed counts when all its runs are there.

    Args:
        reasons: row name -> why it was not run.
        printed: modality -> the paper's name, on the paper's data.
        failures: identity of a job -> what went wrong.
    """
    rows = [
        _result(row, jobs, reasons.get(row.name, ""), seeds, failures or {})
        for row in experiment.rows
    ]
    why = tuple(f"{name} was not run: {text}" for name, text in reasons.items())
    return Results(experiment, tuple(rows), tuple(modalities), classes_of(rows), printed or {}, why)


def read_checked(job: Job, test: str) -> Record:
    """The record of a job's test.

    Raises:
        UsageError: it was made under another configuration than this call's, such as by a version
            with other defaults.
    """
    record = read_record(job.record(test))
    wanted = named_facts(job.config)
    shared = in_use(record.facts).keys() & wanted.keys()
    changed = [
        f"{key}: {record.facts[key]!r} -> {wanted[key]!r}"
        for key in sorted(shared)
        if record.facts[key] != wanted[key]
    ]
    if record.identity != job.identity and not changed:
        changed = ["it is of another run"]
    if changed:
        raise UsageError(
            f"{job.record(test)} was made under another configuration ({'; '.join(changed)}). "
            "Remove the run's folder to make it anew, or give another --out."
        )
    return record


def classes_of(rows: Sequence[Result]) -> tuple[str, ...]:
    """The classes that were scored, in the order of the data."""
    found = [r for row in rows for records in row.records.values() for r in records]
    return tuple(dict.fromkeys(one.cls for record in found for one in record.scores[PREPARED]))


def _result(
    row: Row,
    jobs: Mapping[str, Job],
    reason: str,
    seeds: Sequence[int],
    failures: Mapping[str, str],
) -> Result:
    records: dict[int, list[Record]] = {}
    for seed in seeds:
        own = [job for job in jobs.values() if (row.name, seed) in job.rows]
        paths = [job.record(record_name(row)) for job in own]
        if paths and all(path.exists() for path in paths):
            records[seed] = [read_checked(job, record_name(row)) for job in own]
        failed = [failures[job.identity] for job in own if job.identity in failures]
        if failed:
            reason = f"failed: {failed[0]}"
    return Result(row, records, len(seeds), reason if reason.startswith("failed") else "")


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
