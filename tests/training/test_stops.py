"""What ends a training from outside: signals, a lost terminal, a folder that is taken away."""

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from toy import toy_config, train_toy, write_toy
from unpaired.cli.app import code_of, run
from unpaired.config import to_toml
from unpaired.errors import DataError, Interrupted, ResourceError
from unpaired.progress import write_line
from unpaired.run.log import read_log
from unpaired.signals import stopping_signals
from unpaired.training import trainer as training
from unpaired.training.checkpoint import load_checkpoint
from unpaired.training.fit import train

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
Output = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {"a": write_toy(tmp_path_factory.mktemp("toy"), "a", 4, True, (1, 2))}


@pytest.fixture
def during_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[], object]], None]:
    """`during_step(3, deed)` does something while the third step is computed."""
    plain = training.Trainer._optimise

    def arrange(step: int, deed: Callable[[], object]) -> None:
        def optimise(self: training.Trainer, batches: object) -> object:
            if self.step + 1 == step:
                deed()
            return plain(self, batches)  # type: ignore[arg-type]

        monkeypatch.setattr(training.Trainer, "_optimise", optimise)

    return arrange


@pytest.fixture
def handlers() -> Iterator[None]:
    """As Python starts with them, whatever the shell has ignored; put back at the end."""
    before = {name: signal.getsignal(getattr(signal, name)) for name in ("SIGINT", "SIGHUP")}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    for name, handler in before.items():
        signal.signal(getattr(signal, name), handler)


@pytest.mark.slow
@pytest.mark.unix
@pytest.mark.parametrize("name", SIGNALS)
def test_every_sign_to_stop_saves_the_step(
    name: str,
    data: dict[str, Path],
    tmp_path: Path,
    during_step: Callable[..., None],
    handlers: None,
) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    during_step(3, lambda: signal.raise_signal(number))
    with pytest.raises(Interrupted, match="step 3 of 6; everything is saved"):
        train_toy(toy_config(), data, tmp_path)
    assert load_checkpoint(tmp_path / "checkpoints/last.pt")["step"] == 3
    assert signal.getsignal(number) == before


@pytest.mark.unix
def test_nohup_is_respected(
    data: dict[str, Path], tmp_path: Path, during_step: Callable[..., None], handlers: None
) -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    during_step(3, lambda: signal.raise_signal(signal.SIGHUP))
    assert train_toy(toy_config(), data, tmp_path).step == 6
    assert signal.SIGHUP not in stopping_signals()


@pytest.mark.unix
@pytest.mark.parametrize("name", SIGNALS)
@pytest.mark.parametrize("verb", ["prepare", "predict", "reproduce"])
def test_other_verbs_end_in_order_too(
    name: str,
    verb: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Output,
    handlers: None,
) -> None:
    def stopped(*_: object, **__: object) -> None:
        signal.raise_signal(getattr(signal, name))
        raise AssertionError("the signal was lost")

    monkeypatch.setattr(f"unpaired.cli.{verb}.parse_data", stopped, raising=False)
    monkeypatch.setattr("unpaired.inference.predictor.Predictor.from_folder", stopped)
    image = tmp_path / "a.nii"
    image.write_bytes(b"")
    call = {
        "prepare": ["prepare", "--out", "o"],
        "predict": ["predict", str(image), "--model", "m", "--out", "o"],
        "reproduce": ["reproduce", "table5", "--out", "o", "--data", "a=b"],
    }[verb]
    assert run(call) == 5
    assert "The same command goes on" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.unix
