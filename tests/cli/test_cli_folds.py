"""Cross-validation: folds that end as one model, scored on what each held out."""

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from toy_data import VALUES, write_settings

import unpaired as up
from toy import write_toy
from unpaired.cli.app import run
from unpaired.evaluation.ensemble import common_cases, pooled
from unpaired.files import read_json
from unpaired.run import RunFolder
from unpaired.run.scores import Evaluation, Score

Output = pytest.CaptureFixture[str]


class World:
    """Two data sets of five scans, and a cross-validation of two folds and a step."""

    def __init__(self, root: Path) -> None:
        self.root, self.folds = root, root / "folds"
        self.data: list[str] = []
        for name, (bright, values) in VALUES.items():
            folder = write_toy(root / "data", name, 5, bright, values)
            self.data += ["--data", f"{name}={folder}"]
        self.settings = ["--config", str(write_settings(root / "toy.toml"))]

    def train(self, out: Path, *more: str) -> int:
        call = ["train", *self.data, *self.settings, "--out", str(out), "steps=1", *more]
        return run([*call, "data.split=[0.6, 0.2, 0.2]", "data.context=1"])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("world"))
    assert made.train(made.folds, "--folds", "2") == 0
    return made


def evaluated(folder: Path, capsys: Output) -> Any:
    capsys.readouterr()
    assert run(["evaluate", str(folder), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_folds_make_one_run_each(world: World, capsys: Output) -> None:
    out = world.folds
    folds = read_json(out / "splits_final.json")
    assert len(folds) == 2
    assert folds[0]["test"] == folds[1]["test"] != []
    assert not set(folds[0]["val"]) & set(folds[1]["val"])
    for i, fold in enumerate(folds):
        (own,) = read_json(out / f"fold_{i}" / "splits_final.json")
        assert {part: sorted(ids) for part, ids in own.items()} == {
            part: sorted(ids) for part, ids in fold.items()
        }
    assert len(up.Predictor.from_folder(out).models) == 2
    assert world.train(out, "--folds", "3") == 2
    assert "other folds" in capsys.readouterr().err
    assert read_json(out / "splits_final.json") == folds
    assert world.train(out, "--folds", "2") == 0  # goes on, and ends as before
    said = capsys.readouterr().out
    assert "fold_1 of 2" in said
    assert f"The mean of the 2 folds is one model: --model {out}." in said


def test_held_out_cases_are_pooled_and_test_cases_scored_by_the_mean(
    world: World, capsys: Output
) -> None:
    found = evaluated(world.folds, capsys)
    folds = read_json(world.folds / "splits_final.json")
    held, test = found.values()
    assert "held out" in next(iter(found))
    runs = [RunFolder(world.folds / f"fold_{n}") for n in range(2)]
    scores = up.Run(world.folds).evaluate("val")
    assert {f"{s['modality']}/{s['case']}" for s in scores} == {c for f in folds for c in f["val"]}
    for one in scores:  # each by the fold that did not learn from it
        name = f"{one['modality']}/{one['case']}"
        own = runs[[name in fold["val"] for fold in folds].index(True)].scores_of("val").scores
        (same,) = (s for s in own if (f"{s.modality}/{s.case}", s.cls) == (name, one["class"]))
        np.testing.assert_equal(same.dice, one["dice"])
    assert held["folder"] == str(world.folds / "evaluation_val")
    assert {m: part["cases"] for m, part in held["summary"].items()} == {"aa": 4, "bb": 4}
    assert {m: part["cases"] for m, part in test["summary"].items()} == {"aa": 1, "bb": 1}
    ((m, case),) = {(s.modality, s.case) for s in RunFolder(world.folds).scores.scores
                    if s.modality == "aa"}  # fmt: skip
    written = np.asarray(nib.load(world.folds / "predictions" / m / f"{case}.nii.gz").dataobj)
    image = world.root / "data" / m / "imagesTr" / f"{case}_0000.nii.gz"
    assert (written == up.load(world.folds).predict(image, modality=m).labels).all()
    with pytest.raises(up.DataError, match="holds no train case; it has val, test"):
        up.Run(world.folds).evaluate("train")


def test_a_fold_that_is_missing_is_said(world: World, tmp_path: Path, capsys: Output) -> None:
    copy = tmp_path / "folds"
    shutil.copytree(world.folds, copy)
    shutil.rmtree(copy / "fold_1")
    held, test = evaluated(copy, capsys).values()
    for part in (held, test):
        assert "fold_1 holds no model yet, so 1 of 2 folds count" in part["notes"][0]
    assert {m: part["cases"] for m, part in held["summary"].items()} == {"aa": 2, "bb": 2}
    shutil.rmtree(copy / "fold_0" / "model")
    assert run(["evaluate", str(copy)]) == 3
    assert "none of its 2 folds holds a model yet" in capsys.readouterr().err


def test_cases_that_a_fold_learnt_from_are_no_test_cases(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [RunFolder(world.folds / f"fold_{n}") for n in range(2)]
    both, notes = common_cases(runs, "test")
    assert (sum(map(len, both.values())), notes) == (2, [])
    none, notes = common_cases(runs, "val")
    assert (sum(map(len, none.values())), len(notes)) == (0, 1)
    assert "aa/aa_0" in notes[0]


def test_a_case_that_two_folds_held_out_counts_once() -> None:
    def scored(*dice: float, failed: str = "") -> Evaluation:
        scores = [Score("a", f"c{n}", "x", d, 1.0, 1.0, d, 9, 9) for n, d in enumerate(dice)]
        return Evaluation(tuple(scores), {failed: "why"} if failed else {}, notes=("odd",))

    found = pooled([scored(0.5), scored(0.1, 0.9, failed="a/c7")], ["first"])
    assert [one.dice for one in found.scores] == [0.5, 0.9]
    assert (found.failures, found.notes) == ({"a/c7": "why"}, ("first", "odd"))
