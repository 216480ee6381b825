"""The table of what is wrong with data sets, worst first. Nothing is ever changed."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from unpaired.checks import splits as split_checks
from unpaired.checks.case import inspect
from unpaired.checks.cohort import ScanSummary, cohort, naming
from unpaired.checks.finding import Finding, Remark, as_one, worst_first
from unpaired.checks.intensity import copies
from unpaired.checks.labels import coverage
from unpaired.checks.layout import open_leniently
from unpaired.datasets import nnunet
from unpaired.datasets.dataset import Case, Dataset
from unpaired.errors import DataError
from unpaired.io.dicom.scan import holds_dicom
from unpaired.io.read import ENDINGS, is_series_folder, others_in
from unpaired.names import ending_of, plural, printable, some
from unpaired.progress import Progress
from unpaired.workers import Work, share_out

# A process takes about a second to begin: few cases are done before.
_CASES_A_WORKER = 4
Found = TypeVar("Found")


@dataclass(frozen=True)
class Examined:
    """What was looked at, and what was found.

    Attributes:
        datasets: as far as they could be opened.
        scans: one a case.
        findings: worst first.
        folds: of the file of splits, (modality, case) -> "train", "val" or "test" of each fold.
    """

    datasets: dict[str, Dataset]
    scans: tuple[ScanSummary, ...]
    findings: list[Finding]
    folds: tuple[Mapping[tuple[str, str], str], ...] = ()


def check(
    datasets: Mapping[str, Dataset], progress: Progress | None = None, workers: int = 0
) -> list[Finding]:
    """Read every file of every case and compare the cases; worst first.

    One bad case never stops the others. `progress(done, total, "")` is called after each case.
    """
    return examine(datasets, progress, workers).findings


def check_path(path: Path) -> list[Finding]:
    """Check one image, a DICOM series, a data set, a folder of data sets, or a folder of images."""
    return examine_path(path).findings


def examine(
    datasets: Mapping[str, Dataset],
    progress: Progress | None = None,
    workers: int = 0,
    splits: Path | None = None,
    folds: int | None = None,
) -> Examined:
    """`check`, with what the findings are about.

    Args:
        workers: processes; 0 or 1 stays in this one.
        splits: a splits_final.json to hold against the data.
        folds: how many folds are wanted.

    Raises:
        ResourceError: a worker died.
    """
    findings: list[Finding] = []
    scans: list[ScanSummary] = []
    jobs = [(case, dataset) for dataset in datasets.values() for case in dataset.cases]
    for scan, own_findings in over_cases(inspect, jobs, workers):
        scans.append(scan)
        findings += own_findings
        if progress is not None:
            progress(len(scans), len(jobs), "")
    findings = as_one(findings, "units")
    scans.sort(key=lambda scan: (scan.modality, scan.case))
    for modality, dataset in datasets.items():
        own = [scan for scan in scans if scan.modality == dataset.modality]
        findings += _counts(modality, dataset)
        findings += cohort(modality, own)
        findings += coverage(modality, dataset, own)
    findings += [*copies(scans), *naming(datasets)]
    if splits is not None:
        findings += split_checks.splits(datasets, scans, splits)
    if folds is not None:
        findings += split_checks.folds(datasets, folds)
    parts = () if splits is None else tuple(split_checks.parts(datasets, splits))
    return Examined(dict(datasets), tuple(scans), worst_first(findings), parts)


def examine_roots(
    roots: Mapping[str, Path],
    progress: Progress | None = None,
    workers: int = 0,
    splits: Path | None = None,
    folds: int | None = None,
) -> Examined:
    """`examine` on folders; what is wrong with a layout is a finding, its good cases are read."""
    datasets, findings = {}, list[Finding]()
    for modality, root in roots.items():
        dataset, faults = open_leniently(modality, root)
        findings += faults
        if dataset is not None:
            datasets[modality] = dataset
    done = examine(datasets, progress, workers, splits, folds)
    return replace(done, findings=worst_first([*findings, *done.findings]))


def examine_path(path: Path, progress: Progress | None = None, workers: int = 0) -> Examined:
    """`examine` on an image, a DICOM series, a data set, or a folder of one of them.

    Raises:
        DataError: the folder cannot be listed, or holds no image.
    """
    try:
        if not path.is_dir() or is_series_folder(path):
            return examine({"": _loose(path.parent, [path])}, progress)
        children = [child for child in sorted(path.iterdir()) if child.is_dir()]
        roots = [root for root in (path, *children) if nnunet.looks_like(root)]
        if roots:
            chosen = roots[:1] if roots[0] == path else roots
            return examine_roots({root.name: root for root in chosen}, progress, workers)
        inside = [f for f in sorted(path.rglob("*")) if not f.name.startswith(".")]
        images = [f for f in inside if ending_of(f.name, ENDINGS) or is_series_folder(f)]
        mixed = [*_slices_among(images), *_passed_over(images)]
    except OSError as error:
        raise DataError(f"cannot list {printable(path)}: {error.strerror or error}.") from error
    if not images:
        raise DataError(
            f"{printable(path)} holds no .nii or .nii.gz file, nor another image; check the path."
        )
    done = examine({"": _loose(path, images)}, progress, workers)
    return replace(done, findings=worst_first([*mixed, *done.findings]))


def _slices_among(images: Sequence[Path]) -> Iterator[Finding]:
    """Folders where DICOM slices lie among images: which of them is meant is not guessed."""
    for folder in sorted({image.parent for image in images if not image.is_dir()}):
        if holds_dicom(folder):
            what = "DICOM files and other images lie side by side; the DICOM files were not read"
            mend = "keep them in folders of their own"
            yield Remark("mixed", "error", what, mend).about("", printable(folder.name), folder)


def _passed_over(images: Sequence[Path]) -> Iterator[Finding]:
    """Files among images that are none by the ending of their names."""
    for folder in sorted({image.parent for image in images}):
        if holds_dicom(folder):
            continue  # slices beside images are said for themselves
        left = [path for path in others_in(folder, set(images)) if path.is_file()]
        if left:
            count = plural(len(left), "file")
            what = f"{count} passed over, no image by the ending of the name: "
            what += some([path.name for path in left])
            mend = "nothing, or give what is an image its ending"
            remark = Remark("passed-over", "note", what, mend, count)
            yield remark.about("", printable(folder.name), left[0])


def over_cases(
    work: Callable[[Case, Dataset], Found], jobs: Sequence[tuple[Case, Dataset]], workers: int
) -> Iterator[Found]:
    """What `work` finds of every case, in no order.

    Raises:
        ResourceError: a worker died.
    """
    workers = min(workers, len(jobs) // _CASES_A_WORKER)
    if workers <= 1:
        yield from (work(case, dataset) for case, dataset in jobs)
        return
    # A worker needs the names of the data set, not all of its cases.
    bare = [(case, replace(one, cases=())) for case, one in jobs]
    names = [f"{one.modality}/{case.id}".lstrip("/") for case, one in jobs]
    yield from share_out(Work(work, bare, names, "checking"), workers)


def _loose(root: Path, images: Sequence[Path]) -> Dataset:
    """Images without a layout: one case each, without labels."""
    cases = tuple(Case(printable(file.name), "", (file,), None, str(file)) for file in images)
    return Dataset("", root, ("",), {}, cases)


def _counts(modality: str, dataset: Dataset) -> Iterator[Finding]:
    if not dataset.labels:  # loose images: nobody trains on them
        return
    labelled = sum(case.label is not None for case in dataset.cases)
    remark = None
    if labelled == 0:
        remark = Remark("cases", "error", "there is no labelled case", "add cases", "0 cases")
    elif labelled == 1:
        what = "there is one labelled case: nothing is left to validate or test on"
        remark = Remark("cases", "warning", what, "add cases", "1 case")
    elif labelled == 2:
        what = "there are 2 labelled cases: none is left to validate on"
        remark = Remark("cases", "warning", what, "add cases", "2 cases")
    if remark is not None:
        yield remark.about(modality, file=dataset.root)
