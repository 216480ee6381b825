"""Augmentation: nothing when asked for nothing, image and label together, samples on their own."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from small_sets import plan
from unpaired.config import AugmentConfig
from unpaired.data.augment import _PARAMETERS, _draw, augment, mirror_axes, sided_names
from unpaired.data.sampling import Batch, modality_key

NOTHING = AugmentConfig(
    probability=1, rotation_degrees=0, scale=(1, 1), shift=0, mirror="auto", gain=(1, 1),
    offset=0, gamma=(1, 1), noise=0, blur_sigma=0,
)  # fmt: skip
NO = (False, False)


def options(**changes):
    return NOTHING.model_copy(update=changes)


def batch(count=6, channels=3, space=(24, 20), first=0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randn(count, channels, *space, generator=generator)
    label = torch.randint(0, 4, (count, *space), generator=generator)
    return Batch(image, label, ("a",) * count, torch.arange(first, first + count))


def blob(space=(33, 29), count=8):
    """A smooth asymmetric shape whose label is where the image is above 0.5."""
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float32) for n in space), indexing="ij")
    centres = [n * share for n, share in zip(space, (0.4, 0.55, 0.45), strict=False)]
    widths = [n * share for n, share in zip(space, (0.2, 0.3, 0.25), strict=False)]
    distance = sum(((a - c) / w) ** 2 for a, c, w in zip(axes, centres, widths, strict=True))
    stack = torch.exp2(-distance)[None, None].repeat(count, 2, *[1] * len(space))
    return Batch(stack, (stack[:, 0] > 0.5).long(), ("a",) * count, torch.arange(count))


def test_zero_options_change_nothing():
    before = batch()
    after = augment(before, NOTHING, NO, 0, "ct")
    assert torch.equal(after.image, before.image) and torch.equal(after.label, before.label)
    assert after.case == before.case and torch.equal(after.position, before.position)


def test_probability_zero_changes_nothing():
    before = batch()
    after = augment(before, AugmentConfig(probability=0), (True, True), 0, "ct")
    assert torch.equal(after.image, before.image) and torch.equal(after.label, before.label)


def test_the_given_batch_is_not_changed():
    before, kept = batch(), batch()
    augment(before, AugmentConfig(probability=1), (True, True), 0, "ct")
    assert torch.equal(before.image, kept.image) and torch.equal(before.label, kept.label)


MOVES = {
    "rotation": {"rotation_degrees": 40.0},
    "scale": {"scale": (0.7, 1.4)},
    "shift": {"shift": 0.15},
    "all": {"rotation_degrees": 40.0, "scale": (0.8, 1.3), "shift": 0.1},
}


@pytest.mark.parametrize("space", [(33, 29), (21, 25, 23)])
@pytest.mark.parametrize("move", MOVES)
def test_label_moves_with_the_image(move, space):
    before = blob(space)
    after = augment(before, options(**MOVES[move]), [True] * len(space), 1, "ct")
    mask = after.image[:, 0] > 0.5
    wrong = mask != (after.label == 1)
    # Linear against nearest: they may differ near the edge, where the image is near 0.5.
    sure = (after.image[:, 0] - 0.5).abs() > 0.2
    assert not (wrong & sure).any() and wrong.float().mean() < 0.03
    assert (after.label != before.label).flatten(1).any(1).all()  # each sample did move


@pytest.mark.parametrize("flip", [(True, False), (False, True), (True, True)])
def test_mirror_flips_the_allowed_axes_half_of_the_time(flip):
    before = blob(count=64)
    after = augment(before, options(probability=0.5), flip, 2, "ct")
    kinds = []
    for i in range(64):
        candidates = {axes: torch.flip(before.label[i], axes) for axes in ((), (0,), (1,), (0, 1))}
        kind = next(a for a, label in candidates.items() if torch.equal(label, after.label[i]))
        expected = torch.flip(before.image[i], [a + 1 for a in kind])
        assert torch.allclose(after.image[i], expected, atol=1e-3)
        kinds.append(kind)
    for axis in (0, 1):
        times = sum(axis in kind for kind in kinds)
        assert 16 < times < 48 if flip[axis] else times == 0


def test_mirror_none_wins_over_allowed_axes():
    before = blob()
    after = augment(before, options(mirror="none"), (True, True), 2, "ct")
    assert torch.equal(after.label, before.label)


def test_rotation_and_zoom_against_scipy():
    """One grid_sample equals scipy's affine transform by the matrix that the moments reveal."""
    before = blob((41, 41), count=12)
    turned = augment(before, options(rotation_degrees=30.0), NO, 5, "ct")
    angles = []
    for i in range(12):
        # Find the angle by search, then every voxel must agree.
        tries = np.linspace(-30, 30, 241)
        errors = [
            np.abs(rotated(before.image[i, 0], a) - turned.image[i, 0].numpy())[8:-8, 8:-8].max()
            for a in tries
        ]
        angles.append(tries[int(np.argmin(errors))])
        assert min(errors) < 0.01
    assert max(angles) > 10 and min(angles) < -10

    zoomed = augment(before, options(scale=(1.5, 1.5)), NO, 5, "ct").image[0, 0].numpy()
    expected = affine(before.image[0, 0], np.eye(2) / 1.5)  # magnified by 1.5
    np.testing.assert_allclose(zoomed[2:-2, 2:-2], expected[2:-2, 2:-2], atol=1e-5)
    assert zoomed.sum() > 1.5 * before.image[0, 0].sum()


