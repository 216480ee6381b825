"""Resampling against skimage, scipy and plain one-hot arrays; laws in millimetres."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.transform import resize

from unpaired.io.resample import (
    _LabelResampler,
    largest_shrink_first,
    neighbours,
    resample_argmax,
    resample_image,
    resample_label,
    resample_scores,
)

SHAPES = [
    ((20, 30, 17), (11, 40, 17)),
    ((9, 14, 31), (20, 7, 8)),
    ((16, 16, 12), (8, 8, 24)),
    ((1, 5, 6), (4, 5, 2)),
    ((5, 4, 3), (5, 4, 3)),
    ((2, 2, 2), (7, 1, 3)),
    ((13, 22), (29, 9)),
    ((40,), (23,)),
]
shapes = st.integers(1, 3).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(1, 12), min_size=n, max_size=n).map(tuple),
        st.lists(st.integers(1, 14), min_size=n, max_size=n).map(tuple),
    )
)


def field(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def blobs(shape, classes, seed=0):
    """Labels with compact regions of very different sizes, and specks."""
    rng = np.random.default_rng(seed)
    smooth = [ndimage.gaussian_filter(rng.normal(size=shape), 1.5) for _ in range(classes)]
    label = np.argmax(smooth, axis=0).astype(np.uint8)
    specks = rng.random(shape) < 0.05
    label[specks] = rng.integers(0, classes, specks.sum())
    return label


# ---- images


@pytest.mark.parametrize("order", [0, 1, 3])
@pytest.mark.parametrize(("old", "new"), SHAPES)
def test_image_equals_skimage(old, new, order):
    image = field(old)
    ours = resample_image(torch.from_numpy(image), new, order).numpy()
    theirs = resize(
        image, new, order=order, mode="edge", clip=True, anti_aliasing=False, preserve_range=True
    )
    assert np.abs(ours - theirs).max() <= 1e-5 * np.ptp(image) + 1e-6


def test_cubic_equals_scipy_before_the_clip():
    """On a ramp with a step the spline overshoots; inside the range both agree in float64."""
    image = np.zeros((30, 11))
    image[12:] = 1.0
    ours = resample_image(torch.from_numpy(image), (77, 11)).numpy()
    theirs = ndimage.zoom(image, (77 / 30, 1), order=3, mode="nearest", grid_mode=True)
    assert theirs.max() > 1.01  # it does overshoot
    np.testing.assert_allclose(ours, theirs.clip(0, 1), atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(shapes, st.floats(-3000, 3000, width=32), st.sampled_from([0, 1, 3]))
def test_constant_stays_constant(sizes, value, order):
    old, new = sizes
    out = resample_image(torch.full(old, value), new, order)
    assert tuple(out.shape) == new
    torch.testing.assert_close(out, torch.full(new, value))


@settings(deadline=None, max_examples=40)
@given(st.integers(8, 60), st.integers(8, 60), st.floats(0.5, 5), st.sampled_from([1, 3]))
def test_millimetre_positions_are_kept(old, new, spacing, order):
    """The array of millimetre positions, resampled, is the new grid's positions (off the edge)."""
    positions = (np.arange(old) + 0.5) * spacing
    fine = (np.arange(new) + 0.5) * spacing * old / new
    out = resample_image(torch.from_numpy(positions), (new,), order).numpy()
    inner = (fine > positions[0]) & (fine < positions[-1])
    if order == 3:  # the repeated edge bends the spline's first few voxels
        inner &= (fine > positions[0] + 6 * spacing) & (fine < positions[-1] - 6 * spacing)
        tolerance = 2e-3 * spacing
    else:
        tolerance = 1e-9
    np.testing.assert_allclose(out[inner], fine[inner], atol=tolerance)


def test_mass_centre_of_a_blob_stays_where_it_is():
    grid = np.indices((30, 24, 20), dtype=np.float64)
    centre, spacing = np.array([13.2, 9.7, 11.1]), np.array([1.0, 1.5, 2.0])
    blob = np.exp(-(((grid - centre[:, None, None, None]) / 2.5) ** 2).sum(0))
    new = (45, 17, 33)
    out = resample_image(torch.from_numpy(blob), new).numpy()
    found = np.array(ndimage.center_of_mass(out))
    step = spacing * blob.shape / np.array(new)
    np.testing.assert_allclose((found + 0.5) * step, (centre + 0.5) * spacing, atol=0.01)


