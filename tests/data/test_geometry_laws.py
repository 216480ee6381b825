"""Orientation, crop, resampling and their inverses: a place in the patient stays that place.

Tolerances are in millimetres. Float64 all the way is exact to 1e-9; a prepared image is float32
with values of up to 300 mm, so 1e-3; a cubic spline bends within six voxels of a repeated edge.
"""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from orientations import SIGNED, rotation, stored
from small_sets import plan
from unpaired.data.plan import Clip
from unpaired.data.preprocess import preprocess, restore_labels
from unpaired.io.resample import resample_argmax, resample_image, resample_label
from unpaired.io.volume import Volume, canonical_orientation

EXACT_MM, PREPARED_MM, CUBIC_MM = 1e-9, 1e-3, 0.02
angles = st.one_of(st.floats(-180, 180), st.sampled_from([0.0, 45.0, -45.0, 90.0, 54.7356, 135.0]))
turns = st.tuples(angles, angles, angles)
sizes = st.tuples(*[st.integers(1, 9)] * 3)
spacings = st.tuples(*[st.sampled_from([0.5, 0.7, 1.0, 1.3, 3.0, 5.0])] * 3)
slice_axes = st.sampled_from("SPL")


def oblique(degrees, spacing=(0.9, 1.1, 3.0), origin=(-80.0, 33.0, 12.5)):
    """Turns about x, y and z; an affine [4 4]."""
    return np.block(
        [[rotation(degrees) * spacing, np.array(origin)[:, None]], [np.zeros(3), np.ones(1)]]
    )


def places(affine, shape):
    """World coordinates of every voxel's centre: [i j k 3]."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    return index @ affine[:3, :3].T + affine[:3, 3]


# ---- orientation


@settings(deadline=None, max_examples=60)
@given(degrees=turns, shape=sizes, spacing=spacings, slice_axis=slice_axes)
def test_turning_keeps_every_voxel_in_its_place_and_is_undone(degrees, shape, spacing, slice_axis):
    affine = oblique(degrees, spacing)
    turn = canonical_orientation(affine, slice_axis)
    world = places(affine, shape)
    found = places(turn.affine(affine, shape), turn.apply(world[..., 0]).shape)
    for axis in range(3):
        np.testing.assert_allclose(turn.apply(world[..., axis]), found[..., axis], atol=EXACT_MM)
    label = np.arange(world[..., 0].size).reshape(shape)
    np.testing.assert_array_equal(turn.undo(turn.apply(label)), label)
    several = torch.from_numpy(np.stack([label, -label]))
    assert torch.equal(turn.undo(turn.apply(several)), several)
    np.testing.assert_array_equal(turn.apply(several).numpy()[0], turn.apply(label))
    assert turn.spacing(spacing) == pytest.approx(
        np.linalg.norm(turn.affine(affine, shape)[:3, :3], axis=0)
    )


@settings(deadline=None, max_examples=20)
@given(degrees=turns, spacing=spacings, slice_axis=slice_axes)
@example((0.0, 0.0, 45.0), (1.0, 1.0, 1.0), "S")
@example((45.0, 0.0, 0.0), (0.7, 1.3, 5.0), "P")
@example((45.0, 35.2644, 45.0), (1.0, 1.0, 1.0), "S")
def test_canonical_order_is_nearest_and_the_same_for_all_48(degrees, spacing, slice_axis):
    """However the file runs, also where an axis lies midway between two of the patient's."""
    array = np.arange(24).reshape(2, 3, 4)
    affine = oblique(degrees, spacing)
    first = canonical_orientation(affine, slice_axis)
    expected = first.apply(array)
    for order, flips in SIGNED:
        turned, other = stored(array, affine, order, flips)
        found = canonical_orientation(other, slice_axis)
        np.testing.assert_array_equal(found.apply(turned), expected, err_msg=str((order, flips)))
    order = [slice_axis, *(letter for letter in "SPL" if letter != slice_axis)]
    wanted = np.array([{"S": (0, 0, 1), "P": (0, -1, 0), "L": (-1, 0, 0)}[one] for one in order])
    best = max(
        sum((affine[:3, :3] / spacing)[:, o] @ w * f for o, f, w in zip(*one, wanted, strict=True))
        for one in SIGNED
    )
    made = first.affine(affine, (2, 3, 4))[:3, :3]
    closeness = np.sum(wanted * (made / np.linalg.norm(made, axis=0)).T)
    assert closeness == pytest.approx(best, abs=1e-3)


