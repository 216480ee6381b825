"""Coarse views, crops and the positions in them, against plain loops."""

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unpaired.data.plan import CoarseView
from unpaired.methods.payer.crops import (
    cell_position,
    coarse_image,
    coarse_marks,
    corner_of,
    cut,
    overlap,
    structures_centre,
    view_shape,
)

VIEW = CoarseView(stride=(2, 3, 1), shape=(6, 4, 8), step=2)
SHAPE = (9, 10, 7)


def test_cells_are_means_in_the_middle_of_a_minimum() -> None:
    image = np.random.default_rng(0).normal(size=(2, *SHAPE)).astype(np.float32)
    found = coarse_image(image, VIEW)
    assert found.shape == (2, 6, 4, 8)  # 5, 4 and 7 cells
    means = np.full((2, 5, 4, 7), np.nan)
    for k, a, b, c in np.ndindex(means.shape):
        cell = image[k, 2 * a : 2 * a + 2, 3 * b : 3 * b + 3, c : c + 1]
        means[k, a, b, c] = cell.astype(float).mean()
    assert np.allclose(found[:, :5, :, :7], means, atol=1e-6)
    for k in range(2):
        assert np.allclose(found[k, 5], means[k].min(), atol=1e-6)
        assert np.allclose(found[k, :, :, 7], means[k].min(), atol=1e-6)


def test_only_as_many_slices_as_a_cell_has_are_read_at_once() -> None:
    class Watched:
        array = np.random.default_rng(1).normal(size=(1, *SHAPE)).astype(np.float32)
        shape = array.shape
        most = 0

        def __getitem__(self, key):
            found = self.array[key]
            self.most = max(self.most, found[0].size)
            return found

    image = Watched()
    assert np.array_equal(coarse_image(image, VIEW), coarse_image(image.array, VIEW))
    assert image.most == 2 * SHAPE[1] * SHAPE[2]


def test_a_cell_is_marked_where_any_voxel_of_it_is() -> None:
    label = (np.random.default_rng(2).random(SHAPE) > 0.9) * np.uint8(3)
    found = coarse_marks(label, VIEW)
    for a, b, c in np.ndindex(5, 4, 7):
        cell = label[2 * a : 2 * a + 2, 3 * b : 3 * b + 3, c : c + 1]
        assert found[a, b, c] == int(cell.any())
    assert found.max() == 1 and not found[5].any() and not found[:, :, 7].any()


def test_a_larger_image_has_a_larger_view_in_legal_steps() -> None:
    assert view_shape(SHAPE, VIEW) == (6, 4, 8)
    assert view_shape((13, 100, 9), VIEW) == (8, 34, 10)
    assert coarse_image(np.zeros((1, 13, 100, 9), np.float32), VIEW).shape == (1, 8, 34, 10)


@given(st.tuples(*[st.integers(3, 14)] * 3), st.tuples(*[st.integers(1, 4)] * 3))
@settings(max_examples=40, deadline=None)
def test_a_cell_lies_where_its_voxels_are(
    shape: tuple[int, int, int], stride: tuple[int, int, int]
) -> None:
    """The view of the coordinates themselves says where a cell's centre is."""
    view = CoarseView(stride=stride, shape=(4, 6, 8), step=2)
    axes = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")) + 1000
    seen = coarse_image(axes.astype(np.float32), view)
    # A whole cell: one whose neighbour beyond exists too, so that it is not cut off.
    whole = [n // s for n, s in zip(shape, stride, strict=True)]
    cells = [-(-n // s) for n, s in zip(shape, stride, strict=True)]
    before = [(full - n) // 2 for full, n in zip(seen.shape[1:], cells, strict=True)]
    if min(whole) == 0:
        return
    for corner in product(*((0, n - 1) for n in whole)):
        place = [i + b for i, b in zip(corner, before, strict=True)]
        found = cell_position(place, shape, view)
        assert np.allclose(found, seen[(slice(None), *place)] - 1000, atol=1e-3)


def test_the_centre_of_the_box_around_all_structures() -> None:
    label = np.zeros(SHAPE, np.uint8)
    label[2, 4, 6], label[7, 5, 1] = 1, 4
    assert structures_centre(label).tolist() == [4.5, 4.5, 3.5]
    assert structures_centre(np.zeros(SHAPE, np.uint8)).tolist() == [4.0, 4.5, 3.0]


@given(st.floats(-20, 20), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_a_crop_is_centred_within_half_a_voxel(centre: float, size: int) -> None:
    corner = corner_of([centre] * 3, [size] * 3)
    assert abs(corner[0] + (size - 1) / 2 - centre) <= 0.5 + 1e-9


corners = st.tuples(*[st.integers(-15, 15)] * 3)
sizes = st.tuples(*[st.integers(1, 8)] * 3)


@given(corners, sizes, sizes)
@settings(max_examples=80, deadline=None)
def test_cutting_and_pasting_against_a_loop(
    corner: tuple[int, ...], patch: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    image = np.arange(1, 1 + np.prod(shape)).reshape(shape)
    crop = cut(lambda where: image[where], shape, corner, patch, -1.0)
    assert crop.shape == patch
    for place in np.ndindex(*patch):
        at = [c + i for c, i in zip(corner, place, strict=True)]
        inside = all(0 <= x < n for x, n in zip(at, shape, strict=True))
        assert crop[place] == (image[tuple(at)] if inside else -1)
    there, here = overlap(corner, patch, shape)
    pasted = np.zeros(shape, int)
    pasted[there] = crop[here]
    assert np.array_equal(pasted[there], image[there])
    assert np.count_nonzero(pasted) == np.count_nonzero(crop > 0)


def test_structures_in_a_view_that_was_cut_off() -> None:
    """The last slice alone makes a cell: its mean is not mixed with what is not there."""
    image = np.zeros((1, 5, 3, 1), np.float32)
    image[0, 4] = 8
    found = coarse_image(image, VIEW)
    assert found[0].max() == pytest.approx(8)
