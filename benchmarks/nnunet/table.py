"""The section `nnunet` of docs/benchmarks.md, from the stored records alone.

    python benchmarks/nnunet/table.py

Dice is the mean over the classes of a case. Intervals are 95 %, by resampling cases and seeds as
`unpaired compare` does; differences are paired by case and seed.
"""

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rows import JOINT, ROWS, read_records

from unpaired.metrics.bootstrap import bootstrap_interval
from unpaired.metrics.effect import effect_of

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from _report import write_section

DOCS = Path(__file__).resolve().parents[2] / "docs"
STORE, PAGE = DOCS / "nnunet", DOCS / "benchmarks.md"
METRICS = ("dice", "asd_mm", "hd95_mm", "nsd")
Values = dict[tuple[int, str], float]
"""(seed, case) -> mean over the classes."""
Records = Sequence[Mapping[str, Any]]


def write_page(store: Path = STORE, page: Path = PAGE) -> None:
    """Put the section of the records into its place; the rest of the page stays."""
    write_section("nnunet", [section(read_records(store))], page)


def section(records: Records) -> str:
    """Two tables for each data set and time: the rows, and ours joint against each other row.

    Records of validation cases are not shown.
    """
    lines = [
        "## nnunet",
        "",
        "Test cases, MONAI's metrics on the files' own grid; the mean over the classes and, in "
        "brackets, its 95 % interval over cases and seeds. Every row of a table has the same "
        "processor time in all: a network of several modalities that of as many networks. "
        "benchmarks/nnunet/README.md says how.",
    ]
    shown = [record for record in records if record["part"] == "test"]
    if not shown:
        return "\n".join([*lines, "", "No runs are stored yet."])
    for (data, minutes), own in _by(shown, lambda r: (r["data"], _per_modality(r))):
        modalities = sorted({m for record in own for m in record["modalities"]})
        lines += ["", f"### {data}, {minutes:g} processor minutes a modality", ""]
        lines += _rows(own, modalities)
        lines += _differences(own, modalities)
    lines += ["", *_made_with(shown)]
    return "\n".join(lines)


def values(records: Records, row: str, modality: str, metric: str = "dice") -> Values:
    """Of each seed and case, the mean over the classes that the case has; nan where it has none."""
    place = METRICS.index(metric)
    return {
        (record["seed"], case): _mean([scores[place] for scores in classes.values()])
        for record in records
        if record["row"] == row
        for case, classes in record["scores"].get(modality, {}).items()
    }


def _rows(records: Records, modalities: Sequence[str]) -> Iterator[str]:
    dice = [f"{m} Dice %" for m in modalities]
    hd95 = [f"{m} HD95 mm" for m in modalities]
    yield from _head("row", *dice, *hd95, "seeds", "steps", "processor minutes", "parameters")
    for name, row in ROWS.items():
        own = [record for record in records if record["row"] == name]
        if not own:
            continue
        cells = [_interval(values(own, name, m)) for m in modalities]
        cells += [_distance(own, name, m) for m in modalities]
        seeds = len({record["seed"] for record in own})
        steps = _each(own, lambda r: f"{r['steps']}")
        spent = sum(_spent(record) for record in own) / seeds
        sizes = _each(own, lambda r: f"{r['parameters'] / 1e6:.1f} M")
        yield _line(row.title, *cells, seeds, steps, f"{spent:.1f}", sizes)


def _differences(records: Records, modalities: Sequence[str]) -> Iterator[str]:
    """What ours joint has more than each other row."""
    if not any(record["row"] == JOINT for record in records):
        return
    yield ""
    yield from _head("ours joint minus", "modality", "points of Dice", "interval", "cases", "seeds")
    for name, row in ROWS.items():
        for m in modalities:
            theirs, ours = values(records, name, m), values(records, JOINT, m)
            if name == JOINT or not theirs:
                continue
            found = effect_of(theirs, ours, limit=1)
            counts = found.difference.n_cases, found.difference.n_seeds
            between = f"{100 * found.low:+.1f} to {100 * found.high:+.1f}"
            points = f"{100 * found.difference.mean:+.1f}"
            yield _line(row.title, m, points, between if found.low == found.low else "", *counts)


def _interval(found: Values) -> str:
    """Per cent, "85.1 (83.0 to 87.2)"; no interval of a single case."""
    known = {key: 100 * value for key, value in found.items() if not math.isnan(value)}
    if not known:
        return "none"
    seeds, cases = zip(*known, strict=True)
    low, high = bootstrap_interval([*known.values()], groups=seeds, cases=cases)
    text = f"{np.mean([*known.values()]):.1f}"
    return text if math.isnan(low) else f"{text} ({max(0.0, low):.1f} to {min(100.0, high):.1f})"


def _distance(records: Records, row: str, modality: str) -> str:
    """ "4.2, 3 undefined": what is not predicted has no distance, and is counted."""
    found = values(records, row, modality, "hd95_mm")
    known = [value for value in found.values() if not math.isnan(value)]
    undefined = sum(
        scores[METRICS.index("hd95_mm")] is None and scores[0] is not None
        for record in records
        if record["row"] == row
        for classes in record["scores"].get(modality, {}).values()
        for scores in classes.values()
    )
    text = f"{np.mean(known):.1f}" if known else "none"
    return f"{text}, {undefined} undefined" if undefined else text


def _mean(numbers: Sequence[float | None]) -> float:
    known = [number for number in numbers if number is not None]
    return float(np.mean(known)) if known else math.nan


def _per_modality(record: Mapping[str, Any]) -> float:
    return float(record["minutes"] / len(record["modalities"]))


def _spent(record: Mapping[str, Any]) -> float:
    """Processor minutes of the training; of nnU-Net without starting and preparing."""
    seconds = record["training_seconds"] or record["cost"]["train"]["processor_seconds"]
    return float(seconds) / 60


def _each(records: Records, of: Any) -> str:
    """One value a network, of the first seed."""
    first = min(record["seed"] for record in records)
    return ", ".join(of(record) for record in records if record["seed"] == first)


def _by(records: Records, key: Any) -> Iterator[tuple[Any, Records]]:
    for name in sorted({key(record) for record in records}):
        yield name, [record for record in records if key(record) == name]


def _made_with(records: Records) -> Iterator[str]:
    """Plans and versions, once each."""
    for data, own in _by(records, lambda r: r["data"]):
        plans = {
            r["network"]: f"{r['network']}: patch {' x '.join(map(str, r['plan']['patch_size']))}, "
            f"batch {r['plan']['batch_size']}"
            for r in own
            if r["plan"]
        }
        if plans:
            yield f"- nnU-Net's plan for {data}: {'; '.join(plans.values())}."
    versions = {name: v for record in records for name, v in record["versions"].items()}
    yield f"- {', '.join(f'{name} {v}' for name, v in versions.items())}."


def _head(*names: str) -> Iterator[str]:
    yield _line(*names)
    yield f"|{'---|' * len(names)}"


def _line(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    write_page()
