"""The table of what is wrong with data sets, worst first. Nothing is ever changed."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from unpaired.data.check_case import Facts, Finding, Severity, from_error, inspect
from unpaired.data.dataset import Case, Dataset, canonical_name, class_names
from unpaired.data.dicom import holds_dicom
from unpaired.data.paths import shown
from unpaired.data.read import ENDINGS
from unpaired.data.sources import nnunet, open_dataset
from unpaired.errors import DataError

__all__ = ["Facts", "Finding", "Severity", "check", "check_path"]

_RANK = {"error": 0, "warning": 1, "note": 2}
SPACING_OUTLIER = 2.0
Progress = Callable[[int, int], None]


def check(datasets: Mapping[str, Dataset], progress: Progress | None = None) -> list[Finding]:
    """Read every file of every case and compare the cases; worst first.

    One bad case never stops the others. `progress(done, total)` is called after each case.
    """
    found: list[Finding] = []
    facts: list[Facts] = []
    total = sum(len(dataset.cases) for dataset in datasets.values())
    for dataset in datasets.values():
        for case in dataset.cases:
            one, more = inspect(case, dataset)
            facts.append(one)
            found += more
            if progress is not None:
                progress(len(facts), total)
    for modality, dataset in datasets.items():
        own = [fact for fact in facts if fact.modality == dataset.modality]
        found += _counts(modality, dataset)
        found += _orientations(modality, own)
        found += _spacings(modality, own)
        found += _absent(modality, dataset, own)
    found += [*_same_image(facts), *_same_patient(datasets), *_names(datasets)]
    return worst_first(found)


def worst_first(found: Sequence[Finding]) -> list[Finding]:
    """Errors, then warnings, then notes; each by modality and case."""
    return sorted(found, key=lambda f: (_RANK[f.severity], f.modality, f.case, f.file, f.what))


def check_path(path: Path) -> list[Finding]:
    """Check one image (a file, or the folder of a DICOM series), a data set, a folder of data sets,
    or a folder of images."""
    try:
        if path.is_symlink() or not path.is_dir() or holds_dicom(path):
            return check({"": _loose("", path.parent, [path])})
        children = [child for child in sorted(path.iterdir()) if child.is_dir()]
        roots = [root for root in (path, *children) if nnunet.looks_like(root)]
        if roots:
            return _check_roots(roots[:1] if roots[0] == path else roots)
        inside = [f for f in sorted(path.rglob("*")) if not f.name.startswith(".")]
        files = [f for f in inside if f.name.endswith(ENDINGS) or (f.is_dir() and holds_dicom(f))]
    except OSError as error:
        raise DataError(f"cannot list {shown(path)}: {error.strerror or error}.") from error
    if not files:
        raise DataError(
            f"{shown(path)} holds no image (.nii.gz, .nrrd, .mha, .mgz, DICOM); check the path."
        )
    return check({"": _loose("", path, files)})


def _check_roots(roots: Sequence[Path]) -> list[Finding]:
    """Each folder's name stands for its modality; one that cannot be opened is a finding."""
    datasets, found = {}, []
    for root in roots:
        try:
            datasets[root.name] = open_dataset(root.name, root)
        except DataError as error:
            found.append(from_error(error, root.name, "", root))
    return worst_first([*found, *check(datasets)])


def _loose(modality: str, root: Path, files: Sequence[Path]) -> Dataset:
    """Images without a layout, and without labels."""
    cases = tuple(Case(shown(file.name), modality, (file,), None, str(file)) for file in files)
    return Dataset(modality, root, ("image",), {}, cases)


def _counts(modality: str, dataset: Dataset) -> Iterator[Finding]:
    if not dataset.labels:  # loose files: nobody trains on them
        return
    labelled = sum(case.label is not None for case in dataset.cases)
    root = shown(dataset.root)
    if labelled == 0:
        yield Finding(modality, "", "error", "there is no labelled case", "add cases", root)
    elif labelled == 1:
        what = "there is one labelled case: nothing is left to validate or test on"
        yield Finding(modality, "", "warning", what, "add cases", root)


def _orientations(modality: str, facts: Sequence[Facts]) -> Iterator[Finding]:
    axes = Counter(fact.axes for fact in facts if fact.axes)
    if len(axes) > 1:
        text = ", ".join(f"{name} {count}" for name, count in axes.most_common())
        what = f"the files' axes point in different directions ({text})"
        yield Finding(modality, "", "note", what, "nothing; each is turned by its affine", "")


def _spacings(modality: str, facts: Sequence[Facts]) -> Iterator[Finding]:
    known = [(fact, fact.spacing_mm) for fact in facts if fact.spacing_mm]
    if len(known) < 3:
        return
    median = np.median([spacing for _, spacing in known], axis=0)
    for fact, spacing in known:
        ratio = np.maximum(spacing / median, median / spacing).max()
        if ratio > SPACING_OUTLIER:
            mine, usual = (" x ".join(f"{s:.3g}" for s in values) for values in (spacing, median))
            what = f"the spacing {mine} mm is far from the usual {usual} mm (S, P, L)"
            file = shown(fact.digests[0][1])
            yield Finding(modality, fact.case, "warning", what, "look at the scan", file)


def _absent(modality: str, dataset: Dataset, facts: Sequence[Facts]) -> Iterator[Finding]:
    seen = [fact.values for fact in facts if fact.values is not None]
    present = frozenset().union(*seen)
    for name, value in dataset.labels.items():
        if seen and value != 0 and value not in present:
            what = f"no label holds {name!r} (value {value})"
            mend = "annotate it, or remove it from dataset.json"
            yield Finding(modality, "", "warning", what, mend, shown(dataset.root))


def _same_image(facts: Sequence[Facts]) -> Iterator[Finding]:
    owners: dict[str, tuple[Facts, Path]] = {}
    for fact in facts:
        for digest, file in fact.digests:
            other, where = owners.setdefault(digest, (fact, file))
            if where != file:
                what = f"the same image as {shown(where)} ({other.modality} {other.case})".rstrip()
                mend = "remove one, or it may be in training and in test"
                yield Finding(fact.modality, fact.case, "error", what, mend, shown(file))


def _same_patient(datasets: Mapping[str, Dataset]) -> Iterator[Finding]:
    homes: dict[str, set[str]] = defaultdict(set)
    for modality, dataset in datasets.items():
        for case in dataset.cases:
            homes[case.patient].add(modality)
    shared = sorted(patient for patient, where in homes.items() if len(where) > 1)
    if shared:
        some = ", ".join(map(shown, shared[:5])) + (", ..." if len(shared) > 5 else "")
        what = f"{len(shared)} patients (by id) are in several modalities: {some}"
        mend = "nothing if they are the same people (they stay together); else rename the cases"
        yield Finding("", "", "note", what, mend, "")


def _names(datasets: Mapping[str, Dataset]) -> Iterator[Finding]:
    if len(datasets) < 2:
        return
    try:
        shared = set(class_names(datasets))
    except DataError as error:
        yield from_error(error, "", "", "")
        return
    for modality, dataset in datasets.items():
        alone = [
            name
            for name, value in dataset.labels.items()
            if value != 0 and canonical_name(name) not in shared
        ]
        if alone:
            what = f"only this modality has {', '.join(alone)}: trained as background"
            mend = "nothing, or give equal organs equal names"
            yield Finding(modality, "", "warning", what, mend, shown(dataset.root))