@pytest.mark.parametrize("order", [1, 3])
def test_there_and_back(order):
    """Twice as fine and back keeps a smooth image; mirrored input gives mirrored output."""
    image = torch.from_numpy(ndimage.gaussian_filter(field((20, 18, 16)).astype(float), 2.5))
    back = resample_image(resample_image(image, (60, 54, 48), order), (20, 18, 16), order)
    inner = (slice(4, -4),) * 3
    error = (back - image)[inner].abs().max() / (image.max() - image.min())
    assert error < {1: 0.05, 3: 1e-3}[order]
    flipped = resample_image(image.flip(0, 2), (31, 9, 20), order).flip(0, 2)
    torch.testing.assert_close(flipped, resample_image(image, (31, 9, 20), order))


def test_cubic_is_linear_where_nothing_is_clipped():
    a, b = (
        torch.from_numpy(field((14, 9)).astype(float)),
        torch.from_numpy(field((14, 9), 1).astype(float)),
    )
    wide = torch.tensor([[-99.0] * 9, [99.0] * 9], dtype=torch.float64)  # keeps the clip away

    def up(x):
        return resample_image(
            torch.cat([wide, torch.zeros(30, 9), x, torch.zeros(30, 9)]), (152, 20)
        )

    zero = up(torch.zeros(14, 9))
    torch.testing.assert_close(up(a) + up(2 * b) - zero, up(a + 2 * b))


def test_image_is_clipped_unchanged_and_not_shared():
    image = torch.from_numpy(field((12, 10)))
    before = image.clone()
    for shape in ((30, 30), (12, 10), (12, 5)):
        for order in (0, 1, 3):
            out = resample_image(image, shape, order)
            assert out.max() <= image.max()
            assert out.min() >= image.min()
            out.fill_(9)
            assert torch.equal(image, before)


@pytest.mark.parametrize(
    ("shape", "order"), [((3, 3), 2), ((3, 3), 5), ((3,), 3), ((3, 0), 3), ((3, 3, 3), 1)]
)
def test_wrong_calls(shape, order):
    with pytest.raises(ValueError, match=r"order must|cannot resample"):
        resample_image(torch.zeros(4, 4), shape, order)


def test_largest_shrink_comes_first():
    assert largest_shrink_first((10, 10, 10, 10), (20, 5, 10, 2)) == [3, 1, 0]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 300), st.integers(1, 300))
def test_integer_weights_are_the_positions(n_in, n_out):
    pair = neighbours(n_in, n_out)
    x = ((np.arange(n_out) + 0.5) * n_in / n_out - 0.5).clip(0, n_in - 1)
    ours = pair.below + (pair.above - pair.below) * pair.weight / pair.total
    np.testing.assert_allclose(ours, x, atol=1e-9)


# ---- labels


def one_hot_argmax(label, shape, classes):
    """The plain way in exact integers: every class over the whole grid, then arg max."""
    scores = []
    for value in range(classes):
        score = (label == value).astype(object)
        for axis in range(label.ndim):
            pair = neighbours(label.shape[axis], shape[axis])
            moved = np.moveaxis(score, axis, -1)
            mixed = moved[..., pair.below] * (pair.total - pair.weight).astype(object)
            mixed = mixed + moved[..., pair.above] * pair.weight.astype(object)
            score = np.moveaxis(mixed, -1, axis)
        scores.append(score)
    return np.argmax(np.stack(scores), axis=0)


@pytest.mark.parametrize(("old", "new"), SHAPES)
@pytest.mark.parametrize("classes", [2, 5])
def test_label_equals_one_hot_argmax(old, new, classes):
    label = blobs(old, classes)
    ours = resample_label(label, new, classes)
    assert ours.dtype == np.uint8
    assert np.array_equal(ours, one_hot_argmax(label, new, classes))


