"""The whole way on toy scans: killed and gone on equals unbroken; the tests of a trained run."""

import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toy_study import toy_study

from sealed import unsealed
from swin_files import swin_classifier
from unpaired.cli.reproduce import draw_overlays
from unpaired.errors import UsageError
from unpaired.evaluation.evaluate import evaluate
from unpaired.experiments.execute import execute
from unpaired.experiments.jobs import DEFAULT, Job, plan_runs
from unpaired.experiments.pictures import median_case, predictions_of
from unpaired.experiments.record import Record, read_record
from unpaired.experiments.rows import EXPERIMENTS
from unpaired.experiments.store import collect
from unpaired.experiments.study import Study
from unpaired.experiments.tables import markdown
from unpaired.files import read_json
from unpaired.run import RunFolder
from unpaired.run.scores import read_evaluation

STEPS = ("train.steps=20", "train.steps_per_epoch=2")
TABLE = EXPERIMENTS["scaling"]


def the_job(study: Study) -> Job:
    """Ours, tested with and without gains."""
    (job,) = plan_runs(TABLE, study, [0], [TABLE.rows[0], TABLE.rows[1]]).jobs.values()
    return job


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Job]:
    """An unbroken run in this process, from a file of weights."""
    root = tmp_path_factory.mktemp("whole")
    weights = swin_classifier(8, (1, 1, 2), (1, 2, 2), 7)
    weak = {name: 0.2 * value if value.ndim > 1 else value for name, value in weights.items()}
    torch.save({"model": weak}, root / "swin.pth")  # as large as those of a fresh network
    study = toy_study(root, *STEPS, f"model.pretrained={root / 'swin.pth'}")
    job = the_job(study)
    execute(job, study.out / "prepared")
    return study, job


def test_the_native_scores_are_those_of_evaluate(whole: tuple[Study, Job]) -> None:
    _, job = whole
    record = read_record(job.record(DEFAULT))
    kept = read_evaluation(job.folder / "evaluation").scores
    evaluate(job.folder, device="cpu")
    scores = read_evaluation(job.folder / "evaluation").scores
    assert repr(kept) == repr(scores)  # so that report and compare find it there
    wanted = {(s.modality, s.case, s.cls): s for s in scores}
    assert len(wanted) == len(record.scores["native"]) == 4
    for one in record.scores["native"]:
        other = wanted[one.modality, one.case, one.cls]
        assert one.dice == pytest.approx(other.dice, abs=1e-5, nan_ok=True)
        assert one.asd_mm == pytest.approx(other.asd_mm, abs=1e-4, nan_ok=True)


def test_the_prepared_scores_are_by_counting(whole: tuple[Study, Job]) -> None:
    """The scans lie on the grid already, so the cached label is the file's, turned."""
    _, job = whole
    record = read_record(job.record(DEFAULT))
    run = RunFolder(job.folder)
    for one in record.scores["prepared"]:
        label = run.prepared[one.modality][one.case].label()
        assert label is not None
        index = run.data.classes.index(one.cls)
        assert one.truth_voxels == int(np.count_nonzero(np.asarray(label) == index))
        if not np.isnan(one.asd_mm):
            assert one.extra["asd_voxels"] == pytest.approx(one.asd_mm, rel=1)
            assert one.extra["asd_voxels"] != one.asd_mm


def test_without_gains_the_same_network_is_tested_otherwise(whole: tuple[Study, Job]) -> None:
    study, job = whole
    with_gains, without = (read_record(job.record(test)) for test in job.tests)
    assert with_gains.identity == without.identity
    assert dice(with_gains) != dice(without)
    text = markdown(collect(plan_runs(TABLE, study, [0]), study))
    lines = {line.split(" | ")[0].strip("| "): line for line in text.splitlines()}
    assert "not run" not in lines["Ours, no gains at test"]
    assert "not run" in lines["Joint V3"]


def test_what_is_kept_names_no_folder(whole: tuple[Study, Job]) -> None:
    study, job = whole
    text = job.record(DEFAULT).read_text()
    assert str(study.out) not in text and str(study.data["a"]) not in text
    assert "spacing_mm" in text and '"training"' in text


def test_the_record_says_what_the_weights_filled(whole: tuple[Study, Job]) -> None:
    study, job = whole
    filled = read_json(job.folder / "pretrained.json")
    record = read_record(job.record(DEFAULT))
    assert record.pretrained == {
        "file": "swin.pth", "layout": filled["layout"], "percent": round(filled["percent"], 1),
    }  # fmt: skip
    assert 0 < filled["percent"] < 100
    text = markdown(collect(plan_runs(TABLE, study, [0]), study))
    share = f"{record.pretrained['percent']:g} % of encoder and decoder"
    assert f"from swin.pth ({filled['layout']}; {share})" in text


