"""Training: from folders of scans to a run folder with a model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from unpaired.config import Config
from unpaired.device import find_device
from unpaired.errors import Interrupted
from unpaired.run import RunFolder
from unpaired.training import start
from unpaired.training import start as finish
from unpaired.training.distributed import Group, Stop, process_group, stop_signals
from unpaired.training.setup import Progress, load_setup, make_setup
from unpaired.training.trainer import Trainer


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
    data: Mapping[str, Path],
    run: Path,
    progress: Progress | None = None,
    prepared: Path | None = None,
) -> TrainResult:
    """Prepare, train, validate and export; the same call goes on where it stopped.

    Args:
        data: modality -> folder of its data set.
        run: the run folder.
        progress: called as progress(done, total, what) during preparation and training.
        prepared: a cache shared between runs; the run folder's own by default.

    Raises:
        UsageError, DataError, ResourceError: as they say.
        Interrupted: a signal came; everything is saved.
    """
    device = find_device(config.train.device)
    folder = RunFolder(Path(run))
    with process_group(device.type == "cuda") as group, stop_signals() as stop:
        if not group.leads:
            group.barrier()
            return _run(config, folder, group, stop, None)
        with folder.lock():
            source = start.source_plan(config)
            make_setup(config, data, folder, prepared, source, progress)
            group.barrier()
            return _run(config, folder, group, stop, progress)


def _run(
    config: Config, folder: RunFolder, group: Group, stop: Stop, progress: Progress | None
) -> TrainResult:
    trainer = Trainer(config, load_setup(folder), folder, group, progress)
    stopped = trainer.loop(stop)
    if group.leads:
        finish.export(config, trainer.setup, folder)
    group.barrier()
    if group.any(stop.asked):
        raise Interrupted(f"stopped after the training in {folder.root} had ended; it is whole.")
    return TrainResult(folder.root, trainer.step, trainer.kept_score, stopped)
