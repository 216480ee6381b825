"""Dice, ASD, HD95, NSD against plain loops, MONAI, and the recorded values of MedPy."""

import json
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import (
    compute_average_surface_distance,
    compute_hausdorff_distance,
    compute_surface_dice,
)

from unpaired.metrics import asd, dice, hd95, nsd, score, surface_distances
from unpaired.metrics import surface as surface_module
from unpaired.metrics.surface import border

shapes = st.lists(st.integers(1, 7), min_size=1, max_size=4).map(tuple)


@st.composite
def pairs(draw, shape=shapes):
    size = draw(shape)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    density = draw(st.sampled_from([0.05, 0.3, 0.7, 1.0]))
    masks = [rng.random(size) < density for _ in range(2)]
    spacing = tuple(draw(st.sampled_from([0.4, 0.75, 1.0, 3.3, 8.0])) for _ in size)
    return *masks, spacing


def loop_border(mask):
    found = []
    for index in np.ndindex(mask.shape):
        if not mask[index]:
            continue
        for axis in range(mask.ndim):
            for step in (-1, 1):
                near = list(index)
                near[axis] += step
                outside = not 0 <= near[axis] < mask.shape[axis]
                if outside or not mask[tuple(near)]:
                    found.append(index)
    return sorted(set(found))


def loop_distances(prediction, truth, spacing):
    a, b = (np.array(loop_border(m), dtype=float) * spacing for m in (prediction, truth))
    each = np.linalg.norm(a[:, None] - b[None], axis=-1)
    return each.min(axis=1), each.min(axis=0)


@settings(deadline=None, max_examples=60)
@given(pairs())
def test_equals_plain_loops_in_any_dimension(case):
    prediction, truth, spacing = case
    if not (prediction.any() and truth.any()):
        return
    a, b = loop_distances(prediction, truth, spacing)
    both = np.concatenate([a, b])
    assert asd(prediction, truth, spacing) == pytest.approx(both.mean(), abs=1e-9)
    old = asd(prediction, truth, spacing, average="medpy040")
    assert old == pytest.approx((a.mean() + b.mean()) / 2, abs=1e-9)
    larger = max(np.percentile(a, 95), np.percentile(b, 95))
    assert hd95(prediction, truth, spacing) == pytest.approx(larger, abs=1e-9)
    # 0.9 and 2.1 lie between the distances that these spacings can give.
    for tolerance in (0.9, 2.1):
        expected = (both <= tolerance).mean()
        assert nsd(prediction, truth, tolerance, spacing) == pytest.approx(expected)
    overlap = 2 * (prediction & truth).sum() / (prediction.sum() + truth.sum())
    assert dice(prediction, truth) == pytest.approx(overlap)


@settings(deadline=None, max_examples=25)
@given(pairs(st.tuples(*[st.integers(3, 9)] * 3)))
def test_equals_monai_at_anisotropic_spacing(case):
    prediction, truth, spacing = case
    if not (prediction.any() and truth.any()):
        return
    one_hot = [torch.from_numpy(m)[None, None].float() for m in (prediction, truth)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        common = {"include_background": True, "spacing": list(spacing)}
        monai_asd = compute_average_surface_distance(*one_hot, symmetric=True, **common)
        monai_hd = compute_hausdorff_distance(*one_hot, percentile=95, **common)
        monai_nsd = compute_surface_dice(*one_hot, class_thresholds=[2.1], **common)
    assert asd(prediction, truth, spacing) == pytest.approx(monai_asd.item(), abs=1e-5)
    assert hd95(prediction, truth, spacing) == pytest.approx(monai_hd.item(), abs=1e-4)
    assert nsd(prediction, truth, 2.1, spacing) == pytest.approx(monai_nsd.item(), abs=1e-6)


@settings(deadline=None, max_examples=30)
@given(pairs(), st.integers(0, 3))
def test_both_ways_to_measure_agree_and_ignore_the_margin(case, margin):
    prediction, truth, spacing = case
    if not (prediction.any() and truth.any()):
        return
    both = [border(m) for m in (prediction, truth)]
    tree = surface_module._by_tree(*both, np.asarray(spacing))
    transform = surface_module._by_transform(*both, np.asarray(spacing))
    np.testing.assert_allclose(tree, transform, atol=1e-9)
    wide = [np.pad(m, margin) for m in (prediction, truth)]
    near = surface_distances(prediction, truth, spacing)
    far = surface_distances(*wide, spacing)
    np.testing.assert_array_equal(near.to_truth, far.to_truth)
    np.testing.assert_array_equal(near.to_prediction, far.to_prediction)


def test_recorded_values_of_medpy_and_monai(shared):
    masks = np.load(shared("fixtures/metrics_masks.npz"))
    values = json.loads(shared("fixtures/metrics_compare.json").read_text())
    compared = 0
    for name, value in values.items():
        if isinstance(value["medpy052_assd"], str):
            continue
        prediction, truth = masks[f"{name}/pred"], masks[f"{name}/gt"]
        found = surface_distances(prediction, truth, value["spacing"])
        assert found.asd() == pytest.approx(value["medpy052_assd"], abs=1e-6), name
        assert found.asd("medpy040") == pytest.approx(value["medpy040_assd"], abs=1e-6), name
        assert found.asd() == pytest.approx(value["monai_asd_symmetric"], abs=1e-5), name
        assert found.to_truth.size == value["own"]["n_a"]
        assert dice(prediction, truth) == pytest.approx(value["dice"], abs=1e-12)
        compared += 1
    assert compared == 14


def test_a_mask_on_the_edge_of_the_image_has_a_surface_there():
    truth = np.ones((5, 5, 5), dtype=bool)
    prediction = truth.copy()
    prediction[0] = False
    assert np.array_equal(border(truth)[0], np.ones((5, 5)))
    assert not border(truth)[1:-1, 1:-1, 1:-1].any()
    # 25 voxels of the truth's first slice, and the 3 x 3 inner ones of the prediction's, are off.
    expected = (25 * 3.0 + 9 * 3.0) / (border(prediction).sum() + border(truth).sum())
    found = asd(prediction, truth, (3.0, 4.0, 4.0))
    assert found == pytest.approx(expected)


def test_undefined_cases():
    some, none = np.ones((3, 3), dtype=bool), np.zeros((3, 3), dtype=bool)
    spacing = (1.0, 2.0)
    for prediction in (some, none):
        values = (
            dice(prediction, none),
            asd(prediction, none, spacing),
            hd95(prediction, none, spacing),
            nsd(prediction, none, 2.0, spacing),
        )
        assert np.isnan(values).all()
    assert dice(none, some) == 0.0
    assert nsd(none, some, 2.0, spacing) == 0.0
    assert np.isnan([asd(none, some, spacing), hd95(none, some, spacing)]).all()


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 2**32), st.lists(st.integers(1, 8), min_size=2, max_size=3))
def test_score_equals_the_single_metrics_of_each_class(seed, shape):
    rng = np.random.default_rng(seed)
    labels = [rng.integers(0, 4, shape).astype(np.uint8) for _ in range(2)]
    spacing = (0.8, 2.5, 4.0)[: len(shape)]
    classes = ("background", "liver", "spleen", "rare", "never")
    tolerance = {"liver": 0.9, "spleen": 2.6}
    volume = {"voxels": lambda p, t, spacing_mm: float(p.sum() - t.sum())}
    found = score(*labels, classes, spacing, tolerance, volume)
    assert [s.cls for s in found] == list(classes[1:])
    for index, got in enumerate(found, start=1):
        p, t = (x == index for x in labels)
        expected = (
            dice(p, t),
            asd(p, t, spacing),
            hd95(p, t, spacing),
            nsd(p, t, tolerance.get(got.cls, 2.0), spacing),
        )
        np.testing.assert_allclose(
            (got.dice, got.asd_mm, got.hd95_mm, got.nsd), expected, atol=1e-12
        )
        assert (got.truth_voxels, got.prediction_voxels) == (t.sum(), p.sum())
        assert got.extra == ({"voxels": p.sum() - t.sum()} if t.any() else {})


