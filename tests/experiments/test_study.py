"""Runs that rows need: shared where they are equal, refused where the recipe changed."""

import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from made_results import made_record
from toy_study import toy_study

from swin_files import swin_classifier
from unpaired.datasets.make_split import check_names
from unpaired.datasets.split import few_shot
from unpaired.datasets.split_file import Split
from unpaired.errors import UsageError
from unpaired.experiments.jobs import CASE_SEED, Job, case_seed, plan_runs
from unpaired.experiments.pool import forecast
from unpaired.experiments.record import named_settings, settings_of, write_record
from unpaired.experiments.rows import EXPERIMENTS, Row
from unpaired.experiments.study import Study, open_study


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return toy_study(tmp_path_factory.mktemp("study"))


def jobs_of(study: Study, name: str, seeds: int = 1) -> dict[str, Job]:
    experiment = EXPERIMENTS[name]
    runs = plan_runs(experiment, study, range(seeds))
    assert not runs.refused
    return runs.jobs


def test_equal_runs_of_two_tables_are_one(study: Study) -> None:
    five, seven = jobs_of(study, "table5"), jobs_of(study, "table7")
    shared = set(five) & set(seven)
    names = {row for identity in shared for row, _ in five[identity].rows}
    assert names == {"Joint V3", "Ours, as printed", "Ours"}
    assert len(five) == 11 and len(seven) == 5
    assert all(five[i].folder == seven[i].folder for i in shared)
    assert len({job.folder for job in (*five.values(), *seven.values())}) == 13
    curve = jobs_of(study, "fig5")
    assert {row for i in curve.keys() & seven.keys() for row, _ in seven[i].rows} == {
        "Joint V3 + L_icr"
    }


def test_a_setting_that_is_not_used_makes_no_other_run(study: Study) -> None:
    """Without L_icr its temperature changes nothing."""
    before = jobs_of(study, "table7")
    other = replace(study, overrides=(*study.overrides, "loss.tau=9", "loss.mask_absent=true"))
    after = jobs_of(other, "table7")
    rows = {row for i in before.keys() & after.keys() for row, _ in before[i].rows}
    assert rows == {row.name for row in EXPERIMENTS["table7"].rows} - {"Ours"}
    job = next(job for job in after.values() if ("Joint V3", 0) in job.rows)
    old = next(job for job in before.values() if ("Joint V3", 0) in job.rows)
    settings = {**named_settings(old.config), "loss.tau": 4.0}  # written by an earlier version
    record = replace(made_record("any", 0, *job.data), identity=old.identity, settings=settings)
    write_record(job.record("as_trained"), record)
    assert job.read("as_trained").identity == job.identity
    job.record("as_trained").unlink()


def test_rows_of_one_modality_see_the_split_and_the_grid_of_all(study: Study) -> None:
    jobs = jobs_of(study, "table5", seeds=2).values()
    for seed in (0, 1):
        both = next(j for j in jobs if len(j.data) == 2 and j.seed == seed)
        for job in jobs:
            if job.seed == seed:
                for m in job.data:
                    assert job.split.test[m] == both.split.test[m]
                    assert job.split.train[m] == both.split.train[m]
                for key in ("spacing_mm", "patch", "slice_axis", "classes"):
                    assert getattr(job.config.data, key) == getattr(both.config.data, key)
                assert both.config.data.classes == ("ball", "box")
                assert job.config.train.seed == seed
    drawn = {tuple(job.split.test.items()) for job in jobs if len(job.data) == 2}
    assert len(drawn) == 2


def test_one_split_for_all_seeds_on_request(study: Study) -> None:
    jobs = jobs_of(replace(study, redraw=False), "table7", seeds=3).values()
    assert len({tuple(job.split.test.items()) for job in jobs}) == 1


def test_start_and_case_have_seeds_of_their_own(study: Study) -> None:
    jobs = list(jobs_of(study, "draws", seeds=2).values())
    assert len(jobs) == 8
    for job in jobs:
        options = job.config.data
        assert options.few_shot == {"b": 1}
        assert options.few_shot_seed != job.config.train.seed
    seeds = {(job.config.train.seed, job.config.data.few_shot_seed) for job in jobs}
    assert len(seeds) == 2
    control = [job for job in jobs if job.config.model.shared_embeddings]
    assert [row for job in control for row, _ in job.rows] == ["Ours, one embedding set"] * 2


