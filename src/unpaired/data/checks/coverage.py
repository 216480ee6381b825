"""Which class is in how many labels, and how large it is there."""

from collections.abc import Iterator, Sequence

import numpy as np

from unpaired.data.checks.facts import Facts, Touch
from unpaired.data.checks.finding import Finding, Remark, plural
from unpaired.data.paths import shown
from unpaired.datasets.dataset import Dataset

_FEW, _FACTOR, _DEVIATIONS = 5, 4.0, 5.0


def coverage(modality: str, dataset: Dataset, facts: Sequence[Facts]) -> Iterator[Finding]:
    """Classes without a voxel, organs of an odd size, organs that the image's edge cuts."""
    labelled = [fact for fact in facts if fact.voxels is not None]
    for name, value in dataset.labels.items():
        if value == 0 or not labelled:
            continue
        own = [fact for fact in labelled if fact.voxels and value in fact.voxels]
        if not own:
            what = f"no label holds {name!r} (value {value})"
            mend = "annotate it, or remove it from dataset.json"
            yield Remark(
                "class-absent", "warning", what, mend, f"0 of {len(labelled)} cases"
            ).about(modality, file=dataset.root)
        yield from _odd_sizes(modality, name, value, own)
    yield from _cut(modality, dataset, labelled)


def table(dataset: Dataset, facts: Sequence[Facts]) -> list[tuple[str, int, int, float]]:
    """(class, cases that hold it, labelled cases, median millilitres) of every class."""
    labelled = [fact for fact in facts if fact.voxels is not None]
    rows = []
    for name, value in dataset.labels.items():
        own = [fact for fact in labelled if value in (fact.voxels or {})]
        sizes = [_millilitres(fact, value) for fact in own if fact.spacing_mm]
        if value:
            median = float(np.median(sizes)) if sizes else float("nan")
            rows.append((name, len(own), len(labelled), median))
    return rows


def _odd_sizes(modality: str, name: str, value: int, own: Sequence[Facts]) -> Iterator[Finding]:
    """An organ many times smaller or larger than in the other patients."""
    known = [fact for fact in own if fact.spacing_mm]
    if len(known) < _FEW:
        return
    sizes = np.array([_millilitres(fact, value) for fact in known])
    log = np.log(sizes)
    middle = float(np.median(log))
    # Tumours differ by nature: what is odd is measured by how much the others differ.
    spread = 1.4826 * float(np.median(np.abs(log - middle)))
    limit = max(float(np.log(_FACTOR)), _DEVIATIONS * spread)
    for fact, size, off in zip(known, sizes, log - middle, strict=True):
        if abs(off) > limit:
            what = f"{name} has {size:.3g} ml, usual are {np.exp(middle):.3g} ml"
            mend = "look at the label; it may be cut, or hold another organ"
            yield Remark("organ-size", "warning", what, mend, f"{size:.3g} ml").about(
                modality, fact.case, fact.label
            )


def _cut(modality: str, dataset: Dataset, labelled: Sequence[Facts]) -> Iterator[Finding]:
    """One note for all: scans often end within an organ."""
    parts: list[str] = []
    worst: tuple[Facts, Touch] | None = None
    for name, value in dataset.labels.items():
        own = [fact for fact in labelled if value in (fact.voxels or {})]
        cut = [(fact, t) for fact in own for t in fact.touches if t.value == value]
        if not cut:
            continue
        parts.append(f"{name} in {len(cut)} of {plural(len(own), 'case')}")
        largest = max(cut, key=lambda pair: pair[1].count)
        if worst is None or largest[1].count > worst[1].count:
            worst = largest
    if worst is not None:
        fact, touch = worst
        what = f"the edge of the image cuts {', '.join(parts)}; most of all in {shown(fact.case)}"
        mend = "nothing if the scan ends there; else look for a shifted or cut label"
        yield Remark("edge", "note", what, mend, plural(touch.count, "voxel"), touch.at).about(
            modality, fact.case, fact.label
        )


def _millilitres(fact: Facts, value: int) -> float:
    count = (fact.voxels or {}).get(value, 0)
    return count * float(np.prod(fact.spacing_mm or (np.nan,) * 3)) / 1000
