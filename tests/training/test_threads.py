"""The number of CPU threads: measured where it matters, kept with the run, and never overruled."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from toy import toy_config, write_toy
from unpaired.cli.app import run as program
from unpaired.config import to_toml
from unpaired.errors import DataError
from unpaired.files import read_json
from unpaired.run import RunFolder
from unpaired.training import forecast as forecasting
from unpaired.training import threads as module
from unpaired.training.fit import train
from unpaired.training.threads import choose, free_to_choose, step_seconds, with_threads

CPU = torch.device("cpu")


@pytest.fixture
def two_threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A machine with two: what is set is only noted, and another program keeps one busy."""
    asked = [2]
    monkeypatch.setattr(torch, "get_num_threads", lambda: asked[-1])
    monkeypatch.setattr(torch, "set_num_threads", asked.append)
    for name in module.CHOSEN_ELSEWHERE:
        monkeypatch.delenv(name, raising=False)
    return asked


@pytest.fixture
def busy(two_threads: list[int], monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """`busy(15.0)`: a step takes so many seconds with two threads, and 1 s with one."""
    clock = [0.0]
    monkeypatch.setattr(module, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(forecasting, "perf_counter", lambda: clock[0])
    plain = forecasting._step

    def begin(seconds: float) -> None:
        def step(*given: object) -> None:
            plain(*given)  # type: ignore[arg-type]
            clock[0] += seconds if two_threads[-1] == 2 else 1.0

        monkeypatch.setattr(forecasting, "_step", step)

    return begin


def test_the_quickest_is_taken_if_it_is_quicker_by_far() -> None:
    assert choose({2: 15.0, 1: 0.6}) == 1
    assert choose({2: 0.35, 1: 0.6}) == 2
    assert choose({2: 1.0, 1: 0.95}) == 2, "about as good: the same call computes the same"
    assert choose({8: 4.0, 4: 2.0, 1: 3.0}) == 4


def test_all_half_and_one_are_measured_and_all_are_back(two_threads: list[int]) -> None:
    two_threads.append(8)
    assert list(step_seconds(lambda: None)) == [8, 4, 1]
    assert two_threads[-1] == 8


def test_nobody_is_overruled(two_threads: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    assert free_to_choose(toy_config(), CPU)
    assert not free_to_choose(toy_config("train.threads=2"), CPU)
    assert not free_to_choose(toy_config(), torch.device("cuda"))
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert not free_to_choose(toy_config(), CPU)
    monkeypatch.delenv("OMP_NUM_THREADS")
    two_threads.append(1)
    assert not free_to_choose(toy_config(), CPU)


@pytest.mark.parametrize(("seconds", "steps", "threads"), [(15.0, 6, None), (15.0, 600, 1)])
def test_short_trainings_are_not_measured(
    seconds: float, steps: int, threads: int | None, busy: Callable[[float], None], tmp_path: Path
) -> None:
    data, run = {"a": write_toy(tmp_path, "a", 4, True, (1, 2))}, tmp_path / "run"
    busy(seconds)
    config = toy_config(f"train.steps={steps}", "train.max_minutes=0.0001")
    train(config, data, run)
    found = with_threads(config, RunFolder(run))
    assert found.train.threads == threads
    assert (run / "threads.json").exists() == (threads is not None)


def test_a_run_says_what_it_takes_and_goes_on_with_it(
    busy: Callable[[float], None],
    two_threads: list[int],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, run, settings = write_toy(tmp_path, "a", 4, True, (1, 2)), tmp_path / "r", tmp_path / "s"
    busy(15.0)
    config = toy_config("train.steps=600", "train.max_minutes=0.0001")
    settings.write_text(to_toml(config))
    call = ["train", "--data", f"a={data}", "--config", str(settings), "--out", str(run)]
    assert program(call) == 0
    assert "CPU threads: 1, as a step was measured (30 s with 2, 2 s with 1)" in (
        capsys.readouterr().out
    )
    assert read_json(run / "threads.json") == {"threads": 1}
    assert two_threads[-1] == 1, "it trained with one"
    two_threads.append(2)
    busy(0.1)  # the other program has ended; the run computes on as it began
    assert program(call) == 0
    assert two_threads[-1] == 1
    assert program([*call, "train.threads=2"]) == 0
    assert two_threads[-1] == 2, "who asks gets"
    (run / "threads.json").write_text('{"threads": "many"}')
    with pytest.raises(DataError, match=r"train\.threads=NUMBER"):
        with_threads(config, RunFolder(run))
