"""`unpaired train`: one run, or one per fold; the same command goes on where it stopped."""

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unpaired.cli.options import ConfigFile, Data, Overrides, Preset, parse_data
from unpaired.cli.output import Progress, duration, memory, note, say, say_plan, say_table
from unpaired.errors import UsageError
from unpaired.tables import Table

if TYPE_CHECKING:
    from unpaired.config import Config
    from unpaired.training.fit import TrainResult

NAME = "train"


def command(
    out: Annotated[Path, typer.Option("--out", metavar="RUN", help="The run's folder.")],
    overrides: Overrides = None,
    data: Data = None,
    preset: Preset = None,
    config: ConfigFile = None,
    folds: Annotated[
        int | None, typer.Option("--folds", min=2, help="Cross-validation in RUN/fold_0, ...")
    ] = None,
    prepared: Annotated[
        Path | None, typer.Option("--prepared", help="The cache made by `unpaired prepare`.")
    ] = None,
) -> None:
    """Train on folders of images and labels. The same command resumes an interrupted run."""
    from unpaired.config import load_config

    if folds is not None:
        _refuse_group()
    settings = load_config(preset, config, overrides or [])
    roots = parse_data(data)
    if folds is None:
        one_run(settings, roots, out, prepared)
        return

    from unpaired.training.setup import fold_configs

    for name, fold in fold_configs(settings, roots, out, folds).items():
        say(f"{name} of {folds}")
        one_run(fold, roots, out / name, prepared)


def _refuse_group() -> None:
    """The processes of torchrun meet once: a second fold would wait for ever."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            "--folds trains in one process only. Under torchrun train one fold a call, without "
            "--folds: --out RUN/fold_N data.splits=FILE data.fold=N."
        )


def one_run(
    config: "Config", data: Mapping[str, Path], run: Path, prepared: Path | None = None
) -> "TrainResult":
    """Prepare, say what is ahead, train, say how it ended."""
    from unpaired.training.fit import train

    for line in _announce(config, data, run, prepared):
        say(line)
    with Progress("train") as bar:

        def steps_only(done: int, total: int, what: str) -> None:
            if what.startswith("loss"):  # the cases were prepared, and shown, before
                bar(done, total, what)

        result = train(config, data, run, steps_only, prepared)
    if _leads():
        how = f"step {result.step} ({result.stopped})"
        say(f"Stopped at {how}, validation score {result.score:.3f}.")
        say(f"The run is in {run}; look at it with: unpaired report {run}")
    return result


def _leads() -> bool:
    """Whether this process speaks: torchrun numbers its processes."""
    return os.environ.get("RANK", "0") == "0"


def _announce(
    config: "Config", data: Mapping[str, Path], run: Path, prepared: Path | None
) -> Iterator[str]:
    """Plan, sizes, memory and time, before the first step."""
    if not _leads():
        return
    from unpaired.data.plan import Plan
    from unpaired.run import RunFolder
    from unpaired.training.forecast import forecast
    from unpaired.training.pretrained import HEAD, preview, read_pretrained
    from unpaired.training.setup import make_setup
    from unpaired.training.start import source_plan

    folder = RunFolder(run)
    # a file that cannot be read is refused before the cases are prepared
    weights = None if folder.last.exists() else read_pretrained(config)
    with folder.lock(), Progress("prepare") as progress:
        make_setup(config, data, folder, prepared, source_plan(config), progress)
    plan = Plan.read(folder.plan)
    say_plan(plan)
    yield f"Run folder: {run}"
    if folder.last.exists():
        yield "Going on from the last checkpoint."
        return
    if weights is not None:
        filling = preview(config, plan, weights)
        say_table(Table(HEAD, filling.rows()))
        yield (
            f"{filling.percent:.1f} % of encoder and decoder start from {filling.file} "
            f"({filling.layout})."
        )
    ahead = forecast(config, plan)
    yield (
        f"Parameters: {ahead.training_parameters:,} in training, "
        f"{ahead.test_parameters:,} at test time."
    )
    need, there = memory(ahead.memory_bytes), memory(ahead.memory_available_bytes)
    yield (
        f"About {need} of memory on {ahead.device} ({there} free), "
        f"{ahead.seconds_per_step:.2g} s a step, "
        f"{duration(ahead.seconds_per_step * config.train.steps)} for {config.train.steps} steps."
    )
    if ahead.memory_bytes > ahead.memory_available_bytes:
        note("warning: this may not fit into memory; lower train.batch_size.")
