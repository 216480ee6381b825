"""`unpaired train`: one run, or one per fold; the same command goes on where it stopped."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unpaired.cli.options import ConfigFile, Data, Overrides, Preset, parse_data
from unpaired.cli.output import memory, note, say, say_plan, say_table
from unpaired.cli.planned import Choices, given_or_planned, seconds_of
from unpaired.errors import UsageError
from unpaired.progress import ProgressBar, duration
from unpaired.tables import Table

if TYPE_CHECKING:
    from torch import Tensor

    from unpaired.config import Config
    from unpaired.data.plan import Plan
    from unpaired.run import RunFolder
    from unpaired.training.fit import TrainResult
    from unpaired.training.forecast import Forecast


def command(
    out: Annotated[Path, typer.Option("--out", metavar="RUN", help="The run's folder.")],
    overrides: Overrides = None,
    data: Data = None,
    preset: Preset = None,
    config: ConfigFile = None,
    folds: Annotated[
        int | None,
        typer.Option(
            "--folds",
            min=2,
            help="Cross-validation in RUN/fold_0, ...; their mean is the model of RUN.",
        ),
    ] = None,
    prepared: Annotated[
        Path | None, typer.Option("--prepared", help="The cache made by `unpaired prepare`.")
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget",
            metavar="TIME",
            help="Plan a training of this time: 30m, 8h, 2d. Default: 1 h, on a GPU 12 h.",
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A first model in ten minutes: --budget 10m.")
    ] = False,
    accept_changes: Annotated[
        bool,
        typer.Option("--accept-changes", help="Go on with changed images, labels or splits."),
    ] = False,
) -> None:
    """Train on folders of images and labels. The same command resumes an interrupted run.

    Without a preset, a file or a network of your own the program plans the training for this
    machine and the time, and says why. `unpaired presets` and `unpaired settings` list the rest.
    """
    if folds is not None:
        _refuse_group()
    first = out if folds is None else out / "fold_0"
    roots = parse_data(data)
    whole = seconds_of(budget, quick)
    share = None if whole is None else whole / (folds or 1)
    settings, choices = given_or_planned(roots, first, overrides or [], preset, config, share)
    if folds is None:
        one_run(settings, roots, out, prepared, choices, accept_changes)
        return

    def train_one(config: "Config", folder: Path) -> "TrainResult":
        return one_run(config, roots, folder, prepared, choices, accept_changes)

    _cross_validate(settings, roots, out, folds, train_one)


def _cross_validate(
    settings: "Config",
    roots: Mapping[str, Path],
    out: Path,
    folds: int,
    train_one: "Callable[[Config, Path], TrainResult]",
) -> None:
    """Fold after fold; together they are one model."""
    from unpaired.run.folds import write_folds
    from unpaired.training.folds import fold_configs

    scores, configs = [], fold_configs(settings, roots, out, folds)
    write_folds(out, folds)
    for name, fold in configs.items():
        say(f"{name} of {folds}")
        scores.append(train_one(fold, out / name).score)
    say(
        f"The mean of the {folds} folds is one model: --model {out}. Validation scores "
        f"{', '.join(f'{score:.3f}' for score in scores)}, mean {sum(scores) / folds:.3f}; all "
        f"metrics on the held-out cases: unpaired evaluate {out}"
    )


def _refuse_group() -> None:
    """The processes of torchrun meet once: a second fold would wait for ever."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError(
            "--folds trains in one process only. Under torchrun train one fold a call, without "
            "--folds: --out RUN/fold_N data.splits=FILE data.fold=N."
        )


def one_run(
    config: "Config",
    data: Mapping[str, Path],
    out: Path,
    prepared: Path | None = None,
    choices: Choices | None = None,
    accept_changes: bool = False,
) -> "TrainResult":
    """Prepare, say what is ahead, train, say how it ended."""
    from unpaired.run import RunFolder
    from unpaired.training.distributed import leads, meeting, stop_signals
    from unpaired.training.fit import fit
    from unpaired.training.forecast import forecast
    from unpaired.training.network import check_device
    from unpaired.training.prepare import Preparing, prepare_run
    from unpaired.training.threads import with_threads

    check_device(config)
    run = RunFolder(out)
    weights = _weights(config, run) if leads() else None
    limit = config.train.heartbeat_seconds
    with meeting(limit) as met, run.lock() if leads() else nullcontext():
        if leads():
            if choices:
                from unpaired.files import write_json

                write_json(run.files.choices, dict(choices))
            with ProgressBar("prepare") as bar:
                options = Preparing(prepared, accept_changes=accept_changes)
                notes = prepare_run(config, data, run, options, bar)
            for text in notes:
                note(f"warning: {text}")
            for line in _known(config, run, weights):
                say(line)
            ahead = None if run.begun else forecast(config, run.plan, threads=True)
            for line in _forecast(config, ahead):
                say(line)
            config = with_threads(config, run, ahead.threads if ahead else None)
        with stop_signals(met) as stop, ProgressBar("train") as bar:
            result = fit(config, run, stop, bar)
    if leads():
        how = f"step {result.step} ({result.stopped})"
        say(f"Stopped at {how}, validation score {result.score:.3f}.")
        say(f"The run is in {out}; look at it with: unpaired report {out}")
    return result


def _weights(config: "Config", run: "RunFolder") -> "dict[str, Tensor] | None":
    """A file that cannot be read is refused before the run folder is made."""
    if run.begun or config.model.pretrained is None:
        return None
    from unpaired.training.pretrained import read_pretrained

    return read_pretrained(config)


def _known(
    config: "Config", run: "RunFolder", weights: "dict[str, Tensor] | None"
) -> Iterator[str]:
    """The plan, and what the training begins with."""
    plan = run.plan
    say_plan(plan)
    yield f"Run folder: {run.root}"
    if run.begun:
        yield "Going on from the last checkpoint."
        yield from _new_end(config, run)
        return
    if weights is not None:
        yield _filled(config, plan, weights)


def _forecast(config: "Config", ahead: "Forecast | None") -> Iterator[str]:
    """Sizes, memory and time, before the first step; nothing for a run that goes on."""
    if ahead is None:
        return
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
    if ahead.by_threads:
        took = ", ".join(f"{s:.2g} s with {n}" for n, s in ahead.by_threads.items())
        yield (
            f"CPU threads: {ahead.threads}, as a step was measured ({took}). The run keeps the "
            "number; train.threads=NUMBER sets another."
        )


def _new_end(config: "Config", run: "RunFolder") -> Iterator[str]:
    """The schedule of a run whose `train.steps` was raised."""
    for raised in run.schedules:
        if raised["steps"] == config.train.steps:
            yield (
                f"train.steps was raised from {raised['before']} to {raised['steps']}: from step "
                f"{raised['step']} on the learning rate follows the schedule that ends at step "
                f"{raised['steps']}."
            )


def _filled(config: "Config", plan: "Plan", weights: "dict[str, Tensor]") -> str:
    """What the file of weights fills, as a table and a sentence."""
    from unpaired.training.pretrained import HEAD, preview

    filling = preview(config, plan, weights)
    say_table(Table(HEAD, filling.rows()))
    return (
        f"{filling.percent:.1f} % of encoder and decoder start from {filling.file} "
        f"({filling.layout})."
    )
