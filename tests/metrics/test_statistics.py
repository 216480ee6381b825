"""Signed-rank test, Holm and spread: against plain loops, SciPy, and laws."""

import math
from itertools import product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from unpaired.metrics import statistics
from unpaired.metrics.statistics import (
    holm,
    smallest_n,
    spread,
    why_no_test,
    wilcoxon,
)

NAN = math.nan
scores = st.dictionaries(
    st.integers(0, 9), st.one_of(st.just(NAN), st.integers(0, 40).map(lambda i: i / 8)), max_size=9
)
few = st.lists(st.integers(-4, 4), max_size=11)


# Wilcoxon


def loop_wilcoxon(differences):
    """The share of all signings at least as far from the middle."""
    values = [d for d in differences if d]
    size = sorted(abs(d) for d in values)
    ranks = [
        np.mean([i + 1 for i, other in enumerate(size) if other == abs(value)]) for value in values
    ]
    middle = sum(ranks) / 2
    seen = abs(sum(r for r, d in zip(ranks, values, strict=True) if d > 0) - middle)
    sums = [
        sum(r for r, sign in zip(ranks, signs, strict=True) if sign)
        for signs in product((0, 1), repeat=len(ranks))
    ]
    return float(np.mean([abs(s - middle) >= seen - 1e-9 for s in sums]))


@settings(deadline=None, max_examples=60)
@given(few)
def test_p_is_the_share_of_signings(differences):
    p = wilcoxon(differences)
    if sum(d != 0 for d in differences) < 6:
        assert math.isnan(p)
        assert why_no_test(differences)
    else:
        assert p == pytest.approx(loop_wilcoxon(differences), abs=1e-12)
        assert why_no_test(differences) == ""


@pytest.mark.parametrize("n", [6, 9, 25, 49])
def test_equals_scipy_without_ties(n):
    differences = np.random.default_rng(n).normal(0.3, size=n)
    expected = scipy.stats.wilcoxon(differences, method="exact").pvalue
    assert wilcoxon(differences) == pytest.approx(expected, rel=1e-9)
    with_zeros = [*differences, 0.0, 0.0]
    assert wilcoxon(with_zeros) == pytest.approx(expected, rel=1e-9)


def test_many_differences_use_the_normal_approximation(monkeypatch):
    differences = np.random.default_rng(0).integers(-9, 11, 400).astype(float)
    others = differences[differences != 0]
    ranks = scipy.stats.rankdata(np.abs(others))
    away = abs(ranks[others > 0].sum() - ranks.sum() / 2)
    expected = 2 * scipy.stats.norm.sf(away / math.sqrt((ranks**2).sum() / 4))
    near = wilcoxon(differences)
    assert near == pytest.approx(expected, rel=1e-9)
    monkeypatch.setattr(statistics, "EXACT_UP_TO", 1000)
    assert wilcoxon(differences) != near
    assert wilcoxon(differences) == pytest.approx(near, abs=1e-3)


@given(st.lists(st.integers(-50, 50), min_size=6, max_size=30), st.randoms())
def test_sign_scale_and_order_do_not_matter(differences, random):
    p = wilcoxon(differences)
    mixed = [-3 * d for d in differences]
    random.shuffle(mixed)
    assert wilcoxon(mixed) == pytest.approx(p, nan_ok=True)
    assert math.isnan(p) or 0 < p <= 1


def test_no_test_for_too_few():
    assert [smallest_n(level) for level in (0.5, 0.9, 0.95, 0.99)] == [2, 5, 6, 8]
    for level in (0.8, 0.95, 0.995):
        n = smallest_n(level)
        assert 2 / 2**n <= 1 - level < 2 / 2 ** (n - 1)
    assert math.isnan(wilcoxon([1.0, 2.0, 3.0, 4.0, 5.0, 0.0]))
    assert wilcoxon([1.0, 2.0, 3.0, 4.0, 5.0, 6.0]) == 2 / 64
    assert "With 5 differences other than 0" in why_no_test([1, 2, 3, 4, 5, 0])
    assert "6 are needed" in why_no_test([])
    assert why_no_test([0.0] * 9) == "All differences are 0."
    with pytest.raises(ValueError, match="finite"):
        wilcoxon([NAN] * 9)


# Holm


def loop_holm(p_values):
    known = sorted((p, i) for i, p in enumerate(p_values) if not math.isnan(p))
    adjusted = [NAN] * len(p_values)
    for k, (_, i) in enumerate(known):
        adjusted[i] = min(1.0, max(known[j][0] * (len(known) - j) for j in range(k + 1)))
    return adjusted


p_lists = st.lists(st.one_of(st.just(NAN), st.floats(0, 1)), max_size=9)


@given(p_lists)
def test_holm_equals_the_loop_and_keeps_the_order(p_values):
    adjusted = holm(p_values)
    assert adjusted == pytest.approx(loop_holm(p_values), nan_ok=True)
    known = [(p, q) for p, q in zip(p_values, adjusted, strict=True) if not math.isnan(p)]
    assert all(p <= q <= 1 for p, q in known)
    qs = [q for _, q in sorted(known)]
    assert qs == sorted(qs)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.integers(0, 7), st.floats(0, 1))
def test_holm_never_falls_where_a_p_value_rises(p_values, index, more):
    index %= len(p_values)
    risen = list(p_values)
    risen[index] = max(more, p_values[index])
    assert all(b >= a for a, b in zip(holm(p_values), holm(risen), strict=True))


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, NAN]) == pytest.approx([0.03, 0.06, 0.06, NAN], nan_ok=True)
    assert holm([]) == []
    assert holm([0.2]) == [0.2]
    with pytest.raises(ValueError, match="between 0 and 1"):
        holm([1.5])


# Spread


def test_spread_keeps_cases_and_seeds_apart():
    table = {0: {"a": 0.5, "b": 0.7}, 1: {"a": 0.6, "b": 0.9, "c": NAN}, 2: {}, 3: {"d": NAN}}
    found = spread(table)
    means = [0.6, 0.75]
    assert found.mean == pytest.approx(sum(means) / 2)
    assert found.case_std == pytest.approx(math.sqrt((0.1**2 + 0.15**2) / 2))
    assert found.seed_std == pytest.approx(0.15 / math.sqrt(2))  # (n - 1), two means
    assert (found.n_cases, found.n_seeds, found.n_undefined) == (2, 2, 2)
    only = spread({7: {"a": 0.5, "b": 0.7}})
    assert (only.mean, only.case_std) == pytest.approx((0.6, 0.1))
    assert math.isnan(only.seed_std)
    uneven = spread({0: {"a": 1.0}, 1: {"a": 0.0, "b": 0.5}})
    assert (uneven.mean, uneven.seed_std) == pytest.approx((0.5, 0.75 / math.sqrt(2)))
    assert math.isnan(spread({}).mean)


@given(st.dictionaries(st.integers(), scores, max_size=4), st.integers(-8, 8))
def test_spread_moves_with_the_values(table, shift):
    before = spread(table)
    after = spread({s: {c: v + shift for c, v in row.items()} for s, row in table.items()})
    assert after.mean == pytest.approx(before.mean + shift, nan_ok=True)
    assert after.case_std == pytest.approx(before.case_std, nan_ok=True, abs=1e-9)
    assert after.seed_std == pytest.approx(before.seed_std, nan_ok=True, abs=1e-9)
    assert before.n_undefined == sum(math.isnan(v) for row in table.values() for v in row.values())
