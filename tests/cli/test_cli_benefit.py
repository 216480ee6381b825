"""`unpaired benefit`: what it says before it runs, what it runs, and what it answers."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_data import write_settings

from unpaired.cli.app import run
from unpaired.experiments import execute


def call(toy: Callable[[str], Path], tmp_path: Path, *more: str) -> list[str]:
    data = [f"--data={m}={toy(m)}" for m in ("aa", "bb")]
    config = write_settings(tmp_path / "toy.toml")
    few = ["steps=1", "data.split=[0.5, 0, 0.5]", "data.context=1"]
    return ["benefit", *data, "--config", str(config), "--out", str(tmp_path / "out"), *few, *more]


def test_the_runs_are_said_made_and_answered(
    toy: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    command = call(toy, tmp_path)
    assert run([*command, "--plan"]) == 0
    text = capsys.readouterr().out
    assert "steps: 1 steps, as configured, in every training." in text
    assert "Benefit of aa, bb together: 3 runs, 0 of them done." in text
    assert not (tmp_path / "out" / "runs").exists()

    def here(jobs: list, prepared: Path, at_a_time: int, report: object) -> None:
        assert at_a_time == 2
        for job in jobs:  # without a process for each
            execute.execute(job, prepared)

    monkeypatch.setattr("unpaired.experiments.pool.run_jobs", here)
    assert run([*command, "--jobs", "2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["answers"]) == {"aa", "bb"}
    assert "AA and BB" in found["answers"]["aa"]
    assert all(found["runs"].values())
    assert Path(found["files"]["page"]).is_file()
    assert run([*command, "--jobs", "2"]) == 0
    text = capsys.readouterr().out
    assert "3 runs, 3 of them done." in text
    assert found["answers"]["bb"] in text
    assert "to learn from" in text


def test_what_cannot_be_is_refused(
    toy: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = call(toy, tmp_path)
    assert run([*command, "--budget", "4h"]) == 2
    assert "give train.steps" in capsys.readouterr().err
    assert run([*command, "--budget", "4"]) == 2
    assert "it has no unit" in capsys.readouterr().err
    assert run(["benefit", command[1], "--out", str(tmp_path / "out")]) == 2
    assert "needs two modalities or more; --data gives aa" in capsys.readouterr().err
