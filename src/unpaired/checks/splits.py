"""A file of splits against the data: parts that share patients or images, or lack a class."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from unpaired.checks.cohort import ScanSummary
from unpaired.checks.finding import Finding, Remark, Severity, from_error
from unpaired.datasets.dataset import Case, Dataset
from unpaired.datasets.split import k_folds
from unpaired.datasets.split_file import PARTS, read_splits
from unpaired.errors import UnpairedError
from unpaired.files import read_json
from unpaired.names import printable, some

Key = tuple[str, str]
_WORST: Mapping[str, Severity] = {"train": "error", "val": "warning", "test": "warning"}


def splits(
    datasets: Mapping[str, Dataset], scans: Sequence[ScanSummary], file: Path
) -> Iterator[Finding]:
    """Every leak of every fold, where opening the file would stop at the first."""
    cases = {m: [c for c in d.cases if c.label is not None] for m, d in datasets.items()}
    leaks: list[Finding] = []
    try:
        entries = read_json(file)
        folds = entries if isinstance(entries, list) else []
        for number, entry in enumerate(folds):
            leaks += _fold(f"fold {number}", entry, datasets, scans, file)
        read_splits(file, cases)
    except UnpairedError as error:
        # What stops the reader is most often one of the leaks, told above more fully.
        if not any(leak.severity == "error" for leak in leaks):
            yield from_error(error, "", "", file, "splits")
    yield from leaks


def parts(datasets: Mapping[str, Dataset], file: Path) -> list[dict[Key, str]]:
    """(modality, case) -> part of every fold; what the file says of no case is left out."""
    known = {(m, c.id): c for m, dataset in datasets.items() for c in dataset.cases}
    try:
        entries = read_json(file)
    except UnpairedError:
        return []
    return [
        _parts_of(entry, known)
        for entry in (entries if isinstance(entries, list) else [])
        if isinstance(entry, dict)
    ]


def _parts_of(entry: Mapping[str, Any], known: Mapping[Key, Case]) -> dict[Key, str]:
    """Of a case in two parts, the first."""
    part_of: dict[Key, str] = {}
    for part in PARTS:
        named = entry.get(part, [])
        for text in named if isinstance(named, list) else []:
            key = _key(text, known)
            if key is not None:
                part_of.setdefault(key, part)
    return part_of


def folds(datasets: Mapping[str, Dataset], count: int) -> Iterator[Finding]:
    """Whether there are patients enough for so many folds."""
    for modality, dataset in datasets.items():
        labelled = [case for case in dataset.cases if case.label is not None]
        try:
            k_folds({modality: labelled}, count)
        except UnpairedError as error:
            yield from_error(error, modality, "", dataset.root, "folds")


def _fold(
    fold: str, entry: Any, datasets: Mapping[str, Dataset], scans: Sequence[ScanSummary], file: Path
) -> Iterator[Finding]:
    if not isinstance(entry, dict):
        return
    known = {(m, c.id): c for m, dataset in datasets.items() for c in dataset.cases}
    part_of: dict[Key, str] = {}
    for part in PARTS:
        for text in entry.get(part, []):
            key = _key(text, known)
            if key is None:
                what = f"{fold}, {part}: there is no case {printable(str(text))!r}"
                yield _say("split-case", "error", what, "correct the name", "1 case", file)
            elif part_of.setdefault(key, part) != part:
                what = f"{fold}: {key[0]}/{printable(key[1])} is in {part_of[key]} and in {part}"
                yield _say("split-case", "error", what, "leave it in one part", "1 case", file)
    yield from _shared(fold, part_of, known, scans, file)
    yield from _empty(fold, entry, part_of, datasets, file)
    yield from _absent(fold, part_of, datasets, scans, file)
    left = [f"{m}/{i}" for (m, i), c in known.items() if c.label and (m, i) not in part_of]
    if left:
        what = f"{fold}: {len(left)} labelled cases are in no part ({some(left, 3)})"
        yield _say(
            "split-left", "note", what, "nothing if it is meant so", f"{len(left)} cases", file
        )


def _shared(
    fold: str, part_of: Mapping[Key, str], known: Mapping[Key, Case], scans: Sequence[ScanSummary],
    file: Path,
) -> Iterator[Finding]:  # fmt: skip
    """Patients, and images, in two parts."""
    people: dict[str, dict[str, str]] = defaultdict(dict)
    for key, part in part_of.items():
        people[known[key].patient][part] = "/".join(key)
    for patient, where in sorted(people.items()):
        if len(where) > 1:
            text = " and ".join(f"{part} ({printable(name)})" for part, name in where.items())
            what = f"{fold}: the patient {printable(patient)} is in {text}"
            mend = "put all scans of a patient into one part"
            yield _say("split-patient", "error", what, mend, "1 patient", file)
    images: dict[str, dict[str, str]] = defaultdict(dict)
    for scan in scans:
        home = part_of.get((scan.modality, scan.case))
        for digest, _ in scan.digests:
            if home is not None:
                images[digest][home] = f"{scan.modality}/{scan.case}"
    for where in images.values():
        if len(where) > 1:
            text = " and ".join(f"{part} ({printable(name)})" for part, name in where.items())
            what = f"{fold}: one image is in {text}"
            yield _say("split-image", "error", what, "remove one", "100 % of the voxels", file)


def _empty(
    fold: str, entry: Mapping[str, Any], part_of: Mapping[Key, str],
    datasets: Mapping[str, Dataset], file: Path,
) -> Iterator[Finding]:  # fmt: skip
    """Modalities without a case in a part that the file has."""
    for modality in datasets:
        for part in PARTS:
            if part in entry and not any(
                m == modality and p == part for (m, _), p in part_of.items()
            ):
                what = f"{fold}: no case of {modality} is in {part}"
                yield _say("split-empty", _WORST[part], what, "move cases there", "0 cases", file)


def _absent(
    fold: str, part_of: Mapping[Key, str], datasets: Mapping[str, Dataset],
    scans: Sequence[ScanSummary], file: Path,
) -> Iterator[Finding]:  # fmt: skip
    """Classes that a part cannot teach, or cannot score."""
    for modality, dataset in datasets.items():
        for part in PARTS:
            own = [
                scan
                for scan in scans
                if scan.modality == modality
                and scan.voxels is not None
                and part_of.get((modality, scan.case)) == part
            ]
            present = frozenset[int]().union(*(scan.values or () for scan in own))
            lost = [n for n, value in dataset.labels.items() if value and value not in present]
            if own and lost:
                what = f"{fold}: no {part} label of {modality} holds {', '.join(lost)}"
                amount = f"0 of {len(own)} cases"
                mend = "move a case that has it there"
                yield _say("split-class", _WORST[part], what, mend, amount, file)


def _key(text: Any, known: Mapping[Key, Case]) -> Key | None:
    if not isinstance(text, str):
        return None
    modality, _, case = text.partition("/")
    if (modality, case) in known:
        return modality, case
    keys = [key for key in known if key[1] == text]
    return keys[0] if len(keys) == 1 else None


def _say(kind: str, severity: Severity, what: str, mend: str, amount: str, file: Path) -> Finding:
    return Remark(kind, severity, what, mend, amount).about("", file=file)
