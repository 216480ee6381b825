"""SIGTERM, and calls that several processes would make at once."""

import signal
import threading
from pathlib import Path

import pytest

from unpaired.cli.app import run
from unpaired.files import atomic

Output = pytest.CaptureFixture[str]


def test_sigterm_is_an_interruption(
    monkeypatch: pytest.MonkeyPatch, capsys: Output, tmp_path: Path
) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def stopped(*_: object) -> None:
        assert signal.getsignal(signal.SIGTERM) is not before  # else the signal ends the tests
        with atomic(tmp_path / "report.html") as draft:
            draft.write_text("half")
            signal.raise_signal(signal.SIGTERM)
            raise AssertionError("the signal was lost")

    monkeypatch.setattr("unpaired.report.write_report", stopped)
    assert run(["report", str(tmp_path)]) == 5
    assert "The same command goes on" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_thread_leaves_signals_alone(tmp_path: Path, capsys: Output) -> None:
    codes: list[int] = []
    call = ["report", str(tmp_path / "nowhere")]
    thread = threading.Thread(target=lambda: codes.append(run(call)))
    thread.start()
    thread.join()
    assert codes == [2]
    assert "is not a run folder" in capsys.readouterr().err


def test_folds_under_torchrun_are_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, capsys: Output, tmp_path: Path
) -> None:
    call = ["train", "--out", str(tmp_path / "r"), "--data", f"a={tmp_path / 'no'}", "--folds", "2"]
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert run(call) == 2
    err = capsys.readouterr().err
    assert "data.splits=FILE data.fold=N" in err
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert run(call) == 3, "one process goes on to the data, which are not there"
