"""What stops a preparation, of every case at once: the layout, the files, grids and label values.

It asks fewer questions than the check: it is the answer to a preparation that was stopped.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from unpaired.checks import labels
from unpaired.checks.case import same_place
from unpaired.checks.check import over_cases
from unpaired.checks.finding import Finding, from_error, read, worst_first
from unpaired.checks.layout import open_leniently
from unpaired.data.content import count_values
from unpaired.datasets.dataset import Case, Dataset
from unpaired.errors import CasesError, DataError
from unpaired.io.read import read_image, read_label_image
from unpaired.io.volume import Volume
from unpaired.names import plural
from unpaired.progress import Progress

Data = Mapping[str, Path | str | Dataset]


@contextmanager
def all_at_once(data: Data, workers: int = 0, progress: Progress | None = None) -> Iterator[None]:
    """Where a case is at fault, look through the others before that is said.

    Args:
        data: modality -> its data set, or the folder of it.
        workers: processes; 0 or 1 stays in this one.

    Raises:
        DataError: with everything that stops a preparation, case by case.
    """
    try:
        yield
    except CasesError as error:
        findings, complete = survey(data, workers, progress)
        known = {f"{f.modality}/{f.case}" for f in findings}
        lines = [_line(finding) for finding in findings]
        lines += [f"{case}: {why}" for case, why in error.failures.items() if case not in known]
        if not findings:
            raise
        hint = "" if complete else " (their scans are looked at when these are mended)"
        text = "\n".join(f"  {line}" for line in lines)
        raise CasesError(
            f"{plural(len(lines), 'fault')} in the data{hint}:\n{text}", error.failures
        ) from error


def survey(
    data: Data, workers: int = 0, progress: Progress | None = None
) -> tuple[list[Finding], bool]:
    """What stops a preparation, and whether all scans were looked at.

    A folder that is no data set at all is said before any scan is read.
    """
    findings: list[Finding] = []
    datasets: dict[str, Dataset] = {}
    for modality, root in data.items():
        if isinstance(root, Dataset):
            datasets[modality] = root
            continue
        try:
            dataset, faults = open_leniently(modality, Path(root))
        except DataError as error:
            dataset, faults = None, [from_error(error, modality, "", None, "layout")]
        findings += faults
        if dataset is not None:
            datasets[modality] = dataset
    complete = len(datasets) == len(data)
    jobs = [(case, one) for one in datasets.values() for case in one.cases] if complete else []
    for done, found in enumerate(over_cases(case_faults, jobs, workers), 1):
        findings += found
        if progress is not None:
            progress(done, len(jobs), "for further faults")
    return worst_first([one for one in findings if one.severity == "error"]), complete


def case_faults(case: Case, dataset: Dataset) -> list[Finding]:
    """What of one scan cannot be read, lies elsewhere, or holds values without a name."""
    findings: list[Finding] = []
    label = read(case, case.label, read_label_image, findings) if case.label else None
    if label is not None:
        counts = count_values(label.array)
        remarks = labels.values(label, counts, dataset.labels, dataset.ignore)
        findings += [remark.of(case, label.path) for remark in remarks]
    first: Volume | None = None
    for path in case.images:
        image = read(case, path, read_image, findings)
        if image is None:
            continue
        pairs = [(image, label, "label")] if first is None else [(first, image, "channel")]
        for one, other, kind in pairs:
            if other is not None:
                findings += [r.of(case, other.path) for r in same_place(one, other, kind)]
        first = first or image
    return findings


def _line(finding: Finding) -> str:
    where = "/".join(part for part in (finding.modality, finding.case) if part)
    file = Path(finding.file).name if finding.case else finding.file
    return f"{where}: {file + ': ' if file else ''}{finding.what}; {finding.mend}"
