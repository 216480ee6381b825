"""Names: of classes that modalities share, of cases, of patients, of files that are passed over."""

from collections import defaultdict
from collections.abc import Iterator, Mapping

from unpaired.data.checks.finding import Finding, Remark, from_error, plural, some
from unpaired.data.paths import shown
from unpaired.datasets.dataset import Dataset, canonical_name, class_names
from unpaired.errors import DataError

# File systems end names at 255 bytes; results add up to 35 (".<case>.label.<8 random>.npy").
LONGEST = 220


def naming(datasets: Mapping[str, Dataset]) -> Iterator[Finding]:
    """All questions to names."""
    yield from _patients(datasets)
    yield from _parted(datasets)
    yield from _classes(datasets)
    for modality, dataset in datasets.items():
        yield from _cases(modality, dataset)


def _cases(modality: str, dataset: Dataset) -> Iterator[Finding]:
    for case in dataset.cases:
        size = len(case.id.encode(errors="surrogateescape"))
        if size > LONGEST and dataset.labels:
            what = f"the case's name has {size} bytes; results can be named up to {LONGEST} bytes"
            yield Remark("case-name", "error", what, "give the case a shorter name").of(
                case, case.images[0]
            )
        odd = sum(not c.isprintable() for c in case.id)
        if odd:
            what = (
                f"the case's name has {plural(odd, 'character')} that cannot be printed "
                f"({shown(case.id)})"
            )
            mend = "rename it; other programs may fail on it"
            yield Remark("case-name", "warning", what, mend, plural(odd, "character")).of(
                case, case.images[0]
            )


def _patients(datasets: Mapping[str, Dataset]) -> Iterator[Finding]:
    homes: dict[str, set[str]] = defaultdict(set)
    for modality, dataset in datasets.items():
        for case in dataset.cases:
            homes[case.patient].add(modality)
    shared = sorted(patient for patient, where in homes.items() if len(where) > 1)
    if shared:
        count = plural(len(shared), "patient")
        what = f"{count} (by id) in several modalities: {some(shared)}"
        mend = "nothing if they are the same people (they stay together); else rename the cases"
        yield Remark("patients", "note", what, mend).about("")


def _parted(datasets: Mapping[str, Dataset]) -> Iterator[Finding]:
    """Patients whose scans are for training and, set aside by the data set, for testing."""
    train = {c.patient for d in datasets.values() for c in d.cases if not c.held_out and c.label}
    for dataset in datasets.values():
        for case in dataset.cases:
            if case.held_out and case.patient in train:
                what = f"the patient {shown(case.patient)} has scans for training and for testing"
                mend = "move all scans of the patient to one side; training leaves them out"
                yield Remark("patient-parted", "warning", what, mend, "1 patient").of(
                    case, case.images[0]
                )


def _classes(datasets: Mapping[str, Dataset]) -> Iterator[Finding]:
    named = {m: dataset for m, dataset in datasets.items() if dataset.labels}
    if len(named) < 2:
        return
    try:
        shared = set(class_names(named))
    except DataError as error:
        yield from_error(error, "", "", None, "classes")
        return
    for modality, dataset in named.items():
        alone = [
            name
            for name, value in dataset.labels.items()
            if value != 0 and canonical_name(name) not in shared
        ]
        if alone:
            what = f"only this modality has {', '.join(alone)}: trained as background"
            mend = "nothing, or give equal organs equal names"
            yield Remark("classes", "warning", what, mend, f"{len(alone)} classes").about(
                modality, file=dataset.root
            )
