"""How a training ends: the exported model, and the semantics as pictures need them."""

import io
from itertools import combinations

import numpy as np
import torch

from unpaired.artifact.safetensors import save_model
from unpaired.build import build_joint
from unpaired.config import Config
from unpaired.data.sampling import PatchSampler
from unpaired.engine.checkpoint import load_checkpoint
from unpaired.engine.device import find_device
from unpaired.engine.run_folder import RunFolder
from unpaired.engine.setup import Setup
from unpaired.engine.start import load_matching
from unpaired.files import atomic
from unpaired.models import Joint, gains_form


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
