"""`unpaired compare` on the command line: what it says, writes, and how it ends."""

import json

import pytest

from report.compared_runs import dice_table, seeds, write_run
from unpaired.cli.app import run


@pytest.fixture
def sides(tmp_path):
    """Two seeds of one modality, and of both."""
    return seeds(tmp_path / "alone", "s", 2, modalities=("mr",)), seeds(
        tmp_path / "joint", "s", 2, 0.02
    )


def test_folders_and_single_runs_give_the_same_answer(sides, tmp_path, capsys):
    alone, joint = sides
    assert run(["compare", str(tmp_path / "alone"), str(tmp_path / "joint")]) == 0
    said = capsys.readouterr().out
    first, *rest = said.splitlines()
    assert first.startswith("Training with CT and MR raised MR Dice by ")
    assert "CT is left out: only joint has it." in rest
    assert any(line.startswith("spleen") for line in rest)
    assert "add: --out DIR" in rest[-1]
    assert "modalities  mr     ct + mr" in said
    options = [x for name, runs in (("--a", alone), ("--b", joint)) for r in runs
               for x in (name, str(r))]  # fmt: skip
    assert run(["compare", *options]) == 0
    assert capsys.readouterr().out.splitlines()[0] == first


def test_json_and_page(sides, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["compare", str(tmp_path / "alone"), str(tmp_path / "joint"), "--json"]
    assert run([*arguments, "--out", str(out), "--metric", "asd"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert content["metric"] == "asd_mm"
    assert content["page"] == str(out / "comparison.html")
    assert (out / "comparison.html").is_file()
    assert "lowered MR ASD" in content["comparisons"][0]["answers"]["mr"]
    assert run([*arguments, "--level", "0.8", "--metric", "nsd"]) == 0
    narrow = json.loads(capsys.readouterr().out)["comparisons"][0]
    assert "80 % interval" in narrow["answers"]["mr"]
    assert {e["metric"] for e in narrow["effects"]} == {"dice", "asd_mm", "nsd"}


def test_three_runs_are_held_against_the_first(tmp_path, capsys):
    names = [str(seeds(tmp_path, n, 1, s)[0]) for n, s in (("x", 0), ("y", 0.1), ("z", -0.1))]
    assert run(["compare", *names]) == 0
    said = capsys.readouterr().out
    assert "y-0 raised MR Dice" in said
    assert "z-0 lowered MR Dice" in said


def test_equal_names_are_told_apart(tmp_path, capsys):
    a, b = (seeds(tmp_path / n, "run", 1, s)[0] for n, s in (("one", 0), ("two", 0.1)))
    assert run(["compare", str(a), str(b)]) == 0
    assert f"{b} raised MR Dice" in capsys.readouterr().out


def test_how_it_ends(tmp_path, capsys):
    a = str(write_run(tmp_path / "a", dice_table()))
    for wrong in ([a], [a, "--a", a], ["--a", a], []):
        assert run(["compare", *wrong]) == 2
        assert "two runs" in (said := capsys.readouterr().err) or "not both" in said
    assert run(["compare", a, a, "--metric", "volume"]) == 2
    assert "has no metric volume" in capsys.readouterr().err
    other = str(write_run(tmp_path / "b", dice_table(first=3)))
    assert run(["compare", a, other]) == 3
    assert "other cases" in capsys.readouterr().err
    assert run(["compare", a, str(tmp_path)]) == 3  # its runs differ in their cases
    assert run(["compare", a, str(tmp_path / "nowhere")]) == 3
    steps = str(write_run(tmp_path / "c", dice_table(), "train.steps=3"))
    capsys.readouterr()
    assert run(["compare", a, steps]) == 0
    assert "Unfair: The number of steps differ (train.steps is 20000 and 3)." in (
        capsys.readouterr().out
    )
