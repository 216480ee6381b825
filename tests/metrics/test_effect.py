"""What one method has more than another: against plain loops, and laws."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from unpaired.metrics.bootstrap import bootstrap_interval
from unpaired.metrics.effect import adjusted, effect_of, paired

NAN = math.nan
scores = st.dictionaries(
    st.integers(0, 9), st.one_of(st.just(NAN), st.integers(0, 40).map(lambda i: i / 8)), max_size=9
)
tables = st.dictionaries(
    st.tuples(st.integers(0, 2), st.sampled_from("abcdefgh")),
    st.one_of(st.just(NAN), st.integers(0, 8).map(lambda i: i / 8)),
    max_size=24,
)


def test_a_difference_is_b_minus_a_and_nothing_is_dropped_unsaid():
    a = {"x": 0.5, "y": NAN, "z": 0.25, "w": 1.0, "v": NAN}
    b = {"z": 0.75, "x": 0.25, "y": 1.0, "u": 0.5, "v": NAN}
    found = paired(a, b)
    assert found.keys == ("x", "z")
    assert found.values.tolist() == [-0.25, 0.5]
    assert (found.only_a, found.only_b) == (("w",), ("u",))
    assert (found.undefined_a, found.undefined_b) == (("y", "v"), ("v",))
    assert paired({}, {}).keys == ()
    with pytest.raises(ValueError, match="finite or nan"):
        paired({"x": math.inf}, {})


@given(scores, scores)
def test_swapping_the_sides_negates(a, b):
    one, other = paired(a, b), paired(b, a)
    assert dict(zip(one.keys, one.values, strict=True)) == dict(
        zip(other.keys, -other.values, strict=True)
    )
    assert (one.only_a, set(one.undefined_a)) == (other.only_b, set(other.undefined_b))
    undefined = {*one.undefined_a, *one.undefined_b}
    assert sorted([*one.keys, *one.only_a, *one.only_b, *undefined]) == sorted(a.keys() | b.keys())


def made(runs, cases, shift=0.0, seed=0):
    """(run, case) -> value of two sides."""
    rng = np.random.default_rng(seed)
    keys = [(run, f"case{case}") for run in range(runs) for case in range(cases)]
    a = dict(zip(keys, rng.uniform(0.3, 0.7, len(keys)).tolist(), strict=True))
    return a, {key: value + shift + 0.1 * rng.normal() for key, value in a.items()}


def test_an_effect_equals_a_plain_loop():
    a, b = made(3, 7, 0.05)
    a[1, "case2"] = b[2, "case4"] = NAN
    del b[0, "case6"]
    common = [(k, c) for k, c in a if (k, c) not in {(1, "case2"), (2, "case4"), (0, "case6")}]
    found = effect_of(a, b, level=0.9)
    assert found.pairs == {
        run: {c: b[k, c] - a[k, c] for k, c in common if k == run} for run in range(3)
    }
    means = {
        c: np.mean([b[key] - a[key] for key in common if key[1] == c])
        for c in (f"case{i}" for i in range(7))
    }
    assert found.cases == pytest.approx(means)
    assert found.difference.mean == pytest.approx(np.mean([b[k] - a[k] for k in common]))
    assert found.a.mean == pytest.approx(np.mean([a[k] for k in common]))
    assert found.b.mean == pytest.approx(np.mean([b[k] for k in common]))
    assert (found.difference.n_cases, found.difference.n_seeds) == (7, 3)
    assert (found.low, found.high) == bootstrap_interval(
        [b[k] - a[k] for k in common], 0.9, groups=[k for k, _ in common],
        cases=[c for _, c in common],
    )  # fmt: skip
    assert found.p == pytest.approx(scipy.stats.wilcoxon(list(means.values())).pvalue)
    assert (found.tested, found.why_not) == ("cases", "")
    assert (found.undefined_a, found.undefined_b, found.missing) == (1, 1, 1)
    assert math.isnan(found.adjusted)


@settings(deadline=None, max_examples=60)
@given(tables, tables)
def test_swapping_the_sides_gives_the_mirror_image(a, b):
    one, other = effect_of(a, b), effect_of(b, a)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low), abs=1e-9, nan_ok=True)
    assert one.p == pytest.approx(other.p, nan_ok=True)
    assert one.cases == pytest.approx({case: -d for case, d in other.cases.items()})
    assert (one.undefined_a, one.missing) == (other.undefined_b, other.missing)
    opposite = {"higher": "lower", "lower": "higher", "": ""}
    assert one.direction == opposite[other.direction]
    assert bool(one.tested) == (one.why_not == "") == (not math.isnan(one.p))


def test_the_direction_is_that_of_an_interval_without_zero():
    assert effect_of(*made(2, 8, 0.5)).direction == "higher"
    assert effect_of(*made(2, 8, -0.5)).direction == "lower"
    assert effect_of(*made(2, 8)).direction == ""
    nothing = effect_of({(0, "a"): 1.0}, {(0, "b"): 1.0})
    assert (nothing.direction, nothing.missing, nothing.difference.n_cases) == ("", 2, 0)
    assert math.isnan(nothing.low) and math.isnan(nothing.difference.mean)


def test_an_interval_ends_where_differences_do():
    a = {(0, "x"): 0.0, (0, "y"): 0.9}
    b = {(0, "x"): 1.0, (0, "y"): 0.0}
    wide, ended = effect_of(a, b), effect_of(a, b, limit=1)
    assert wide.low < -1 and wide.high > 1
    assert (ended.low, ended.high) == (-1, 1)
    assert math.isnan(effect_of({}, {}, limit=1).low)


def test_runs_are_tested_only_where_asked_and_cases_are_too_few():
    a, b = made(7, 3, 0.5)
    alone, runs = effect_of(a, b), effect_of(a, b, or_runs=True)
    assert (alone.tested, math.isnan(alone.p)) == ("", True)
    assert "With 3 differences" in alone.why_not
    means = [np.mean([b[k, c] - a[k, c] for k, c in a if k == run]) for run in range(7)]
    assert (runs.tested, runs.why_not) == ("runs", "")
    assert runs.p == pytest.approx(scipy.stats.wilcoxon(means).pvalue)
    assert effect_of(*made(5, 3, 0.5), or_runs=True).tested == ""
    assert effect_of(*made(7, 6, 0.5), or_runs=True).tested == "cases"


def test_holm_is_over_the_family():
    family = {m: effect_of(*made(1, 8, shift)) for m, shift in (("ct", 0.3), ("mr", 0.04))}
    family["few"] = effect_of(*made(1, 3))
    found = adjusted(family)
    assert list(found) == ["ct", "mr", "few"]
    assert found["ct"].p == family["ct"].p == 2 / 2**8
    assert found["ct"].adjusted == 2 * found["ct"].p
    assert found["mr"].adjusted == max(found["mr"].p, found["ct"].adjusted)
    assert math.isnan(found["few"].adjusted)
