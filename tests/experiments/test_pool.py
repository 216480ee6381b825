"""Runs as processes: several at a time, failures, death and interruption of the caller."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unpaired.config import Config
from unpaired.datasets.split_file import Split
from unpaired.errors import Interrupted
from unpaired.experiments.jobs import DEFAULT, Job
from unpaired.experiments.pool import Ended, run_jobs

FAKE = """
import json, os, sys, time
from pathlib import Path
path = Path(sys.argv[-1])
seed = json.loads(path.read_text())["seed"]
folder = path.parent
(folder / "began").write_text(str(time.time()))
if seed == 1:
    (folder / "failure.txt").write_text("the scans are gone. Find them.")
    sys.exit(3)
if seed == 2:
    os.abort()
if seed == 5:
    sys.exit(5)
if seed >= 10:
    sys.stdin.buffer.read()
    (folder / "saved").write_text("")
    sys.exit(5)
time.sleep(0.3)
(folder / "record_as_trained.json").write_text("{}")
(folder / "ended").write_text(str(time.time()))
"""


def job(root: Path, seed: int) -> Job:
    folder = root / f"run{seed}"
    return Job(folder, f"id{seed}", Config(), {"a": root}, Split({}, {}, {}), seed, {DEFAULT: ()})


@pytest.fixture
def worker(tmp_path: Path) -> tuple[str, ...]:
    script = tmp_path / "fake.py"
    script.write_text(FAKE)
    return sys.executable, str(script)


def test_a_failed_run_does_not_stop_the_others(tmp_path: Path, worker: tuple[str, ...]) -> None:
    jobs = [job(tmp_path, seed) for seed in (1, 2, 3, 4)]
    seen: list[Ended] = []
    found = run_jobs(jobs, tmp_path / "prepared", 2, seen.append, worker)
    assert seen == found and len(found) == 4
    failures = {one.job.seed: one.failure for one in found}
    assert failures[1] == "the scans are gone. Find them."
    assert "by signal 6" in failures[2] and "fewer --jobs" in failures[2]
    assert failures[3] == failures[4] == ""
    times = {s: [float((tmp_path / f"run{s}" / n).read_text()) for n in ("began", "ended")]
             for s in (3, 4)}  # fmt: skip
    assert max(t[0] for t in times.values()) < min(t[1] for t in times.values())  # side by side


def test_what_has_a_record_is_not_run_again(tmp_path: Path, worker: tuple[str, ...]) -> None:
    first = job(tmp_path, 3)
    assert len(run_jobs([first], tmp_path, 1, lambda _: None, worker)) == 1
    began = (first.folder / "began").read_text()
    assert run_jobs([first], tmp_path, 1, lambda _: None, worker) == []
    assert (first.folder / "began").read_text() == began


def test_threads_are_shared_out_unless_set(tmp_path: Path, worker: tuple[str, ...]) -> None:
    jobs = [job(tmp_path, 3), job(tmp_path, 4)]
    train = jobs[1].config.train.model_copy(update={"threads": 7})
    jobs[1].config = jobs[1].config.model_copy(update={"train": train})
    run_jobs(jobs, tmp_path, 2, lambda _: None, worker)
    texts = [(one.folder / "job.toml").read_text() for one in jobs]
    assert f"threads = {max(1, (os.cpu_count() or 1) // 2)}\n" in texts[0]
    assert "threads = 7\n" in texts[1]


def test_a_run_that_was_stopped_stops_all(tmp_path: Path, worker: tuple[str, ...]) -> None:
    with pytest.raises(Interrupted, match="everything is saved"):
        run_jobs([job(tmp_path, 5), job(tmp_path, 10)], tmp_path, 2, lambda _: None, worker)
    assert (tmp_path / "run10" / "saved").exists()


CALL = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
sys.path[:0] = sys.argv[3:]
from test_pool import job
from unpaired.experiments.pool import run_jobs
root = Path(sys.argv[1])
run_jobs([job(root, 10), job(root, 11)], root, 2, print, (sys.executable, sys.argv[2]))
"""


@pytest.mark.slow
@pytest.mark.unix
@pytest.mark.parametrize("how", ["SIGINT", "SIGKILL"])
def test_runs_save_themselves_when_the_caller_goes(
    how: str, tmp_path: Path, worker: tuple[str, ...]
) -> None:
    """Its death closes their input, whatever killed it."""
    here = Path(__file__).parent
    caller = subprocess.Popen(
        [sys.executable, "-c", CALL, str(tmp_path), worker[1], str(here), str(here.parent)],
        stderr=subprocess.DEVNULL,
    )
    runs = [tmp_path / "run10", tmp_path / "run11"]
    _until(lambda: all((run / "began").exists() for run in runs))
    caller.send_signal(signal.Signals[how])
    caller.wait(60)
    _until(lambda: all((run / "saved").exists() for run in runs))


def _until(true: object, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end
        time.sleep(0.05)
