"""Optimiser and learning-rate schedule; the rate is a pure function of the step."""

import re
from contextlib import AbstractContextManager, nullcontext
from math import cos, pi
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from unpaired.config import TrainConfig
from unpaired.errors import ResourceError, UsageError


def parameter_groups(
    network: nn.Module, weight_decay: float, exempt: tuple[str, ...]
) -> list[dict[str, object]]:
    """Three groups, each with its weight decay and its `scale` of the learning rate.

    No weight decay on norms, biases (one axis), embeddings Q and position tables. The matrix that
    makes the gains (Eq. 13) has the rate divided by its fan-in C_1: Adam moves every entry by
    about the rate, so the gains themselves would move C_1 times as far (decision D52).
    """
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    gains: list[nn.Parameter] = []
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue
        if name.endswith("scaling.weight"):
            gains.append(parameter)
        elif parameter.ndim <= 1 or name.endswith((*exempt, "embeddings")):
            free.append(parameter)
        else:
            decayed.append(parameter)
    groups: list[dict[str, object]] = [
        {"params": decayed, "weight_decay": weight_decay, "scale": 1.0},
        {"params": free, "weight_decay": 0.0, "scale": 1.0},
    ]
    if gains:
        scale = 1.0 / len(gains[0])
        groups.append({"params": gains, "weight_decay": weight_decay, "scale": scale})
    return groups


def build_optimizer(
    network: nn.Module, config: TrainConfig, exempt: tuple[str, ...]
) -> torch.optim.Optimizer:
    """AdamW, or SGD with Nesterov momentum."""
    groups = parameter_groups(network, config.weight_decay, exempt)
    if config.optimizer == "sgd":
        return torch.optim.SGD(
            groups, lr=config.learning_rate, momentum=config.momentum, nesterov=config.momentum > 0
        )
    return torch.optim.AdamW(groups, lr=config.learning_rate)


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then cosine or polynomial (power 0.9) to zero."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    span = max(1, config.steps - config.warmup_steps)
    part = min(1.0, (step - config.warmup_steps) / span)
    if config.schedule == "poly":
        return config.learning_rate * (1 - part) ** 0.9
    return config.learning_rate * 0.5 * (1 + cos(pi * part))


# Where and in which precision to compute.


Precision = Literal["auto", "fp32", "bf16", "fp16"]


def find_device(name: str, local_rank: int = 0) -> torch.device:
    """The device of that name: auto (a GPU where there is one), cpu, cuda or cuda:N.

    Raises:
        UsageError: another name.
        ResourceError: a GPU is asked for and there is none, or not so many.
    """
    if not re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", name):
        raise UsageError(f"there is no device {name!r}; choose auto, cpu, cuda or cuda:N.")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise ResourceError(
            f"the device {name} is asked for, but torch sees no GPU here. Install a CUDA build of "
            "torch, or choose the device cpu."
        )
    kind, _, number = name.partition(":")
    if not number:
        return torch.device("cuda", local_rank) if kind == "cuda" else torch.device(kind)
    count = torch.cuda.device_count()
    if int(number) >= count:
        raise ResourceError(
            f"there is no {name}: torch sees {count} GPUs, counted from 0. Choose another."
        )
    return torch.device(kind, int(number))


def autocast_dtype(precision: Precision, device: torch.device) -> torch.dtype | None:
    """The autocast type, None for float32. `auto` is bf16 where the processor computes in it."""
    if precision == "auto":
        precision = "bf16" if _has_bf16(device) else "fp32"
    if precision == "fp16" and device.type == "cpu":
        precision = "bf16"  # half precision on a CPU is slow and needs loss scaling
    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision)


def autocast(device: torch.device, dtype: torch.dtype | None) -> AbstractContextManager[object]:
    """The context to compute in."""
    return nullcontext() if dtype is None else torch.autocast(device.type, dtype)


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
