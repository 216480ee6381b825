"""Training: from folders of scans to a run folder with a model."""

import logging
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

from unpaired.config import Config, to_toml
from unpaired.datasets.dataset import Dataset
from unpaired.device import find_device
from unpaired.errors import Interrupted
from unpaired.files import write_text
from unpaired.methods import Method
from unpaired.progress import Progress
from unpaired.run import RunFolder
from unpaired.run.log import note_pace
from unpaired.training.budget import PACE, paced
from unpaired.training.distributed import Group, Stop, leads, meeting, process_group, stop_signals
from unpaired.training.forecast import forecast
from unpaired.training.network import check_device
from unpaired.training.prepare import Preparing, prepare_run
from unpaired.training.threads import free_to_choose, with_threads
from unpaired.training.trainer import OnStep, Trainer
from unpaired.training.write_model import save_semantics, write_model

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainResult:
    """How a training ended."""

    run: Path
    step: int
    score: float
    """Validation score of the weights that are kept; nan without validation cases."""
    stopped: str
    """"steps", "early_stop" or "max_minutes"."""


def train(
    config: Config,
    data: Mapping[str, Path | str | Dataset],
    out: Path | str,
    prepared: Path | None = None,
    method: Method | None = None,
    progress: Progress | None = None,
    on_step: OnStep | None = None,
    accept_changes: bool = False,
) -> TrainResult:
    """Prepare, train, validate and export; the same call goes on where it stopped.

    With a larger `train.steps` a run goes on too, at its end as well.

    Args:
        data: modality -> its data set, or the folder of it.
        out: the run folder.
        prepared: a cache shared between runs; the run folder's own by default.
        method: with terms of one's own in its loss; by default the one that model.name names.
        progress: told of every prepared case, then of every step.
        on_step: called with each record of log.jsonl as it is written.
        accept_changes: go on though images, labels or splits changed since the run began; what
            changed is recorded in inputs.json and stands in the report.

    Raises:
        UsageError, DataError, ResourceError: as they say.
        Interrupted: a signal came; everything is saved.
    """
    check_device(config)  # refused before the cases are prepared
    run = RunFolder(out)
    with (
        meeting(config.train.heartbeat_seconds) as met,
        stop_signals(met) as stop,
        run.lock() if leads() else nullcontext(),
    ):
        if leads():
            how = Preparing(prepared, method, accept_changes)
            for text in prepare_run(config, data, run, how, progress):
                log.warning("%s", text)
            config = _settled(config, run)
        return fit(config, run, stop, progress, on_step, method)


def _settled(config: Config, run: RunFolder) -> Config:
    """With the number of threads that is best here, where the training is long and none is set."""
    open_question = free_to_choose(config, find_device(config.train.device)) and not run.begun
    chosen = forecast(config, run.plan, threads=True).threads if open_question else None
    return with_threads(config, run, chosen)


def fit(
    config: Config,
    run: RunFolder,
    stop: Stop,
    progress: Progress | None = None,
    on_step: OnStep | None = None,
    method: Method | None = None,
) -> TrainResult:
    """Train what `prepare_run` prepared. The caller holds the folder's lock.

    Raises:
        DataError, ResourceError: as they say.
        Interrupted: `stop` was asked; everything is saved.
    """
    device = find_device(config.train.device)
    if stop.met is not None:
        stop.met.wait_for_lead(stop)
    with process_group(device.type == "cuda", stop.met) as group:
        group.barrier()
        trainer = Trainer(config, run, group, progress, on_step, method)
        stopped = trainer.loop(stop)
        if stopped == PACE:
            config = _with_pace(trainer)
            trainer = Trainer(config, run, group, progress, on_step, method)
            stopped = trainer.loop(stop)
        return _finish(trainer, stopped, stop, group)


def _with_pace(trainer: Trainer) -> Config:
    """The run goes on as if it had been planned with the steps that its time holds."""
    before, run = trainer.config, trainer.run
    train = paced(before.train, trainer.step, trainer.state.seconds)
    assert train is not None
    config = before.model_copy(update={"train": train})
    write_text(run.files.config, to_toml(config))
    note_pace(run.files.log, trainer.step, before.train.steps, train.steps)
    log.warning(
        "a step takes %.2g s, so %d steps instead of %d keep to the time.",
        trainer.state.seconds / trainer.step, train.steps, before.train.steps,
    )  # fmt: skip
    return config


def _finish(trainer: Trainer, stopped: str, stop: Stop, group: Group) -> TrainResult:
    if group.leads:
        trainer.run.check_there()
        # One that ran out of time goes on with the same command.
        step = trainer.step if stopped == "max_minutes" else None
        joint = write_model(trainer.config, trainer.run, trainer.method, step)
        save_semantics(joint, trainer.config, trainer.run)
    group.barrier()
    root = trainer.run.root
    if group.any(stop.asked):
        raise Interrupted(f"stopped after the training in {root} had ended; it is whole.")
    return TrainResult(root, trainer.step, trainer.state.choice.kept_score, stopped)
