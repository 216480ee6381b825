"""`unpaired reproduce`: what it says before it runs, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_data import write_settings

from unpaired.cli.app import run
from unpaired.errors import DataError
from unpaired.experiments import execute
from unpaired.experiments.jobs import Job
from unpaired.experiments.rows import EXPERIMENTS
from unpaired.files import read_json


def call(toy: Callable[[str], Path], tmp_path: Path, *more: str) -> list[str]:
    data = [f"--data={m}={toy(m)}" for m in ("aa", "bb")]
    config = write_settings(tmp_path / "toy.toml")
    return ["reproduce", *more, *data, "--config", str(config), "--out", str(tmp_path / "out")]


def test_the_plan_is_said_and_nothing_is_run(
    toy: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = call(toy, tmp_path, "table5", "--seeds", "2", "--plan")
    assert run(command) == 0
    text = capsys.readouterr().out
    assert "Table 5: variants: 20 runs, 0 of them done." in text
    assert "20 runs to do, 1 at a time: about" in text and "of memory" in text
    assert not (tmp_path / "out" / "runs").exists()
    stored = read_json(tmp_path / "out" / "reproduce.json")
    assert set(stored["scans"]) == {"aa", "bb"} and stored["forecast"]["memory_bytes"] > 0
    assert run([*command[:-5], "--rows", "Backbone;Ours", *command[-5:]]) == 2
    assert "has no row 'Ours'. It has: Backbone; Baseline" in capsys.readouterr().err
    assert run([*command, "loss.alpha=0.3"]) == 2
    assert "another recipe (loss.alpha: 0.4 -> 0.3)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["table3"], "there is no experiment 'table3'; choose table1"),
        ([], "say which experiment"),
        (["three"], "needs 3 modalities, --data gives 2 (aa, bb)"),
    ],
)
def test_what_cannot_be_is_refused(
    arguments: list[str],
    said: str,
    toy: Callable[[str], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(call(toy, tmp_path, *arguments)) == 2
    assert said in capsys.readouterr().err


def fail(job: Job, prepared: Path) -> None:
    """In a run's process, which imports it by name."""
    raise DataError("the scan is damaged.")


@pytest.mark.slow
def test_a_failed_run_stands_in_the_table(
    toy: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The whole command with runs that fail at once."""
    monkeypatch.setattr(execute, "execute", fail)
    command = call(toy, tmp_path, "table7", "--seeds", "1", "--rows", "Joint V3")
    assert run(command) == 0
    printed = capsys.readouterr()
    assert "[1/1] aa_bb-V3-s0-" in printed.err and "failed: the scan is damaged." in printed.err
    assert "| Joint V3 | failed: the scan is damaged." in printed.out
    assert printed.out.count("not run") > 3
    assert run([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found["failures"].values()) == ["the scan is damaged."]
    assert {cell["row"] for cell in found["cells"]} == {
        row.name for row in EXPERIMENTS["table7"].rows
    }
    for ending in ("md", "csv", "tex"):
        assert (tmp_path / "out" / f"table7.{ending}").stat().st_size > 100


def test_the_page_is_written_from_what_is_stored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "results.md"
    assert run(["reproduce", "--results", str(tmp_path), "--page", str(page)]) == 2
    assert "holds no stored results" in capsys.readouterr().err
