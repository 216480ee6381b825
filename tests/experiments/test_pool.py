"""Runs as processes: several at a time, failures, death and interruption of the caller."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fake_runs import FakeJob, fake, run_fakes, settings, until

from unpaired.errors import Interrupted
from unpaired.experiments import pool
from unpaired.experiments.pool import Ended, run_jobs


def test_a_failed_run_does_not_stop_the_others(tmp_path: Path) -> None:
    """Two at a time: neither 3 nor 4 would end without the other."""
    failures = run_fakes(tmp_path, 1, 2, 6, 3, 4)
    assert set(failures) == {1, 2, 3, 4, 6}
    assert failures[1] == "the scans are gone. Find them."
    assert "by signal 6" in failures[2] and "fewer --jobs" in failures[2]
    assert failures[6] == "ZeroDivisionError: division by zero"
    output = (tmp_path / "run6" / "output.txt").read_text()
    assert "about to divide" in output and "Traceback" in output
    assert failures[3] == failures[4] == ""


@pytest.mark.unix
def test_a_run_that_was_stopped_by_a_signal_is_ended_and_the_others_go_on(tmp_path: Path) -> None:
    ended: list[Ended] = []
    jobs: list[Any] = [
        FakeJob(tmp_path / "run30", 30, settings(None, 1.0)),
        FakeJob(tmp_path / "run7", 7),
    ]
    run_jobs(jobs, tmp_path, 1, ended.append, fake)
    assert ["was stopped; it was ended" in one.failure for one in ended] == [True, False]
    assert ended[1].failure == ""


def test_a_process_ends_with_its_run(tmp_path: Path) -> None:
    """Though joblib keeps its own processes for five minutes."""
    ended: list[Ended] = []
    jobs: list[Any] = [FakeJob(tmp_path / "run8", 8)]
    run_jobs(jobs, tmp_path, 1, ended.append, fake)
    assert ended[0].failure == "" and ended[0].seconds < 100


def test_what_has_a_record_is_not_run_again(tmp_path: Path) -> None:
    folder = tmp_path / "run7"
    folder.mkdir()
    (folder / "failure.txt").write_text("of an earlier call")
    assert run_fakes(tmp_path, 7) == {7: ""}
    assert not (folder / "failure.txt").exists()
    (folder / "began").unlink()
    assert run_fakes(tmp_path, 7) == {}
    assert not (folder / "began").exists()


def test_threads_are_shared_out_unless_set(tmp_path: Path) -> None:
    jobs: list[Any] = [
        FakeJob(tmp_path / "run7", 7),
        FakeJob(tmp_path / "run9", 9, settings(7)),
    ]
    run_jobs(jobs, tmp_path, 2, lambda _: None, fake)
    threads = [(one.folder / "began").read_text() for one in jobs]
    assert threads == [str(max(1, (os.cpu_count() or 1) // 2)), "7"]


def test_a_run_that_was_stopped_stops_all(tmp_path: Path) -> None:
    with pytest.raises(Interrupted, match="everything is saved"):
        _stop_after_begin(tmp_path, 10)
    assert (tmp_path / "run10" / "saved").exists()


def test_a_run_that_does_not_stop_is_ended_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "PATIENCE_SECONDS", 2.0)
    with pytest.raises(Interrupted):
        _stop_after_begin(tmp_path, 20)
    assert (tmp_path / "run20" / "saved").exists()


def _stop_after_begin(root: Path, seed: int) -> None:
    """One run is under way, then a second is stopped by somebody."""
    jobs: list[Any] = [FakeJob(root / f"run{n}", n) for n in (seed, 7, 5)]

    def report(one: Ended) -> None:
        until((root / f"run{seed}" / "began").exists)

    run_jobs(jobs, root, 2, report, fake)


CALL = """
import signal, sys
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored
sys.path[:0] = sys.argv[2:]
from fake_runs import run_fakes
run_fakes(Path(sys.argv[1]), 10, 11)
"""


@pytest.mark.slow
@pytest.mark.unix
@pytest.mark.parametrize("how", ["SIGINT", "SIGKILL"])
def test_runs_save_themselves_when_the_caller_goes(how: str, tmp_path: Path) -> None:
    """Its death closes its end of their pipes, whatever killed it."""
    here = Path(__file__).parent
    caller = subprocess.Popen(
        [sys.executable, "-c", CALL, str(tmp_path), str(here), str(here.parent)],
        stderr=subprocess.DEVNULL,
    )
    runs = [tmp_path / "run10", tmp_path / "run11"]
    until(lambda: all((run / "began").exists() for run in runs))
    caller.send_signal(signal.Signals[how])
    caller.wait(60)
    until(lambda: all((run / "saved").exists() for run in runs))
