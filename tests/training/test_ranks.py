"""Several processes compute what one does, and none waits for ever for another that is gone."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from ranks import finish, in_float64, start
from torch import nn

from toy import toy_config
from toy import train_toy as train
from unpaired.errors import UsageError
from unpaired.methods.base import Method
from unpaired.methods.consistency import Consistency
from unpaired.models.whole_batch import span_processes
from unpaired.nn.block import DropPath
from unpaired.run.log import read_log
from unpaired.training import fit
from unpaired.training import trainer as training
from unpaired.training.checkpoint import load_checkpoint
from unpaired.training.heartbeat import FAILED, LEFT, Judge, Sign
from unpaired.training.step import share_of


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_checkpoint(run / "checkpoints/last.pt")["model"]


def distance(a: Path, b: Path) -> float:
    """Relative L2 between the weights of two runs."""
    one, two = (torch.cat([v.double().flatten() for v in weights(r).values()]) for r in (a, b))
    return float((one - two).norm() / one.norm())


@pytest.fixture
def doubled(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process what `ranks.py` does in others; undone at the end."""
    for where, name in (
        (Method, "joint"), (Consistency, "joint"), (training, "augment"),
        (fit, "write_model"), (fit, "save_semantics"), (training.Trainer, "_validate"),
    ):  # fmt: skip
        monkeypatch.setattr(where, name, getattr(where, name))
    in_float64()
    for name in ("write_model", "save_semantics"):
        monkeypatch.setattr(fit, name, lambda *_: None)
    monkeypatch.setattr(training.Trainer, "_validate", lambda self: None)


EVERYTHING = [
    "train.steps=10", "train.steps_per_epoch=20", "model.options.drop_path=0.3",
    "train.learning_rate=0.003", "loss.alpha=0.4", "loss.beta=0.1", "loss.gamma=0.1",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        (),
        ("train.optimizer=sgd", "train.gradient_clip=none", "loss.class_weights=[0.5, 1.0, 2.0]"),
    ],
    ids=["adamw", "sgd"],
)
def test_two_processes_equal_one_of_a_double_batch(
    data: dict[str, Path], tmp_path: Path, doubled: None, settings: tuple[str, ...]
) -> None:
    """Ten steps with all that is drawn or summed over a batch: augmentation, drop path, Dice, the
    pairs of the correlation consistency, clipping."""
    two = start(2, tmp_path / "two", data, *EVERYTHING, *settings, "train.batch_size=2", bits=64)
    train(toy_config(*EVERYTHING, *settings, "train.batch_size=4"), data, tmp_path / "one")
    assert [code for code, _ in finish(two)] == [0, 0]
    assert distance(tmp_path / "one", tmp_path / "two") < 1e-5
    other = toy_config(*EVERYTHING, *settings, "train.batch_size=4", "train.seed=1")
    train(other, data, tmp_path / "other")
    assert distance(tmp_path / "one", tmp_path / "other") > 1e-2


