"""The launcher of several processes: signals, exit codes, and its own death."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from toy import toy_config, write_toy
from unpaired.config import to_toml
from unpaired.run.log import read_log
from unpaired.training.checkpoint import load_checkpoint

pytestmark = [pytest.mark.slow, pytest.mark.unix]
Launch = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Launch]:
    """`launch("train.steps=4")` starts two processes of a training in `tmp_path / "run"`."""
    data, settings = write_toy(tmp_path / "data", "a", 4, True, (1, 2)), tmp_path / "toy.toml"
    settings.write_text(to_toml(toy_config("train.steps_per_epoch=50000")))
    started: list[subprocess.Popen[str]] = []

    def begin(*more: str, processes: int = 2) -> subprocess.Popen[str]:
        call = f"train --data a={data} --config {settings} --out {tmp_path / 'run'}".split()
        process = subprocess.Popen(
            [sys.executable, "-m", "unpaired.torchrun", f"--nproc_per_node={processes}",
             *call, *more],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()


def ranks_of(process: subprocess.Popen[str], run: Path) -> list[psutil.Process]:
    """Its processes, once they are training."""
    until = time.monotonic() + 90
    while len([r for r in read_log(run / "log.jsonl") if r["kind"] == "step"]) < 3:
        assert time.monotonic() < until and process.poll() is None, process.communicate()[0]
        time.sleep(0.1)
    return psutil.Process(process.pid).children()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_signal_saves_and_ends_with_5(name: str, launch: Launch, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = launch("train.steps=100000")
    ranks_of(process, run)
    process.send_signal(getattr(signal, name))
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 5, said
    assert "Traceback" not in said and "The same command goes on" in said
    saved = load_checkpoint(run / "checkpoints/last.pt")["step"]
    assert saved == read_log(run / "log.jsonl")[-1]["step"] > 0


def test_a_launcher_that_is_killed_leaves_a_saved_run_and_no_process(
    launch: Launch, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = launch("train.steps=100000")
    ranks = ranks_of(process, run)
    process.kill()
    gone, alive = psutil.wait_procs(ranks, timeout=30)
    for one in alive:
        one.kill()
    assert len(gone) == 2
    assert load_checkpoint(run / "checkpoints/last.pt")["step"] > 0


def test_exit_codes_of_the_processes_and_who_was_killed(launch: Launch, tmp_path: Path) -> None:
    wrong = launch("train.stepz=1", processes=1)
    assert wrong.wait(60) == 2
    process = launch("train.steps=100000")
    ranks_of(process, tmp_path / "run")[1].kill()
    said = process.communicate(timeout=60)[0]
    assert process.returncode == 4
    assert "was killed" in said and "Traceback" not in said