def test_bad_input_is_refused():
    mask = np.ones((2, 3), dtype=bool)
    with pytest.raises(ValueError, match="one grid"):
        surface_module.checked_spacing(mask, mask.T, (1.0, 1.0))
    for spacing in [(1.0,), (1.0, 0.0), (1.0, float("nan"))]:
        with pytest.raises(ValueError, match="one per array axis"):
            asd(mask, mask, spacing)


def test_metrics_do_not_import_torch():
    code = "import sys, unpaired.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def loop_known_border(mask, ignored):
    """Voxels with a neighbour that is known to lie outside; outside the image is known."""
    found = []
    for index in np.ndindex(mask.shape):
        for axis in range(mask.ndim):
            for step in (-1, 1):
                near = list(index)
                near[axis] += step
                outside = not 0 <= near[axis] < mask.shape[axis]
                if mask[index] and (outside or not (mask | ignored)[tuple(near)]):
                    found.append(index)
    return np.array(sorted(set(found)), float).reshape(-1, mask.ndim)


@settings(deadline=None, max_examples=60)
@given(pairs(st.tuples(*[st.integers(2, 6)] * 3)), st.integers(0, 2**32))
def test_where_nobody_annotated_nothing_counts(case, seed):
    prediction, truth, spacing = case
    ignored = np.random.default_rng(seed).random(truth.shape) < 0.3
    labels = np.where(ignored, 255, truth.astype(np.uint8))
    (one,) = score(prediction.astype(np.uint8), labels, ("background", "x"), spacing, 0.9)
    a, b = prediction & ~ignored, truth & ~ignored
    assert (one.prediction_voxels, one.truth_voxels) == (a.sum(), b.sum())
    if not b.any():
        assert np.isnan([one.dice, one.asd_mm, one.nsd]).all()
        return
    assert one.dice == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
    ends = [loop_known_border(mask, ignored) * spacing for mask in (a, b)]
    if not len(ends[1]):
        assert np.isnan([one.asd_mm, one.hd95_mm, one.nsd]).all()
    elif not len(ends[0]):
        assert np.isnan([one.asd_mm, one.hd95_mm]).all() and one.nsd == 0
    else:
        each = np.linalg.norm(ends[0][:, None] - ends[1][None], axis=-1)
        both = np.concatenate([each.min(1), each.min(0)])
        assert one.asd_mm == pytest.approx(both.mean(), abs=1e-9)
        assert one.nsd == pytest.approx((both <= 0.9).mean())
        larger = max(np.percentile(each.min(1), 95), np.percentile(each.min(0), 95))
        assert one.hd95_mm == pytest.approx(larger, abs=1e-9)


def test_the_limit_of_what_was_annotated_is_no_surface():
    """An organ annotated in every fourth slice: errors in the plane count, the gaps do not."""
    truth = np.zeros((16, 12, 12), np.uint8)
    truth[:, 3:9, 3:9] = 1
    shifted = np.roll(truth, 1, axis=2)
    sparse = np.full_like(truth, 255)
    sparse[::4] = truth[::4]
    (one,) = score(shifted, sparse, ("background", "x"), (1, 1, 1))
    plane = surface_distances(shifted[0] == 1, truth[0] == 1, (1, 1))
    # The first slice lies at the image's edge, where every voxel is on the surface.
    assert one.hd95_mm == plane.hd95() == 1.0
    assert one.dice == pytest.approx(2 * 30 / 72)
