"""The schedule and the parameter groups."""

from itertools import pairwise

import torch

from toy import toy_config
from unpaired.backbones import SwinUnet
from unpaired.config import TrainConfig
from unpaired.models import Joint, Scaling, Segmenter, Semantics
from unpaired.training.optim import build_optimizer, learning_rate, parameter_groups


def joint() -> Joint:
    backbone = SwinUnet(
        (32, 32), 3, 3, embed_dim=8, depths=(1, 1, 2), heads=(1, 2, 2), position=True
    )
    widths = [level.channels for level in backbone.levels]
    semantics = {m: Semantics(3, widths, heads=2) for m in ("a", "b")}
    scaling = Scaling(3, widths[0], backbone.branches)
    return Joint(Segmenter(backbone, {"a": 3, "b": 3}), semantics, scaling)


def test_what_decays_and_what_does_not() -> None:
    network = joint()
    names = {id(p): name for name, p in network.named_parameters()}
    decayed, free, gains = parameter_groups(network, 0.1, network.segmenter.backbone.no_decay)
    found = {names[id(p)] for p in free["params"]}  # type: ignore[attr-defined]
    assert all(
        name.endswith(("bias", "bias_table", "position", "embeddings", "mix")) or "norm" in name
        for name in found
    )
    rest = {names[id(p)] for p in decayed["params"]}  # type: ignore[attr-defined]
    assert not any(
        name.endswith(("bias", "bias_table", "position", "embeddings")) or "norm" in name
        for name in rest
    )
    assert (decayed["weight_decay"], free["weight_decay"]) == (0.1, 0.0)
    assert [names[id(p)] for p in gains["params"]] == ["scaling.weight"]  # type: ignore[attr-defined]
    assert len(found) + len(rest) + 1 == len(names)


def test_the_gains_move_no_further_than_a_weight() -> None:
    """One step of Adam moves every weight by the rate; the gains, sums over C1, by no more."""
    network = joint()
    config = toy_config("train.learning_rate=0.01").train
    optimizer = build_optimizer(network, config, network.segmenter.backbone.no_decay)
    for group in optimizer.param_groups:
        group["lr"] = group["scale"] * config.learning_rate
    gains = network.gains("a")
    assert gains is not None
    torch.cat(list(gains.values())).sum().backward()
    optimizer.step()
    moved = network.gains("a")
    assert moved is not None
    change = max(float((moved[n] - 1).abs().max().detach()) for n in moved)
    omega = float((network.scaling.mix @ network.semantics["a"].embeddings).abs().max().detach())  # type: ignore[union-attr,operator]
    assert 0 < change <= 0.01 * (omega + 0.1)


def test_warm_up_then_to_zero() -> None:
    for schedule, half in (("cosine", 0.5), ("poly", 0.5**0.9)):
        config = TrainConfig(steps=110, warmup_steps=10, learning_rate=2.0, schedule=schedule)
        rates = [learning_rate(config, step) for step in range(111)]
        assert rates[0] == 0.2 and rates[10] == 2.0 and abs(rates[110]) < 1e-12
        assert abs(rates[60] - 2.0 * half) < 1e-9
        assert all(a > b for a, b in pairwise(rates[10:]))