def affine(image, matrix):
    image = np.asarray(image, np.float64)
    centre = (np.array(image.shape) - 1) / 2
    return ndimage.affine_transform(
        image, matrix, centre - matrix @ centre, order=1, mode="constant", cval=image.min()
    )


def rotated(image, degrees):
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return affine(image, np.array([[c, -s], [s, c]]))


def test_what_comes_in_from_outside_is_air():
    before = batch(space=(16, 16))
    before = replace(before, label=torch.ones_like(before.label))
    after = augment(before, options(shift=0.5), NO, 0, "ct")
    outside = after.label == 0
    assert outside.any()
    lowest = before.image.flatten(2).amin(2)
    for i in range(6):
        # A voxel in from the edge of what came from outside, only the minimum is left.
        deep = torch.from_numpy(
            ndimage.binary_erosion(outside[i].numpy(), np.ones((3, 3)), border_value=1)
        )
        for k in range(3):
            assert torch.allclose(after.image[i, k][deep], lowest[i, k], atol=1e-5)


@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(0, 11), min_size=1, max_size=12, unique=True), st.integers(0, 99))
def test_samples_do_not_depend_on_their_batch(rows, seed):
    whole = batch(12)
    everything = augment(whole, AugmentConfig(), (True, True), seed, "ct")
    part = Batch(whole.image[rows], whole.label[rows], ("a",) * len(rows), whole.position[rows])
    found = augment(part, AugmentConfig(), (True, True), seed, "ct")
    assert torch.equal(found.image, everything.image[rows])
    assert torch.equal(found.label, everything.label[rows])


def test_seed_modality_and_position_each_change_the_draw():
    before = batch()
    args = (AugmentConfig(probability=1), (True, True))
    first = augment(before, *args, 0, "ct").image
    assert torch.equal(first, augment(before, *args, 0, "ct").image)
    assert not torch.equal(first, augment(before, *args, 1, "ct").image)
    assert not torch.equal(first, augment(before, *args, 0, "mr").image)
    later = replace(before, position=before.position + 6)
    assert not torch.equal(first, augment(later, *args, 0, "ct").image)
    equal = replace(before, image=before.image[:1].repeat(6, 1, 1, 1))
    different = augment(equal, options(noise=0.1), NO, 0, "ct").image
    assert len({float(image.sum()) for image in different}) == 6


def test_options_do_not_move_each_others_draws():
    before = blob()
    plain = augment(before, options(rotation_degrees=30.0), NO, 0, "ct")
    more = augment(before, options(rotation_degrees=30.0, noise=0.1, gain=(0.5, 2.0)), NO, 0, "ct")
    assert torch.equal(plain.label, more.label)


