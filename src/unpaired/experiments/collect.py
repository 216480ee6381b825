"""Records of a study -> results of an experiment; and the files written from them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from unpaired.experiments.cells import Result, Results
from unpaired.experiments.record import Record, read_record
from unpaired.experiments.render import latex, markdown, to_csv
from unpaired.experiments.rows import Experiment, Row
from unpaired.experiments.study import Job, record_name
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
    found = [r for row in rows for records in row.records.values() for r in records]
    classes = tuple(dict.fromkeys(one.cls for record in found for one in record.scores["prepared"]))
    return Results(
        experiment, tuple(rows), tuple(modalities), classes, printed or {}, _notes(rows, reasons)
    )


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
            records[seed] = [read_record(path) for path in paths]
        failed = [failures[job.identity] for job in own if job.identity in failures]
        if failed:
            reason = f"failed: {failed[0]}"
    return Result(row, records, len(seeds), reason if reason.startswith("failed") else "")


def _notes(rows: Sequence[Result], reasons: Mapping[str, str]) -> tuple[str, ...]:
    """Rows that are not whole."""
    notes = [
        "Mean ± population deviation over the test cases of all seeds together; in brackets the "
        "sample deviation of the seeds' means. The mean columns are means over the classes, and "
        "over the modalities."
    ]
    for row in rows:
        have = len(row.records)
        if 0 < have < row.wanted:
            notes.append(f"{row.row.name}: {have} of {row.wanted} seeds.")
    notes += [f"{name} was not run: {why}" for name, why in reasons.items()]
    return tuple(notes)


def write_results(results: Results, folder: Path) -> dict[str, Path]:
    """`<experiment>.md`, `.csv` and `.tex`."""
    texts = {"md": markdown(results), "csv": to_csv(results), "tex": latex(results)}
    paths = {}
    for ending, text in texts.items():
        paths[ending] = folder / f"{results.experiment.name}.{ending}"
        write_text(paths[ending], text)
    return paths