# ---- the whole road: orient, crop the border, resample


def coordinate(axis, border, affine, shape):
    """An image of one patient coordinate in mm, in a constant border as wide as `border`."""
    image = places(affine, shape)[..., axis].astype(np.float64)
    inner = tuple(slice(b, n - b) for b, n in zip(border, shape, strict=True))
    out = np.full(shape, -3000.0)
    out[inner] = image[inner]
    return out


def in_mm(spacing, slice_axis="S", order=1):
    """A plan that leaves intensities as they are."""
    base = plan(spacing=spacing, slice_axis=slice_axis, order=order)
    kept = {"clip": (Clip(kind="window", low=-9999, high=9999),), "zscore": "dataset"}
    recipe = base.modalities["ct"].model_copy(update={**kept, "mean": (0.0,), "std": (1.0,)})
    return base.model_copy(update={"modalities": {"ct": recipe}})


def prepared_places(found, affine, shape):
    """World coordinates of the voxels of a prepared image: [d h w 3]."""
    canonical = found.orientation.affine(affine, shape)
    steps = []
    for (start, stop), n in zip(found.box, found.array.shape[1:], strict=True):
        steps.append(start + (np.arange(n) + 0.5) * (stop - start) / n - 0.5)
    index = np.stack(np.meshgrid(*steps, indexing="ij"), -1)
    return index @ canonical[:3, :3].T + canonical[:3, 3]


def interior(found, voxels):
    """Prepared voxels at least so many native ones away from the box's faces."""
    inside = []
    for (start, stop), n in zip(found.box, found.array.shape[1:], strict=True):
        at = (np.arange(n) + 0.5) * (stop - start) / n - 0.5
        inside.append((at >= voxels) & (at <= stop - start - 1 - voxels))
    return np.ix_(*inside)


@settings(deadline=None, max_examples=60)
@given(
    degrees=turns,
    shape=st.tuples(*[st.integers(7, 14)] * 3),
    spacing=spacings,
    target=spacings,
    slice_axis=slice_axes,
    border=st.tuples(*[st.integers(0, 2)] * 3),
    axis=st.integers(0, 2),
)
def test_a_prepared_voxel_shows_its_own_place(
    degrees, shape, spacing, target, slice_axis, border, axis
):
    """The image of a coordinate in mm, prepared, is that coordinate at the voxels' own places."""
    affine = oblique(degrees, spacing)
    image = coordinate(axis, border, affine, shape)
    found = preprocess([Volume(image, affine)], "ct", in_mm(target, slice_axis))
    where = interior(found, 0)
    told = prepared_places(found, affine, shape)[..., axis]
    np.testing.assert_allclose(found.array[0][where], told[where], atol=PREPARED_MM)
    extent = np.array(found.box_shape) * found.orientation.spacing(spacing)
    np.testing.assert_allclose(
        np.array(found.spacing_mm) * found.array.shape[1:], extent, atol=EXACT_MM
    )


@settings(deadline=None, max_examples=15)
@given(degrees=turns, target=spacings, axis=st.integers(0, 2))
def test_the_cubic_spline_keeps_places_too(degrees, target, axis):
    affine = oblique(degrees, (2.0, 1.3, 2.7))
    shape = (19, 18, 20)
    image = coordinate(axis, (0, 1, 0), affine, shape)
    found = preprocess([Volume(image, affine)], "ct", in_mm(target, order=3))
    where = interior(found, 6)
    told = prepared_places(found, affine, shape)[..., axis]
    np.testing.assert_allclose(found.array[0][where], told[where], atol=CUBIC_MM)


@settings(deadline=None, max_examples=50)
@given(
    degrees=turns,
    shape=st.tuples(st.integers(6, 14), st.integers(6, 13), st.integers(1, 11)),
    spacing=spacings,
    target=spacings,
    axis=st.integers(0, 2),
)
def test_labels_come_back_to_their_place(degrees, shape, spacing, target, axis):
    """Scores that are a coordinate on the prepared grid cut the file's voxels at that coordinate:
    down, up, one slice, any direction. Only within 1e-3 mm of the cut may a label differ."""
    affine = oblique(degrees, spacing)
    found = preprocess([Volume(coordinate(axis, (0, 0, 0), affine, shape), affine)], "ct",
                       in_mm(target))  # fmt: skip
    here = prepared_places(found, affine, shape)[..., axis]
    cut = float(here.mean())
    scores = torch.from_numpy(np.stack([np.zeros_like(here), here - cut])).float()
    label = restore_labels(resample_argmax(scores, found.box_shape), found)
    native = places(affine, shape)[..., axis]
    held = found.orientation.undo(_reached(found))
    clear = held & (np.abs(native - cut) > PREPARED_MM)
    np.testing.assert_array_equal(label[clear], (native > cut)[clear])
    assert label.shape == shape


