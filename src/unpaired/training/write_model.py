"""What a training leaves: the model at every validation, and its semantics at the end."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import replace

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
from unpaired.metrics.correlations import describe
from unpaired.models import Joint, gains_form
from unpaired.plausibility.expected import Expected, calibrate, gather
from unpaired.plausibility.measure import Measures
from unpaired.run import RunFolder
from unpaired.training.checkpoint import load_checkpoint, load_matching
from unpaired.training.forecast import parameter_counts
from unpaired.training.validate import read_validated

OWN = ("norm", "entropy", "within")
"""What a modality's correlations are described by in semantics.npz, [M S]."""


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
    known = with_training(plan, folder, state["step"])
    Model(exported, known, config).save(folder.files.model, extra)
    return joint


def with_training(plan: Plan, folder: RunFolder, step: int) -> Plan:
    """The plan with what prediction compares with: what the intensities of the training images
    reached, and what is usual in their labels.

    A run whose prepared cases are gone yields the plan as it is.

    Args:
        step: of the weights; a validation of theirs sets the limits.
    """
    try:
        train, val = folder.prepared_cases("train"), folder.prepared_cases("val")
    except DataError:
        return plan
    validated, parts = read_validated(folder.files.validated, step), {}
    for m, part in plan.modalities.items():
        expected = _expected(plan, train[m], val.get(m, []), validated.get(m, {}))
        known = levels([case.record.get("range") for case in train[m]])
        parts[m] = part.model_copy(update={"levels": known, "expected": expected})
    return plan.model_copy(update={"modalities": parts})


def _expected(
    plan: Plan,
    train: Sequence[PreparedCase],
    val: Sequence[PreparedCase],
    validated: Mapping[str, np.ndarray],
) -> Expected | None:
    """What is usual in the training labels, with the limits that validation cases keep.

    Args:
        validated: what the network made of them (`Validation.cases`).
    """
    known = [one for case in train if (one := _measures(case, plan)) is not None]
    expected = gather(known, max(plan.spacing_mm))
    if expected is None:
        return None
    found, dice = [], []
    for case in val:
        own, rows = _measures(case, plan), validated.get(case.id)
        if own is not None and rows is not None:
            dice.append(rows[:, 0])
            found.append(replace(own, classes=rows[:, 1 : 1 + own.classes.shape[1]]))
    return calibrate(expected, found, dice)


def _measures(case: PreparedCase, plan: Plan) -> Measures | None:
    """Of its label; None where it was prepared before they were kept, or is annotated in part."""
    return Measures.from_record(case.record.get("measures"), len(plan.classes) - 1)


@torch.no_grad()
def save_semantics(joint: Joint, config: Config, folder: RunFolder) -> None:
    """semantics.npz: embeddings, and of the correlations of the validation slices their mean per
    scale and how far the modalities lie apart."""
    if not joint.semantics:
        return
    device = find_device(config.train.device)
    joint.to(device)
    arrays: dict[str, np.ndarray] = {}
    for m, module in joint.semantics.items():
        arrays[f"embedding/{m}"] = module.embeddings.cpu().numpy()  # type: ignore[operator]
    plan, val, train = folder.plan, folder.prepared_cases("val"), folder.prepared_cases("train")
    cases = {m: _to_look_at(val.get(m, [])) or train[m] for m in joint.semantics}
    found: dict[str, list[np.ndarray]] = {}
    for m, members in cases.items():
        draws = Draws(config.train.batch_size, seed=0)
        sampler = PatchSampler(members, m, plan.patch, plan.context, 0.0, draws)
        seen = []
        for step in range(-(-sampler.places // draws.batch_size)):
            output = joint({m: sampler.batch(step).image.to(device)})[m]
            seen.append([e.cpu() for e in output.correlations])
        for scale, parts in enumerate(zip(*seen, strict=True), start=1):
            means = [part.mean(0).numpy() for part in parts]
            arrays[f"correlation/{m}/{scale}"] = np.mean(means, axis=0)
        found[m] = [torch.cat(parts).numpy() for parts in zip(*seen, strict=True)]
    arrays |= _described(found, config.loss.tau)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    with atomic(folder.files.semantics) as temporary:
        temporary.write_bytes(buffer.getvalue())


def _described(found: Mapping[str, list[np.ndarray]], tau: float) -> dict[str, np.ndarray]:
    """Norm, entropy and divergence within, [M S], and divergence across, [S], of correlations by
    modality and scale; nothing where none are built."""
    scales = [
        describe(dict(zip(found, e, strict=True)), tau) for e in zip(*found.values(), strict=True)
    ]
    if not scales:
        return {}
    own = {name: [[getattr(s, name)[m] for s in scales] for m in found] for name in OWN}
    return {f"described/{name}": np.array(values) for name, values in own.items()} | {
        "described/across": np.array([s.across for s in scales])
    }


def _to_look_at(cases: list[PreparedCase]) -> list[PreparedCase]:
    """Those with an annotated voxel."""
    return [case for case in cases if case.annotated is None or len(case.annotated)]
