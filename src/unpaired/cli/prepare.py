"""`unpaired prepare`: the plan with its reasons, then the cache of prepared cases."""

from pathlib import Path
from typing import Annotated

import typer

from unpaired.cli.options import ConfigFile, Data, Json, Overrides, Preset, parse_data
from unpaired.cli.output import note, say, say_json, say_plan
from unpaired.progress import ProgressBar


def command(
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the cache goes.")],
    overrides: Overrides = None,
    data: Data = None,
    preset: Preset = None,
    config: ConfigFile = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=0, help="Processes; 0: all in this one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Plan and prepare the cases. `train --prepared FOLDER` with the same settings uses them."""
    from unpaired.config import load_config

    roots = parse_data(data)
    changes = [*(overrides or []), *([] if workers is None else [f"data.workers={workers}"])]
    settings = load_config(preset, config, changes)

    from unpaired.datasets.split_file import PARTS
    from unpaired.run import RunFolder
    from unpaired.training.prepare import Preparing, prepare_run

    folder = RunFolder(out)
    with folder.lock(), ProgressBar("prepare") as progress:
        notes = prepare_run(settings, roots, folder, Preparing(out), progress)
    for text in notes:
        note(f"warning: {text}")
    plan = folder.plan
    parts = [folder.prepared_cases(name) for name in PARTS]
    cases = {m: sum(len(part[m]) for part in parts) for m in plan.modalities}
    if as_json:
        parts_of_it = {"folder": out, "cases": cases, "warnings": notes}
        say_json({**parts_of_it, "plan": plan.model_dump(mode="json")})
        return
    say_plan(plan)
    counts = ", ".join(f"{count} of {m}" for m, count in cases.items())
    say(f"Prepared {counts} in {out}.")