@settings(deadline=None, max_examples=80)
@given(shapes, st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_label_equals_one_hot_argmax_anywhere(sizes, classes, seed):
    old, new = sizes
    label = np.random.default_rng(seed).integers(0, classes, old).astype(np.uint8)
    assert np.array_equal(resample_label(label, new, classes), one_hot_argmax(label, new, classes))


def test_label_equals_skimage_where_nothing_ties():
    old, new = (31, 29, 23), (17, 41, 30)
    label = blobs(old, 4)
    soft = np.stack(
        [
            resize((label == c).astype(float), new, order=1, mode="edge", anti_aliasing=False)
            for c in range(4)
        ]
    )
    ordered = np.sort(soft, axis=0)
    clear = ordered[-1] - ordered[-2] > 1e-9
    assert clear.mean() > 0.99
    assert np.array_equal(resample_label(label, new, 4)[clear], soft.argmax(0)[clear])


def test_ties_go_to_the_lower_class():
    label = np.array([2, 1, 0, 3], np.uint8)
    assert resample_label(label, (2,), 4).tolist() == [1, 0]


def test_label_slabs_do_not_show(monkeypatch):
    label = blobs((25, 12, 14), 5)
    whole = resample_label(label, (40, 9, 20), 5)
    monkeypatch.setattr("unpaired.io.resample._LABEL_SLAB", 9 * 20 * 3)
    assert np.array_equal(resample_label(label, (40, 9, 20), 5), whole)


def test_label_kept_when_nothing_changes_and_wide_labels():
    label = blobs((6, 6, 6), 3).astype(np.int64)
    same = resample_label(label, (6, 6, 6), 3)
    assert np.array_equal(same, label)
    assert not np.shares_memory(same, label)
    wide = resample_label(np.array([0, 299, 299, 0]), (8,), 300)
    assert wide.dtype == np.uint16
    assert wide.tolist() == one_hot_argmax(np.array([0, 299, 299, 0]), (8,), 300).tolist()


def test_label_in_view_order_and_with_an_empty_box():
    label = blobs((8, 7, 9), 3).transpose(2, 0, 1)[::-1]
    assert np.array_equal(resample_label(label, (5, 6, 4), 3), one_hot_argmax(label, (5, 6, 4), 3))
    speck = np.zeros(50, np.uint8)
    speck[25] = 1  # falls between the two voxels that remain
    assert resample_label(speck, (2,), 2).tolist() == [0, 0]


@pytest.mark.parametrize("value", [-1, 3])
def test_label_value_outside_the_classes(value):
    with pytest.raises(ValueError, match="expected 0 to 2"):
        resample_label(np.full((3, 3), value), (4, 4), 3)


def test_weights_beyond_32_bits():
    """Large primes have no common divisor: the weights' product needs 64 bits."""
    label = np.zeros((1021, 3, 1021), np.uint8)
    label[300:700, 1:, 250:600] = 1
    work = _LabelResampler(label, (1019, 701, 1019), np.uint8)
    box = (slice(300, 700), slice(1, 3), slice(250, 600))
    place = (slice(500, 503), slice(600, 602), slice(400, 401))  # deep inside
    assert work.total == 8 * 1019 * 701 * 1019 > 2**31
    assert (work._score(1, box, place) == work.total).all()


# ---- scores


@pytest.mark.parametrize(("old", "new"), [pair for pair in SHAPES if len(pair[0]) in (2, 3)])
def test_argmax_equals_the_dense_way(old, new):
    scores = torch.from_numpy(field((6, *old)))
    mode = "bilinear" if len(old) == 2 else "trilinear"
    dense = F.interpolate(scores[None].double(), size=new, mode=mode)[0]
    top = dense.topk(2, dim=0).values
    clear = (top[0] - top[1] > 1e-5).numpy()
    for voxels in (1, 50, 1 << 21):
        ours = resample_argmax(scores, new, voxels)
        assert ours.dtype == np.uint8
        assert np.array_equal(ours[clear], dense.argmax(0).numpy()[clear])
        parts = list(resample_scores(scores, new, voxels))
        joined = torch.cat([part for _, part in parts], dim=1)
        torch.testing.assert_close(joined, dense.float(), atol=1e-5, rtol=0)
        assert [place.start for place, _ in parts][1:] == [place.stop for place, _ in parts][:-1]


def test_argmax_of_half_precision_and_ties():
    scores = torch.zeros(3, 4, 4, dtype=torch.float16)
    scores[1:, 2:] = 1
    assert np.array_equal(resample_argmax(scores, (4, 4)), [[0] * 4] * 2 + [[1] * 4] * 2)
    with pytest.raises(ValueError, match="uint8"):
        resample_argmax(torch.zeros(257, 2, 2), (2, 2))


def test_argmax_memory_is_bounded():
    """12 classes at 24 x 128 x 128 are 4.7 million scores dense; slabs stay far below."""
    seen = []
    real = torch.lerp

    def watch(lower, upper, weight):
        seen.append(lower.numel())
        return real(lower, upper, weight)

    scores = torch.from_numpy(field((12, 12, 64, 64)))
    with pytest.MonkeyPatch.context() as patcher:
        patcher.setattr(torch, "lerp", watch)
        out = resample_argmax(scores, (24, 128, 128), slab_voxels=1 << 16)
    assert np.array_equal(out, resample_argmax(scores, (24, 128, 128)))
    assert max(seen) <= 1 << 16
