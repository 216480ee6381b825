"""Comparing runs: the numbers against loops, pairing, what is refused, what is unfair."""

import math
import re

import numpy as np
import pytest
import scipy.stats
from compared_runs import NAN, dice_table, seeds, write_run

from unpaired.errors import DataError, UsageError
from unpaired.files import write_json
from unpaired.metrics.bootstrap import bootstrap_interval
from unpaired.metrics.statistics import holm
from unpaired.report.compare import MEAN, compare
from unpaired.report.compare_sides import open_side


def two(a, b, *options):
    """The comparison of two lists of runs."""
    return compare([open_side(a, "a"), open_side(b, "b")], *options)[0]


def single(tmp_path, name="mr", **options):
    return write_run(tmp_path / name, dice_table(("mr",)), **options)


# Numbers


def test_the_numbers_equal_a_plain_loop(tmp_path):
    tables = [
        {(k, key): v for k in range(3) for key, v in dice_table(seed=k, shift=s).items()}
        for s in (0.0, 0.02)
    ]
    a, b = seeds(tmp_path, "a", 3), seeds(tmp_path, "b", 3, 0.02)
    found = two(a, b)
    assert (found.unit, found.modalities, len(found.pairs)) == ("seed", ("ct", "mr"), 3)
    for m in ("ct", "mr"):
        for cls in ("liver", "spleen", MEAN):
            wanted = {}
            for (k, (modality, case, c)), value in tables[0].items():
                if modality == m and cls in (c, MEAN):
                    wanted.setdefault((k, case), []).append(tables[1][k, (m, case, c)] - value)
            rows = {key: float(np.mean(values)) for key, values in wanted.items()}
            effect = found.of(m, "dice", cls)
            assert effect.difference.mean == pytest.approx(np.mean(list(rows.values())))
            cases = [
                np.mean([d for (_, c), d in rows.items() if c == case]) for case in effect.cases
            ]
            assert list(effect.cases.values()) == pytest.approx(cases)
            assert effect.p == pytest.approx(scipy.stats.wilcoxon(cases).pvalue)
            assert (effect.low, effect.high) == pytest.approx(
                bootstrap_interval(
                    list(rows.values()), groups=[k for k, _ in rows], cases=[c for _, c in rows]
                )
            )
            assert (effect.tested, effect.difference.n_cases) == ("cases", 7)
            assert effect.difference.n_seeds == 3
    effect = found.of("mr", "asd_mm")
    assert effect.difference.mean == pytest.approx(-10 * found.of("mr", "dice").difference.mean)


def test_swapping_the_sides_gives_the_mirror_image(tmp_path):
    a, b = seeds(tmp_path, "a", 2), seeds(tmp_path, "b", 2, 0.01)
    one, other = two(a, b), two(b, a)
    for x, y in zip(one.effects.values(), other.effects.values(), strict=True):
        assert (x.low, x.high) == pytest.approx((-y.high, -y.low), abs=1e-9)
        assert x.p == pytest.approx(y.p)
        assert x.a == y.b
        assert dict(x.cases) == pytest.approx({case: -v for case, v in y.cases.items()})


def test_holm_runs_over_comparisons_and_modalities_of_one_metric(tmp_path):
    sides = [
        open_side(seeds(tmp_path, n, 1, s), n) for n, s in (("a", 0), ("b", 0.01), ("c", 0.004))
    ]
    found = compare(sides, ["dice", "nsd"])
    assert [(one.a.name, one.b.name) for one in found] == [("a", "b"), ("a", "c")]
    for means in (True, False):
        effects = [
            effect
            for one in found
            for about, effect in one.effects.items()
            if about.metric == "dice" and (about.cls == MEAN) == means
        ]
        assert len(effects) == (4 if means else 8)
        assert [e.adjusted for e in effects] == pytest.approx(holm([e.p for e in effects]))


