"""How a training begins: fixed numbers, weights from a run or a file."""

import io
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from unpaired.artifact.safetensors import save_model
from unpaired.build import build_joint
from unpaired.config import Config, TrainConfig
from unpaired.data.plan import Plan
from unpaired.data.sampling import PatchSampler
from unpaired.device import find_device
from unpaired.errors import DataError, UsageError
from unpaired.files import atomic, write_json
from unpaired.models import Joint, gains_form
from unpaired.run import RunFolder
from unpaired.training.checkpoint import load_checkpoint
from unpaired.training.pretrained import fill, read_pretrained
from unpaired.training.setup import Setup

PER_MODALITY = ("segmenter.stems.", "segmenter.encoders.", "semantics.")
"""Where a modality's own parameters lie; a modality that is added starts with fresh ones."""


def fix_numbers(options: TrainConfig) -> None:
    """Seed, threads and kernels, before anything random is built."""
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(options.deterministic, warn_only=True)
    torch.manual_seed(options.seed)


def source_plan(config: Config) -> Plan | None:
    """The plan of the run to start from, if there is one."""
    if config.train.init_from is None:
        return None
    source = RunFolder(Path(config.train.init_from))
    if not source.kept.is_file():
        raise UsageError(
            f"train.init_from={config.train.init_from} holds no checkpoints/kept.pt; give the "
            "folder of a run that has validated at least once."
        )
    return Plan.read(source.plan)


def begin(joint: Joint, config: Config, folder: RunFolder, leads: bool) -> None:
    """Fill a new run's network from files; one that goes on has its checkpoint.

    What `model.pretrained` filled is written to the run's pretrained.json, by the process that
    leads.

    Raises:
        UsageError: the networks do not match; the message names the layers.
        DataError: the file is at fault.
    """
    if folder.last.exists():
        return
    if leads:
        folder.pretrained.unlink(missing_ok=True)
    state = read_pretrained(config)
    if state is not None and config.model.pretrained is not None:
        filling = fill(joint.segmenter, state, config.model.pretrained)
        if leads:
            write_json(folder.pretrained, filling.record())
    elif config.train.init_from is not None:
        fill_from_run(joint, config.train.init_from)


def fill_from_run(joint: Joint, run: str) -> None:
    """Start from another run's weights.

    Raises:
        UsageError: the networks do not match; the message names the layers.
    """
    path = RunFolder(Path(run)).kept
    state = load_checkpoint(path)["model"]
    own = joint.state_dict()
    known = {m for m in joint.segmenter.modalities if f"segmenter.stems.{m}.0.weight" in state}
    fresh = tuple(
        f"{prefix}{m}." for prefix in PER_MODALITY for m in joint.segmenter.modalities
        if m not in known
    )  # fmt: skip
    wanted = {name: value for name, value in own.items() if not name.startswith(fresh or ("\0",))}
    for name in [name for name in wanted if name.startswith("semantics.") and name not in state]:
        del wanted[name]  # a run on one modality, or without a loss, built fewer modules
    _check(wanted, state, path, UsageError)
    joint.load_state_dict({**own, **{name: state[name] for name in wanted}})


def load_matching(network: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Load weights that must match the network exactly.

    Raises:
        DataError: they do not; the message names the layers.
    """
    own = network.state_dict()
    _check(own, state, path, DataError)
    network.load_state_dict({name: state[name] for name in own})


def _check(
    wanted: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    path: Path,
    kind: type[UsageError] | type[DataError],
) -> None:
    missing = [name for name in wanted if name not in state]
    other = [
        f"{name} ({tuple(state[name].shape)} there, {tuple(value.shape)} here)"
        for name, value in wanted.items()
        if name in state and state[name].shape != value.shape
    ]
    if missing or other:
        parts = [f"missing: {', '.join(missing[:5])}"] if missing else []
        parts += [f"of another shape: {', '.join(other[:5])}"] if other else []
        raise kind(
            f"the weights in {path} do not fit this network; {'; '.join(parts)}. Use the model "
            "and loss settings and the classes of the run that wrote them."
        )


# How a training ends: the exported model, and the semantics as pictures need them.


def export(config: Config, setup: Setup, folder: RunFolder) -> None:
    """From the kept weights: the model without its semantics, and the semantics' matrices."""
    path = folder.kept if folder.kept.exists() else folder.last
    state = load_checkpoint(path)
    joint = build_joint(config, setup.plan)
    load_matching(joint, state["model"], path)
    joint.eval()
    extra = {"step": state["step"], "parameters": parameter_counts(joint)}
    save_model(
        gains_form(joint, config.model.scaling_at_test), config, setup.plan, folder.model, extra
    )
    save_semantics(joint, setup, folder, config)


def parameter_counts(joint: Joint) -> dict[str, int]:
    """What is trained, and what is kept at test time (gains not counted)."""
    return {
        "training": sum(p.numel() for p in joint.parameters()),
        "test": sum(p.numel() for p in joint.segmenter.parameters()),
    }


@torch.no_grad()
def gain_distance(joint: Joint) -> float | None:
    """||Phi^a - Phi^b|| over all branches, mean over the pairs of modalities; None without V3."""
    if joint.scaling is None or len(joint.segmenter.modalities) < 2:
        return None
    gains = [joint.gains(m) or {} for m in joint.segmenter.modalities]
    flat = [torch.cat(list(table.values())) for table in gains]
    return float(np.mean([float((a - b).norm()) for a, b in combinations(flat, 2)]))


@torch.no_grad()
def save_semantics(joint: Joint, setup: Setup, folder: RunFolder, config: Config) -> None:
    """semantics.npz: embeddings, and the mean correlation per scale over validation slices."""
    if not joint.semantics:
        return
    device = find_device(config.train.device)
    joint.to(device)
    arrays: dict[str, np.ndarray] = {}
    for m, module in joint.semantics.items():
        arrays[f"embedding/{m}"] = module.embeddings.cpu().numpy()  # type: ignore[operator]
    cases = {m: setup.part("val").get(m) or setup.part("train")[m] for m in joint.semantics}
    for m, members in cases.items():
        sampler = PatchSampler(
            members, m, setup.plan.patch, setup.plan.context, config.train.batch_size, 0.0, 0
        )
        found = []
        for step in range(-(-sampler.places // sampler.batch_size)):
            output = joint({m: sampler.batch(step).image.to(device)})[m]
            found.append([e.mean(0).cpu().numpy() for e in output.correlations])
        for scale, matrices in enumerate(zip(*found, strict=True), start=1):
            arrays[f"correlation/{m}/{scale}"] = np.mean(matrices, axis=0)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    with atomic(folder.semantics) as temporary:
        temporary.write_bytes(buffer.getvalue())