class Parts(nn.Module):
    """Dropout of every kind, each under a name of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.path = DropPath(0.4)
        self.inside = nn.Sequential(nn.Dropout(0.3), nn.Dropout2d(0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inside(self.path(x))


def test_what_is_dropped_is_what_one_process_would_drop() -> None:
    x = torch.randn(6, 3, 4, 5)
    torch.manual_seed(7)
    whole = Parts()(x)
    for rank in (0, 1, 2):
        parts = Parts()
        span_processes(parts, rank, 3, lambda v: v)
        torch.manual_seed(7)
        own = slice(2 * rank, 2 * rank + 2)
        torch.testing.assert_close(parts(x[own]), whole[own])
        assert torch.equal(parts.eval()(x[own]), x[own])
    assert len({float(v.sum()) for v in whole}) > 2


@pytest.mark.parametrize("momentum", [0.1, None])
def test_a_norm_over_all_is_batch_norm_where_one_has_it_all(momentum: float | None) -> None:
    x = torch.randn(4, 3, 5, 5, dtype=torch.float64)
    nets = [nn.Sequential(nn.BatchNorm2d(3, momentum=momentum)).double() for _ in range(2)]
    for net in nets:
        nn.init.uniform_(net[0].weight, 1, 1)  # type: ignore[arg-type]
    names = list(nets[1].state_dict())
    span_processes(nets[1], 0, 2, lambda v: v)
    assert list(nets[1].state_dict()) == names
    given = [x.clone().requires_grad_() for _ in nets]
    for _ in range(3):
        one, two = (net(v) for net, v in zip(nets, given, strict=True))
    torch.testing.assert_close(one, two)
    for net, v in zip(nets, given, strict=True):
        net(v).square().sin().sum().backward()
    torch.testing.assert_close(given[0].grad, given[1].grad)
    for name, value in nets[0].state_dict().items():
        torch.testing.assert_close(nets[1].state_dict()[name], value)
    torch.testing.assert_close(nets[0].eval()(x), nets[1].eval()(x))


@pytest.mark.slow
def test_each_process_validates_its_share_and_all_know_the_scores(
    data: dict[str, Path], tmp_path: Path
) -> None:
    more = ("train.steps=2", "train.steps_per_epoch=1", "data.split=[0.25, 0.75, 0.0]")
    assert [code for code, _ in finish(start(2, tmp_path, data, *more))] == [0, 0]
    found = [r for r in read_log(tmp_path / "log.jsonl") if r["kind"] == "validation"]
    assert len(found) == 2
    from unpaired.run import RunFolder
    from unpaired.training.distributed import Group, Stop
    from unpaired.training.validate import validate

    class Share(Group):
        def total(self, values: torch.Tensor) -> torch.Tensor:
            shares.append(values)
            return values

    config = toy_config(*more)
    alone = training.Trainer(config, RunFolder(tmp_path), Group())
    assert alone.loop(Stop()) == "steps"
    given = (alone.joint, alone.held_out, config, alone.plan)
    shares: list[torch.Tensor] = []
    whole = validate(*given)
    assert {m: {c: round(v, 6) for c, v in d.items()} for m, d in whole.dice.items()} == (
        found[-1]["dice"]
    )
    for rank in (0, 1):
        validate(*given, group=Share(rank, 2))
    validate(*given, group=Share(0, 1))
    assert torch.equal(shares[0] + shares[1], shares[2])
    assert all((share != 0).any() and (share == 0).all(1).any() for share in shares[:2])


@pytest.mark.slow
@pytest.mark.unix
def test_a_run_goes_on_in_another_number_of_processes(
    data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = ("train.steps=8", "train.batch_size=4", "train.steps_per_epoch=100")
    train(toy_config(*more), data, tmp_path / "whole")
    plain = training.Trainer._optimise

    def optimise(self: training.Trainer, batches: object) -> object:
        if self.step == 3:
            signal.raise_signal(signal.SIGTERM)
        return plain(self, batches)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(training.Trainer, "_optimise", optimise)
        with pytest.raises(Exception, match="step 4 of 8"):
            train(toy_config(*more), data, tmp_path / "run")
    ended = finish(start(2, tmp_path / "run", data, *more))
    assert [code for code, _ in ended] == [0, 0]
    assert "began in 1 process and goes on in 2: each takes 2 images" in ended[0][1]
    assert "goes on in" not in ended[1][1]
    assert distance(tmp_path / "run", tmp_path / "whole") < 1e-3
    assert load_checkpoint(tmp_path / "run/checkpoints/last.pt")["images"] == 4


def test_a_step_that_cannot_be_shared_equally_is_refused() -> None:
    assert [share_of(12, world, Path("run")) for world in (1, 2, 3, 12)] == [12, 6, 4, 1]
    with pytest.raises(UsageError, match=r"12 images .* which 5 processes cannot .* 1, 2, 3, 4, 6"):
        share_of(12, 5, Path("run"))


def sign(beats: int, meetings: int = 0, pid: int | None = None) -> str:
    return Sign(beats, os.getpid() if pid is None else pid, "elsewhere", meetings, 7).text()


def test_a_judge_names_who_is_stalled_and_forgives_who_moves() -> None:
    judge = Judge(10.0)
    for now in range(11):
        assert judge.lost({1: sign(now), 2: sign(0)}, float(now)) == ""
    assert "process 2 of the training" in (said := judge.lost({1: sign(11), 2: sign(0)}, 11.0))
    assert "no sign of life for 11 s at step 7" in said
    assert judge.lost({1: sign(12), 2: sign(1)}, 12.0) == ""
    assert "process 1 of the training has failed" in judge.lost({1: FAILED}, 13.0)
    assert "has left" in judge.lost({1: LEFT}, 14.0)


def test_a_judge_that_stood_still_itself_gives_time_anew() -> None:
    """As after Ctrl-Z and fg: everybody's last sign is old."""
    judge = Judge(10.0)
    assert judge.lost({1: sign(0)}, 0.0) == ""
    assert judge.lost({1: sign(0)}, 500.0) == ""
    for now in range(501, 510):
        assert judge.lost({1: sign(0)}, float(now)) == ""
    assert judge.lost({1: sign(0)}, 511.0)


def test_a_judge_says_whom_the_others_wait_for() -> None:
    """Its thread lives, but its work does not come to the next meeting."""
    judge = Judge(10.0)
    said = [judge.late({0: sign(t, 5), 1: sign(t, 4)}, float(t)) for t in range(40)]
    assert [t for t, text in enumerate(said) if text] == [11, 21]
    assert "waited 11 s for process 1" in said[11]
    assert judge.late({0: sign(40, 6), 1: sign(40, 6)}, 40.0) == ""


def steps_done(run: Path) -> int:
    return max((r["step"] for r in read_log(run / "log.jsonl")), default=0)


def wait_until(what: Callable[[], bool], seconds: float = 60) -> None:
    until = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.05)


ENDLESS = ("train.steps=100000", "train.steps_per_epoch=50000", "train.heartbeat_seconds=2")


@pytest.mark.slow
@pytest.mark.unix
@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("how", ["SIGSTOP", "SIGKILL"])
def test_a_process_that_is_gone_is_named_in_seconds(
    rank: int, how: str, data: dict[str, Path], tmp_path: Path
) -> None:
    processes = start(2, tmp_path, data, *ENDLESS)
    try:
        wait_until(lambda: steps_done(tmp_path) > 2)
        processes[rank].send_signal(getattr(signal, how))
        began, other = time.monotonic(), processes[1 - rank]
        said = other.communicate(timeout=30)[1]
        assert time.monotonic() - began < (15 if how == "SIGSTOP" else 10)
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert other.returncode == 4
    assert f"process {rank} of the training" in said or "process that leads" in said
    assert "the same command goes on" in said
    assert "fault of the program" not in said and "Traceback" not in said