def test_few_cases_of_a_modality_hold_for_the_rows_that_have_it(study: Study) -> None:
    """A study of few cases: a row of the other modality alone takes all of its own."""
    few = replace(study, overrides=("data.few_shot.b=1",))
    for job in jobs_of(few, "table5").values():
        check_names(job.config.data, job.data)
        assert job.config.data.few_shot == ({"b": 1} if "b" in job.data else {})
        assert len(job.split.train["b"]) > 1 if "b" in job.data else True  # drawn by the run


def test_testing_otherwise_is_no_other_training(study: Study) -> None:
    jobs = jobs_of(study, "scaling")
    assert len(jobs) == 2
    for job in jobs.values():
        assert job.config.model.scaling_at_test
        assert list(job.tests.values()) == [(), ("model.scaling_at_test=false",)]
        assert len({job.record(test) for test in job.tests}) == 2


def test_what_does_not_change_the_result_does_not_change_the_name(study: Study) -> None:
    before = set(jobs_of(study, "table7"))
    free = replace(study, overrides=("train.threads=2", "data.workers=3", "train.log_every=7"))
    assert set(jobs_of(free, "table7")) == before
    other = replace(study, overrides=("train.learning_rate=0.01",))
    assert not set(jobs_of(other, "table7")) & before
    sooner = replace(study, overrides=("train.early_stop=3",))  # decides which weights are kept
    assert not set(jobs_of(sooner, "table7")) & before
    assert "train.threads" not in settings_of(study.recipe())


def test_a_row_that_cannot_be_built_says_why(study: Study) -> None:
    rows = (Row("odd", ("model.backbone=nothing",)), EXPERIMENTS["table7"].rows[0])
    runs = plan_runs(EXPERIMENTS["table7"], study, [0], rows)
    assert list(runs.refused) == ["odd"] and "nothing" in runs.refused["odd"]
    assert len(runs.jobs) == 1


def test_another_recipe_or_other_data_in_the_same_folder_are_refused(
    study: Study, tmp_path: Path
) -> None:
    again = replace(study, cases={}, grid=())
    assert open_study(again).grid == study.grid
    open_study(replace(again, overrides=("train.threads=2",)))
    with pytest.raises(UsageError, match=r"loss\.alpha: 0\.4 -> 0\.3.*another --out"):
        open_study(replace(again, overrides=("loss.alpha=0.3",)))
    with pytest.raises(UsageError, match=r"data\.patch: \[32, 32\] -> \[16, 16\].*another --out"):
        open_study(replace(again, overrides=("data.patch=[16,16]",)))  # the grid is fixed by now
    root = study.data["b"]
    files = [root / "labelsTr" / "b_04.nii.gz", root / "imagesTr" / "b_04_0000.nii.gz"]
    for file in files:
        file.rename(tmp_path / file.name)
    with pytest.raises(UsageError, match="b differs in the cases b_04"):
        open_study(again)
    for file in files:
        (tmp_path / file.name).rename(file)


def test_a_corrected_label_under_the_same_name_is_other_data(tmp_path: Path) -> None:
    """Old records beside new ones would compare rows on different truths."""
    study = toy_study(tmp_path)
    again = replace(study, cases={}, grid=())
    labels = study.data["a"] / "labelsTr"
    first, second = (labels / f"a_0{n}.nii.gz" for n in (1, 2))
    content = first.read_bytes()
    os.utime(first, ns=(1, 1))  # copied or touched, not changed
    open_study(again)
    first.write_bytes(second.read_bytes())
    with pytest.raises(UsageError, match=r"files of a_01 \(a\) have changed.*another --out"):
        open_study(again)
    first.write_bytes(content)
    open_study(again)


def test_rows_that_have_weights_in_the_paper_start_from_the_file(tmp_path: Path) -> None:
    """Comparators start at random; a run is known by what the file holds, not by its name."""
    file, again = tmp_path / "swin.pth", tmp_path / "renamed.pth"
    torch.save({"model": swin_classifier(8, (1, 1, 2), (1, 2, 2), 7)}, file)
    shutil.copyfile(file, again)
    study = toy_study(tmp_path, f"model.pretrained={file}")
    jobs = jobs_of(study, "table1")
    start = {row: job.config.model.pretrained for job in jobs.values() for row, _ in job.rows}
    assert start.pop("UMMKD") is None and start.pop("Payer et al.") is None
    assert set(start.values()) == {str(file)} and len(start) == 6
    bare = replace(study, cases={}, grid=(), weights="")
    moved = replace(bare, overrides=(f"model.pretrained={again}",))
    assert set(jobs_of(open_study(moved), "table1")) == set(jobs)
    with pytest.raises(UsageError, match=r"runs that start from another file of weights .*--out"):
        open_study(replace(bare, overrides=()))
    torch.save({"model": swin_classifier(16, (1, 1, 2), (1, 2, 2), 7)}, again)
    with pytest.raises(UsageError, match="another file of weights"):
        open_study(moved)
    elsewhere = replace(moved, out=tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="the file's is 16 wide, this one 8"):
        open_study(elsewhere)
    assert not (elsewhere.out / "reproduce.json").exists()
    again.unlink()
    with pytest.raises(UsageError, match="there is no file"):
        open_study(moved)


