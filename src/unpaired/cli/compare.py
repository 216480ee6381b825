"""`unpaired compare`: did it help? Runs held against each other, case by case."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unpaired.cli.options import Json
from unpaired.cli.output import say, say_json, say_table
from unpaired.errors import UsageError

if TYPE_CHECKING:
    from unpaired.report.compare import Comparison
    from unpaired.report.compare_sides import Side

SHORT = {"asd": "asd_mm", "hd95": "hd95_mm"}


def command(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUN",
            help="Runs, or folders of runs (seeds, folds). Each further one against the first.",
        ),
    ] = None,
    a: Annotated[
        list[Path] | None,
        typer.Option("--a", metavar="RUN", help="A run of the first side; once per seed."),
    ] = None,
    b: Annotated[
        list[Path] | None,
        typer.Option("--b", metavar="RUN", help="A run of the second side; once per seed."),
    ] = None,
    metric: Annotated[
        str, typer.Option("--metric", help="Of the answer: dice, asd, hd95, nsd or your own.")
    ] = "dice",
    level: Annotated[
        float, typer.Option("--level", min=0.5, max=0.999, help="Of the interval.")
    ] = 0.95,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Write a page, its plots, and tables there."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Did CT help my MR? One sentence with an interval, a table, and a plot of every test case.

    Runs must be evaluated, and tested on the same cases: train them with one data.splits.
    """
    sides = _sides(runs or [], a or [], b or [])

    from unpaired.report.compare import compare
    from unpaired.report.compare_page import as_json as plain
    from unpaired.report.compare_page import write_comparison

    metric = SHORT.get(metric, metric)
    comparisons = compare(sides, list(dict.fromkeys(["dice", "asd_mm", metric])), level)
    page = write_comparison(out, comparisons, metric) if out is not None else None
    if as_json:
        say_json({**plain(comparisons, metric), "page": page})
        return
    for one in comparisons:
        _say(one, metric)
    say(f"Page with plots: {page}" if page else "For a page with plots add: --out DIR")


def _sides(runs: Sequence[Path], a: Sequence[Path], b: Sequence[Path]) -> "list[Side]":
    if runs and (a or b):
        raise UsageError("give either RUN RUN, or --a RUN and --b RUN, not both.")
    if len(runs) < 2 and not (a and b):
        raise UsageError(
            "a comparison needs two runs: unpaired compare RUN RUN, or --a RUN and --b RUN, each "
            "once per seed."
        )

    from unpaired.report.compare_sides import open_side

    groups = [[run] for run in runs] or [list(a), list(b)]
    sides = [open_side(group) for group in groups]
    names = [side.name for side in sides]
    if len(set(names)) == len(names):
        return sides
    return [open_side(group, str(group[0])) for group in groups]


def _say(one: "Comparison", metric: str) -> None:
    from unpaired.report.compare_page import differs_table, effect_table
    from unpaired.report.compare_words import caveats, left_out, modality_name, sentence

    for m in one.modalities:
        say(sentence(one, m, metric))
        for words in caveats(one, m, metric):
            say(f"  {words}")
    for words in left_out(one):
        say(words)
    for words in one.warnings:
        say(f"Unfair: {words}")
    for m in one.modalities:
        for name in one.metrics:
            table = effect_table(one, m, name)
            say()
            say_table(replace(table, head=(modality_name(m), *table.head[1:])))
    say()
    if one.differs:
        table = differs_table(one)
        say_table(replace(table, head=("differs", *table.head[1:])))
        say()
