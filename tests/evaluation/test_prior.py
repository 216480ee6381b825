"""The location prior against plain loops."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unpaired.errors import DataError
from unpaired.evaluation.prior import (
    THRESHOLD,
    centred,
    location_floor,
    location_prior,
    prior_dice,
)

SIZES = st.tuples(*[st.integers(1, 6)] * 3)


def at(label: np.ndarray, index: tuple[int, ...], shape: tuple[int, ...]) -> int:
    """The voxel of `label` that lies at `index` of a centred grid of `shape`; 0 outside."""
    there = []
    for i, have, want in zip(index, label.shape, shape, strict=True):
        i += (have - want) // 2 if have >= want else -((want - have) // 2)
        if not 0 <= i < have:
            return 0
        there.append(i)
    return int(label[tuple(there)])


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10**6), sizes=st.lists(SIZES, min_size=1, max_size=5), shape=SIZES)
def test_prior_equals_plain_loop(seed: int, sizes: list, shape: tuple[int, int, int]) -> None:
    random = np.random.default_rng(seed)
    labels = [random.integers(0, 4, size).astype(np.uint8) for size in sizes]
    prior = location_prior(labels, 4, shape)
    for index in np.ndindex(shape):
        found = [at(label, index, shape) for label in labels]
        shares = {cls: found.count(cls) / len(labels) for cls in (1, 2, 3)}
        best = max(shares, key=lambda cls: (shares[cls], -cls))
        assert prior[index] == (best if shares[best] > THRESHOLD else 0)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10**6), small=SIZES, pad=st.tuples(*[st.integers(0, 4)] * 3))
def test_padding_then_cropping_is_identity(seed: int, small: tuple, pad: tuple) -> None:
    label = np.random.default_rng(seed).integers(0, 5, small)
    large = (small[0] + pad[0], small[1] + pad[1], small[2] + pad[2])
    padded = centred(label, large)
    assert np.array_equal(centred(padded, small), label)
    assert padded.sum() == label.sum()


def test_dice_by_hand() -> None:
    prior = np.zeros((1, 2, 4), np.uint8)
    prior[0, 0, :2] = 1
    truth = np.zeros((1, 2, 4), np.uint8)
    truth[0, 0, 1:4] = 1
    scores = prior_dice(prior, [truth, np.zeros_like(truth)], 3)
    assert scores[0, 0] == pytest.approx(2 * 1 / (2 + 3))
    assert np.isnan(scores[0, 1]) and np.isnan(scores[1]).all()


def test_threshold_is_strict() -> None:
    seven, empty = np.ones((1, 1, 1), np.uint8), np.zeros((1, 1, 1), np.uint8)
    assert location_prior([seven] * 7 + [empty] * 13, 2, (1, 1, 1)).item() == 0  # .35 exactly
    assert location_prior([seven] * 8 + [empty] * 12, 2, (1, 1, 1)).item() == 1


def test_floor_is_by_modality_and_skips_the_unlabelled() -> None:
    left = np.zeros((2, 4, 4), np.uint8)
    left[:, :, :2] = 1
    right = left[:, :, ::-1].copy()
    floor = location_floor(
        {"one": [left, left], "two": [right], "three": []},
        {"one": [left, right], "two": [np.pad(right, ((1, 1), (0, 0), (1, 1)))]},
        ("background", "organ", "never"),
    )
    assert set(floor) == {"one", "two"}
    assert floor["one"]["organ"] == pytest.approx(0.5)
    assert floor["two"]["organ"] == pytest.approx(1.0)
    assert math.isnan(floor["two"]["never"])


def test_no_training_label_is_refused() -> None:
    with pytest.raises(DataError, match="at least one labelled"):
        location_prior([], 3, (1, 1, 1))
