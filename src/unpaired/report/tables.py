"""The report's tables: scores per modality, cases, plan, split, configuration."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from unpaired.engine.evaluate import Evaluation, Score
from unpaired.engine.evaluation_files import (
    mean_cell,
    summarise,
    tolerance_text,
)
from unpaired.report.figures import class_colours
from unpaired.report.markup import Markup, definitions, join, note, number, table, tag
from unpaired.report.run import Run
from unpaired.tables import printed


def score_table(run: Run, modality: str) -> Markup:
    """Mean ± deviation per class, the floor beside Dice where it is known, and the mean row."""
    assert run.evaluation is not None
    found = summarise(run.evaluation.scores)[modality]
    floor = run.floor.get(modality, {})
    names = list(found["mean"])
    head: list[object] = ["Class"]
    for name in names:
        head.append(printed(name).heading)
        if name == "dice" and floor:
            head.append("Floor (%)")
    rows = [
        _class_row(cls, stats, names, floor, run, modality)
        for cls, stats in found["classes"].items()
    ]
    rows.append(_mean_row(found["mean"], found["classes"], names, floor, modality, found["cases"]))
    return table([*head, "Cases", "Undefined"], rows, f"Scores of {modality}", "numbers")


def _class_row(
    cls: str,
    stats: Mapping[str, Any],
    names: Sequence[str],
    floor: Mapping[str, Any],
    run: Run,
    modality: str,
) -> list[object]:
    colour = class_colours(run.classes).get(cls, "#888888")
    row: list[object] = [tag("th", swatch(colour), cls, scope="row")]
    for name in names:
        mean, spread = mean_cell(name, stats[name])
        words = join([mean, tag("span", spread, cls="std") if spread else ""])
        row.append(number(words, f"{modality}/{cls}/{name}"))
        if name == "dice" and floor:
            row.append(
                number(printed("dice").number(_value(floor, cls)), f"{modality}/{cls}/floor")
            )
    row.append(number(stats["dice"]["n"] + stats["dice"]["n_undefined"]))
    return [*row, number(stats["asd_mm"]["n_undefined"])]


def _mean_row(
    mean: Mapping[str, Any],
    classes: Mapping[str, Any],
    names: Sequence[str],
    floor: Mapping[str, Any],
    modality: str,
    cases: int,
) -> list[object]:
    row: list[object] = [tag("th", "Mean", scope="row", cls="mean")]
    for name in names:
        value = printed(name).number(mean[name]["mean"])
        row.append(tag("td", value, cls="num mean", data_key=f"{modality}/mean/{name}"))
        if name == "dice" and floor:
            values = [_value(floor, cls) for cls in classes]
            defined = [value for value in values if math.isfinite(value)]
            average = float(np.mean(defined)) if defined else math.nan
            row.append(tag("td", printed("dice").number(average), cls="num mean"))
    undefined = sum(stats["asd_mm"]["n_undefined"] for stats in classes.values())
    return [*row, tag("td", cases, cls="num mean"), tag("td", undefined, cls="num mean")]


def _value(floor: Mapping[str, Any], cls: str) -> float:
    value = floor.get(cls)
    return float(value) if isinstance(value, int | float) else math.nan


def swatch(colour: str) -> Markup:
    """A spot of the class's colour."""
    return tag("span", cls="swatch", style=f"background:{colour}", aria_hidden="true")


def score_notes(run: Run) -> Markup:
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
    return note(words)


def case_means(evaluation: Evaluation, modality: str) -> dict[str, float]:
    """Mean Dice over the classes of each case, lowest first; cases without any class are left."""
    grouped: dict[str, list[float]] = {}
    for one in evaluation.scores:
        if one.modality == modality and math.isfinite(one.dice):
            grouped.setdefault(one.case, []).append(one.dice)
    means = {case: float(np.mean(values)) for case, values in grouped.items()}
    return dict(sorted(means.items(), key=lambda item: (item[1], item[0])))


