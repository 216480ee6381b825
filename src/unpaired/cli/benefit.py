"""`unpaired benefit`: does training on all modalities help each of them?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unpaired.cli.options import ConfigFile, Data, Json, Overrides, Preset, parse_data
from unpaired.cli.output import note, say, say_json, say_table
from unpaired.cli.planned import seconds_of
from unpaired.cli.reproduce import announce, run_all
from unpaired.errors import DataError

if TYPE_CHECKING:
    from unpaired.experiments.benefit_answer import Benefit


def command(
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Where runs, answers and page go.")
    ],
    overrides: Overrides = None,
    data: Data = None,
    preset: Preset = None,
    config: ConfigFile = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="TIME",
            help="For everything: 30m, 8h, 2d. Default: 2 h, on a GPU 24 h.",
        ),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Of every training.")] = 1,
    jobs: Annotated[int, typer.Option("--jobs", min=1, help="Trainings at a time.")] = 1,
    plan_only: Annotated[bool, typer.Option("--plan", help="Only say what would be run.")] = False,
    as_json: Json = False,
) -> None:
    """Did CT help my MR? Trains each modality alone and all together, and answers with an interval.

    All trainings share one split, network and grid, and have as many steps of as many images of a
    modality. The same command goes on where it stopped.
    """
    from unpaired.experiments.benefit import Asked, plan_benefit
    from unpaired.experiments.benefit_answer import answer
    from unpaired.experiments.benefit_answer import as_json as content

    tell = note if as_json else say
    roots, seconds = parse_data(data), seconds_of(budget, False)
    if not (out / "planned.json").is_file():
        tell("Planning: networks take a step each on this machine ...")
    asked = Asked(roots, out, seconds, tuple(overrides or ()), preset, config, seeds, jobs)
    plan = plan_benefit(asked)
    for name, why in plan.reasons.items():
        tell(f"{name}: {why}")
    for text in plan.notes:
        note(f"warning: {text}")
    announce(plan.runs, plan.study, plan.jobs, jobs, tell)
    if plan_only:
        return
    benefit = answer(plan, run_all(plan.jobs, out, jobs))
    if as_json:
        say_json(content(benefit))
    else:
        _say(benefit)
    if benefit.open:
        raise typer.Exit(DataError.exit_code)


def _say(benefit: "Benefit") -> None:
    from unpaired.report.compare_words import caveats

    say()
    for m, text in benefit.answers.items():
        say(text)
        if m in benefit.comparisons:
            one = benefit.comparisons[m]
            for words in caveats(one, m, "dice"):
                say(f"  {words}")
            for words in one.warnings:
                say(f"  Unfair: {words}")
    if benefit.comparisons:
        say()
        say_table(benefit.table)
    say(f"Written: {', '.join(str(path) for path in benefit.files.values())}")
