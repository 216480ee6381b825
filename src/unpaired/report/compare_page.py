"""A comparison as files: one HTML page that needs nothing else, pictures, JSON, and a CSV."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unpaired.engine.evaluate import METRICS
from unpaired.files import atomic, write_json, write_text
from unpaired.report.compare import Comparison
from unpaired.report.compare_effects import MEAN, Effect
from unpaired.report.compare_figure import case_picture, class_picture
from unpaired.report.compare_sides import Side, seed_of
from unpaired.report.compare_words import (
    caveats,
    left_out,
    p_text,
    pairs_text,
    sentence,
    shown_modality,
)
from unpaired.report.document import document, footer
from unpaired.report.figures import Picture
from unpaired.report.markup import Markup, note, number, section, table, tag
from unpaired.tables import Table, printed

HEAD = ("class", "difference", "interval", "p", "Holm p", "cases", "undefined a / b")


def write_comparison(folder: Path, found: Sequence[Comparison], metric: str) -> Path:
    """Write comparison.html, .json and .csv (every case) and the pictures as PNG.

    Args:
        metric: what the sentences and the pictures are about.

    Returns:
        the page.

    Raises:
        ResourceError: the folder cannot be written.
    """
    pictures: list[Picture] = []
    parts = [_part(n, one, metric, pictures) for n, one in enumerate(found, start=1)]
    names = " / ".join(dict.fromkeys([found[0].a.name, *(one.b.name for one in found)]))
    page = document(
        f"Comparison: {names}", _header(found, metric), tag("main", *parts, _reading(found[0])),
        footer(),
    )  # fmt: skip
    for picture in pictures:
        with atomic(folder / f"{picture.name}.png") as temporary:
            temporary.write_bytes(picture.png)
    write_text(folder / "comparison.csv", _csv(found))
    write_json(folder / "comparison.json", as_json(found, metric))
    write_text(folder / "comparison.html", page)
    return folder / "comparison.html"


def table_rows(found: Comparison, modality: str, metric: str) -> list[list[str]]:
    """A row per class, then their mean where there are several: texts under `table_head`."""
    effects = [e for e in found.effects if (e.modality, e.metric) == (modality, metric)]
    return [_row(effect) for effect in (effects if len(effects) > 2 else effects[:1])]


def table_head(found: Comparison, metric: str) -> list[str]:
    """Columns of `table_rows`."""
    unit = printed(metric).heading
    return [HEAD[0], f"{found.a.name}: {unit}", f"{found.b.name}: {unit}", *HEAD[1:]]


def _row(effect: Effect) -> list[str]:
    how = printed(effect.metric)
    sides = [
        "".join(how.mean_and_deviation(side.mean, side.case_std, side.n_cases))
        for side in (effect.a, effect.b)
    ]
    low, high = (how.number(value, signed=True) for value in (effect.low, effect.high))
    undefined = f"{effect.undefined_a} / {effect.undefined_b}"
    return [
        effect.cls or "mean", *sides, how.number(effect.difference.mean, signed=True),
        f"{low} to {high}", p_text(effect.p), p_text(effect.adjusted),
        str(effect.difference.n_cases), undefined,
    ]  # fmt: skip


def as_json(found: Sequence[Comparison], metric: str) -> dict[str, Any]:
    """Everything, for programs; stored units, null where undefined."""
    return {
        "metric": metric,
        "units": {m: "mm" if printed(m).unit == "mm" else "fraction" for m in METRICS},
        "comparisons": [_comparison(one, metric) for one in found],
    }  # fmt: skip


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
        "effects": [{**asdict(e), "cls": e.cls or "mean"} for e in one.effects],
    }


def _side(side: Side) -> dict[str, Any]:
    runs = [{"run": str(run.root), "seed": seed_of(run)} for run in side.runs]
    return {"name": side.name, "modalities": list(side.modalities), "runs": runs}


def _csv(found: Sequence[Comparison]) -> str:
    """A row per case, class, metric and pair of runs."""
    head = ("a", "b", "pair", "modality", "case", "class", "metric", "b_minus_a")
    rows = [
        (one.a.name, one.b.name, pair, e.modality, case, e.cls or "mean", e.metric, value)
        for one in found
        for e in one.effects
        for pair, cases in e.pairs.items()
        for case, value in cases.items()
    ]
    return Table(head, rows).csv()


def _header(found: Sequence[Comparison], metric: str) -> Markup:
    cards = [_card(one, m, metric) for one in found for m in one.modalities]
    others = " and ".join(one.b.name for one in found)
    return tag(
        "header",
        tag("p", "unpaired · comparison of runs", cls="brand"),
        tag("h1", f"{others} against {found[0].a.name}"),
        tag("p", f"{printed(metric).title} · {pairs_text(found[0])}", cls="facts"),
        tag("div", *cards, cls="cards"),
    )


def _card(one: Comparison, modality: str, metric: str) -> Markup:
    effect = one.of(modality, metric)
    value = printed(metric).difference(effect.difference.mean, signed=True)
    shown, _, unit = value.partition(" ")
    low, high = (printed(metric).number(x, signed=True) for x in (effect.low, effect.high))
    return tag(
        "div",
        tag("p", f"{shown_modality(modality)}, {one.b.name}", cls="name"),
        tag("p", shown, tag("small", f" {unit}") if unit else "", cls="big"),
        tag("p", f"{low} to {high} · {effect.difference.n_cases} test cases", cls="small"),
        cls="card",
    )


def _part(number_: int, one: Comparison, metric: str, pictures: list[Picture]) -> Markup:
    content: list[object] = []
    if one.warnings:
        items = [tag("li", words) for words in one.warnings]
        head = tag("h2", "What makes this comparison unfair")
        content.append(tag("aside", head, tag("ul", *items), cls="missing", role="note"))
    for m in one.modalities:
        content += [tag("h3", shown_modality(m)), tag("p", sentence(one, m, metric), cls="answer")]
        content += [note(words) for words in caveats(one, m, metric)]
        ending = f"{number_}_{one.modalities.index(m) + 1}"
        made = [case_picture(one, m, metric, f"cases_{ending}")]
        if len(table_rows(one, m, metric)) > 1:
            made.append(class_picture(one, m, metric, f"classes_{ending}"))
        pictures += made
        content.append(tag("div", *(picture.html() for picture in made), cls="gallery"))
        for name in dict.fromkeys(e.metric for e in one.effects):
            rows = [[row[0], *map(number, row[1:])] for row in table_rows(one, m, name)]
            label = f"{printed(name).title} of {m}"
            content += [tag("h3", label), table(table_head(one, name), rows, label, "numbers")]
    content += [note(words) for words in left_out(one)]
    content += [tag("h3", "What differs in the two configurations"), _differs(one)]
    heading_ = f"{one.b.name} against {one.a.name}"
    return section(heading_, *content, anchor=f"comparison-{number_}")


def _differs(one: Comparison) -> Markup:
    if not one.differs:
        return note("Nothing that their configurations tell.")
    rows = [[key, *values] for key, values in one.differs.items()]
    return table(("Setting", one.a.name, one.b.name), rows, "differing settings", "narrow")


def _reading(one: Comparison) -> Markup:
    covers = {
        "seed": "the test cases and the seeds of the training",
        "draw": "the test cases and the draws of the cases, the seeds with them",
    }[one.unit]
    if len(one.pairs) == 1:
        covers = "the test cases only, for these very runs"
    words = (
        f"Difference: what the second has more than the first, case by case. The interval is for "
        f"its mean over {covers}: a bootstrap that draws runs first and then cases, stretched to "
        "Student's quantile because there are few. It does not hold what no run here varied, nor "
        "other hospitals and scanners. p: Wilcoxon's signed-rank test over the test cases (exact), "
        "Holm p: corrected over the classes of all modalities and comparisons here, and separately "
        "over their means. ±: population deviation over the test cases. "
        "Undefined: scores without a value on either side (an empty prediction has no surface), "
        "left out on both."
    )
    return section("How to read this", note(words), anchor="reading")


__all__ = ["MEAN", "as_json", "table_head", "table_rows", "write_comparison"]
