"""What a training leaves: the model at every validation, and its semantics at the end."""

import io

import numpy as np
import torch

from unpaired.artifact.model import Model
from unpaired.config import Config
from unpaired.data.cache import PreparedCase
from unpaired.data.plan import Plan
from unpaired.data.sampling import Draws, PatchSampler
from unpaired.data.units import levels
from unpaired.device import find_device
from unpaired.errors import DataError
from unpaired.files import atomic
from unpaired.methods import Method
from unpaired.models import Joint, gains_form
from unpaired.run import RunFolder
from unpaired.training.checkpoint import load_checkpoint, load_matching
from unpaired.training.forecast import parameter_counts


def write_model(
    config: Config, folder: RunFolder, method: Method, step: int | None = None
) -> Joint:
    """Write the kept weights as the model, without what the training alone needs.

    Args:
        step: how far the training is, where it goes on: the model says that it is unfinished.

    Returns:
        the whole network with these weights, in evaluation mode.
    """
    path, plan = folder.files.weights, folder.plan
    state = load_checkpoint(path)
    with torch.random.fork_rng(devices=[]):  # the training goes on with the numbers it would draw
        joint = method.joint(config, plan)
    load_matching(joint, state["model"], path)
    joint.eval()
    extra = {"step": state["step"], "parameters": parameter_counts(joint)}
    if step is not None:
        extra["unfinished"] = {"step": step, "steps": config.train.steps}
    exported = gains_form(joint, config.model.scaling_at_test)
    Model(exported, with_levels(plan, folder), config).save(folder.files.model, extra)
    return joint


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