def case_table(run: Run, modality: str) -> Markup:
    """Every case of a modality, the lowest mean Dice first."""
    assert run.evaluation is not None
    by_key = {(s.case, s.cls): s for s in run.evaluation.scores if s.modality == modality}
    classes = list(dict.fromkeys(cls for _, cls in by_key))
    rows = [
        [case, number(printed("dice").number(mean))]
        + [number(_dice(by_key.get((case, cls)))) for cls in classes]
        for case, mean in case_means(run.evaluation, modality).items()
    ]
    return table(["Case", "Mean Dice (%)", *classes], rows, f"Cases of {modality}", "numbers")


def _dice(score: Score | None) -> str:
    return printed("dice").number(score.dice) if score else "–"


def plan_table(run: Run) -> Markup:
    """Each choice of the plan and its reason."""
    plan = run.plan
    reasons = {str(k): v for k, v in plan.get("reasons", {}).items()}
    choices = {k: v for k, v in plan.items() if k not in ("reasons", "version", "modalities")}
    for key in ("spacing_mm", "patch"):
        if isinstance(choices.get(key), list):
            choices[key] = " × ".join(map(_words, choices[key]))
    rows = [[_title(k), _words(v), reasons.pop(k, "")] for k, v in choices.items()]
    for name, part in plan.get("modalities", {}).items():
        why = [reasons.pop(key) for key in list(reasons) if key.split(".")[-1] == name]
        rows.append([name, _intensity(part), " ".join(map(str, why))])
    rows += [[_title(key), "", value] for key, value in reasons.items()]
    return table(["Choice", "Value", "Why"], rows, "The plan")


def _intensity(part: Mapping[str, Any]) -> str:
    clips = [
        f"{channel}: {_clip(clip)}"
        for channel, clip in zip(part.get("channel_names", ()), part.get("clip", ()), strict=False)
    ]
    return "; ".join([*clips, f"z-score per {part.get('zscore', '?')}"])


def _clip(clip: Mapping[str, Any]) -> str:
    unit = "percentile " if clip["kind"] == "percentile" else ""
    return f"clipped to {unit}{clip['low']:g} to {clip['high']:g}"


def split_table(run: Run) -> Markup:
    """Number of cases of each part and modality."""
    parts = [part for part in ("train", "val", "test") if part in run.split]
    names = {"train": "Training", "val": "Validation", "test": "Test"}
    rows = []
    for modality in run.modalities:
        sizes = [sum(c.startswith(f"{modality}/") for c in run.split[part]) for part in parts]
        rows.append([modality, *map(number, sizes)])
    return table(
        ["Modality", *(names[part] for part in parts)], rows, "Sizes of the split", "numbers narrow"
    )


def config_list(run: Run) -> Markup:
    """The whole configuration, group by group."""
    groups = []
    for name, group in run.config.items():
        values = group if isinstance(group, Mapping) else {"": group}
        groups.append(tag("h3", name))
        groups.append(definitions({key: _words(value) for key, value in values.items()}))
    return tag("div", *groups, cls="config")


def environment_list(run: Run) -> Markup:
    """Versions, machine and size of the network."""
    facts = {k: v for k, v in run.environment.items() if k != "versions" and v is not None}
    items: dict[str, object] = {_title(key): _words(value) for key, value in facts.items()}
    versions = run.environment.get("versions") or {}
    items.update({name: version for name, version in versions.items() if version})
    return definitions(items)


def parameter_counts(run: Run) -> dict[str, int]:
    """Trained and kept parameters, from the exported model's description."""
    extra = run.model.get("extra")
    counts = extra.get("parameters") if isinstance(extra, Mapping) else None
    if not isinstance(counts, Mapping):
        kept = run.model.get("parameters")
        return {"test": kept} if isinstance(kept, int) else {}
    return {str(key): value for key, value in counts.items() if isinstance(value, int)}


def _title(key: str) -> str:
    return key.replace("_mm", " (mm)").replace("_gib", " (GiB)").replace("_", " ").capitalize()


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} = {_words(item)}" for key, item in value.items()) or "–"
    if isinstance(value, list | tuple):
        return ", ".join(map(_words, value)) or "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    return str(value)