def test_a_lost_terminal_leaves_a_whole_run(data: dict[str, Path], tmp_path: Path) -> None:
    """The terminal closes: SIGHUP comes, and every word that is printed then fails."""
    ours, theirs = os.openpty()
    settings, out = tmp_path / "toy.toml", tmp_path / "run"
    settings.write_text(to_toml(toy_config("train.steps=100000", "train.steps_per_epoch=50000")))
    call = f"train --data a={data['a']} --config {settings} --out {out}".split()
    program = (
        "import fcntl, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # the tests may run under nohup
        "from unpaired.cli import main; main(sys.argv[1:])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, *call],
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    try:
        for _ in range(600):
            if len(read_log(out / "log.jsonl")) > 2:
                break
            time.sleep(0.1)
            if select.select([ours], [], [], 0)[0]:
                os.read(ours, 1 << 16)
        os.close(ours)
        assert process.wait(60) == 5
    finally:
        process.kill()
    saved = load_checkpoint(out / "checkpoints/last.pt")["step"]
    assert saved == read_log(out / "log.jsonl")[-1]["step"] > 0


@pytest.mark.unix
def test_a_reader_that_left_is_no_fault(tmp_path: Path) -> None:
    end, begin = os.pipe()
    os.close(end)
    with os.fdopen(begin, "w", encoding="utf-8") as stream:
        write_line(stream, "into nothing")
        write_line(stream, "again")
    full = Path("/dev/full")
    if full.exists():
        stream = full.open("w", encoding="utf-8")
        with pytest.raises(OSError, match="space"):
            write_line(stream, "a full disk is still a fault")
        with contextlib.suppress(OSError):
            stream.close()


def test_the_run_folder_is_removed(
    data: dict[str, Path], tmp_path: Path, during_step: Callable[..., None], capsys: Output
) -> None:
    out = tmp_path / "run"
    during_step(3, lambda: shutil.rmtree(out))
    with pytest.raises(ResourceError, match="was removed or moved while it was in use") as caught:
        train(toy_config(), data, out, prepared=tmp_path / "cache")
    assert code_of(caught.value) == 4
    assert "fault" not in (said := capsys.readouterr().err) and said.count("\n") == 1
    assert not out.exists(), "nothing begins a new folder of that name"


@pytest.mark.parametrize("every", [1, 100])
def test_it_is_removed_between_log_lines_or_with_a_sign_to_stop(
    every: int, data: dict[str, Path], tmp_path: Path, during_step: Callable[..., None]
) -> None:
    out = tmp_path / "run"

    def deed() -> None:
        out.rename(tmp_path / "elsewhere")
        signal.raise_signal(signal.SIGTERM)

    during_step(3, deed)
    with pytest.raises(ResourceError, match="Put it back"):
        train(toy_config(f"train.log_every={every}"), data, out, prepared=tmp_path / "cache")
    assert not out.exists()
    (tmp_path / "elsewhere").rename(out)
    during_step(0, lambda: None)
    assert train(toy_config(f"train.log_every={every}"), data, out, tmp_path / "cache").step == 6


def test_the_log_cannot_be_written(
    data: dict[str, Path], tmp_path: Path, during_step: Callable[..., None]
) -> None:
    log = tmp_path / "run/log.jsonl"

    def deed() -> None:
        log.unlink()
        log.mkdir()

    during_step(3, deed)
    with pytest.raises(ResourceError, match=r"cannot write .*log\.jsonl: Is a directory"):
        train(toy_config(), data, tmp_path / "run")


def test_the_data_are_removed_and_the_training_ends_all_the_same(
    tmp_path: Path, during_step: Callable[..., None]
) -> None:
    own = {"a": write_toy(tmp_path, "a", 4, True, (1, 2))}
    during_step(3, lambda: shutil.rmtree(own["a"]))
    assert train(toy_config(), own, tmp_path / "run").step == 6


def test_the_cache_is_removed(
    data: dict[str, Path], tmp_path: Path, during_step: Callable[..., None]
) -> None:
    during_step(3, lambda: shutil.rmtree(tmp_path / "cache"))
    with pytest.raises(DataError, match=r"[Pp]repare"):
        train(toy_config(), data, tmp_path / "run", prepared=tmp_path / "cache")
    during_step(0, lambda: None)
    assert train(toy_config(), data, tmp_path / "run", prepared=tmp_path / "cache").step == 6


def test_what_is_removed_elsewhere_is_no_fault_of_the_program(capsys: Output) -> None:
    assert code_of(FileNotFoundError(2, "No such file or directory", "out/labels")) == 4
    assert "cannot use out/labels: No such file or directory. Was it removed" in (
        capsys.readouterr().err
    )