def _reached(found):
    """Native voxels of the box that lie between prepared voxels, where scores are not repeated."""
    spans = []
    for (start, stop), n, full in zip(
        found.box, found.array.shape[1:], found.native_shape, strict=True
    ):
        at = (np.arange(full) - start + 0.5) * n / (stop - start) - 0.5
        spans.append((at >= 0) & (at <= n - 1) & (np.arange(full) >= start))
    return spans[0][:, None, None] & spans[1][:, None] & spans[2]


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(*[st.integers(1, 9)] * 3),
    border=st.tuples(*[st.integers(0, 2)] * 3),
    signed=st.sampled_from(SIGNED),
    degrees=turns,
)
def test_what_is_cropped_comes_back_as_background(shape, border, signed, degrees):
    """On the image's own spacing nothing is resampled: exact, and zero in the cropped border."""
    full = tuple(n + 2 * b for n, b in zip(shape, border, strict=True))
    inner = tuple(slice(b, b + n) for n, b in zip(shape, border, strict=True))
    image = np.full(full, -1000.0)
    image[inner] = np.random.default_rng(0).integers(1, 90, shape)
    label = np.zeros(full, np.uint8)
    label[inner] = np.random.default_rng(1).integers(1, 3, shape)
    spacing = (1.5, 1.5, 1.5)
    (turned, affine), (there, _) = (
        stored(x, oblique(degrees, spacing), *signed) for x in (image, label)
    )
    found = preprocess([Volume(turned, affine)], "ct", in_mm(spacing))
    a, b, c = (slice(start, stop) for start, stop in found.box)
    kept = found.orientation.apply(there)[a, b, c]
    np.testing.assert_array_equal(found.array[0], found.orientation.apply(turned)[a, b, c])
    if np.prod(border):
        assert kept.shape == tuple(shape[signed[0][axis]] for axis in found.orientation.axes)
        np.testing.assert_array_equal(restore_labels(kept, found), there)
    outside = np.ones(found.native_shape, bool)
    outside[a, b, c] = False
    back = found.orientation.apply(restore_labels(kept, found))
    assert not back[outside].any()
    np.testing.assert_array_equal(back[a, b, c], kept)


# ---- the number of voxels does not hang on the last digit of a spacing


@pytest.mark.parametrize(("spacing", "target"), [(0.7, 1.0), (1.1, 2.0), (0.3, 0.4)])
def test_a_spacings_last_digit_does_not_change_the_grid(spacing, target):
    """A header holds 0.7 as 0.69999999 or 0.70000005, another format in full: sizes that come out
    at a half, such as 25 x 0.7 mm at 1 mm, must be rounded alike."""
    for count in (5, 15, 25, 26, 35, 45, 105):
        shapes = set()
        for noise in (0, -1e-7, 1e-7, -2e-6, 2e-6):
            affine = np.diag([-1, -1, 1, 1]) * np.array([1, 1, spacing * (1 + noise), 1])
            image = np.zeros((2, 2, count), np.float32)
            image[0, 0] = np.arange(count)
            shapes.add(preprocess([Volume(image, affine)], "ct", in_mm((target, 1, 1))).array.shape)
        assert len(shapes) == 1, (count, shapes)


# ---- round trips that are exact


@settings(deadline=None, max_examples=40)
@given(shape=sizes, factors=st.tuples(*[st.sampled_from([1, 3, 5])] * 3), seed=st.integers(0, 99))
def test_odd_factors_up_and_down_again_give_the_same_array(shape, factors, seed):
    """The middle fine voxel lies on the coarse one: nearest, linear and labels are exact."""
    rng = np.random.default_rng(seed)
    fine = tuple(n * f for n, f in zip(shape, factors, strict=True))
    image = torch.from_numpy(rng.integers(-1000, 1000, shape).astype(np.float64))
    for order in (0, 1):
        back = resample_image(resample_image(image, fine, order), shape, order)
        assert (back - image).abs().max() <= (0 if order == 0 else EXACT_MM)
    label = rng.integers(0, 4, shape).astype(np.uint8)
    np.testing.assert_array_equal(resample_label(resample_label(label, fine, 4), shape, 4), label)