def dice(record: Record) -> list[float]:
    return [one.dice for one in record.scores["prepared"]]


def test_a_picture_shows_the_median_case_by_every_row_that_was_run(
    whole: tuple[Study, Job], tmp_path: Path
) -> None:
    study, _ = whole
    runs = plan_runs(TABLE, study, [0])
    results = collect(runs, study)
    case = median_case(results, "a", 0)
    assert case is not None and case in {s.case for s in results.rows[0].scores("native")[0]}
    found = predictions_of(results, runs, "a", case, 0)
    assert list(found) == ["Ours"]  # the other row of it is only tested otherwise
    assert (found["Ours"] / "predictions" / "a" / f"{case}.nii.gz").exists()
    path = draw_overlays(results, runs, tmp_path)
    assert path is not None and path.read_bytes().startswith(b"\x89PNG")
    nothing = replace(results, rows=tuple(replace(r, records={}) for r in results.rows))
    assert median_case(nothing, "a", 0) is None and draw_overlays(nothing, runs, tmp_path) is None


def test_a_record_of_another_configuration_is_refused(
    whole: tuple[Study, Job], tmp_path: Path
) -> None:
    _, job = whole
    text = unsealed(job.record(DEFAULT).read_text())
    moved = replace(job, folder=tmp_path)
    moved.record(DEFAULT).write_text(text)
    assert moved.read(DEFAULT).identity == job.identity
    for old, new, what in (
        ('"loss.alpha": 0.4', '"loss.alpha": 0.5', r"loss\.alpha: 0\.5 -> 0\.4"),
        (job.identity, "0" * 64, "of another run"),
    ):
        moved.record(DEFAULT).write_text(text.replace(old, new))
        with pytest.raises(UsageError, match=what):
            moved.read(DEFAULT)


def test_a_study_that_moved_goes_on(whole: tuple[Study, Job], tmp_path: Path) -> None:
    """As does one whose --out is written otherwise, relative to another folder."""
    study, job = whole
    out = shutil.copytree(study.out, tmp_path / "moved")
    moved = the_job(replace(study, out=out))
    assert moved.folder == out / "runs" / job.folder.name and not moved.missing
    moved.record(DEFAULT).unlink()
    execute(moved, out / "prepared")
    again, before = (read_record(one.record(DEFAULT)) for one in (moved, job))
    assert repr(again.scores) == repr(before.scores)


@pytest.mark.slow
def test_a_training_cut_by_its_time_limit_has_no_record(tmp_path: Path) -> None:
    """It would stand in the table as a whole one, and never be ended."""
    study = toy_study(tmp_path, "train.max_minutes=1e-6")
    job = the_job(study)
    with pytest.raises(UsageError, match=r"max_minutes stopped .* at step 1 of 2"):
        execute(job, study.out / "prepared")
    assert job.missing == list(job.tests)
    longer = the_job(replace(study, overrides=()))
    assert longer.folder == job.folder
    execute(longer, study.out / "prepared")
    assert not job.missing


@pytest.mark.slow
@pytest.mark.unix
def test_killed_and_gone_on_equals_unbroken(whole: tuple[Study, Job], tmp_path: Path) -> None:
    """SIGKILL of the command in the middle of a training: its run saves itself and leaves; the
    same command ends it."""
    study, job = whole
    out = tmp_path / "out"
    command = [
        sys.executable, "-c", "from unpaired.cli import main; main()", "reproduce", "scaling",
        "--rows", "Ours; Ours, no gains at test",
        *(f"--data={m}={root}" for m, root in study.data.items()),
        "--config", str(study.file), "--out", str(out), "--seeds", "1", *STEPS,
        "--pretrained", str(study.data["a"].parents[1] / "swin.pth"),
    ]  # fmt: skip
    caller = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    run = out / "runs" / job.folder.name
    end = time.monotonic() + 200
    while not (run / "checkpoints" / "last.pt").exists():
        assert caller.poll() is None and time.monotonic() < end
        time.sleep(0.02)
    caller.send_signal(signal.SIGKILL)
    caller.wait()
    folder = RunFolder(run)
    while _held(folder):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert not (run / "record_as_trained.json").exists()
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "1 runs to do" in done.stdout and "Ours, no gains at test" in done.stdout
    for test in job.tests:
        broken, unbroken = read_record(run / f"record_{test}.json"), read_record(job.record(test))
        assert repr(broken.scores) == repr(unbroken.scores)  # nan is nan
        assert broken.curve == unbroken.curve and broken.identity == unbroken.identity


def _held(folder: RunFolder) -> bool:
    """Whether a process still trains there."""
    try:
        with folder.lock():
            return False
    except UsageError:
        return True
