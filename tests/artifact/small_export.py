"""The smallest networks that have everything an export must carry."""

from tiny_model import tiny_plan
from unpaired.config import Config, load_config
from unpaired.data.plan import Clip, ModalityPlan, Plan

MIXED = ("t1", "flair")
"""Of one channel and of two."""


def small_config(variant: str = "V3", *more: str) -> Config:
    """A U-Net of two stages whose sizes are free."""
    return load_config(
        None,
        None,
        [
            f"model.variant={variant}",
            "model.heads=2",
            "train.precision=fp32",
            "model.backbone=resenc_unet",
            "model.options.stages=2",
            "model.options.base_width=4",
            "model.options.blocks=[1, 1]",
            *more,
        ],
    )


def mixed_plan(patch: tuple[int, ...] = (16, 24), context: int = 3) -> Plan:
    clip = Clip(kind="percentile", low=0.5, high=99.5)
    parts = {
        name: ModalityPlan(
            channel_names=tuple(f"echo {k}" for k in range(count)), clip=(clip,) * count
        )
        for name, count in zip(MIXED, (1, 2), strict=True)
    }
    changes = {"modalities": parts, "patch": patch, "context": context}
    return tiny_plan().model_copy(update=changes)
