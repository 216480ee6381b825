"""Optimiser, learning-rate schedule and moving mean of the weights.

The rate is a pure function of the step.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from math import cos, pi

import torch
from torch import Tensor, nn

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
    return torch.optim.AdamW(groups, lr=config.learning_rate, fused=config.fused or None)


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then cosine or polynomial (power 0.9) to zero."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / config.warmup_steps
    span = max(1, config.steps - config.warmup_steps)
    part = min(1.0, (step - config.warmup_steps) / span)
    if config.schedule == "poly":
        return config.learning_rate * (1 - part) ** 0.9
    return config.learning_rate * 0.5 * (1 + cos(pi * part))


class MovingMean:
    """The exponential moving mean of a network's weights and statistics (Polyak averaging).

    v <- v + (1 - d) (w - v) after every step, with d = min(decay, (1 + step) / (10 + step)), so
    that the start is soon forgotten.

    Args:
        network: whose weights are followed.
        decay: d; with 0 nothing is kept, and `values` is empty.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network, self.decay = network, decay
        self.values = self._copied() if decay else {}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step` steps."""
        if not self.values:
            return
        share = 1 - min(self.decay, (1 + step) / (10 + step))
        own = self.network.state_dict()
        moved = [name for name, value in self.values.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.values[n] for n in moved], [own[n] for n in moved], share)
        for name in self.values.keys() - set(moved):
            self.values[name].copy_(own[name])

    def weights(self) -> dict[str, Tensor]:
        """What is validated and kept: the mean, or without one the weights themselves."""
        return self.values or self.network.state_dict()

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The network with these weights, inside a `with`."""
        if not self.values:
            yield
            return
        own = self._copied()
        try:
            self.network.load_state_dict(self.values)
            yield
        finally:
            self.network.load_state_dict(own)

    def _copied(self) -> dict[str, Tensor]:
        return {name: value.clone() for name, value in self.network.state_dict().items()}
