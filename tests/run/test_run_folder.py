"""A run folder read part by part: fresh after a change, and with a sentence where a part lacks."""

from pathlib import Path

import pytest

from toy import toy_config, write_toy
from unpaired.config import to_toml
from unpaired.errors import DataError, UsageError
from unpaired.files import read_json, write_json, write_text
from unpaired.run import RunFolder
from unpaired.run.contents import read_contents
from unpaired.run.log import RunLog, note_schedule, read_log
from unpaired.run.scores import Evaluation, Score, write_evaluation
from unpaired.training.prepare import prepare_run


def test_a_part_is_read_anew_once_its_file_changed(tmp_path: Path) -> None:
    run = RunFolder(str(tmp_path))
    with pytest.raises(UsageError, match="does not exist"):
        _ = run.config
    for steps in (6, 7):
        write_text(run.files.config, to_toml(toy_config(f"train.steps={steps}")))
        assert run.config.train.steps == steps
        assert run.config is run.config, "read once while the file stays"
    for dice in (0.25, 0.5):
        one = Score("a", "x", "box", dice, 1.0, 1.0, dice, 9, 9)
        write_evaluation(Evaluation((one,)), run.files.evaluation())
        assert [s.dice for s in run.scores.scores] == [dice]
    with pytest.raises(DataError, match="does not exist"):
        run.scores_of("val")


def test_a_log_that_grows_is_read_to_its_end(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert run.steps == run.validations == ()
    log = RunLog(run.files.log, 0)
    for step in (1, 2):
        log.write({"kind": "step", "step": step, "loss": 0.12345678})
        assert run.steps[-1] == {"kind": "step", "step": step, "loss": 0.123457}


def test_what_is_noted_of_the_schedule_outlives_steps_that_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = RunLog(path, 0)
    for step in range(1, 6):
        log.write({"kind": "step", "step": step})
    note_schedule(path, 6, 9)
    RunLog(path, 4)  # the last checkpoint is of step 4
    kinds = [(record["kind"], record["step"]) for record in read_log(path)]
    assert kinds == [*(("step", n) for n in range(1, 5)), ("schedule", 5)]


def test_cases_and_split_of_a_prepared_run(tmp_path: Path) -> None:
    data = {m: write_toy(tmp_path, m, 4, m == "a", (1, 2)) for m in "ab"}
    run = RunFolder(tmp_path / "run")
    prepare_run(toy_config(), data, run)
    for part, count in (("train", 2), ("val", 1), ("test", 1)):
        scans, prepared = run.cases(part), run.prepared_cases(part)
        for m in "ab":
            ids = run.split.part(part)[m]
            assert list(scans[m]) == [case.id for case in prepared[m]] == list(ids)
            assert len(ids) == count
            assert all(
                case.label is not None and case.label.is_file() for case in scans[m].values()
            )
    gone = run.split.test["b"][0]
    index = run.data.prepared / "prepared.json"
    listed = read_json(index)
    write_json(index, {**listed, "b": [case for case in listed["b"] if case != gone]})
    with pytest.raises(DataError, match=f"lacks the prepared case b/{gone}"):
        run.prepared_cases("test")


def test_parts_that_lack_are_sentences(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a run folder"):
        read_contents(tmp_path)
    write_text(tmp_path / "config.toml", "[train]\nsteps = 3\nunheard_of = 1\n")
    write_text(tmp_path / "plan.json", "no plan")
    found = read_contents(tmp_path)
    assert found.config["train"] == {"steps": 3, "unheard_of": 1}
    assert found.plan == {} and found.evaluation is None
    said = "\n".join(found.missing)
    assert "plan.json cannot be read" in said and "the run was not evaluated yet" in said
    with pytest.raises(UsageError, match="unheard_of"):
        _ = RunFolder(tmp_path).config
