"""A Swin-Unet of a few thousand parameters, with plans and files to go with it."""

from pathlib import Path

import torch

from unpaired.build import build_joint
from unpaired.config import Config, load_config
from unpaired.data.plan import Clip, ModalityPlan, Plan
from unpaired.engine.model_file import save_model
from unpaired.models import Segmenter, gains_form

SMALL = {"embed_dim": 12, "depths": [1, 1, 1, 1], "heads": [1, 1, 2, 2], "window": 4}


def tiny_config(variant: str = "V3", *more: str) -> Config:
    options = [f"model.options.{name}={value}" for name, value in SMALL.items()]
    extra = [f"model.variant={variant}", "model.heads=4", "train.precision=fp32"]
    return load_config(None, None, [*options, *extra, *more])


def tiny_plan(
    classes: tuple[str, ...] = ("background", "liver", "spleen"),
    modalities: tuple[str, ...] = ("ct", "mr"),
    spacing_mm: tuple[float, float, float] = (3.0, 2.0, 2.0),
    channels: int = 1,
) -> Plan:
    clip = Clip(kind="percentile", low=0.5, high=99.5)
    part = ModalityPlan(
        channel_names=tuple(f"channel {k}" for k in range(channels)), clip=(clip,) * channels
    )
    return Plan(
        classes=classes,
        modalities=dict.fromkeys(modalities, part),
        spacing_mm=spacing_mm,
        slice_axis="S",
        patch=(32, 32),
    )


def tiny_segmenter(config: Config, plan: Plan, seed: int = 0) -> Segmenter:
    """Random weights, perturbed so that nothing is zero or the identity, gains included."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        joint = build_joint(config, plan)
        with torch.no_grad():
            for parameter in joint.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        return gains_form(joint).eval()


def write_model(
    folder: Path, plan: Plan | None = None, config: Config | None = None, seed: int = 0
) -> Segmenter:
    plan, config = plan or tiny_plan(), config or tiny_config()
    segmenter = tiny_segmenter(config, plan, seed)
    save_model(segmenter, config, plan, folder, {"steps": 3})
    return segmenter
