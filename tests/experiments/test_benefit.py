"""What training together gave: the plan of the runs, and the answers."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from toy_study import VALUES, toy_settings

from sealed import unsealed
from toy import write_toy
from unpaired.errors import DataError, UsageError
from unpaired.experiments.benefit import Asked, Plan, longest, plan_benefit
from unpaired.experiments.benefit_answer import answer
from unpaired.experiments.execute import execute
from unpaired.files import read_json
from unpaired.run import RunFolder
from unpaired.training import planner
from unpaired.training.budget import parse_budget
from unpaired.training.forecast import Forecast

GIB = 1 << 30
FEW = ("data.split=[0.4, 0.2, 0.4]",)


def scans(root: Path, **cases: int) -> dict[str, Path]:
    """Modalities a, b, c with so many cases."""
    kinds = {**VALUES, "c": (True, (4, 5))}
    return {m: write_toy(root, m, count, *kinds[m]) for m, count in cases.items()}


def asked(root: Path, **cases: int) -> Asked:
    """With a recipe of its own: two steps of a tiny network."""
    file = root / "toy.toml"
    return Asked(scans(root / "data", **cases), root / "out", file=toy_settings(file, *FEW))


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Asked, Plan]:
    """Two modalities of five cases, all trained and tested."""
    ask = asked(tmp_path_factory.mktemp("benefit"), a=5, b=5)
    plan = plan_benefit(ask)
    for job in plan.jobs:
        execute(job, ask.out / "prepared")
    return ask, plan


def test_every_modality_is_trained_alone_and_all_together(done: tuple[Asked, Plan]) -> None:
    _, plan = done
    assert [tuple(job.data) for job in plan.jobs] == [("a", "b"), ("a",), ("b",)]
    together, *alone = plan.jobs
    for job in alone:
        (m,) = job.data
        for part in ("train", "val", "test"):
            assert getattr(job.split, part)[m] == getattr(together.split, part)[m]
        ours, theirs = RunFolder(job.folder), RunFolder(together.folder)
        assert ours.config.replace(data={"splits": ""}) == theirs.config.replace(
            data={"splits": ""}
        )
        grids = [(p.spacing_mm, p.patch, p.slice_axis, p.classes) for p in (ours.plan, theirs.plan)]
        assert grids[0] == grids[1]
        assert ours.plan.modalities[m] == theirs.plan.modalities[m]


def test_the_answer_is_the_mean_difference_of_the_test_cases(done: tuple[Asked, Plan]) -> None:
    ask, plan = done
    found = answer(plan, {})
    together, *alone = (RunFolder(job.folder).scores.scores for job in plan.jobs)
    assert (set(found.comparisons), found.open) == ({"a", "b"}, {})
    stored = read_json(ask.out / "benefit.json")
    for m, own in zip("ab", alone, strict=True):
        cases = sorted({one.case for one in own})
        by_hand = [
            np.nanmean([s.dice for s in together if (s.modality, s.case) == (m, case)])
            - np.nanmean([s.dice for s in own if s.case == case])
            for case in cases
        ]
        row = stored["dice"][m]
        assert row["difference"] == pytest.approx(np.mean(by_hand))
        assert (row["test_cases"], row["training_cases"], row["unfair"]) == (len(cases), 2, [])
        assert row["interval"][0] <= row["difference"] <= row["interval"][1]
        assert f"{m.upper()} Dice" in stored["answers"][m]
        assert f"{m.upper()} alone" in stored["answers"][m]
    assert "A and B" in stored["answers"]["a"]
    text = (ask.out / "benefit.md").read_text()
    assert repr(found) == text
    assert "| A | 2 | " in text
    page = (ask.out / "page" / "comparison.html").read_text()
    assert "A, B: together against each alone" in page
    assert stored["answers"]["b"].split(" (")[0] in page


def test_the_same_call_goes_on_and_another_is_refused(done: tuple[Asked, Plan]) -> None:
    ask, plan = done
    again = plan_benefit(ask)
    assert [job.folder for job in again.jobs] == [job.folder for job in plan.jobs]
    assert not any(job.missing for job in again.jobs)
    more = plan_benefit(Asked(ask.data, ask.out, file=ask.file, seeds=2))
    assert [bool(job.missing) for job in more.jobs].count(False) == 3
    assert len(more.of("a")) == len(more.of("a", "b")) == 2
    with pytest.raises(UsageError, match=r"train\.steps: 2 -> 3"):
        plan_benefit(Asked(ask.data, ask.out, file=ask.file, overrides=("train.steps=3",)))
    with pytest.raises(UsageError, match=r"give train\.steps"):
        plan_benefit(Asked(ask.data, ask.out, 3600.0, file=ask.file))


def test_what_failed_or_is_not_done_has_no_answer(done: tuple[Asked, Plan]) -> None:
    _, plan = done
    record = plan.of("a")[0].record("as_trained")
    text = record.read_text()
    record.unlink()
    try:
        found = answer(plan, {plan.of("a")[0].identity: "the disk is full."})
        assert set(found.comparisons) == {"b"}
        assert found.open["a"].startswith("No answer for A: a-V3-s0-")
        assert found.open["a"].endswith("the disk is full.")
        assert "has not ended yet" in answer(plan, {}).answers["a"]
    finally:
        record.write_text(text)


def test_a_modality_of_one_case_is_only_learnt_from(tmp_path: Path) -> None:
    """And one class that a single modality has is left out."""
    ask = asked(tmp_path, a=5, b=1)
    names = ask.data["a"] / "dataset.json"
    names.write_text(names.read_text().replace('"box"', '"spleen"'))
    plan = plan_benefit(ask)
    assert (plan.tested, [tuple(job.data) for job in plan.jobs]) == (("a",), [("a", "b"), ("a",)])
    assert any("b has 1 labelled case and none to test on" in note for note in plan.notes)
    assert any("Not every modality has spleen (a); box (b)" in note for note in plan.notes)
    assert plan.study.recipe().data.classes == ("ball",)


def test_three_modalities_are_four_trainings_and_one_is_refused(tmp_path: Path) -> None:
    ask = asked(tmp_path, a=5, b=5, c=5)
    plan = plan_benefit(ask)
    assert [tuple(job.data) for job in plan.jobs] == [("a", "b", "c"), ("a",), ("b",), ("c",)]
    with pytest.raises(UsageError, match="needs two modalities or more; --data gives a"):
        plan_benefit(Asked({"a": ask.data["a"]}, tmp_path / "other", file=ask.file))
    single = {m: write_toy(tmp_path / "one", m, 1, *how) for m, how in VALUES.items()}
    with pytest.raises(DataError, match="no modality has a test case"):
        plan_benefit(Asked(single, tmp_path / "other", file=ask.file))


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_the_longest_is_when_the_last_run_ends(slots: int) -> None:
    parts = [1.0, 1.0, 0.5, 0.5, 0.5]
    best = min(_end(order, slots) for order in permutations(parts))
    assert best <= longest(parts, slots) <= best * 4 / 3
    assert longest(parts, 1) == sum(parts)
    assert longest([1.0, 0.5, 0.5], 2) == 1.0


def _end(order: tuple[float, ...], slots: int) -> float:
    ends = [0.0] * slots
    for part in order:
        first = min(range(slots), key=lambda n: ends[n])
        ends[first] += part
    return max(ends)


@pytest.fixture
def paced(monkeypatch: pytest.MonkeyPatch) -> dict[int, float]:
    """Seconds of a step of all modalities by the network's width, made up."""
    costs = {32: 2.0, 24: 1.0, 16: 0.4, 8: 0.1}

    def measured(config: object, plan: object) -> Forecast:
        width = config.model.options["base_width"]  # type: ignore[attr-defined]
        return Forecast(7, 5, GIB, 16 * GIB, costs[width], "cpu")

    monkeypatch.setattr(planner, "forecast", measured)
    return costs