def test_gain_and_offset_are_one_line_per_sample_within_their_range():
    before = batch(64)
    after = augment(before, options(gain=(0.5, 2.0), offset=0.3), NO, 0, "ct")
    lines = [
        np.polyfit(x.flatten(), y.flatten(), 1)
        for x, y in zip(before.image.numpy(), after.image.numpy(), strict=True)
    ]
    gains, offsets = np.array(lines).T
    assert 0.5 <= gains.min() < 0.6 and 1.7 < gains.max() <= 2.0 + 1e-5
    assert -0.3 - 1e-5 <= offsets.min() < -0.2 and 0.2 < offsets.max() <= 0.3 + 1e-5
    assert 20 < (gains > 1).sum() < 44  # brighter as often as darker
    for (gain, offset), x, y in zip(lines, before.image, after.image, strict=True):
        assert torch.allclose(x * float(gain) + float(offset), y, atol=1e-4)


def test_gamma_keeps_range_and_order():
    before = batch(16)
    after = augment(before, options(gamma=(0.5, 2.0)), NO, 0, "ct").image
    for x, y in zip(before.image.flatten(1), after.flatten(1), strict=True):
        assert torch.allclose(
            torch.stack(torch.aminmax(x)), torch.stack(torch.aminmax(y)), atol=1e-5
        )
        assert (y[x.argsort()].diff() >= -1e-6).all()
        u, v = (x - x.min()) / (x.max() - x.min()), (y - y.min()) / (y.max() - y.min())
        inner = (u > 0.1) & (u < 0.9)
        exponents = v[inner].log() / u[inner].log()
        assert exponents.std() < 1e-3 and 0.5 <= exponents.mean() <= 2.0


def test_noise_has_the_drawn_deviation():
    before = batch(32, space=(64, 64))
    after = augment(before, options(noise=0.4), NO, 0, "ct").image
    noise = (after - before.image).flatten(1)
    deviations = noise.std(1)
    assert deviations.max() < 0.41 and deviations.max() > 0.3 and deviations.min() < 0.1
    assert (noise.mean(1).abs() < 0.02).all()
    white = noise[0].reshape(3, 64, 64)
    assert abs(float(np.corrcoef(white[0].flatten(), white[1].flatten())[0, 1])) < 0.08


@pytest.mark.parametrize("space", [(24, 20), (9, 12, 10)])
def test_blur_equals_scipys(space):
    before = batch(5, space=space)
    after = augment(before, options(blur_sigma=2.0), [False] * len(space), 3, "ct").image
    widths = []
    for x, y, position in zip(before.image.numpy(), after.numpy(), range(5), strict=True):
        rng = np.random.default_rng([3, modality_key("ct"), _PARAMETERS, position])
        still = [False] * len(space)
        sigma = _draw(rng, options(blur_sigma=2.0), still, space, np.ones(len(space))).blur
        radius = int(np.ceil(3 * sigma))
        expected = [ndimage.gaussian_filter(k, sigma, mode="nearest", radius=radius) for k in x]
        np.testing.assert_allclose(y, expected, atol=1e-5)
        widths.append(sigma)
    assert max(widths) - min(widths) > 0.5


def test_depth_of_one_equals_the_picture():
    """One body for every dimension: intensities of a slab of one slice are the picture's."""
    flat = batch(4)
    deep = Batch(flat.image[:, :, None], flat.label[:, None], flat.case, flat.position)
    quiet = options(gain=(1.5, 1.5), offset=0.0, gamma=(0.7, 0.7))
    a = augment(flat, quiet, NO, 0, "ct")
    b = augment(deep, quiet, (False, False, False), 0, "ct")
    assert torch.allclose(a.image, b.image[:, :, 0], atol=1e-6)


# --- sides


