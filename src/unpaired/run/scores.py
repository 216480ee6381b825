"""Scores of cases, their statistics, and the three files of an evaluation, written and read."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from unpaired.errors import DataError
from unpaired.files import read_json, write_json, write_text
from unpaired.leftovers import sweep
from unpaired.plausibility.expected import SOUND
from unpaired.tables import ALL_MARKS, Table, escape, printed

VERSION = 1
METRICS = ("dice", "asd_mm", "hd95_mm", "nsd")
Summary = dict[str, dict[str, Any]]
Tolerance = float | int | Mapping[str, float]


@dataclass(frozen=True)
class Score:
    """One class of one case; nan is undefined. All four are nan where the truth lacks the class,
    distances also where the prediction does (then Dice and NSD are 0)."""

    modality: str
    case: str
    cls: str
    dice: float
    asd_mm: float
    hd95_mm: float
    nsd: float
    truth_voxels: int
    prediction_voxels: int
    extra: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """The scores, and what could not be scored.

    Attributes:
        failures: "modality/case" -> what was wrong with its files.
        missing: cases with a truth and no prediction.
        notes: what a reader of the scores should know, such as scans changed since training.
        passed_over: files in the folders that are no label by the ending of their names.
        odd: "modality/case" -> what `predict` found odd, empty where it found nothing; of the cases
            that it compared with the training (docs/plausibility.md).
    """

    scores: tuple[Score, ...]
    failures: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    tolerance_mm: Tolerance = 2.0
    notes: tuple[str, ...] = ()
    passed_over: tuple[str, ...] = ()
    odd: Mapping[str, str] = field(default_factory=dict)


def summarise(scores: Iterable[Score]) -> Summary:
    """Statistics per modality, class and metric.

    Returns:
        modality -> {"cases": count,
        "classes": {class: {metric: {"mean", "std", "n", "n_undefined"}, ..., "n_absent"}},
        "mean": {metric: {"mean", "classes"}}}

        `std` is the population's. `n` counts the cases with a defined value, `n_undefined` those
        that have the class and no value (an empty prediction), `n_absent` those whose truth lacks
        the class: they are excluded. The overall mean is over the classes' means; "classes" says
        how many had one. Scores are in [0, 1], distances in mm, nan where there is none.
    """
    groups: dict[str, dict[str, list[Score]]] = {}
    for one in scores:
        groups.setdefault(one.modality, {}).setdefault(one.cls, []).append(one)
    return {modality: _modality(classes) for modality, classes in groups.items()}


def _modality(classes: Mapping[str, Sequence[Score]]) -> dict[str, Any]:
    extra = {name for scores in classes.values() for one in scores for name in one.extra}
    names = [*METRICS, *sorted(extra)]
    stats = {cls: _class(scores, names) for cls, scores in classes.items()}
    mean = {}
    for name in names:
        means = [s[name]["mean"] for s in stats.values() if s[name]["n"]]
        mean[name] = {"mean": _mean(means), "classes": len(means)}
    cases = {one.case for scores in classes.values() for one in scores}
    return {"cases": len(cases), "classes": stats, "mean": mean}


def _class(scores: Sequence[Score], names: Sequence[str]) -> dict[str, Any]:
    present = [one for one in scores if one.truth_voxels]
    stats: dict[str, Any] = {}
    for name in names:
        values = [value_of(one, name) for one in present]
        defined = [value for value in values if math.isfinite(value)]
        stats[name] = {
            "mean": _mean(defined),
            "std": float(np.std(defined)) if defined else math.nan,
            "n": len(defined),
            "n_undefined": len(values) - len(defined),
        }
    return {**stats, "n_absent": len(scores) - len(present)}


def value_of(one: Score, name: str) -> float:
    """A metric of a score, built in or extra."""
    value = getattr(one, name) if name in METRICS else one.extra.get(name, math.nan)
    return float(value)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def write_evaluation(evaluation: Evaluation | Sequence[Score], folder: Path) -> None:
    """Write evaluation.csv (a row per case and class), .json (summary and cases), .md (tables).

    Raises:
        ResourceError: the folder cannot be written.
    """
    sweep(folder)
    if not isinstance(evaluation, Evaluation):
        evaluation = Evaluation(tuple(evaluation))
    rows = [_flat(one) for one in evaluation.scores]
    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(names, [[row.get(name, "") for name in names] for row in rows])
    write_text(folder / "evaluation.csv", table.csv())
    write_text(folder / "evaluation.md", markdown(evaluation))
    tolerance = evaluation.tolerance_mm
    content = {
        "version": VERSION,
        "units": {name: "mm" if name.endswith("_mm") else "fraction" for name in METRICS},
        "tolerance_mm": dict(tolerance) if isinstance(tolerance, Mapping) else tolerance,
        "summary": summarise(evaluation.scores),
        "cases": [{**asdict(one), "extra": dict(one.extra)} for one in evaluation.scores],
        "failures": dict(evaluation.failures),
        "missing": list(evaluation.missing),
        "notes": list(evaluation.notes),
        "odd": dict(evaluation.odd),
    }
    # Last, so that a reader who finds it finds all three.
    write_json(folder / "evaluation.json", content, seal=True)


def read_evaluation(folder: Path) -> Evaluation:
    """Read what `write_evaluation` wrote.

    Raises:
        DataError: missing, not JSON, or not an evaluation of this version.
    """
    path = folder / "evaluation.json"
    content = read_json(path)
    try:
        if content["version"] != VERSION:
            raise ValueError(f"version {content['version']}")
        scores = tuple(_score(case) for case in content["cases"])
        return Evaluation(
            scores, content["failures"], tuple(content["missing"]), content["tolerance_mm"],
            tuple(content.get("notes", ())), (), dict(content.get("odd", {})),
        )  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{path} is not an evaluation of this version ({error}); evaluate again."
        ) from error


def _score(case: dict[str, Any]) -> Score:
    values = {name: _number(case[name]) for name in METRICS}
    extra = {name: _number(value) for name, value in case["extra"].items()}
    return Score(**{**case, **values, "extra": extra})


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _flat(one: Score) -> dict[str, Any]:
    row = {**asdict(one), **one.extra}
    del row["extra"]
    row = {"class" if name == "cls" else name: value for name, value in row.items()}
    return {n: "" if isinstance(v, float) and math.isnan(v) else v for n, v in row.items()}


def markdown(evaluation: Evaluation) -> str:
    """A table per modality, mean ± population deviation over the cases."""
    parts = ["# Evaluation", ""]
    for modality, statistics in summarise(evaluation.scores).items():
        parts += [f"## {escape(modality)}", "", *_table(statistics).markdown(ALL_MARKS), ""]
    parts += [
        "Mean ± population standard deviation over the cases whose truth has the class. "
        "Undefined: the prediction is empty, so there is no distance (Dice and NSD are 0). "
        f"NSD tolerance: {tolerance_text(evaluation.tolerance_mm)}.",
        "",
    ]
    if evaluation.missing:
        parts += [f"No prediction for: {', '.join(map(escape, evaluation.missing))}.", ""]
    if (table := alarm_table(evaluation)) is not None:
        parts += ["## Odd results", "", alarm_sentence(evaluation), ""]
        parts += [*table.markdown(ALL_MARKS), ""] * bool(table.rows)
    parts += [f"- {escape(note)}" for note in evaluation.notes]
    for name, what in evaluation.failures.items():
        parts += [f"- not scored: {escape(name)}: {escape(what)}"]
    return "\n".join(parts).rstrip() + "\n"


def tolerance_text(tolerance_mm: float | int | Mapping[str, float]) -> str:
    """ "2 mm", or class by class."""
    if isinstance(tolerance_mm, Mapping):
        return ", ".join(f"{cls} {mm:g} mm" for cls, mm in tolerance_mm.items()) + ", others 2 mm"
    return f"{tolerance_mm:g} mm"


def worst_classes(scores: Iterable[Score]) -> dict[str, Score]:
    """ "modality/case" -> its class of the lowest Dice, of those that the truth holds."""
    found: dict[str, Score] = {}
    for one in scores:
        name = f"{one.modality}/{one.case}"
        if math.isfinite(one.dice) and (name not in found or one.dice < found[name].dice):
            found[name] = one
    return found


def alarm_sentence(evaluation: Evaluation) -> str:
    """How many failed cases prediction called odd, and how many sound ones."""
    compared = {n: s for n, s in worst_classes(evaluation.scores).items() if n in evaluation.odd}
    counts = {True: [0, 0], False: [0, 0]}  # failed -> odd, all
    for name, worst in compared.items():
        of = counts[worst.dice < SOUND]
        of[0] += bool(evaluation.odd[name])
        of[1] += 1
    (caught, failed), (false, sound) = counts[True], counts[False]
    return (
        f"Without looking at the truth, prediction called {caught} of {failed} failed cases odd "
        f"(a class below Dice {SOUND}), and {false} of {sound} sound ones (false alarms)."
    )


def alarm_table(evaluation: Evaluation) -> Table | None:
    """The cases that are odd, and those that failed and are not; None where nothing is compared."""
    if not evaluation.odd:
        return None
    rows = [
        [name, worst.cls, said or "(not noticed)", printed("dice").number(worst.dice)]
        for name, worst in worst_classes(evaluation.scores).items()
        if (said := evaluation.odd.get(name)) or (said == "" and worst.dice < SOUND)
    ]
    head = ["Case", "Worst class", "What was odd", "Dice (%)"]
    return Table(head, rows, names=3)


def _table(statistics: Mapping[str, Any]) -> Table:
    """Of one modality: a row a class, the mean over the classes last."""
    names = list(statistics["mean"])
    head = ["class", *(printed(name).heading for name in names), "cases", "undefined"]
    rows = [_row(cls, stats, names) for cls, stats in statistics["classes"].items()]
    means = [printed(name).number(statistics["mean"][name]["mean"]) for name in names]
    rows.append(["mean", *means, str(statistics["cases"]), ""])
    return Table(head, rows, mean=True)


def _row(cls: str, stats: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    cells = ["".join(mean_cell(name, stats[name])) for name in names]
    present = stats["dice"]["n"] + stats["dice"]["n_undefined"]
    return [cls, *cells, str(present), str(stats["asd_mm"]["n_undefined"])]


def mean_cell(name: str, stats: Mapping[str, Any]) -> tuple[str, str]:
    """Mean and " ± deviation" of a metric, of `summarise`'s statistics."""
    return printed(name).mean_and_deviation(stats["mean"], stats["std"], stats["n"])
