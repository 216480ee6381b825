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
    assert "Table 5: variants: 22 runs, 0 of them done." in text
    assert "22 runs to do, 1 at a time: about" in text and "of memory" in text
    assert not (tmp_path / "out" / "runs").exists()
    stored = read_json(tmp_path / "out" / "reproduce.json")
    assert set(stored["scans"]) == {"aa", "bb"} and stored["forecast"]["memory_bytes"] > 0
    assert run([*command[:-5], "--rows", "Backbone;Mine", *command[-5:]]) == 2
    assert "has no row 'Mine'. It has: Backbone; Baseline" in capsys.readouterr().err
    assert run([*command, "loss.alpha=0.3"]) == 2
    assert "another recipe (loss.alpha: 0.4 -> 0.3)" in capsys.readouterr().err


NARROW = (
    "model.options.embed_dim=8", "model.options.heads=[1,1,2,4]", "model.heads=2",
    "data.patch=[16,32,32]", "data.cases.mr=3", "data.split=[0.4,0.3,0.3]", "train.batch_size=1",
)  # fmt: skip


@pytest.mark.parametrize("name", ["table2", "table6", "table7", "fig5"])
def test_the_abdominal_tables_are_planned_in_volumes(
    name: str, toy: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the paper's data; narrow here, and with the draws that so few scans allow."""
    data = [f"--data=ct={toy('aa')}", f"--data=mr={toy('bb')}"]
    command = ["reproduce", name, "--paper", "--plan", *data, "--out", str(tmp_path / "out")]
    assert run([*command, *NARROW]) == 0
    text = capsys.readouterr().out
    assert "nnFormer 3D, 8 x 1.5 x 1.5 mm, patch 16 x 32 x 32, from random weights: " in text
    assert "ct 2/1/1, mr 1/1/1; 5 seeds." in text and "not the paper's" not in text
    if name == "table2":
        assert "mm, patch 16 x 32 x 32, from random weights: UMMKD." in text
        few = [*command[:-1], str(tmp_path / "few"), *NARROW[:4], NARROW[-1]]
        assert run(few) == 2
        assert "asks for 9 cases of mr, but 4 can be drawn" in capsys.readouterr().err


def test_another_network_is_said_before_it_runs(
    toy: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(call(toy, tmp_path, "table7", "--seeds", "1", "--plan")) == 0
    text = capsys.readouterr().out
    assert "This is not the paper's network: its rows are nnFormer 3D, these Swin-Unet 2D" in text


def test_bad_input_is_refused_before_scans_are_made(
    toy: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", str(tmp_path / "out")]
    cases = (
        (["--data", "phantom", "--pretrained", str(tmp_path / "x.pth")], "there is no file"),
        (["--data", "phantom", "--paper"], "those of the phantom are synthetic"),
        ([f"--data=ct={toy('aa')}"], "table2 needs 2 modalities, --data gives 1 (ct)"),
    )
    for more, said in cases:
        assert run(["reproduce", "table2", *more, *out]) == 2
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


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
    assert "| Joint V3 | - | failed: the scan is damaged." in printed.out
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
