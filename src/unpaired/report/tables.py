"""The report's tables: scores per modality, cases, plan, split, configuration."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from unpaired.colours import class_colours
from unpaired.run.contents import RunContents
from unpaired.run.scores import Evaluation, mean_cell, summarise, tolerance_text
from unpaired.tables import UNDEFINED, Table, printed

DICE = printed("dice")


class Cell(NamedTuple):
    """A number; `key` names it for programs that read the page."""

    text: object
    deviation: str = ""
    key: str = ""


class ScoreRow(NamedTuple):
    """A class with its colour; the mean over the classes has none."""

    name: str
    colour: str
    cells: Sequence[Cell]


class ScoreTable(NamedTuple):
    """Mean ± deviation per class, and the mean row."""

    title: str
    head: Sequence[str]
    rows: Sequence[ScoreRow]


def score_table(run: RunContents, modality: str) -> ScoreTable:
    """The scores of a modality, the floor beside Dice where it is known."""
    assert run.evaluation is not None
    statistics = summarise(run.evaluation.scores)[modality]
    floor = run.floor.get(modality, {})
    head = ["Class"]
    for name in statistics["mean"]:
        head.append(printed(name).heading)
        if name == "dice" and floor:
            head.append("Floor (%)")
    colours = class_colours(run.classes)
    rows = [
        ScoreRow(cls, colours.get(cls, "#888888"), _class_cells(modality, cls, stats, floor))
        for cls, stats in statistics["classes"].items()
    ]
    rows.append(ScoreRow("Mean", "", _mean_cells(f"{modality}/mean", statistics, floor)))
    return ScoreTable(f"Scores of {modality}", [*head, "Cases", "Undefined"], rows)


def _class_cells(
    modality: str, cls: str, stats: Mapping[str, Any], floor: Mapping[str, Any]
) -> list[Cell]:
    cells, key = [], f"{modality}/{cls}"
    for name in [name for name in stats if name != "n_absent"]:
        cells.append(Cell(*mean_cell(name, stats[name]), f"{key}/{name}"))
        if name == "dice" and floor:
            cells.append(Cell(DICE.number(_value(floor, cls)), key=f"{key}/floor"))
    scored = stats["dice"]["n"] + stats["dice"]["n_undefined"]
    return [*cells, Cell(scored), Cell(stats["asd_mm"]["n_undefined"])]


def _mean_cells(key: str, statistics: Mapping[str, Any], floor: Mapping[str, Any]) -> list[Cell]:
    classes, cells = statistics["classes"], []
    for name, mean in statistics["mean"].items():
        cells.append(Cell(printed(name).number(mean["mean"]), key=f"{key}/{name}"))
        if name == "dice" and floor:
            values = [_value(floor, cls) for cls in classes]
            defined = [value for value in values if math.isfinite(value)]
            cells.append(Cell(DICE.number(float(np.mean(defined)) if defined else math.nan)))
    undefined = sum(stats["asd_mm"]["n_undefined"] for stats in classes.values())
    return [*cells, Cell(statistics["cases"]), Cell(undefined)]


def _value(floor: Mapping[str, Any], cls: str) -> float:
    value = floor.get(cls)
    return float(value) if isinstance(value, int | float) else math.nan


def score_notes(run: RunContents) -> str:
    """How to read the numbers."""
    assert run.evaluation is not None
    words = (
        "Mean ± population standard deviation over the cases whose truth holds the class, scored "
        "on the grid of the input image. ASD: average symmetric surface distance, both directions "
        "pooled. HD95: the larger of the two directed 95th percentiles. NSD: surface Dice at "
        f"{tolerance_text(run.evaluation.tolerance_mm)}. Undefined: the prediction is empty; Dice "
        "and NSD then count as 0 and the distances, which do not exist, are left out of their "
        "means. The last row is the mean over the classes."
    )
    if run.floor:
        words += (
            " Floor: Dice of a fixed location prior learned from the training labels, without "
            "looking at the image; a useful model lies well above it."
        )
    return words


def case_means(evaluation: Evaluation, modality: str) -> dict[str, float]:
    """Mean Dice over the classes of each case, lowest first; cases without any class are left."""
    grouped: dict[str, list[float]] = {}
    for one in evaluation.scores:
        if one.modality == modality and math.isfinite(one.dice):
            grouped.setdefault(one.case, []).append(one.dice)
    means = {case: float(np.mean(values)) for case, values in grouped.items()}
    return dict(sorted(means.items(), key=lambda item: (item[1], item[0])))


def case_table(run: RunContents, modality: str) -> Table:
    """Every case of a modality, the lowest mean Dice first."""
    assert run.evaluation is not None
    scores = [one for one in run.evaluation.scores if one.modality == modality]
    dice = {(one.case, one.cls): DICE.number(one.dice) for one in scores}
    classes = list(dict.fromkeys(one.cls for one in scores))
    rows = [
        [case, DICE.number(mean), *(dice.get((case, cls), UNDEFINED) for cls in classes)]
        for case, mean in case_means(run.evaluation, modality).items()
    ]
    return Table(["Case", "Mean Dice (%)", *classes], rows, f"Cases of {modality}")


def plan_table(run: RunContents) -> Table:
    """Each choice of the plan and its reason."""
    plan = run.plan
    reasons = {str(k): v for k, v in plan.get("reasons", {}).items()}
    others = {"reasons", "version", "modalities", "planes"}
    choices = {k: v for k, v in plan.items() if k not in others}
    for key in ("spacing_mm", "patch"):
        if isinstance(choices.get(key), list):
            choices[key] = " × ".join(map(words, choices[key]))
    rows = [[heading(k), words(v), reasons.pop(k, "")] for k, v in choices.items()]
    for name, part in plan.get("modalities", {}).items():
        why = [reasons.pop(key) for key in list(reasons) if key.split(".")[-1] == name]
        rows.append([name, _intensity(part), " ".join(map(str, why))])
    rows += [[heading(key), "", value] for key, value in reasons.items()]
    return Table(["Choice", "Value", "Why"], rows, "The plan", names=3)


def _intensity(part: Mapping[str, Any]) -> str:
    clips = [
        f"{channel}: {_clip(clip)}"
        for channel, clip in zip(part.get("channel_names", ()), part.get("clip", ()), strict=False)
    ]
    return "; ".join([*clips, f"z-score per {part.get('zscore', '?')}"])


def _clip(clip: Mapping[str, Any]) -> str:
    unit = "percentile " if clip["kind"] == "percentile" else ""
    return f"clipped to {unit}{clip['low']:g} to {clip['high']:g}"


def split_table(run: RunContents) -> Table:
    """Number of cases of each part and modality."""
    names = {"train": "Training", "val": "Validation", "test": "Test"}
    parts = [part for part in names if part in run.split]
    rows = [
        [m, *(sum(c.startswith(f"{m}/") for c in run.split[part]) for part in parts)]
        for m in run.modalities
    ]
    return Table(["Modality", *(names[part] for part in parts)], rows, "Sizes of the split")


def change_notes(run: RunContents) -> list[str]:
    """Inputs that changed while the run went on, and scans that changed after it."""
    accepted = [
        f"From step {one['step']} on ({one['when']}) the run was trained with changed inputs: "
        f"{', '.join(map(str, one['changed']))}."
        for one in run.accepted
    ]
    return [*accepted, *(run.evaluation.notes if run.evaluation is not None else ())]


def config_lists(run: RunContents) -> dict[str, dict[str, str]]:
    """Group -> setting -> value."""
    groups = {k: v if isinstance(v, Mapping) else {"": v} for k, v in run.config.items()}
    return {
        name: {key: words(value) for key, value in group.items()} for name, group in groups.items()
    }


def environment_list(run: RunContents) -> dict[str, object]:
    """Versions, machine and size of the network."""
    machine = {k: v for k, v in run.environment.items() if k != "versions" and v is not None}
    items: dict[str, object] = {heading(key): words(value) for key, value in machine.items()}
    versions = run.environment.get("versions") or {}
    items.update({name: version for name, version in versions.items() if version})
    return items


def parameter_counts(run: RunContents) -> dict[str, int]:
    """Trained and kept parameters, from the exported model's description."""
    extra = run.model.get("extra")
    counts = extra.get("parameters") if isinstance(extra, Mapping) else None
    if not isinstance(counts, Mapping):
        kept = run.model.get("parameters")
        return {"test": kept} if isinstance(kept, int) else {}
    return {str(key): value for key, value in counts.items() if isinstance(value, int)}