def test_undefined_and_absent_are_counted_not_dropped(tmp_path):
    table = dice_table(("mr",))
    absent = {**table, ("mr", "case_0", "liver"): NAN}  # the truth lacks it
    lost = dict.fromkeys([("mr", "case_1", "liver"), ("mr", "case_2", "spleen")], NAN)
    a = write_run(tmp_path / "a", absent, asd=lost, failed=("mr/case_6",))
    b = write_run(tmp_path / "b", absent)
    found = two([a], [b])
    liver, mean = (found.of("mr", "asd_mm", cls) for cls in ("liver", MEAN))
    assert (liver.undefined_a, liver.undefined_b, liver.missing) == (1, 0, 1)
    assert set(liver.cases) == {f"case_{n}" for n in (2, 3, 4, 5)}
    assert (mean.undefined_a, mean.undefined_b, mean.missing) == (2, 0, 2)
    assert found.of("mr", "dice", "liver").undefined_a == 0
    assert len(mean.cases) == 6
    assert mean.a.mean == pytest.approx(mean.b.mean - mean.difference.mean)


def test_few_cases_are_tested_over_the_runs(tmp_path):
    table = [
        write_run(tmp_path / f"{n}{s}", dice_table(("mr",), 4, s, shift), f"seed={s}")
        for n, shift in (("a", 0.0), ("b", 0.05)) for s in range(6)
    ]  # fmt: skip
    effect = two(table[:6], table[6:]).of("mr", "dice")
    assert (effect.tested, effect.p) == ("runs", 2 / 64)
    none = two(table[:2], table[6:8]).of("mr", "dice")
    assert math.isnan(none.p)
    assert (none.tested, none.difference.n_cases) == ("", 4)
    assert "6 are needed" in none.why_not


# Which run is held against which


def test_runs_are_paired_by_test_cases_and_seed(tmp_path):
    def run(name, first, seed):
        table = dice_table(("mr",), 6, seed, first=first)
        return write_run(tmp_path / name, table, f"seed={seed}")

    a = [run("a0", 0, 5), run("a1", 6, 1), run("a2", 0, 2)]
    b = [run("b0", 0, 2), run("b1", 0, 5), run("b2", 6, 1)]
    found = two(a, b)
    names = {(pair.a[0].root.name, pair.b[0].root.name) for pair in found.pairs}
    assert names == {("a0", "b1"), ("a1", "b2"), ("a2", "b0")}
    assert (found.unit, found.of("mr", "dice").difference.n_cases) == ("draw", 12)
    assert all(abs(d) < 1e-12 for d in found.of("mr", "dice").cases.values())


def test_uneven_numbers_of_runs_are_averaged_and_it_is_said(tmp_path):
    a, b = seeds(tmp_path, "a", 2), seeds(tmp_path, "b", 3, 0.02)
    found = two(a, b)
    assert len(found.pairs) == 1
    assert "2 runs and b has 3" in found.note
    left, right = (
        np.mean([dice_table(seed=k, shift=s)["mr", "case_3", "liver"] for k in range(n)])
        for n, s in ((2, 0.0), (3, 0.02))
    )
    assert found.of("mr", "dice", "liver").cases["case_3"] == pytest.approx(right - left)


def test_folders_of_runs_and_evaluated_predictions_are_runs_too(tmp_path):
    seeds(tmp_path / "joint", "s", 2, 0.02)
    seeds(tmp_path / "alone", "s", 2, modalities=("mr",))
    (tmp_path / "joint" / "notes").mkdir()
    side = open_side([tmp_path / "joint"])
    assert (side.name, [r.root.name for r in side.runs]) == ("joint", ["s-0", "s-1"])
    assert open_side(sorted((tmp_path / "alone").iterdir())).name == "s"
    plain = single(tmp_path, "x") / "evaluation"
    found = two([plain], [tmp_path / "joint" / "s-0"])
    assert found.of("mr", "dice").difference.n_cases == 7
    assert found.warnings == ()


def test_the_modality_of_one_side_is_left_out(tmp_path):
    found = two([single(tmp_path)], seeds(tmp_path, "both", 1, 0.02))
    assert found.modalities == ("mr",)
    assert dict(found.left_out) == {"ct": "b"}
    assert {about.modality for about in found.effects} == {"mr"}
    mixed = open_side([tmp_path / "both-0", tmp_path / "mr"])
    assert mixed.modalities == ("mr",)
    ct = write_run(tmp_path / "ct", dice_table(("ct",)))
    with pytest.raises(DataError, match="no modality in common"):
        two([tmp_path / "mr"], [ct])


