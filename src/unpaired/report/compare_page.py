"""A comparison as files: one HTML page that needs nothing else, pictures, JSON, and a CSV."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unpaired.files import atomic, write_json, write_text
from unpaired.leftovers import sweep
from unpaired.metrics.effect import Effect
from unpaired.report.compare import Comparison
from unpaired.report.compare_figure import case_picture, class_picture
from unpaired.report.compare_sides import Side, seed_of
from unpaired.report.compare_words import (
    caveats,
    left_out,
    modality_name,
    p_text,
    pairs_text,
    sentence,
)
from unpaired.report.html import Card, render
from unpaired.run.scores import METRICS
from unpaired.tables import Table, printed

COVERS = {
    "seed": "the test cases and the seeds of the training",
    "draw": "the test cases and the draws of the cases, the seeds with them",
}
"""What the interval holds, by what distinguishes the pairs of runs."""


def write_comparison(
    folder: Path, comparisons: Sequence[Comparison], metric: str, heading: str = ""
) -> Path:
    """Write comparison.html, .json and .csv (every case) and the pictures as PNG.

    Args:
        metric: what the sentences and the pictures are about.
        heading: of the page; by default the names of the sides.

    Returns:
        the page.

    Raises:
        ResourceError: the folder cannot be written.
    """
    sweep(folder)
    first = comparisons[0]
    parts = [_part(n, one, metric) for n, one in enumerate(comparisons, start=1)]
    names = " / ".join(dict.fromkeys([first.a.name, *(one.b.name for one in comparisons)]))
    others = " and ".join(one.b.name for one in comparisons)
    page = render(
        "compare.html",
        title=f"Comparison: {names}",
        heading=heading or f"{others} against {first.a.name}",
        summary=f"{printed(metric).title} · {pairs_text(first)}",
        cards=[_card(one, m, metric) for one in comparisons for m in one.modalities],
        comparisons=parts,
        covers=COVERS[first.unit] if len(first.pairs) > 1
        else "the test cases only, for these very runs",
    )  # fmt: skip
    modalities = [modality for part in parts for modality in part["modalities"]]
    for picture in [picture for modality in modalities for picture in modality["pictures"]]:
        with atomic(folder / f"{picture.name}.png") as temporary:
            temporary.write_bytes(picture.png)
    write_text(folder / "comparison.csv", _differences(comparisons).csv())
    write_json(folder / "comparison.json", as_json(comparisons, metric))
    write_text(folder / "comparison.html", page)
    return folder / "comparison.html"


def effect_table(comparison: Comparison, modality: str, metric: str) -> Table:
    """A row per class, then their mean where there are several."""
    unit = printed(metric).heading
    head = (
        "class", f"{comparison.a.name}: {unit}", f"{comparison.b.name}: {unit}", "difference",
        "interval", "p", "Holm p", "cases", "undefined a / b",
    )  # fmt: skip
    effects = comparison.rows(modality, metric)
    rows = [[cls or "mean", *_cells(effect, metric)] for cls, effect in effects.items()]
    return Table(head, rows, f"{printed(metric).title} of {modality}")


def _cells(effect: Effect, metric: str) -> list[str]:
    how = printed(metric)
    sides = [
        "".join(how.mean_and_deviation(side.mean, side.case_std, side.n_cases))
        for side in (effect.a, effect.b)
    ]
    return [
        *sides, how.number(effect.difference.mean, signed=True), _interval_text(effect, metric),
        p_text(effect.p), p_text(effect.adjusted), str(effect.difference.n_cases),
        f"{effect.undefined_a} / {effect.undefined_b}",
    ]  # fmt: skip


def _interval_text(effect: Effect, metric: str) -> str:
    return " to ".join(printed(metric).number(x, signed=True) for x in (effect.low, effect.high))


def differs_table(comparison: Comparison) -> Table:
    """Settings that are not the same on both sides."""
    rows = [[key, *values] for key, values in comparison.differs.items()]
    names = ("Setting", comparison.a.name, comparison.b.name)
    return Table(names, rows, "differing settings", names=3)


def as_json(comparisons: Sequence[Comparison], metric: str) -> dict[str, Any]:
    """Everything, for programs; stored units, null where undefined."""
    return {
        "metric": metric,
        "units": {m: "mm" if printed(m).unit == "mm" else "fraction" for m in METRICS},
        "comparisons": [_comparison(one, metric) for one in comparisons],
    }


def _comparison(one: Comparison, metric: str) -> dict[str, Any]:
    return {
        "a": _side(one.a),
        "b": _side(one.b),
        "pairs": [
            {"a": [str(run.root) for run in pair.a], "b": [str(run.root) for run in pair.b]}
            for pair in one.pairs
        ],
        "unit": one.unit,
        "level": one.level,
        "left_out": dict(one.left_out),
        "warnings": list(one.warnings),
        "differs": {key: list(values) for key, values in one.differs.items()},
        "answers": {m: sentence(one, m, metric) for m in one.modalities},
        "caveats": {m: list(caveats(one, m, metric)) for m in one.modalities},
        "effects": [
            {**about._asdict(), "cls": about.cls or "mean", **asdict(effect)}
            for about, effect in one.effects.items()
        ],
    }


def _side(side: Side) -> dict[str, Any]:
    runs = [{"run": str(run.root), "seed": seed_of(run)} for run in side.runs]
    return {"name": side.name, "modalities": list(side.modalities), "runs": runs}


def _differences(comparisons: Sequence[Comparison]) -> Table:
    """A row per case, class, metric and pair of runs."""
    head = ("a", "b", "pair", "modality", "case", "class", "metric", "b_minus_a")
    rows = [
        (one.a.name, one.b.name, pair, about.modality, case, about.cls or "mean", about.metric,
         value)
        for one in comparisons
        for about, effect in one.effects.items()
        for pair, cases in effect.pairs.items()
        for case, value in cases.items()
    ]  # fmt: skip
    return Table(head, rows)


def _card(one: Comparison, modality: str, metric: str) -> Card:
    effect = one.of(modality, metric)
    value, _, unit = printed(metric).difference(effect.difference.mean, signed=True).partition(" ")
    beneath = f"{_interval_text(effect, metric)} · {effect.difference.n_cases} test cases"
    return Card(f"{modality_name(modality)}, {one.b.name}", value, unit, beneath)


def _part(number: int, one: Comparison, metric: str) -> dict[str, Any]:
    """What the page says of a comparison."""
    modalities = []
    for n, m in enumerate(one.modalities, start=1):
        pictures = [case_picture(one, m, metric, f"cases_{number}_{n}")]
        if len(one.rows(m, metric)) > 1:
            pictures.append(class_picture(one, m, metric, f"classes_{number}_{n}"))
        modalities.append({
            "name": modality_name(m),
            "answer": sentence(one, m, metric),
            "caveats": list(caveats(one, m, metric)),
            "pictures": pictures,
            "tables": [effect_table(one, m, name) for name in one.metrics],
        })  # fmt: skip
    return {
        "a": one.a.name,
        "b": one.b.name,
        "warnings": one.warnings,
        "modalities": modalities,
        "left_out": list(left_out(one)),
        "differs": differs_table(one),
    }
