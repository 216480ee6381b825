"""Evaluation on files: values, labels, grids, what is missing, statistics, round trip."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from unpaired import metrics
from unpaired.errors import DataError
from unpaired.evaluation.scores import Labels, evaluate_folder, evaluate_pairs
from unpaired.io.nifti import write_volume
from unpaired.io.volume import Volume
from unpaired.run.scores import (
    Evaluation,
    Score,
    markdown,
    read_evaluation,
    summarise,
    write_evaluation,
)

CLASSES = ("background", "liver", "spleen")
TABLE = {0: 0, 500: 1, 205: 2, 7: 0}
AFFINE = np.diag([0.8, 1.5, 4.0, 1.0])


def write(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_volume(path, array, Volume(array, affine))
    return path


def pair(folder: Path, seed: int, modality: str = "a") -> tuple[str, str, Path, Path]:
    """Random prediction (class indices) and truth (the data set's own values, and one ignored)."""
    rng = np.random.default_rng(seed)
    prediction, truth = rng.integers(0, 3, (2, 7, 6, 5)).astype(np.uint8)
    values = np.array([0, 500, 205], np.uint16)[truth]
    values[0, 0, 0] = 7
    case = f"case{seed}"
    return (
        modality,
        case,
        write(folder / modality / f"{case}.nii.gz", prediction),
        write(folder / "truth" / modality / f"{case}.nii.gz", values),
    )


def test_scores_are_those_of_the_metrics_on_the_native_grid(tmp_path):
    one = pair(tmp_path, 3)
    found = evaluate_pairs([one], Labels(CLASSES, {"a": TABLE}), {"liver": 1.0})
    rng = np.random.default_rng(3)
    prediction, truth = rng.integers(0, 3, (2, 7, 6, 5))
    truth[0, 0, 0] = 0
    spacing = (0.8, 1.5, 4.0)
    assert [(s.modality, s.case, s.cls) for s in found] == [
        ("a", "case3", "liver"),
        ("a", "case3", "spleen"),
    ]
    for index, tolerance, got in zip((1, 2), (1.0, 2.0), found, strict=True):
        p, t = prediction == index, truth == index
        assert got.dice == pytest.approx(metrics.dice(p, t))
        assert got.asd_mm == pytest.approx(metrics.asd(p, t, spacing))
        assert got.hd95_mm == pytest.approx(metrics.hd95(p, t, spacing))
        assert got.nsd == pytest.approx(metrics.nsd(p, t, tolerance, spacing))
        assert (got.truth_voxels, got.prediction_voxels) == (t.sum(), p.sum())


def test_processes_give_the_same_in_the_same_order(tmp_path):
    pairs = [pair(tmp_path, seed) for seed in range(4)]
    seen = []
    alone = evaluate_pairs(pairs, Labels(CLASSES, {"a": TABLE}), progress=lambda *a: seen.append(a))
    assert evaluate_pairs(pairs, Labels(CLASSES, {"a": TABLE}), workers=2) == alone
    assert seen == [(i + 1, 4, f"a/case{i}") for i in range(4)]


def test_bad_cases_are_listed_and_the_others_scored(tmp_path):
    good, moved, other, odd = (pair(tmp_path, seed) for seed in range(4))
    shifted = AFFINE.copy()
    shifted[2, 3] = 2.5
    write(moved[2], np.zeros((7, 6, 5), np.uint8), shifted)
    write(other[2], np.zeros((7, 6, 4), np.uint8))
    write(odd[2], np.full((7, 6, 5), 3, np.uint8))
    gone = ("a", "gone", tmp_path / "gone.nii.gz", good[3])
    pairs = [gone, moved, other, odd, good]
    failures: dict[str, str] = {}
    scores = evaluate_pairs(pairs, Labels(CLASSES, {"a": TABLE}), failures=failures)
    assert {s.case for s in scores} == {"case0"}
    assert list(failures) == ["a/gone", "a/case1", "a/case2", "a/case3"]
    assert "2.5 mm apart" in failures["a/case1"]
    assert "(7, 6, 4)" in failures["a/case2"]
    assert "value 3" in failures["a/case3"] and "spleen" in failures["a/case3"]
    with pytest.raises(DataError, match=r"4 of 5 cases(.|\n)*a/gone(.|\n)*a/case3"):
        evaluate_pairs(pairs, Labels(CLASSES, {"a": TABLE}))


def test_a_truth_value_without_a_name_is_refused(tmp_path):
    one = pair(tmp_path, 0)
    with pytest.raises(DataError, match="500"):
        evaluate_pairs([one], Labels(CLASSES, {"a": {0: 0, 205: 2, 7: 0}}))


def made(case: str, cls: str, dice: float, asd: float, truth: int = 10, modality: str = "a"):
    return Score(modality, case, cls, dice, asd, 2 * asd, dice, truth, 10)


NAN = math.nan
MADE = [
    made("1", "liver", 0.9, 1.0),
    made("2", "liver", 0.7, 4.0),
    made("3", "liver", 0.0, NAN),  # empty prediction
    made("1", "spleen", 0.5, 2.0),
    made("2", "spleen", NAN, NAN, truth=0),  # not in this patient
    made("3", "spleen", 0.6, 3.0),
    made("1", "never", NAN, NAN, truth=0),
    made("9", "liver", 0.8, 1.5, modality="b"),
]


def test_statistics_count_what_is_undefined_and_leave_out_what_is_absent():
    found = summarise(MADE)
    liver, spleen, never = (found["a"]["classes"][c] for c in ("liver", "spleen", "never"))
    assert liver["dice"]["mean"] == pytest.approx(1.6 / 3)
    assert liver["dice"]["std"] == pytest.approx(np.std([0.9, 0.7, 0.0]))
    assert (liver["dice"]["n"], liver["dice"]["n_undefined"], liver["n_absent"]) == (3, 0, 0)
    assert (liver["asd_mm"]["mean"], liver["asd_mm"]["std"]) == (2.5, 1.5)
    assert (liver["asd_mm"]["n"], liver["asd_mm"]["n_undefined"]) == (2, 1)
    assert (spleen["dice"]["n"], spleen["dice"]["n_undefined"], spleen["n_absent"]) == (2, 0, 1)
    assert math.isnan(never["dice"]["mean"]) and never["n_absent"] == 1
    mean = found["a"]["mean"]
    assert mean["dice"] == {"mean": pytest.approx((1.6 / 3 + 0.55) / 2), "classes": 2}
    assert mean["asd_mm"] == {"mean": 2.5, "classes": 2}
    assert found["a"]["cases"] == 3 and found["b"]["cases"] == 1


def test_files_come_back_equal(tmp_path):
    extra = Score("a", "4", "liver", 0.5, 1.0, 2.0, 0.5, 3, 4, {"volume_ml": 1.25})
    before = Evaluation((*MADE, extra), {"a/x": "broken"}, ("y",), {"liver": 3.0})
    write_evaluation(before, tmp_path)
    after = read_evaluation(tmp_path)
    # repr, since nan is not equal to itself
    assert repr(after) == repr(before)
    rows = (tmp_path / "evaluation.csv").read_text().splitlines()
    assert len(rows) == 1 + 9
    assert rows[0].split(",")[:4] == ["modality", "case", "class", "dice"]
    assert rows[3] == "a,3,liver,0.0,,,0.0,10,10,"
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert content["summary"]["a"]["classes"]["liver"]["volume_ml"]["mean"] == 1.25


def test_the_table_is_in_percent_and_millimetres():
    text = markdown(Evaluation(tuple(MADE), {"a/x|y": "broken\nfile"}, ("z*",)))
    row = next(line for line in text.splitlines() if line.startswith("| liver"))
    assert "53.3 ± 38.6" in row and "2.50 ± 1.50" in row and row.endswith("| 3 | 1 |")
    mean = next(line for line in text.splitlines() if line.startswith("| **mean**"))
    assert mean.startswith("| **mean** | 54.2 | 2.50 | 5.00 | 54.2 | 3 |")
    assert r"a/x\|y: broken file" in text and r"z\*" in text
    assert "| never | – |" in text


@pytest.mark.parametrize("content", ["[]", '{"version": 2}', '{"version": 1, "cases": [{}]}'])
def test_a_foreign_file_is_refused(tmp_path, content):
    (tmp_path / "evaluation.json").write_text(content)
    with pytest.raises(DataError, match="not an evaluation"):
        read_evaluation(tmp_path)


def test_plain_folders_match_by_name(tmp_path):
    for seed in range(3):
        pair(tmp_path, seed)
    truth = tmp_path / "truth" / "a"
    names = {"background": 0, "liver": 500, "Spleen": 205, "other": 7}
    (truth.parent / "dataset.json").write_text(json.dumps({"labels": names}))
    (tmp_path / "a" / "labels.json").write_text('{"liver": 1, "spleen": 2, "other": 3}')
    (tmp_path / "a" / "case1.nii.gz").rename(tmp_path / "a" / "extra.nii.gz")
    (tmp_path / "a" / "._case2.nii.gz").write_bytes(b"junk")
    found = evaluate_folder(tmp_path / "a", truth)
    assert found.missing == ("case1",) and not found.failures
    expected = evaluate_pairs([pair(tmp_path, 0)], Labels(CLASSES, {"a": TABLE}))
    by_name = {(s.case, s.cls): s.dice for s in found.scores}
    assert by_name["case0", "liver"] == pytest.approx(expected[0].dice)
    assert by_name["case0", "spleen"] == pytest.approx(expected[1].dice)
    assert np.isnan(by_name["case0", "other"]) or by_name["case0", "other"] == 0.0


def named(folder: Path, array: np.ndarray, **labels: int) -> Path:
    write(folder / "x.nii.gz", array)
    if labels:
        (folder / "labels.json").write_text(json.dumps({"labels": labels}))
    return folder


def test_names_of_one_folder_hold_for_both(tmp_path):
    array = np.random.default_rng(0).integers(0, 3, (4, 4, 4)).astype(np.uint8)
    with_names = named(tmp_path / "p" / "p", array, background=0, liver=1, spleen=2)
    without = named(tmp_path / "t" / "t", array)
    for pair_ in ((with_names, without), (without, with_names)):
        found = [(s.cls, s.dice) for s in evaluate_folder(*pair_).scores]
        assert found == [("liver", 1.0), ("spleen", 1.0)]


def test_names_that_differ_are_refused_and_not_scored_zero(tmp_path):
    array = np.random.default_rng(0).integers(0, 3, (4, 4, 4)).astype(np.uint8)
    english = named(tmp_path / "p" / "p", array, liver=1, kidney_left=2)
    other = named(tmp_path / "t" / "t", array, Liver=1, kidney_lft=2)
    with pytest.raises(DataError, match=r"no class 'kidney lft'.*mean 'kidney left'"):
        evaluate_folder(english, other)
    fewer = named(tmp_path / "f" / "f", array, liver=1)
    for pair_ in ((english, fewer), (fewer, english)):
        with pytest.raises(DataError, match="f has no class 'kidney left'"):
            evaluate_folder(*pair_)


def test_plain_folders_without_names(tmp_path):
    array = np.random.default_rng(0).integers(0, 3, (4, 4, 4)).astype(np.uint8)
    write(tmp_path / "p" / "x.nii", array * 4)
    write(tmp_path / "t" / "x.nii.gz", array * 4)
    found = evaluate_folder(tmp_path / "p", tmp_path / "t", modality="m")
    assert [(s.cls, s.dice, s.asd_mm) for s in found.scores] == [
        ("label 4", 1.0, 0.0),
        ("label 8", 1.0, 0.0),
    ]
    with pytest.raises(DataError, match="not a folder"):
        evaluate_folder(tmp_path / "none", tmp_path / "t")
    (tmp_path / "q").mkdir()
    with pytest.raises(DataError, match="no file name occurs in both"):
        evaluate_folder(tmp_path / "q", tmp_path / "t")


def test_real_scans_scored_against_themselves(shared, tmp_path):
    root = shared("data/torso/mr")
    found = evaluate_folder(root / "labelsTr", root / "labelsTr")
    assert found.scores and not found.failures
    for one in found.scores:
        if one.truth_voxels:
            assert (one.dice, one.asd_mm, one.hd95_mm, one.nsd) == (1.0, 0.0, 0.0, 1.0)
