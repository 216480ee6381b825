"""Training: from folders of scans to a run folder with a model."""

import io
import logging
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from unpaired.artifact.model import Model
from unpaired.config import Config
from unpaired.data.cache import PreparedCase
from unpaired.data.plan import Plan
from unpaired.data.sampling import Draws, PatchSampler
from unpaired.data.units import levels
from unpaired.datasets.dataset import Dataset
from unpaired.device import find_device
from unpaired.errors import DataError, Interrupted
from unpaired.files import atomic
from unpaired.methods import Method
from unpaired.models import Joint, gains_form
from unpaired.progress import Progress
from unpaired.run import RunFolder
from unpaired.training.checkpoint import load_checkpoint, load_matching
from unpaired.training.distributed import Group, Stop, leads, process_group, stop_signals
from unpaired.training.forecast import parameter_counts
from unpaired.training.network import check_device
from unpaired.training.prepare import Preparing, prepare_run
from unpaired.training.trainer import OnStep, Trainer

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
    with stop_signals() as stop, run.lock() if leads() else nullcontext():
        if leads():
            how = Preparing(prepared, method, accept_changes)
            for text in prepare_run(config, data, run, how, progress):
                log.warning("%s", text)
        return fit(config, run, stop, progress, on_step, method)


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
    with process_group(device.type == "cuda") as group:
        group.barrier()
        return _train(Trainer(config, run, group, progress, on_step, method), stop, group)


def _train(trainer: Trainer, stop: Stop, group: Group) -> TrainResult:
    stopped = trainer.loop(stop)
    if group.leads:
        export(trainer.config, trainer.run, trainer.method)
    group.barrier()
    root = trainer.run.root
    if group.any(stop.asked):
        raise Interrupted(f"stopped after the training in {root} had ended; it is whole.")
    return TrainResult(root, trainer.step, trainer.state.choice.kept_score, stopped)


# How a training ends: the exported model, and the semantics as pictures need them.


def export(config: Config, folder: RunFolder, method: Method) -> None:
    """From the kept weights: the model without its semantics, and the semantics' matrices."""
    path, plan = folder.files.weights, folder.plan
    state = load_checkpoint(path)
    joint = method.joint(config, plan)
    load_matching(joint, state["model"], path)
    joint.eval()
    extra = {"step": state["step"], "parameters": parameter_counts(joint)}
    exported = gains_form(joint, config.model.scaling_at_test)
    Model(exported, with_levels(plan, folder), config).save(folder.files.model, extra)
    save_semantics(joint, config, folder)


def with_levels(plan: Plan, folder: RunFolder) -> Plan:
    """The plan with what the intensities of the training images reached, for prediction to compare.

    A run whose prepared cases are gone yields the plan as it is.
    """
    try:
        train = folder.prepared_cases("train")
    except DataError:
        return plan
    parts = {
        m: part.model_copy(update={"levels": levels([c.record.get("range") for c in train[m]])})
        for m, part in plan.modalities.items()
    }
    return plan.model_copy(update={"modalities": parts})


@torch.no_grad()
def save_semantics(joint: Joint, config: Config, folder: RunFolder) -> None:
    """semantics.npz: embeddings, and the mean correlation per scale over validation slices."""
    if not joint.semantics:
        return
    device = find_device(config.train.device)
    joint.to(device)
    arrays: dict[str, np.ndarray] = {}
    for m, module in joint.semantics.items():
        arrays[f"embedding/{m}"] = module.embeddings.cpu().numpy()  # type: ignore[operator]
    plan, val, train = folder.plan, folder.prepared_cases("val"), folder.prepared_cases("train")
    cases = {m: _to_look_at(val.get(m, [])) or train[m] for m in joint.semantics}
    for m, members in cases.items():
        draws = Draws(config.train.batch_size, seed=0)
        sampler = PatchSampler(members, m, plan.patch, plan.context, 0.0, draws)
        found = []
        for step in range(-(-sampler.places // draws.batch_size)):
            output = joint({m: sampler.batch(step).image.to(device)})[m]
            found.append([e.mean(0).cpu().numpy() for e in output.correlations])
        for scale, matrices in enumerate(zip(*found, strict=True), start=1):
            arrays[f"correlation/{m}/{scale}"] = np.mean(matrices, axis=0)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    with atomic(folder.files.semantics) as temporary:
        temporary.write_bytes(buffer.getvalue())


def _to_look_at(cases: list[PreparedCase]) -> list[PreparedCase]:
    """Those with an annotated voxel."""
    return [case for case in cases if case.annotated is None or len(case.annotated)]