def test_a_budget_is_shared_out(tmp_path: Path, paced: dict[int, float]) -> None:
    """Alone a step costs half of what it costs together: the runs fill the budget, not more."""
    data = scans(tmp_path / "data", a=5, b=5)
    plan = plan_benefit(Asked(data, tmp_path / "out", 1800.0))
    configs = [job.config for job in plan.jobs]
    assert len({config.train.steps for config in configs}) == 1
    train, width = configs[0].train, configs[0].model.options["base_width"]
    together = train.steps * paced[int(width)]
    assert 0.6 * 1800 < together + 2 * together / 2 < 0.9 * 1800
    assert "13 min for each training on all modalities, 7 min for each" in plan.reasons["budget"]
    assert f"{train.steps} steps of {train.batch_size} images a modality" in plan.reasons["fair"]
    again = plan_benefit(Asked(data, tmp_path / "out", 7200.0))
    assert again.jobs[0].config == plan.jobs[0].config
    assert any("goes on as it was planned for 30 min" in note for note in again.notes)
    text = unsealed((tmp_path / "out" / "planned.json").read_text())
    assert "network" in text


def test_a_budget_for_nothing_says_what_would_do(tmp_path: Path, paced: dict[int, float]) -> None:
    data = scans(tmp_path / "data", a=5, b=5)
    with pytest.raises(UsageError, match="too small for any network") as caught:
        plan_benefit(Asked(data, tmp_path / "out", 30.0))
    named = str(caught.value).split("--budget ")[1].split(",")[0]
    plan = plan_benefit(Asked(data, tmp_path / "out", parse_budget(named)))
    assert plan.jobs[0].config.train.steps >= planner.FEWEST_STEPS