def test_settings_for_other_modalities_are_refused_before_anything_runs(study: Study) -> None:
    """A protocol's settings are by modality: data under another name would have none."""
    other = replace(study, preset="abdomen-2d", file=None, out=study.out.parent / "other")
    with pytest.raises(UsageError, match="settings of the preset or file are for ct, mr, the data"):
        open_study(other)


def test_an_experiment_needs_its_modalities(study: Study) -> None:
    with pytest.raises(UsageError, match=r"three needs 3 modalities, --data gives 2 \(a, b\)"):
        plan_runs(EXPERIMENTS["three"], study, [0])


def test_an_experiment_of_ones_own_is_planned(
    study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The block of docs/extend.md."""
    text = (Path(__file__).resolve().parents[2] / "docs" / "extend.md").read_text()
    (code,) = [c for c in re.findall(r"```python\n(.*?)```", text, re.S) if "EXPERIMENTS[" in c]
    monkeypatch.setitem(EXPERIMENTS, "heads", EXPERIMENTS["table5"])  # undone afterwards
    exec(compile(code, "extend.md", "exec"), {"__name__": "example"})
    jobs = jobs_of(study, "heads")
    assert sorted(job.config.model.heads for job in jobs.values()) == [4, 8]


def test_the_forecast_is_of_one_step_and_then_of_what_was_run(study: Study, tmp_path: Path) -> None:
    measured = {"seconds_per_step": 3.0, "memory_bytes": 10}
    measuring = replace(study, forecast=measured, out=tmp_path)
    jobs = list(jobs_of(measuring, "table5").values())  # seven of both modalities, four of one
    ahead = forecast(measuring, jobs, 2)
    assert ahead.seconds == pytest.approx((7 * 3 + 4 * 1.5) * 2 / 2)  # two steps, two at a time
    assert ahead.memory_bytes == 20 and "one step" in ahead.basis
    of_one = replace(
        measuring, forecast={**measured, "modalities": 1}
    )  # an earlier call had only one
    assert forecast(of_one, jobs, 2).seconds == pytest.approx((7 * 6 + 4 * 3) * 2 / 2)
    done = next(job for job in jobs if len(job.data) == 2)
    record = replace(
        made_record("any", 0, *done.data),
        identity=done.identity,
        settings=named_settings(done.config),
    )
    write_record(done.record("as_trained"), replace(record, seconds={"train": 30.0, "test": 10.0}))
    ahead = forecast(measuring, jobs, 1)
    assert ahead.seconds == pytest.approx(6 * 40 + 4 * 1.5 * 2) and "are done" in ahead.basis
    done.tests["another"] = ()  # the training is not done again
    assert forecast(measuring, jobs, 1).seconds == pytest.approx(6 * 40 + 4 * 1.5 * 2 + 10)


@pytest.mark.parametrize(("cases", "count", "possible"), [(8, 1, 8), (4, 3, 4), (5, 2, 10)])
def test_seeds_of_drawn_cases_give_every_draw_before_one_comes_again(
    cases: int, count: int, possible: int
) -> None:
    split = Split({"mr": tuple(f"mr_{i}" for i in range(cases))}, {}, {})
    seeds = [case_seed(split, "mr", count, n) for n in range(2 * possible + 1)]
    draws = [few_shot(split, "mr", count, seed).train["mr"] for seed in seeds]
    assert seeds[0] == CASE_SEED and seeds == sorted(set(seeds))
    assert len(set(draws[:possible])) == possible
    assert set(draws[possible : 2 * possible]) == set(draws[:possible])


def test_the_rows_of_a_draw_share_its_case(study: Study) -> None:
    jobs = jobs_of(study, "draws", seeds=3).values()
    for seed in range(3):
        assert len({job.config.data.few_shot_seed for job in jobs if job.seed == seed}) == 1
