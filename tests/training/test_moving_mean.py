"""The moving mean of the weights: a plain loop, and what is kept and resumed."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from toy import toy_config, write_toy
from unpaired.config import TrainConfig
from unpaired.errors import DataError
from unpaired.run.log import read_log
from unpaired.training.checkpoint import load_checkpoint, save_checkpoint
from unpaired.training.fit import train
from unpaired.training.optim import MovingMean, build_optimizer


def test_it_is_the_mean_of_a_plain_loop() -> None:
    network = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2)).double()
    mean = MovingMean(network, 0.6)
    expected = {n: v.numpy().copy() for n, v in network.state_dict().items()}
    for step in range(1, 9):
        with torch.no_grad():
            for p in network.parameters():
                p.add_(torch.randn_like(p))
        network(torch.randn(5, 3).double())  # moves the statistics, and counts
        mean.update(step)
        d = min(0.6, (1 + step) / (10 + step))
        for name, value in network.state_dict().items():
            w = value.numpy()
            whole = value.dtype == torch.int64
            expected[name] = w.copy() if whole else d * expected[name] + (1 - d) * w
    for name, value in mean.values.items():
        np.testing.assert_allclose(value.numpy(), expected[name], rtol=1e-12)


def test_in_place_is_undone_even_by_an_error() -> None:
    network = nn.Linear(2, 1)
    mean, own = MovingMean(network, 0.5), network.weight.detach().clone()
    mean.values["weight"] += 1
    with pytest.raises(ZeroDivisionError), mean.in_place():
        assert torch.equal(network.weight, own + 1)
        raise ZeroDivisionError
    assert torch.equal(network.weight, own)


def test_without_a_decay_it_is_the_network() -> None:
    network = nn.Linear(2, 1)
    mean = MovingMean(network, 0.0)
    mean.update(1)
    assert mean.weights()["weight"].data_ptr() == network.weight.data_ptr()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {"a": write_toy(tmp_path_factory.mktemp("toy"), "a", 4, True, (1, 2))}


def test_the_mean_is_what_a_run_keeps_and_goes_on_with(
    data: dict[str, Path], tmp_path: Path
) -> None:
    settings = ("train.average=0.5", "model.norms=private", "train.fused=true")
    train(toy_config(*settings), data, tmp_path / "whole")
    train(toy_config(*settings, "train.max_minutes=1e-9"), data, tmp_path / "broken")
    state = load_checkpoint(tmp_path / "broken/checkpoints/last.pt")
    assert state["step"] < 6
    train(toy_config(*settings), data, tmp_path / "broken")
    last = [tmp_path / name / "checkpoints/last.pt" for name in ("whole", "broken")]
    whole, broken = map(load_checkpoint, last)
    kept = load_checkpoint(tmp_path / "whole/checkpoints/kept.pt")["model"]
    for name, value in whole["mean"].items():
        assert torch.equal(value, broken["mean"][name])
        assert torch.equal(value, kept[name])
    assert any(not torch.equal(kept[name], value) for name, value in whole["model"].items())
    records = [
        [r["mean"] for r in read_log(tmp_path / n / "log.jsonl") if r["kind"] == "validation"]
        for n in ("whole", "broken")
    ]
    assert records[0] == records[1]
    del whole["mean"], whole["schema"]
    save_checkpoint(last[0], whole)
    with pytest.raises(DataError, match="missing"):
        train(toy_config(*settings, "train.steps=8"), data, tmp_path / "whole")


def test_fused_is_the_same_rule() -> None:
    found = []
    for fused in (False, True):
        torch.manual_seed(0)
        network = nn.Linear(40, 30).double()
        config = TrainConfig(learning_rate=0.01, fused=fused)
        optimizer = build_optimizer(network, config, ())
        for _ in range(20):
            optimizer.zero_grad()
            network(torch.ones(1, 40).double()).square().sum().backward()
            optimizer.step()
        found.append(network.weight.detach())
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)
