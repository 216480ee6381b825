"""The bootstrap interval: against loops, its laws, and how often it holds the truth."""

import math
from itertools import product

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from unpaired.metrics.bootstrap import (
    _by_group,
    _nested,
    bootstrap_interval,
    crossed_size,
    nested_size,
)

designs = st.sampled_from(["cases", "nested", "crossed", "holes"])
seeds = st.integers(0, 2**32)


def made(design, seed):
    """Values, groups and cases of a design."""
    rng = np.random.default_rng(seed)
    if design == "cases":
        return rng.normal(size=7), None, None
    if design == "nested":
        sizes = rng.integers(1, 5, 4)
        groups = np.repeat(np.arange(4), sizes).tolist()
        return rng.normal(size=len(groups)), groups, None
    cells = list(product(range(3), "abcde"))
    if design == "holes":
        cells = [cell for cell in cells if cell not in {(0, "a"), (2, "d"), (2, "e")}]
    values = rng.normal(size=len(cells)) + np.array([0.5 * g for g, _ in cells])
    return values, [g for g, _ in cells], [c for _, c in cells]


def interval(values, groups, cases, **options):
    return bootstrap_interval(values, groups=groups, cases=cases, resamples=600, **options)


@settings(deadline=None, max_examples=40)
@given(designs, seeds, st.floats(-100, 100), st.floats(0.01, 100))
def test_moves_and_grows_with_the_values(design, seed, shift, scale):
    values, groups, cases = made(design, seed)
    before = np.array(interval(values, groups, cases))
    after = interval(values * scale + shift, groups, cases)
    assert after == pytest.approx(before * scale + shift, rel=1e-6, abs=1e-6 * (1 + abs(shift)))


@settings(deadline=None, max_examples=40)
@given(designs, seeds)
def test_negated_values_give_the_mirror_image(design, seed):
    values, groups, cases = made(design, seed)
    low, high = interval(values, groups, cases)
    assert interval(-values, groups, cases) == pytest.approx((-high, -low), abs=1e-9)
    assert low < values.mean() < high


@settings(deadline=None, max_examples=40)
@given(designs, seeds, seeds)
def test_order_and_names_do_not_matter(design, seed, other):
    values, groups, cases = made(design, seed)
    order = np.random.default_rng(other).permutation(len(values))
    mixed = [None if x is None else [f"name {x[i]}" for i in order] for x in (groups, cases)]
    assert interval(values[order], *mixed) == pytest.approx(interval(values, groups, cases))


def test_same_seed_same_interval_and_a_higher_level_is_wider():
    values, *rest = made("crossed", 5)
    assert interval(values, *rest, seed=3) == interval(values, *rest, seed=3)
    assert interval(values, *rest, seed=3) != interval(values, *rest, seed=4)
    (a, b), (c, d) = (interval(values, *rest, level=level) for level in (0.8, 0.95))
    assert c < a < b < d


def stretched(means, centre, variance, freedom):
    """The interval from resampled means, by the words of the docstring."""
    low, high = np.quantile(means, [0.025, 0.975])
    factor = scipy.stats.t.ppf(0.975, freedom) / scipy.stats.norm.ppf(0.975)
    factor *= math.sqrt(variance / np.var(means))
    return centre + factor * (low - centre), centre + factor * (high - centre)


def test_cases_alone_equal_all_resamples_in_a_loop():
    values = np.array([0.1, 0.9, -0.3, 0.4, 2.0])
    means = [np.mean(draw) for draw in product(values, repeat=5)]
    expected = stretched(means, values.mean(), values.var(ddof=1) / 5, 4)
    found = bootstrap_interval(values, resamples=200_000)
    assert found == pytest.approx(expected, abs=0.02)
    one_group = bootstrap_interval(values, resamples=200_000, groups=["s"] * 5, cases=list("abcde"))
    assert one_group == found


def test_groups_of_their_own_cases_equal_a_loop():
    rng = np.random.default_rng(0)
    groups = {g: (g + rng.normal(size=n)).tolist() for g, n in enumerate((3, 6, 4))}
    means = []
    for _ in range(20_000):
        drawn = []
        for g in rng.integers(3, size=3):
            drawn += rng.choice(groups[g], len(groups[g])).tolist()
        means.append(np.mean(drawn))
    values = [v for row in groups.values() for v in row]
    labels = [g for g, row in groups.items() for _ in row]
    between = np.var([np.mean(row) for row in groups.values()], ddof=1) / 3
    expected = stretched(means, np.mean(values), between, 2)
    found = bootstrap_interval(values, groups=labels, resamples=20_000)
    assert found == pytest.approx(expected, abs=0.12)


def test_a_group_keeps_its_number_of_cases():
    """Two zeros and nine ones: drawn once each, they still weigh two to nine."""
    padded, sizes = _by_group(np.repeat([0.0, 1.0], [2, 9]), [0] * 2 + [1] * 9)
    means = _nested(padded, sizes, np.random.default_rng(0), 200)
    assert set(np.round(means, 9)) == {0.0, round(9 / 11, 9), 1.0}


