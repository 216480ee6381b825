"""Optimiser and learning-rate schedule; the rate is a pure function of the step."""

from math import cos, pi

import torch
from torch import nn

from unpaired.config import TrainConfig


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
