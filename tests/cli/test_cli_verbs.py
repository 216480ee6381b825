"""The verbs on a tiny data set: each does what its function does, and says so."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from toy_data import VALUES, write_settings

from toy import write_toy
from unpaired import Predictor, phantom
from unpaired.cli.app import run
from unpaired.data.plan import Plan
from unpaired.files import read_json

Output = pytest.CaptureFixture[str]


class World:
    """Two data sets, settings, and a finished run."""

    def __init__(self, root: Path) -> None:
        self.root, self.run = root, root / "run"
        self.data: list[str] = []
        for name, (bright, values) in VALUES.items():
            folder = write_toy(root / "data", name, 6, bright, values)
            self.data += ["--data", f"{name}={folder}"]
        self.settings = ["--config", str(write_settings(root / "toy.toml"))]

    def train(self, *more: str) -> list[str]:
        return ["train", *self.data, *self.settings, *more]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    made = World(tmp_path_factory.mktemp("world"))
    assert run(made.train("--out", str(made.run))) == 0
    return made


def parsed(capsys: Output) -> Any:
    return json.loads(capsys.readouterr().out)


@pytest.mark.slow
def test_train_announces_and_goes_on(world: World, tmp_path: Path, capsys: Output) -> None:
    out = str(tmp_path / "run")
    assert run(world.train("--out", out, "max_minutes=1e-9", "prefetch=0")) == 0
    first = capsys.readouterr()
    for text in ("coarsest axis", f"Run folder: {out}", "in training", "of memory on cpu"):
        assert text in first.out
    assert "Stopped at step 1 (max_minutes)" in first.out
    assert "train 1/6 loss" in first.err
    assert run(world.train("--out", out)) == 0
    second = capsys.readouterr().out
    assert "Going on from the last checkpoint." in second
    assert "Stopped at step 6 (steps)" in second
    one, other = (Predictor.from_folder(f).models[0].segmenter for f in (world.run, Path(out)))
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert (a == b).all()


def test_train_refuses_another_configuration(world: World, capsys: Output) -> None:
    assert run(world.train("--out", str(world.run), "steps=5")) == 2
    assert "train.steps: 6 -> 5" in capsys.readouterr().err
    assert run(world.train("--out", str(world.run), "steps=9", "train.batch_size=3")) == 2
    assert "train.batch_size: " in capsys.readouterr().err


def test_prepare_is_what_train_takes(world: World, tmp_path: Path, capsys: Output) -> None:
    cache, out = tmp_path / "cache", tmp_path / "run"
    call = ["prepare", *world.data, *world.settings, "--out", str(cache), "--workers", "0"]
    assert run([*call, "--json"]) == 0
    said = parsed(capsys)
    assert said["cases"] == {"aa": 6, "bb": 6}
    assert Plan.model_validate_json(json.dumps(said["plan"])) == Plan.read(cache / "plan.json")
    made = {p: p.stat().st_mtime_ns for p in cache.rglob("*.npy")}
    assert run(call) == 0
    assert "Prepared 6 of aa, 6 of bb" in capsys.readouterr().out
    assert run(world.train("--out", str(out), "--prepared", str(cache), "steps=1")) == 0
    assert {p: p.stat().st_mtime_ns for p in cache.rglob("*.npy")} == made
    assert not (out / "prepared").exists()


def test_check_finds_the_bad_case(world: World, toy: Callable[[str], Path], capsys: Output) -> None:
    assert run(["check", *world.data, "--json"]) == 0
    assert {f["severity"] for f in parsed(capsys)} == {"note"}
    assert run(["check", *world.data]) == 0
    assert "0 errors" in capsys.readouterr().out
    folder = toy("aa")
    bad = folder / "imagesTr" / "aa_01_0000.nii.gz"
    bad.write_bytes(bad.read_bytes()[:-100])
    assert run(["check", "--data", f"aa={folder}", "--json"]) == 3
    found = parsed(capsys)
    assert [(f["case"], f["severity"]) for f in found if f["severity"] == "error"] == [
        ("aa_01", "error")
    ]
    assert run(["check", "--data", f"aa={folder}"]) == 3
    text = capsys.readouterr().out
    assert "aa_01" in text
    assert "1 errors" in text
    assert run(["check", str(bad)]) == 3


def test_predict_a_file_a_folder_and_json(world: World, tmp_path: Path, capsys: Output) -> None:
    images = world.root / "data" / "aa" / "imagesTr"
    first = images / "aa_00_0000.nii.gz"
    model = ["--model", str(world.run), "--modality", "aa"]
    one, folder = tmp_path / "one.nii.gz", tmp_path / "all"
    assert run(["predict", str(first), *model, "--out", str(one), "--probabilities"]) == 0
    assert "1 predicted" in capsys.readouterr().out
    assert (tmp_path / "one_probabilities.nii").exists()
    assert run(["predict", str(images), *model, "--out", str(folder), "--json"]) == 0
    said = parsed(capsys)
    assert len(said["written"]) == 6
    assert said["classes"] == ["background", "ball", "box"]
    expected = Predictor.from_folder(world.run).predict(first, "aa").labels
    for path in (one, folder / "aa_00.nii.gz"):
        np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj), expected)
    assert run(["predict", str(images), *model, "--out", str(folder)]) == 0
    assert "0 predicted, 6 kept" in capsys.readouterr().out


def test_predict_says_in_json_what_failed(world: World, tmp_path: Path, capsys: Output) -> None:
    images, out = tmp_path / "in", tmp_path / "out"
    images.mkdir()
    (images / "good.nii.gz").write_bytes(
        (world.root / "data" / "aa" / "imagesTr" / "aa_00_0000.nii.gz").read_bytes()
    )
    (images / "bad.nii.gz").write_bytes(b"no image")
    call = ["predict", str(images), "--model", str(world.run), "--modality", "aa"]
    for done, other in (("written", "kept"), ("kept", "written")):
        assert run([*call, "--out", str(out), "--json"]) == 3
        said = parsed(capsys)
        assert said[done] == {"good": str(out / "good.nii.gz")} and said[other] == {}
        assert list(said["failures"]) == ["bad"] and "bad.nii.gz" in said["failures"]["bad"]


def test_predict_asks_for_what_is_missing(world: World, tmp_path: Path, capsys: Output) -> None:
    image = str(world.root / "data" / "aa" / "imagesTr" / "aa_00_0000.nii.gz")
    out = ["--out", str(tmp_path / "o.nii.gz")]
    assert run(["predict", image, "--model", str(world.run), *out]) == 2
    assert "knows aa, bb" in capsys.readouterr().err
    assert run(["predict", image, "--model", str(tmp_path / "none"), *out]) == 3
    assert "none" in capsys.readouterr().err
    more = ["--modality", "aa", "--largest-component", "bal"]
    assert run(["predict", image, "--model", str(world.run), *out, *more]) == 2
    assert "Did you mean 'ball'?" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_evaluate_a_run_and_report_it(world: World, capsys: Output) -> None:
    assert run(["evaluate", str(world.run)]) == 0
    text = capsys.readouterr().out
    assert "## aa" in text
    assert "| ball |" in text
    assert run(["evaluate", str(world.run), "--json"]) == 0
    said = parsed(capsys)
    stored = read_json(world.run / "evaluation" / "evaluation.json")
    assert said["summary"] == stored["summary"]
    assert said["failures"] == {}
    assert run(["report", str(world.run)]) == 0
    page = Path(capsys.readouterr().out.removeprefix("Report: ").strip())
    assert "<html" in page.read_text()


def test_evaluate_folders(world: World, tmp_path: Path, capsys: Output) -> None:
    truth = world.root / "data" / "bb" / "labelsTr"
    call = ["evaluate", "--predictions", str(truth), "--labels", str(truth), "--modality", "bb"]
    assert run([*call, "--out", str(tmp_path / "ev"), "--json"]) == 0
    mean = parsed(capsys)["summary"]["bb"]["mean"]
    assert mean["dice"]["mean"] == 1.0
    assert mean["asd_mm"]["mean"] == 0.0
    assert (tmp_path / "ev" / "evaluation.csv").exists()
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in truth.glob("*.nii.gz"):
        (broken / path.name).write_bytes(path.read_bytes()[: 40 if "_01" in path.name else None])
    call[2] = str(broken)
    assert run([*call, "--out", str(tmp_path / "ev")]) == 3
    found = capsys.readouterr()
    assert "1 case could not be scored" in found.err
    assert "bb\\_01" in found.out


@pytest.mark.slow
def test_demo_from_scans_to_the_last_line(
    tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    coarse = partial(phantom.write_phantom, quality=4.0, workers=1)
    monkeypatch.setattr(phantom, "write_phantom", coarse)
    small = [
        "steps=2", "steps_per_epoch=1", "train.batch_size=1", "warmup_steps=1",
        "model.options.base_width=8", "model.options.stages=3", "model.options.blocks=[1, 1, 1]",
        "patch=[64, 64]", "spacing_mm=[16, 8, 8]", "data.workers=0",
    ]  # fmt: skip
    call = ["demo", "--out", str(tmp_path), "--cases", "3", *small]
    assert run(call) == 0
    lines = capsys.readouterr().out.strip().splitlines()
    summary = read_json(tmp_path / "run" / "evaluation" / "evaluation.json")["summary"]
    ct, mr = (summary[m]["mean"]["dice"]["mean"] for m in ("ct", "mr"))
    assert lines[-1] == f"mean foreground Dice ct={ct:.2f} mr={mr:.2f}"
    text = "\n".join(lines)
    for stage in ("scans", "check", "train", "evaluate", "fold", "report"):
        assert f"[{stage}: " in text
    assert "width 8:" in text
    assert "0 voxels differ" in text
    scans = {p: p.stat().st_mtime_ns for p in (tmp_path / "data").rglob("*.nii.gz")}
    weights = (tmp_path / "run" / "checkpoints" / "last.pt").stat().st_mtime_ns
    assert run(call) == 0
    again = capsys.readouterr().out.strip().splitlines()
    assert again[-1] == lines[-1]
    assert scans == {p: p.stat().st_mtime_ns for p in (tmp_path / "data").rglob("*.nii.gz")}
    assert weights == (tmp_path / "run" / "checkpoints" / "last.pt").stat().st_mtime_ns
