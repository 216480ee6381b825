"""What a reader must know beside the numbers: all of it from the records."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from unpaired.evaluation.evaluate import PREPARED
from unpaired.experiments.cells import Results
from unpaired.experiments.effects import effects
from unpaired.experiments.facts import in_use
from unpaired.experiments.published import published
from unpaired.experiments.record import Record

READ = (
    "Mean ± population deviation over the test cases of all seeds together; in brackets the sample "
    "deviation of the seeds' means. The mean columns are means over the classes, and over the "
    "modalities. A class that the truth lacks is left out; where the prediction is empty, Dice is "
    "0 and there is no distance."
)
COMPARED = (
    "Row against row: the interval resamples seeds and test cases, p is Wilcoxon's over the cases. "
    '"higher" and "lower": the interval leaves out zero and p, corrected for all lines, is below '
    '0.05; "perhaps": only the interval does. "no difference": none is shown, which is not that '
    "there is none."
)
FEW = 5
"""Fewer seeds than this say little of what another training would give."""

OURS = "consistency"
NETWORK, GRID = "network", "grid in mm"
SETTINGS = {
    "model.backbone": NETWORK,
    "data.spacing_mm": GRID,
    "data.patch": "patch",
    "train.steps": "steps",
    "train.batch_size": "images per modality and step",
    "train.optimizer": "optimiser",
    "train.learning_rate": "learning rate",
    "train.keep": "weights kept",
    "loss.tau": "τ",
}
"""The settings that are shown, in words."""


def notes(results: Results) -> list[str]:
    """How the numbers came about, one or two sentences each."""
    found = _distinct(r for row in results.rows for rs in row.records.values() for r in rs)
    if not found:
        return list(results.notes)
    told = [READ, *_compared(results), _recipe(found), *_others(results, found), _cases(found)]
    told += [*dict.fromkeys(_draws(results)), _machine(found)]
    for row in results.rows:
        if 0 < len(row.records) < row.wanted:
            why = f" Another {row.reason}" if row.reason else ""
            told.append(f"{row.row.name}: {len(row.records)} of {row.wanted} seeds.{why}")
    empty = [(r.row.name, _empty(x for rs in r.records.values() for x in rs)) for r in results.rows]
    if any(count for _, count in empty):
        counts = ", ".join(f"{name} {count}" for name, count in empty if count)
        told.append(f"Organs that are there and were not found at all: {counts}.")
    table = results.experiment.table if results.printed else None
    errata = [c.erratum for c in published() if c.table == table and c.erratum]
    told += [f"\\* as printed; {text}." for text in dict.fromkeys(errata)]
    return [*told, *results.notes]


def _compared(results: Results) -> Iterator[str]:
    """How to read the differences, where there are any."""
    found = effects(results)
    if not found:
        return
    seeds = min(one.seeds for one in found)
    few = f" {seeds} seeds are few: another training may say otherwise." if seeds < FEW else ""
    yield COMPARED + (few if seeds > 1 else " One seed: another training may say otherwise.")


def _distinct(records: Iterable[Record]) -> list[Record]:
    return list({(r.identity, r.test): r for r in records}.values())


def _recipe(found: Sequence[Record]) -> str:
    """From the settings that the runs of the paper's own rows share."""
    own = [r for r in found if _method(r) == OURS] or found
    words = [f"{text} {_words(value)}" for text, value in _shared(own).items()]
    weights = {
        name: max((float(r.facts.get(f"loss.{key}", 0)) for r in own), default=0.0)
        for key, name in (("alpha", "α"), ("beta", "β"), ("gamma", "γ"))
    }
    words += [f"{name} {value:g} where used" for name, value in weights.items()]
    return f"Recipe, the same for all rows: {', '.join(words)}."


def _shared(found: Sequence[Record]) -> dict[str, object]:
    """Setting in words -> its value, of those that are shown and alike in all runs that use it."""
    used = [in_use(record.facts) for record in found]
    values = {
        text: [facts[key] for facts in used if key in facts] for key, text in SETTINGS.items()
    }
    return {t: own[0] for t, own in values.items() if own and all(v == own[0] for v in own)}


def _others(results: Results, found: Sequence[Record]) -> Iterator[str]:
    """Rows with a network of their own: what they do not have in common with the paper's rows."""
    own = [r for r in found if _method(r) == OURS]
    for row in results.rows:
        theirs = _distinct(r for records in row.records.values() for r in records)
        if not own or not theirs or _method(theirs[0]) == OURS:
            continue
        common = _shared(own)
        other = {k: v for k, v in _shared(theirs).items() if k in common and v != common[k]}
        other.pop(NETWORK, None)
        words = ", ".join(f"{text} {_words(value)}" for text, value in other.items())
        but = f", with {words}" if words else ""
        apart = " Scores on the prepared grid are on that grid." if GRID in other else ""
        yield f"{row.row.name}: a network of its own (docs/comparators.md){but}.{apart}"


def _method(record: Record) -> object:
    return record.facts.get("model.name", OURS)


def _words(value: object) -> str:
    return " x ".join(f"{v:g}" for v in value) if isinstance(value, list) else str(value)


def _cases(found: Sequence[Record]) -> str:
    """Sizes of the parts, of the first run with most modalities."""
    first = max(found, key=lambda r: (len(r.modalities), -found.index(r)))
    parts = [
        f"{'/'.join(str(len(ids)) for ids in first.split[part].values())} {name}"
        for part, name in (("train", "to train"), ("val", "to validate"), ("test", "to test"))
    ]
    draws = len({str(r.split["test"]) for r in found if r.modalities == first.modalities})
    how = "one split for all seeds" if draws == 1 else f"{draws} random splits"
    return f"Cases ({'/'.join(first.modalities)}): {', '.join(parts)}; {how}."


def _draws(results: Results) -> Iterator[str]:
    """Of few-shot rows: seeds may have drawn the same cases, and are then no independent draws."""
    for row in results.rows:
        if row.row.shots is None or len(row.records) < 2:
            continue
        role, count = row.row.shots
        m = results.modalities[role]
        drawn = {str(r.split["train"][m]) for records in row.records.values() for r in records}
        yield (
            f"Few training cases of {m}, {count} a seed: {len(row.records)} seeds, "
            f"{len(drawn)} different draws."
        )


def _machine(found: Sequence[Record]) -> str:
    about = found[0].environment
    seconds = np.median([r.seconds["train"] for r in found])
    device = about.get("gpu") or about.get("cpu")
    return (
        f"{len(found)} runs, median {seconds / 60:.1f} min of training, on {device}; "
        f"torch {about['versions']['torch']}."
    )


def _empty(records: Iterable[Record]) -> int:
    """Organs that are in the truth and were not found at all."""
    return sum(
        one.truth_voxels > 0 and one.prediction_voxels == 0
        for record in records
        for one in record.scores.get(PREPARED, ())
    )