def test_shared_cases_equal_a_loop():
    table = np.random.default_rng(3).normal(size=(3, 5)) + np.array([[0.0], [1.0], [3.0]])
    table[1, 4] = np.nan
    rng = np.random.default_rng(0)
    means = []
    for _ in range(20_000):
        rows, columns = rng.integers(3, size=3), rng.integers(5, size=5)
        means.append(np.nanmean([[table[r, c] for c in columns] for r in rows]))
    rows, columns = np.where(np.isfinite(table))
    parts = [
        (np.var(np.nanmean(table, axis=axis), ddof=1) / n, n - 1) for axis, n in ((1, 3), (0, 5))
    ]
    total = sum(v for v, _ in parts)
    freedom = total**2 / sum(v**2 / n for v, n in parts)
    expected = stretched(means, np.nanmean(table), total, freedom)
    found = bootstrap_interval(
        table[rows, columns], groups=rows.tolist(), cases=columns.tolist(), resamples=20_000
    )
    assert found == pytest.approx(expected, abs=0.12)


def test_seeds_do_not_make_more_cases():
    """The same differences from five seeds are no more certain than from one."""
    values = np.random.default_rng(1).normal(size=6)
    groups, cases = np.repeat(range(5), 6).tolist(), list(range(6)) * 5
    once, again = bootstrap_interval(values), bootstrap_interval(
        np.tile(values, 5), groups=groups, cases=cases
    )  # fmt: skip
    assert again == pytest.approx(once, abs=0.05)
    naive = bootstrap_interval(np.tile(values, 5))
    assert naive[1] - naive[0] < 0.5 * (once[1] - once[0])


def test_degenerate_values():
    assert bootstrap_interval([0.3] * 5) == (pytest.approx(0.3), pytest.approx(0.3))
    assert bootstrap_interval([0.1] * 4, groups=[0, 0, 1, 1]) == (0.1, 0.1)
    assert all(map(math.isnan, bootstrap_interval([1.0])))
    assert all(map(math.isnan, bootstrap_interval([])))
    low, high = bootstrap_interval([0.0, 1.0], groups=[0, 1])
    assert low < 0 < 1 < high  # two values are not certain at all
    with pytest.raises(ValueError, match="finite"):
        bootstrap_interval([1.0, math.nan])
    with pytest.raises(ValueError, match="twice"):
        bootstrap_interval([1.0, 2.0], groups=["s", "s"], cases=["a", "a"])
    with pytest.raises(ValueError, match="as many"):
        bootstrap_interval([1.0, 2.0], groups=["s"])
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval([1.0, 2.0], level=1.5)


def simulated(groups, cases, group_std, case_std, rest, rng, shared):
    size = (1 if shared else groups, cases)
    table = group_std * rng.normal(size=(groups, 1)) + case_std * rng.normal(size=size)
    return np.broadcast_to(table, (groups, cases)) + rest * rng.normal(size=(groups, cases))


@pytest.mark.parametrize(
    ("groups", "cases", "stds", "shared"),
    [
        (1, 4, (0, 1, 0), True),
        (1, 6, (0, 1, 0), True),
        (3, 6, (0, 1, 0.5), True),
        (3, 8, (0.5, 1, 0.5), True),
        (5, 6, (1, 0.5, 0.5), True),
        (5, 4, (0, 1, 0), False),
        (5, 4, (1, 0.5, 0), False),
    ],
)
def test_19_of_20_intervals_hold_the_truth(groups, cases, stds, shared):
    rng = np.random.default_rng(7)
    labels = np.repeat(range(groups), cases).tolist()
    names = list(range(cases)) * groups if shared else None
    held = 0
    for number in range(300):
        table = simulated(groups, cases, *stds, rng, shared)
        low, high = bootstrap_interval(
            table.ravel(), groups=labels, cases=names, resamples=400, seed=number
        )
        held += low <= 0 <= high
    assert 0.91 <= held / 300 <= 0.99


def test_the_estimated_variance_is_right_on_average():
    rng = np.random.default_rng(0)
    tables = [simulated(4, 5, 1.5, 1.5, 2.0, rng, True) for _ in range(3000)]
    truth = 1.5**2 / 4 + 1.5**2 / 5 + 2.0**2 / 20
    assert np.mean([crossed_size(t)[0] for t in tables]) == pytest.approx(truth, rel=0.08)
    tables = [simulated(4, 5, 3.0, 1.0, 0.0, rng, False) for _ in range(3000)]
    sizes = np.full(4, 5)
    truth = 3.0**2 / 4 + 1 / 20
    assert np.mean([nested_size(t, sizes)[0] for t in tables]) == pytest.approx(truth, rel=0.1)
    assert crossed_size(np.array([[1.0, 2.0, 6.0]])) == (pytest.approx(7 / 3), 2.0)
    near = np.array([[0.0, 2.0], [0.5, 1.5]])  # equal means: the cases say how sure they are
    assert nested_size(near, np.array([2, 2])) == (pytest.approx(2.5 / 2 / 4), 2)
