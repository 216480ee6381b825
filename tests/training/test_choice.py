"""Which weights become the model."""

import math
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from toy import toy_config, write_toy
from unpaired.config import TrainConfig
from unpaired.training import trainer as training
from unpaired.training.checkpoint import Choice, load_checkpoint
from unpaired.training.fit import train
from unpaired.training.validate import Validation

SCORES = st.lists(st.floats(0, 1), min_size=1, max_size=30)


def smoothed_by_hand(scores: list[float]) -> list[float]:
    smoothed = [scores[0]]
    for score in scores[1:]:
        smoothed.append(0.9 * smoothed[-1] + 0.1 * score)
    return smoothed


@given(SCORES)
def test_best_is_the_highest_smoothed_score(scores: list[float]) -> None:
    choice = Choice(TrainConfig(keep="best"))
    kept = [i for i, score in enumerate(scores) if choice.better(score, i)]
    smoothed = smoothed_by_hand(scores)
    assert smoothed[kept[-1]] > max(smoothed) - 1e-12
    assert all(smoothed[a] < smoothed[b] + 1e-12 for a, b in pairwise(kept))
    assert choice.kept_score == scores[kept[-1]] and choice.best_epoch == kept[-1]


@given(SCORES, st.integers(0, 29))
def test_a_restored_choice_goes_on_alike(scores: list[float], cut: int) -> None:
    whole, first = Choice(TrainConfig(keep="best")), Choice(TrainConfig(keep="best"))
    expected = [whole.better(score, i) for i, score in enumerate(scores)]
    found = [first.better(score, i) for i, score in enumerate(scores[:cut])]
    second = Choice(TrainConfig(keep="best"))
    second.restore(first.state())
    found += [second.better(score, cut + i) for i, score in enumerate(scores[cut:])]
    assert found == expected and second.state() == whole.state()


def test_one_lucky_score_is_not_chosen() -> None:
    choice = Choice(TrainConfig(keep="best"))
    scores = [0.30, 0.50, 0.90, 0.60, 0.62, 0.64, 0.70]
    assert [choice.better(score, i) for i, score in enumerate(scores)][-1]


def test_auto_keeps_the_last_unless_the_run_may_stop_early() -> None:
    assert Choice(TrainConfig()).keeps_last
    assert not Choice(TrainConfig(early_stop=3)).keeps_last
    assert Choice(TrainConfig(keep="last", early_stop=3)).keeps_last


def test_without_validation_cases_the_newest_count() -> None:
    choice = Choice(TrainConfig(keep="best"))
    assert [choice.better(math.nan, i) for i in range(3)] == [True, True, True]


@pytest.mark.parametrize(("keep", "step"), [("last", 8), ("best", 4)])
def test_the_run_yields_what_was_chosen(
    keep: str, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = {"a": write_toy(tmp_path, "a", 4, True, (1, 2))}
    scores = iter([0.2, 0.9, 0.1, 0.1])
    monkeypatch.setattr(training, "validate", lambda *_: Validation({"a": {"disc": next(scores)}}))
    config = toy_config("train.steps=8", "train.steps_per_epoch=2", f"train.keep={keep}")
    result = train(config, data, tmp_path / "run")
    kept = load_checkpoint(tmp_path / "run/checkpoints/kept.pt")
    last = load_checkpoint(tmp_path / "run/checkpoints/last.pt")
    assert kept["step"] == step and result.score == {"last": 0.1, "best": 0.9}[keep]
    same = all(torch.equal(kept["model"][name], value) for name, value in last["model"].items())
    assert same == (keep == "last")