@pytest.mark.parametrize(
    ("classes", "pair"),
    [
        (("background", "right kidney", "left kidney"), ("right kidney", "left kidney")),
        (("background", "kidney_left", "kidney_right"), ("kidney_left", "kidney_right")),
        (("background", "Left Lung", "Right Lung"), ("Left Lung", "Right Lung")),
        (("background", "kidney L", "kidney R"), ("kidney L", "kidney R")),
        (("background", "l_femur", "r_femur"), ("l_femur", "r_femur")),
        (("background", "lkidney", "rkidney"), ("lkidney", "rkidney")),
        (("background", "kidneyLeft", "kidneyRight"), ("kidneyLeft", "kidneyRight")),
        (("background", "kidney-lt", "kidney-rt"), ("kidney-lt", "kidney-rt")),
        (("background", "liver", "left kidney"), ("left kidney",)),
        (("background", "liver", "spleen", "aorta"), ()),
        (("background", "lung", "bright spot", "r peak"), ()),
    ],
)
def test_names_with_sides(classes, pair):
    assert sided_names(classes) == pair


@pytest.mark.parametrize(
    ("slice_axis", "paired", "expected"),
    [
        ("S", False, (True, True)),   # rows P, columns L
        ("S", True, (True, False)),
        ("P", True, (True, False)),   # rows S, columns L
        ("L", True, (True, True)),    # rows S, columns P: no left-right in the plane
    ],
)  # fmt: skip
def test_left_and_right_are_never_swapped(slice_axis, paired, expected):
    names = ("background", "liver", "right kidney", "left kidney")[: 4 if paired else 2]
    settings_ = plan(slice_axis=slice_axis).model_copy(update={"classes": names})
    axes, reason = mirror_axes(settings_)
    assert axes == expected
    assert ("right kidney" in reason) == (paired and slice_axis != "L")
    # Whatever is drawn, what lay on the left stays there.
    half = torch.zeros(32, 8, 8, dtype=torch.long)
    half[:, :, 4:] = 1  # columns grow to the left, if L is in the plane
    before = Batch(half[:, None].float(), half, ("a",) * 32, torch.arange(32))
    after = augment(before, options(probability=0.5), axes, 0, "ct")
    assert torch.equal(after.label, half) == (not axes[1])


def test_rotation_is_true_in_millimetres():
    """Of a ball in voxels of 2 x 1 mm the rotated copy is the same ball; in cubes it is not."""
    n = (30, 60)
    y, x = np.indices(n)
    ball = ((2 * (y - 14.5)) ** 2 + (x - 29.5) ** 2 < 20**2).astype(np.float32)
    bar = np.zeros(n, np.float32)
    bar[13:17, 10:50] = 1  # 8 x 40 mm
    stack = torch.from_numpy(np.stack([ball, bar]))[None].repeat(8, 1, 1, 1)
    label = torch.zeros(8, *n, dtype=torch.int64)
    before = Batch(stack, label, ("a",) * 8, torch.arange(8))
    turns = options(rotation_degrees=60.0)
    true = augment(before, turns, NO, 0, "ct", spacing_mm=(2.0, 1.0)).image
    wrong = augment(before, turns, NO, 0, "ct").image
    assert (true[:, 1] - stack[:, 1]).abs().amax() > 0.9  # the bar does turn
    change, wrong_change = ((a[:, 0] - stack[:, 0]).abs().mean((1, 2)) for a in (true, wrong))
    assert change.max() < 0.02 < wrong_change.max()


def test_very_flat_voxels_turn_in_their_plane_only():
    image = torch.zeros(6, 1, 5, 9, 9)
    image[:, :, 2] = torch.rand(6, 1, 9, 9)
    before = Batch(image, torch.zeros(6, 5, 9, 9, dtype=torch.int64), ("a",) * 6, torch.arange(6))
    turns = options(rotation_degrees=40.0)
    flat = augment(before, turns, [False] * 3, 0, "ct", spacing_mm=(6.0, 2.0, 2.0)).image
    assert (flat[:, :, 2] - image[:, :, 2]).abs().amax() > 0.1
    assert flat[:, :, [0, 1, 3, 4]].abs().amax() < 1e-5
    cubes = augment(before, turns, [False] * 3, 0, "ct", spacing_mm=(2.5, 2.0, 2.0)).image
    assert cubes[:, :, [0, 1, 3, 4]].abs().amax() > 0.1
