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
from sealed import unsealed
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


@pytest.fixture(scope="module")
def coarse(world: World) -> Path:
    """A second recipe on the same folds: another grid, half the width."""
    out = world.root / "coarse"
    splits = f"data.splits={world.folds / 'splits_final.json'}"
    grid = ("data.spacing_mm=[3, 1.5, 1.5]", "model.options.embed_dim=4", "model.heads=1")
    assert world.train(out, "--folds", "2", splits, *grid) == 0
    return out


def test_the_best_of_runs_is_a_model(
    world: World, coarse: Path, tmp_path: Path, capsys: Output
) -> None:
    """Scores of the mean against the mean of each fold's two networks, one by one. Test cases are
    not read: they are not there."""
    out = tmp_path / "best"
    call = ["best", str(world.folds), str(coarse), "--out", str(out)]
    capsys.readouterr()
    tested = [
        path
        for cases in RunFolder(world.folds / "fold_0").cases("test").values()
        for case in cases.values()
        for path in (*case.images, case.label)
    ]
    for path in tested:
        path.rename(path.with_suffix(".hidden"))
    try:
        assert run([*call, "--json"]) == 0
    finally:
        for path in tested:
            path.with_suffix(".hidden").rename(path)
    said = json.loads(capsys.readouterr().out)
    rows = {row["name"]: row for row in said["candidates"]}
    assert list(rows) == sorted(rows, key=lambda name: -rows[name]["mean_dice"])
    assert set(rows) == {"folds", "coarse", "folds + coarse"}
    for name, root in (("folds", world.folds), ("coarse", coarse)):
        held = up.Run(root).evaluate("val")
        for m in ("aa", "bb"):
            cases = {s["case"] for s in held if s["modality"] == m}
            by_case = [np.nanmean([s["dice"] for s in held if s["case"] == case]) for case in cases]
            assert rows[name]["dice"][m] == pytest.approx(np.mean(by_case))
        assert rows[name]["mean_dice"] == pytest.approx(np.mean(list(rows[name]["dice"].values())))
    case = next(iter(RunFolder(world.folds / "fold_1").cases("val")["aa"]))
    image = world.root / "data" / "aa" / "imagesTr" / f"{case}_0000.nii.gz"
    pair = up.load([world.folds / "fold_1", coarse / "fold_1"]).predict(image, modality="aa")
    (file,) = out.glob(f"predictions/*/fold_1/aa/{case}.nii.gz")
    assert (np.asarray(nib.load(file).dataobj) == pair.labels).all()
    cheap, dear = rows["coarse"]["flops_a_scan"], rows["folds"]["flops_a_scan"]
    assert cheap < dear
    assert rows["folds + coarse"]["flops_a_scan"] == cheap + dear
    assert said["sentence"].startswith(said["name"])

    chosen = [Path(world.root / name) for name in said["name"].split(" + ")]
    own = up.load(chosen).predict(image, modality="aa").labels
    for model in (out, out / "best.json"):
        assert (up.load(model).predict(image, modality="aa").labels == own).all()
    assert set(evaluated(out, capsys)) == {"test cases, by the mean of all models"}
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")}
    assert run(call) == 0
    text = capsys.readouterr().out
    assert said["sentence"] in text
    assert "chosen" in text
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")} == before


def test_a_choice_moves_with_its_runs_and_knows_their_weights(
    world: World, coarse: Path, tmp_path: Path
) -> None:
    for root in (world.folds, coarse):
        shutil.copytree(root, tmp_path / "a" / root.name)
    up.best([tmp_path / "a" / "folds", tmp_path / "a" / "coarse"], out=tmp_path / "a" / "best")
    (tmp_path / "a").rename(tmp_path / "b")
    choice = tmp_path / "b" / "best" / "best.json"
    named = [tmp_path / "b" / "best" / one["run"] for one in read_json(choice)["models"]]
    assert len(up.load(tmp_path / "b" / "best").models) == 2 * len(named)
    text = choice.read_text()
    choice.write_text(text.replace("spread", "sprawl"))
    with pytest.raises(up.DataError, match="its checksum does not match"):
        up.load(choice)
    choice.write_text(text)
    shutil.copytree(named[0] / "fold_1" / "model", named[0] / "fold_0" / "model",
                    dirs_exist_ok=True)  # fmt: skip
    with pytest.raises(up.DataError, match="changed since it was chosen"):
        up.load(choice)
    with pytest.raises(up.DataError, match="is a choice itself"):
        up.best([choice.parent, named[0]], out=tmp_path / "c")
    shutil.rmtree(named[0])
    with pytest.raises(up.DataError, match="which does not exist"):
        up.load(choice)


def test_runs_that_share_nothing_are_no_choice(
    world: World, coarse: Path, tmp_path: Path, capsys: Output
) -> None:
    def refused(*runs: Path) -> str:
        capsys.readouterr()
        assert run(["best", *map(str, runs), "--out", str(tmp_path / "out")]) in (2, 3)
        return capsys.readouterr().err

    copy = tmp_path / "coarse"
    shutil.copytree(coarse, copy)
    assert "two runs or more, each once" in refused(world.folds, world.folds)
    assert "have 2 and 1 folds" in refused(world.folds, coarse / "fold_0")
    swapped = tmp_path / "swapped"
    swapped.mkdir()
    for n in range(2):
        shutil.copytree(coarse / f"fold_{n}", swapped / f"fold_{1 - n}")
    assert "held out other cases of fold 0: aa/aa_0" in refused(world.folds, swapped)
    inputs = copy / "fold_0" / "inputs.json"
    text = unsealed(inputs.read_text())
    name = next(iter(RunFolder(copy / "fold_0").cases("val")["aa"]))
    inputs.write_text(text.replace(f'"aa/{name} label": "', f'"aa/{name} label": "0'))
    assert f"were trained on other labels: aa/{name} label" in refused(world.folds, copy)
    shutil.rmtree(copy / "fold_1" / "model")
    assert "fold_1 holds no model yet" in refused(world.folds, copy)
    assert not (tmp_path / "out" / "best.json").exists()
