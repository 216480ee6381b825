"""Largest components against SciPy's labelling, class by class."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from unpaired.metrics import keep_largest, largest_component


def plain(labels, classes, full):
    result = labels.copy()
    rank = labels.ndim if full else 1
    structure = ndimage.generate_binary_structure(labels.ndim, rank)
    for cls in classes:
        number, count = ndimage.label(labels == cls, structure)
        if count:
            sizes = np.bincount(number.ravel())[1:]
            result[(number > 0) & (number != np.argmax(sizes) + 1)] = 0
    return result


@settings(deadline=None, max_examples=120)
@given(
    st.integers(0, 2**32),
    st.lists(st.integers(1, 9), min_size=1, max_size=4),
    st.sampled_from([2, 3, 5]),
    st.booleans(),
)
def test_equals_scipy_per_class_in_any_dimension(seed, shape, values, full):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, values, shape).astype(np.uint8)
    classes = set(rng.permutation(values)[: rng.integers(1, values + 1)].tolist()) - {0}
    before = labels.copy()
    found = keep_largest(labels, classes, full)
    np.testing.assert_array_equal(found, plain(labels, classes, full))
    np.testing.assert_array_equal(labels, before)
    np.testing.assert_array_equal(keep_largest(found, classes, full), found)


def test_blocks_of_rows_join(monkeypatch):
    rng = np.random.default_rng(4)
    smooth = ndimage.gaussian_filter(rng.standard_normal((160, 170, 180)), 3)
    labels = np.digitize(smooth, [0, 0.02, 0.05]).astype(np.uint8)  # 4.9 M voxels: two blocks
    np.testing.assert_array_equal(keep_largest(labels, {1, 3}), plain(labels, {1, 3}, False))


def test_faces_against_corners():
    mask = np.zeros((3, 4), dtype=bool)
    mask[0, :2] = mask[1, 2:] = True
    mask[2, 2] = True
    assert largest_component(mask).sum() == 3
    assert largest_component(mask, full=True).sum() == 5
    assert largest_component(mask).dtype == bool


def test_fortran_order_and_nothing_to_do():
    labels = np.asfortranarray(np.arange(24).reshape(2, 3, 4) % 3).astype(np.uint16, order="F")
    np.testing.assert_array_equal(keep_largest(labels, {1, 2}), plain(labels, {1, 2}, False))
    for empty in (np.zeros((2, 0), np.uint8), np.zeros((2, 3), np.uint8)):
        np.testing.assert_array_equal(keep_largest(empty, {1}), empty)
    assert keep_largest(labels, set()).sum() == labels.sum()


@pytest.mark.parametrize("full", [False, True])
def test_of_equal_components_the_first_stays(full):
    row = np.array([[1, 1, 0, 1, 1]], dtype=np.uint8)
    np.testing.assert_array_equal(keep_largest(row, {1}, full), [[1, 1, 0, 0, 0]])