# What is refused


def test_what_cannot_be_compared_is_refused(tmp_path):
    base = single(tmp_path)
    cases = write_run(tmp_path / "cases", dice_table(("mr",), first=1))
    with pytest.raises(DataError, match=r"other cases.*mr/case_0, mr/case_7 only on one side"):
        two([base], [cases])
    classes = write_run(tmp_path / "classes", dice_table(("mr",), classes=("liver", "kidney")))
    with pytest.raises(DataError, match="other classes of mr: liver, spleen and liver, kidney"):
        two([base], [classes])
    grid = single(tmp_path, "grid", voxels=80)
    with pytest.raises(DataError, match="liver has 100 voxels in one, 80 in the other"):
        two([base], [grid])
    with pytest.raises(UsageError, match=r"no metric volume; it has .*double"):
        two([base], [base], ["volume"])
    with pytest.raises(UsageError, match="two runs"):
        compare([open_side([base])])


def test_folders_that_are_no_evaluated_runs_are_refused(tmp_path):
    bare = tmp_path / "bare"
    (bare / "model").mkdir(parents=True)
    (bare / "config.toml").write_text("")
    with pytest.raises(DataError, match=r"run `unpaired evaluate .*bare` first"):
        open_side([bare])
    (bare / "model").rmdir()
    with pytest.raises(DataError, match="finish its training, then run `unpaired evaluate"):
        open_side([bare])
    (bare / "x").mkdir()
    with pytest.raises(DataError, match="neither a run nor a folder of runs"):
        open_side([bare / "x"])
    with pytest.raises(DataError, match="is not a folder"):
        open_side([tmp_path / "nowhere"])
    write_json(bare / "evaluation" / "evaluation.json", {"version": 99})
    with pytest.raises(DataError, match="version 99"):
        open_side([bare])


# What is unfair


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"train": {"mr": 5}}, "training cases of mr differ: 3 in base, 5 in other, 3 of them"),
        ({"plan": {"spacing_mm": [3, 3, 3]}}, "other grids: spacing_mm is 6 x 3 x 3 and 3 x 3 x 3"),
        ({"plan": {"modalities": {"mr": {"zscore": "dataset"}}}}, "intensities of mr are treated"),
        ({"steps": 40}, "did not train equally long: 50 and 40 steps"),
        ({"data": "elsewhere"}, "come from two folders: data/mr and elsewhere/mr"),
        ("train.steps=99", r"The number of steps differ \(train.steps is 20000 and 99\)"),
        ("train.batch_size=1", "train.batch_size is 12 and 1"),
        ("predict.mirror=auto", "predict.mirror is none and auto"),
        ("augment.noise=0.1", "augment.noise is 0.05 and 0.1"),
    ],
)  # fmt: skip
def test_what_makes_it_unfair_is_said(tmp_path, options, words):
    base = single(tmp_path, "base")
    if isinstance(options, str):
        other = write_run(tmp_path / "other", dice_table(("mr",)), options)
    else:
        other = single(tmp_path, "other", **options)
    found = two([base], [other])
    (warning,) = found.warnings
    assert re.search(words, warning), warning
    if isinstance(options, str):
        key, _, value = options.partition("=")
        assert found.differs[key][1] == value


def test_the_recipe_and_the_seed_may_differ_without_a_warning(tmp_path):
    base = write_run(tmp_path / "a", dice_table(), "seed=0", "data.split_seed=1")
    other = write_run(
        tmp_path / "b", dice_table(), "seed=1", "loss.beta=0.5", "data.split_seed=2", version="2"
    )
    found = two([base], [other])
    assert found.warnings == ()
    assert dict(found.differs) == {
        "loss.beta": ("0.1", "0.5"),
        "train.seed": ("0", "1"),
        "version of unpaired": ("1", "2"),
    }
    (base / "config.toml").write_text("[train]\nseed = 0\n")  # an older file with fewer settings
    assert "loss.alpha" not in two([base], [other]).differs
