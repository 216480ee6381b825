"""Samples are a pure function of their number, and show what the cache holds."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from small_sets import prepared_case
from unpaired.data.sampling import Batch, Draws, PatchSampler
from unpaired.errors import DataError, UsageError

# Each voxel names its place: slice * 900 + row * 30 + column, plus 10_000 a case or channel.
SHAPES = ((5, 12, 14), (3, 20, 9), (4, 12, 12))


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    found = []
    for number, (d, h, w) in enumerate(SHAPES):
        z, y, x = np.indices((d, h, w))
        place = (z * 900 + y * 30 + x).astype(np.int16)
        image = np.stack([place, place + 10_000])
        label = np.zeros((d, h, w), np.uint8)
        label[1, 2:4, 3:5] = 1
        if number == 1:
            label[0, -2:, -2:] = 2
        found.append(prepared_case(folder, f"case{number}", image, label))
    return found


def sampler(cases, patch=(12, 12), batch=4, foreground=0.0, seed=3, context=3, **more):
    return PatchSampler(cases, "ct", patch, context, foreground, Draws(batch, seed, **more))


def stored(image):
    """Intensities back to stored integers."""
    return np.rint((np.asarray(image) - 100) / 0.5).astype(int)


def places(batch):
    """(case, slice) of each sample, read from the middle slice of the first channel."""
    found = []
    for image, case in zip(batch.image, batch.case, strict=True):
        middle = stored(image[1])
        found.append((case, int(middle[middle >= 0].min()) // 900))
    return found


def same(a: Batch, b: Batch):
    return (
        torch.equal(a.image, b.image)
        and torch.equal(a.label, b.label)
        and a.case == b.case
        and torch.equal(a.position, b.position)
    )


def test_each_pass_is_a_fresh_permutation(cases):
    draw = sampler(cases, batch=3)
    assert draw.places == 12
    passes = [
        [p for step in range(4 * n, 4 * n + 4) for p in places(draw.batch(step))] for n in range(3)
    ]
    everything = {(f"case{i}", z) for i, (d, _, _) in enumerate(SHAPES) for z in range(d)}
    assert all(set(found) == everything and len(found) == 12 for found in passes)
    assert passes[0] != passes[1] != passes[2]


def test_a_batch_may_span_passes(cases):
    small, large = sampler(cases, batch=1), sampler(cases, batch=30)
    together = large.batch(1)
    assert together.position.tolist() == list(range(30, 60))
    for i in range(30):
        assert torch.equal(small.batch(30 + i).image[0], together.image[i])


@settings(deadline=None, max_examples=25)
@given(
    step=st.integers(0, 1000),
    world=st.integers(1, 4),
    batch=st.integers(1, 4),
    foreground=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_ranks_together_draw_what_one_draws_with_their_batches(
    cases, step, world, batch, foreground
):
    how = {"patch": (8, 8), "foreground": foreground}
    one = sampler(cases, batch=batch * world, **how).batch(step)
    ranks = [
        sampler(cases, batch=batch, rank=r, world=world, **how).batch(step) for r in range(world)
    ]
    joined = Batch(
        torch.cat([b.image for b in ranks]),
        torch.cat([b.label for b in ranks]),
        tuple(case for b in ranks for case in b.case),
        torch.cat([b.position for b in ranks]),
    )
    assert same(one, joined)


def test_resumed_equals_unbroken(cases):
    unbroken = sampler(cases, (8, 8), foreground=0.4)
    expected = [unbroken.batch(step) for step in range(9)]
    resumed = sampler(cases, (8, 8), foreground=0.4)
    for step in (6, 7, 8, 2):
        assert same(resumed.batch(step), expected[step])


def test_seed_and_modality_change_the_draw(cases):
    first = sampler(cases, batch=12).batch(0)
    other = sampler(cases, batch=12, seed=4).batch(0)
    named = PatchSampler(cases, "mr", (12, 12), 3, 0.0, Draws(12, 3)).batch(0)
    assert len({tuple(places(b)) for b in (first, other, named)}) == 3


@pytest.mark.parametrize("context", [1, 3, 5])
def test_neighbours_are_consecutive_and_repeat_at_the_ends(cases, context):
    """Channel-major: all slices of channel 0, then of channel 1."""
    batch = sampler(cases[:1], (12, 14), batch=5, context=context).batch(0)
    seen = set()
    for image, label in zip(batch.image, batch.label, strict=True):
        got = stored(image).reshape(2, context, 12, 14)
        z = got[0, context // 2, 0, 0] // 900
        seen.add(z)
        around = np.clip(np.arange(z - context // 2, z + context // 2 + 1), 0, 4)
        reference = np.asarray(cases[0].image())[:, around]
        np.testing.assert_array_equal(got, reference)
        np.testing.assert_array_equal(label, cases[0].label()[z])
    assert seen == set(range(5))


def test_crops_lie_in_the_plane_and_label_follows_image(cases):
    draw = sampler(cases, (7, 6), batch=12)
    corners = set()
    for step in range(20):
        batch = draw.batch(step)
        for image, label, case in zip(batch.image, batch.label, batch.case, strict=True):
            got = stored(image)
            z, y, x = got[1, 0, 0] // 900, got[1, 0, 0] % 900 // 30, got[1, 0, 0] % 30
            truth = next(c for c in cases if c.id == case)
            window = (slice(y, y + 7), slice(x, x + 6))
            np.testing.assert_array_equal(got[1], truth.image()[(0, z, *window)])
            np.testing.assert_array_equal(label, truth.label()[(z, *window)])
            corners.add((case, y, x))
    # case1's planes are 20 x 9: 14 x 4 corners, most of them seen in 60 draws.
    ours = {(y, x) for case, y, x in corners if case == "case1"}
    assert (
        {x for _, x in ours} == {0, 1, 2, 3} and {0, 13} <= {y for y, _ in ours} and len(ours) > 25
    )


def test_margins_hold_the_channels_minimum_and_background(cases):
    case = replace(cases[2], scale=(0.5, 0.25))
    batch = sampler([case], (15, 16), batch=4).batch(0)
    inside = np.zeros((15, 16), bool)
    inside[1:13, 2:14] = True  # 12 x 12 in the middle
    for channels, scale in ((slice(0, 3), 0.5), (slice(3, 6), 0.25)):
        image, lowest = batch.image.numpy()[:, channels], np.float32(100 - scale * 32767)
        assert (image[:, :, ~inside] == lowest).all() and (image[:, :, inside] > lowest).all()
    assert not batch.label.numpy()[:, ~inside].any()
    assert sorted(z for _, z in places(batch)) == [0, 1, 2, 3]


def test_one_axis_cropped_the_other_padded(cases):
    batch = sampler(cases[1:2], (12, 12), batch=3).batch(0)
    assert (batch.image[:, :, :, 0] == batch.image.min()).all()  # 9 columns in 12: 1 left, 2 right
    assert (stored(batch.image[:, 1, :, 1:10]) >= 0).all()


@pytest.mark.slow
def test_oversampling_rate_matches_its_expectation(cases):
    share, n = 0.4, 4000
    draw = sampler(cases, (4, 4), batch=n, foreground=share)
    found = Counter(places_by_value(draw.batch(0)))
    # Redrawn: class 1 (slices 1 of every case) or class 2 (slice 0 of case 1), evenly.
    p_class2 = (1 - share) / 12 + share / 2
    p_class1 = (1 - share) / 12 + share / 2 / 3
    p_other = (1 - share) / 12
    for place, p in {
        ("case1", 0): p_class2, ("case0", 1): p_class1, ("case2", 1): p_class1,
        ("case2", 3): p_other,
    }.items():  # fmt: skip
        deviation = np.sqrt(p * (1 - p) / n)
        assert abs(found[place] / n - p) < 5 * deviation, place


def places_by_value(batch):
    first = stored(batch.image[:, 1, 0, 0]) // 900
    return list(zip(batch.case, first.tolist(), strict=True))


def test_oversampled_crops_show_their_class(cases):
    # Patches of 4 x 4: jitter is one voxel at most, so the drawn voxel is always inside.
    batch = sampler(cases, (4, 4), batch=200, foreground=1.0).batch(0)
    assert all(label.any() for label in batch.label)
    plain = sampler(cases, (4, 4), batch=200, foreground=0.0).batch(0)
    assert sum(bool(label.any()) for label in plain.label) < 60


def test_types_and_device(cases):
    batch = sampler(cases).batch(0)
    assert batch.image.dtype == torch.float32 and batch.label.dtype == torch.int64
    moved = batch.to("meta")
    assert moved.image.device.type == moved.label.device.type == "meta"
    assert moved.position.tolist() == [0, 1, 2, 3] and moved.case == batch.case


def test_wrong_use_is_refused(cases):
    with pytest.raises(DataError, match="no training case"):
        sampler([])
    with pytest.raises(DataError, match="ct/case1 has no label"):
        sampler([cases[0], replace(cases[1], labelled=False)])
    for wrong in ({"context": 2}, {"foreground": 1.5}, {"batch": 0}, {"seed": -1}, {"rank": 1}):
        with pytest.raises(UsageError):
            sampler(cases, **wrong)


def test_cases_without_foreground_still_give_samples(cases, tmp_path):
    empty = prepared_case(
        tmp_path, "empty", np.zeros((1, 3, 8, 8), np.int16), np.zeros((3, 8, 8), np.uint8)
    )
    batch = PatchSampler([empty], "ct", (8, 8), 3, 1.0, Draws(3, 0)).batch(0)
    assert not batch.label.any()


def test_a_patch_of_slices_is_a_window_of_its_case(cases):
    """Read back where each patch lies from its voxels; every voxel must follow, or be margin."""
    one = sampler(cases, patch=(4, 8, 16), batch=40, context=1)
    found = Counter()
    for step in range(3):
        batch = one.batch(step)
        for image, label, name in zip(batch.image, batch.label, batch.case, strict=True):
            number = int(name[-1])
            truth, margin = cases[number].label(), stored(cases[number].minimum[0])
            d, h, w = SHAPES[number]
            values = stored(image[0])
            corner = int(values[values > margin].min())
            lack = [max(0, n - s) // 2 for n, s in zip((4, 8, 16), (d, h, w), strict=True)]
            z0, y0, x0 = corner // 900, corner % 900 // 30, corner % 30
            for z, y, x in np.ndindex(4, 8, 16):
                at = (z0 + z - lack[0], y0 + y - lack[1], x0 + x - lack[2])
                inside = all(0 <= a < n for a, n in zip(at, (d, h, w), strict=True))
                place = at[0] * 900 + at[1] * 30 + at[2]
                assert values[z, y, x] == (place if inside else margin)
                assert label[z, y, x] == (truth[at] if inside else 0)
            assert (stored(image[1])[values > margin] == values[values > margin] + 10_000).all()
            found[name, z0, y0] += 1
    assert len({key[0] for key in found}) == 3 and len(found) > 12  # places vary


def test_a_pass_of_patches_takes_each_case_as_often_as_patches_cover_it(cases):
    one = sampler(cases, patch=(4, 8, 16), batch=1, context=1)
    covers = {
        f"case{i}": -(-d // 4) * -(-h // 8) * -(-w // 16) for i, (d, h, w) in enumerate(SHAPES)
    }
    assert one.places == sum(covers.values())
    for start in (0, one.places):
        seen = Counter(one.batch(start + i).case[0] for i in range(one.places))
        assert seen == covers


def test_patches_hold_the_drawn_class_and_ranks_share_the_draws(cases):
    """Class 2 lies in case 1 alone, class 1 in every case: half of the samples each."""
    one = sampler(cases, patch=(2, 4, 4), batch=200, foreground=1.0, context=1)
    batch = one.batch(0)
    held = [set(label.unique().tolist()) - {0} for label in batch.label]
    assert all(held)
    assert 70 < sum(2 in classes for classes in held) < 130
    halves = [sampler(cases, patch=(2, 4, 4), batch=100, foreground=1.0, context=1, rank=r, world=2)
              for r in (0, 1)]  # fmt: skip
    together = torch.cat([half.batch(0).image for half in halves])
    assert torch.equal(together, batch.image)


def test_a_patch_of_slices_has_no_neighbours(cases):
    with pytest.raises(UsageError, match="context is 3; a patch of several slices has none"):
        sampler(cases, patch=(2, 4, 4))