def heading(key: str) -> str:
    """ "spacing_mm" as "Spacing (mm)"."""
    return key.replace("_mm", " (mm)").replace("_gib", " (GiB)").replace("_", " ").capitalize()


def words(value: Any) -> str:
    """A value of the plan, the configuration or the machine as a person writes it."""
    if isinstance(value, Mapping):
        return ", ".join(f"{key} = {words(item)}" for key, item in value.items()) or UNDEFINED
    if isinstance(value, list | tuple):
        return ", ".join(map(words, value)) or UNDEFINED
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)


def consistency_table(run: RunContents) -> Table | None:
    """Per scale the size and entropy of E and its divergence within and between the modalities.

    None where the run has no correlations, or is of before these were described.
    """
    known = {
        name.removeprefix("described/"): values
        for name, values in run.semantics.items()
        if name.startswith("described/")
    }
    if not known:
        return None
    names = [n.removeprefix("embedding/") for n in run.semantics if n.startswith("embedding/")]
    head = ["Scale"]
    columns: list[list[object]] = [list(range(1, len(known["across"]) + 1))]
    for title, name in (("Size of E", "norm"), ("Entropy", "entropy"), ("Divergence", "within")):
        for m, values in zip(names, known[name], strict=True):
            head.append(f"{title}, {m}")
            columns.append([_short(value) for value in values])
    if len(names) > 1:
        inside, across = known["within"].mean(0), known["across"]
        head += ["Between", "Ratio"]
        columns.append([_short(value) for value in across])
        columns.append(
            [_short(a / w if w > 0 else math.nan) for a, w in zip(across, inside, strict=True)]
        )
    return Table(head, list(zip(*columns, strict=True)))


def _short(value: float) -> str:
    return f"{value:.3g}" if math.isfinite(value) else UNDEFINED
