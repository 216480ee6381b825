"""A run's test cases from model to tables, against plain counting on the files."""

import csv
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from tiny_model import tiny_segmenter
from toy import toy_config, write_toy
from unpaired.artifact import model as model_file
from unpaired.artifact.model import Model
from unpaired.errors import DataError
from unpaired.evaluation.evaluate import evaluate, folded_differences
from unpaired.files import read_json, write_json
from unpaired.run import RunFolder
from unpaired.run.scores import Summary, summarise
from unpaired.training.prepare import prepare_run

VALUES = {"a": {1: "ball", 2: "box"}, "b": {7: "ball", 3: "box"}}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder as training leaves it, with an untrained network."""
    root = tmp_path_factory.mktemp("run")
    data = {
        "a": write_toy(root, "a", 4, True, (1, 2)),
        "b": write_toy(root, "b", 4, False, (7, 3)),
    }
    config, folder = toy_config("predict.overlap=0.25"), RunFolder(root / "run")
    prepare_run(config, data, folder)
    plan = folder.plan
    Model(tiny_segmenter(config, plan), plan, config).save(folder.files.model, {})
    return root


@pytest.fixture
def run(whole: Path, tmp_path: Path) -> Path:
    """A copy to write into; the data and the cache stay where they are."""
    shutil.copytree(whole / "run", tmp_path / "run", ignore=shutil.ignore_patterns("prepared"))
    return tmp_path / "run"


def evaluated(run: Path, **options: Any) -> Summary:
    return summarise(evaluate(run, device="cpu", **options)["native"].scores)


def plain_dice(run: Path, modality: str, case: str, name: str) -> float:
    """By counting voxels of the files themselves."""
    labels = read_json(run / "predictions" / modality / "labels.json")["labels"]
    value = next(v for v, n in VALUES[modality].items() if n == name)
    about = read_json(run / "data.json")["modalities"][modality]["cases"][case]
    truth = np.asarray(nib.load(about["label"]).dataobj) == value
    path = run / "predictions" / modality / f"{case}.nii.gz"
    found = np.asarray(nib.load(path).dataobj) == labels[name]
    return float(2 * (truth & found).sum() / (truth.sum() + found.sum()))


def test_the_test_cases_are_predicted_scored_and_compared_with_the_floor(run: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    summary = evaluated(run, progress=lambda *call: seen.append(call))
    split = RunFolder(run).split.test
    assert all(split[m] for m in VALUES)
    for m, ids in split.items():
        written = {p.name.split(".")[0] for p in (run / "predictions" / m).glob("*.nii.gz")}
        assert written == set(ids)
        means = []
        for name in ("ball", "box"):
            expected = float(np.mean([plain_dice(run, m, case, name) for case in ids]))
            assert summary[m]["classes"][name]["dice"]["mean"] == pytest.approx(expected)
            means.append(expected)
        assert summary[m]["mean"]["dice"]["mean"] == pytest.approx(float(np.mean(means)))
    assert any(summary[m]["mean"]["dice"]["mean"] > 0.01 for m in VALUES)
    cases = sum(map(len, split.values()))
    assert [call[:2] for call in seen] == [(n + 1, 2 * cases) for n in range(2 * cases)]
    rows = list(csv.DictReader((run / "evaluation" / "evaluation.csv").open()))
    assert len(rows) == 2 * cases
    floor = read_json(run / "floor.json")
    assert set(floor) == set(VALUES) and floor["a"]["box"] > 0.9


def test_a_second_call_keeps_the_predictions_and_another_part_has_its_own_folder(
    run: Path,
) -> None:
    first = evaluated(run)
    paths = sorted(run.glob("predictions/*/*.nii.gz"))
    before = [p.stat().st_mtime_ns for p in paths]
    assert evaluated(run) == first
    assert [p.stat().st_mtime_ns for p in paths] == before
    evaluated(run, overwrite=True)
    assert all(p.stat().st_mtime_ns > t for p, t in zip(paths, before, strict=True))
    evaluated(run, part="val")
    found = {p.name.split(".")[0] for p in run.glob("predictions_val/a/*.nii.gz")}
    assert found == set(RunFolder(run).split.val["a"])
    assert (run / "evaluation_val" / "evaluation.json").exists()


def test_a_case_that_is_gone_is_listed_and_the_others_are_scored(run: Path) -> None:
    record = (run / "data.json").read_text()
    gone = RunFolder(run).split.test["a"][0]
    (run / "data.json").write_text(record.replace(f"{gone}_0000.nii.gz", "gone.nii.gz"))
    summary = evaluated(run)
    content = read_json(run / "evaluation" / "evaluation.json")
    assert list(content["failures"]) == [f"a/{gone}"]
    assert "does not exist" in content["failures"][f"a/{gone}"]
    assert "b" in summary


@pytest.mark.parametrize("what", ["case", "modality"])
def test_a_record_that_points_outside_is_refused(run: Path, what: str) -> None:
    name = RunFolder(run).split.test["a"][0] if what == "case" else "a"
    record = (run / "data.json").read_text()
    (run / "data.json").write_text(record.replace(f'"{name}": {{', f'"../{name}": {{'))
    with pytest.raises(DataError, match="no safe file name"):
        evaluated(run)


def test_records_that_are_damaged_are_refused(run: Path) -> None:
    (run / "data.json").write_text('{"classes": ["background"]}')
    with pytest.raises(DataError, match="same command"):
        evaluated(run)
    (run / "data.json").unlink()
    with pytest.raises(DataError, match="does not exist"):
        evaluated(run)


def test_a_cache_that_is_gone_costs_only_the_floor(run: Path) -> None:
    record = (run / "data.json").read_text()
    prepared = str(RunFolder(run).data.prepared)
    (run / "data.json").write_text(record.replace(prepared, prepared + "-gone"))
    evaluated(run)
    assert (run / "evaluation" / "evaluation.md").exists()
    assert not (run / "floor.json").exists()


def test_an_empty_part_is_told(run: Path) -> None:
    splits = read_json(run / "splits_final.json")
    write_json(run / "splits_final.json", [{**splits[0], "test": []}])
    (run / "inputs.json").unlink()  # it knows the split, and would refuse this one
    with pytest.raises(DataError, match="no test case"):
        evaluated(run)


def test_folding_changes_no_label_and_a_wrong_fold_is_noticed(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert folded_differences(run) == {"a": 0, "b": 0}
    # Without gains and stems, the modalities' own part of the network.
    monkeypatch.setattr(model_file, "fold", lambda segmenter, _: deepcopy(segmenter.backbone))
    assert all(folded_differences(run).values())
