"""Crops by label: against plain loops in millimetres, and back again exactly."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from small_sets import body, plan, straight, write_set
from unpaired.data.cache import open_prepared
from unpaired.data.frame import cut, frame_without_label, labelled_frame, put_back
from unpaired.data.plan import Clip
from unpaired.data.prepare import prepare
from unpaired.data.preprocess import (
    place,
    preprocess,
    preprocess_label,
    restore_prepared,
)
from unpaired.datasets.dataset import class_names
from unpaired.datasets.sources import open_dataset
from unpaired.errors import DataError, UsageError
from unpaired.io.volume import Volume

TABLE = {0: 0, 3: 1, 7: 2}
AXES = ["LPS", "RAS", "PIR", "SRA", "AIL"]
WORLD = {"S": (2, 1), "P": (1, -1), "L": (0, -1)}
HEART = {"plane_centre": "labels", "slices": "labelled"}
ORGANS = {"slices": "labelled"}


def framed(plane, how, raw=True, **more):
    """A plan with this crop; `raw` leaves the intensities as they are."""
    made = plan(**more)
    recipe = made.modalities["ct"].model_copy(update=how)
    if raw:
        scale = {"zscore": "dataset", "mean": (0.0,), "std": (1.0,)}
        free = (Clip(kind="percentile", low=0, high=100),)
        recipe = recipe.model_copy(update={**scale, "clip": free})
    return made.model_copy(update={"plane": plane, "modalities": {"ct": recipe}})


def prepared(image, label, settings_):
    """What preparation does with one case."""
    where = place([image], "ct", settings_)
    classes = preprocess_label(label, where, TABLE, 3)
    frame = labelled_frame(classes, where.middle, settings_, settings_.modalities["ct"])
    return preprocess([image], "ct", settings_, frame, where), cut(classes, frame)


def scan(shape, spacing, axes, seed):
    """A body in air with labels away from its middle."""
    image, _ = body(shape, seed)
    rng = np.random.default_rng(seed)
    label = np.zeros(shape, np.uint8)
    for value in (3, 7):
        low = [int(rng.integers(1, n - 3)) for n in shape]
        label[tuple(slice(a, a + 2) for a in low)] = value
    matrix = straight(spacing, axes)
    matrix[:3, 3] = rng.uniform(-90, 90, 3).round(1)
    return Volume(image, matrix), Volume(label, matrix)


def millimetres(volume):
    """voxel -> its place along S, P, L in mm, one loop at a time."""
    found = {}
    for index in product(*map(range, volume.array.shape)):
        place_mm = volume.affine @ np.array([*index, 1.0])
        found[index] = {x: sign * place_mm[axis] for x, (axis, sign) in WORLD.items()}
    return found


def oracle(image, label, letters, plane, centre, labelled_only, spacing):
    """The crop as a plain loop in mm: {(d, h, w): (intensity, class)} from its first voxel on."""
    places = millimetres(image)
    held = [places[i] for i in places if label.array[i]]
    ends = {x: (min(p[x] for p in places.values()), max(p[x] for p in places.values()))
            for x in letters}  # fmt: skip
    first = {}
    for x, size, step in zip(letters[1:], plane, spacing[1:], strict=True):
        about = sum(p[x] for p in held) / len(held) if centre == "labels" else sum(ends[x]) / 2
        # The crop starts at the voxel that brings its middle nearest (a tie: the upper one).
        starts = [ends[x][0] + step * k for k in range(-3 * size, 3 * size + 60)]
        off = [abs(start + step * (size - 1) / 2 - about) for start in starts]
        first[x] = max(s for s, o in zip(starts, off, strict=True) if o < min(off) + 1e-6)
    slices_mm = [p[letters[0]] for p in (held if labelled_only else places.values())]
    first[letters[0]] = min(slices_mm)
    found = {}
    for index, place_mm in places.items():
        at = tuple(round((place_mm[x] - first[x]) / mm)
                   for x, mm in zip(letters, spacing, strict=True))  # fmt: skip
        found[at] = (image.array[index], TABLE[int(label.array[index])])
    depth = round((max(slices_mm) - min(slices_mm)) / spacing[0]) + 1
    return found, (depth, *plane)


@settings(deadline=None, max_examples=25)
@given(
    shape=st.tuples(*[st.integers(6, 11)] * 3),
    axes=st.sampled_from(AXES),
    slice_axis=st.sampled_from("SPL"),
    plane=st.tuples(st.integers(3, 16), st.integers(3, 16)),
    how=st.sampled_from([HEART, ORGANS, {"plane_centre": "labels"}, {}]),
    seed=st.integers(0, 99),
)
def test_crop_against_a_plain_loop_in_millimetres(shape, axes, slice_axis, plane, how, seed):
    by_letter = {"S": 2.0, "P": 1.5, "L": 1.0}
    spacing = [by_letter[{"R": "L", "A": "P", "I": "S"}.get(x, x)] for x in axes]
    image, label = scan(shape, spacing, axes, seed)
    letters = [slice_axis, *(x for x in "SPL" if x != slice_axis)]
    target = tuple(by_letter[x] for x in letters)
    settings_ = framed(plane, how, spacing=target, slice_axis=slice_axis)
    try:
        found, classes = prepared(image, label, settings_)
    except DataError:
        assert not how.get("plane_centre")  # the middle of the file may hold no content
        return
    voxels, size = oracle(image, label, letters, plane,
                          how.get("plane_centre"), "slices" in how, target)  # fmt: skip
    if "slices" in how:
        assert classes.shape == found.array.shape[1:] == size
    else:  # the constant border is taken away along the slices
        assert classes.shape[1:] == plane and classes.shape[0] <= size[0]
    shift = 0 if "slices" in how else found.box[0][0]
    for d, h, w in product(*map(range, classes.shape)):
        value, cls = voxels.get((d + shift, h, w), (None, 0))
        assert classes[d, h, w] == cls
        if value is not None and value > -1000:
            assert found.array[0, d, h, w] == pytest.approx(value, abs=1e-3)
        else:  # air and padding alike: the smallest intensity of the cut
            assert found.array[0, d, h, w] == found.array[0].min()


def test_resampled_crop_stays_on_the_mean_of_the_labels():
    image, label = scan((24, 30, 20), (1.3, 0.9, 2.2), "RAS", 4)
    settings_ = framed((9, 11), HEART, spacing=(1.0, 1.0, 1.0), slice_axis="P")
    found, classes = prepared(image, label, settings_)
    held = [p for i, p in millimetres(label).items() if label.array[i]]
    corner = found.orientation.affine(image.affine, image.array.shape)
    middle = [(a + b) / 2 - 0.5 for a, b in found.frame]
    native = [
        start + (m + 0.5) * (stop - start) / n - 0.5
        for m, n, (start, stop) in zip(middle, found.grid, found.box, strict=True)
    ]
    there = corner @ np.array([*native, 1.0])
    for x in "SL":
        axis, sign = WORLD[x]
        mean_mm = float(np.mean([p[x] for p in held]))
        assert abs(sign * there[axis] - mean_mm) < 0.5 + 0.3  # half a voxel, and the label's edges
    assert classes[0].any() and classes[-1].any()


@settings(deadline=None, max_examples=40)
@given(
    shape=st.tuples(*[st.integers(6, 12)] * 3),
    axes=st.sampled_from(AXES),
    slice_axis=st.sampled_from("SPL"),
    plane=st.tuples(st.integers(2, 15), st.integers(2, 15)),
    seed=st.integers(0, 99),
)
def test_a_crop_goes_back_to_the_files_voxels(shape, axes, slice_axis, plane, seed):
    image, label = scan(shape, (1.0, 1.0, 1.0), axes, seed)
    settings_ = framed(plane, HEART, spacing=(1.0, 1.0, 1.0), slice_axis=slice_axis)
    found, classes = prepared(image, label, settings_)
    native = restore_prepared(classes, found, 3)
    truth = np.vectorize(TABLE.get)(label.array)
    # Every labelled voxel that the crop holds is back at its place, and no other voxel is.
    assert native.shape == truth.shape
    assert ((native == truth) | (native == 0)).all()
    assert (native > 0).sum() == (classes > 0).sum()
    inside = restore_prepared(np.ones_like(classes), found, 3)
    np.testing.assert_array_equal(native, truth * inside)


@given(
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    starts=st.tuples(*[st.integers(-4, 5)] * 3),
    sizes=st.tuples(*[st.integers(1, 9)] * 3),
)
def test_cut_and_put_back(shape, starts, sizes):
    array = np.arange(1, 1 + np.prod(shape)).reshape(shape)
    frame = tuple((a, a + n) for a, n in zip(starts, sizes, strict=True))
    expected = {
        i: int(array[i])
        for i in np.ndindex(shape)
        if all(a <= x < b for x, (a, b) in zip(i, frame, strict=True))
    }
    if not expected:
        with pytest.raises(DataError, match="in the crop"):
            cut(array, frame, -1.0)
        return
    found = cut(array, frame, -1.0)
    assert found.shape == sizes and (found == -1).sum() == found.size - len(expected)
    back = put_back(found, frame, shape)
    assert {i: int(back[i]) for i in np.ndindex(shape) if back[i]} == expected


def test_percentiles_and_moments_are_those_of_the_crop():
    image, label = scan((20, 22, 18), (1.0, 1.0, 1.0), "LPS", 1)
    settings_ = framed((8, 8), HEART, raw=False, spacing=(1.0, 1.0, 1.0), slice_axis="P")
    recipe = settings_.modalities["ct"].model_copy(
        update={"clip": (Clip(kind="percentile", low=0, high=98),)}
    )
    settings_ = settings_.model_copy(update={"modalities": {"ct": recipe}})
    found, _ = prepared(image, label, settings_)
    raw, _ = prepared(image, label, framed((8, 8), HEART, spacing=(1.0, 1.0, 1.0), slice_axis="P"))
    span = [
        slice(max(0, -a), min(b, n) - a) for (a, b), n in zip(found.frame, found.grid, strict=True)
    ]
    kept = raw.array[0][tuple(span)].astype(np.float64)
    clipped = kept.clip(None, np.percentile(kept, 98))
    expected = (clipped - clipped.mean()) / clipped.std()
    np.testing.assert_allclose(found.array[0][tuple(span)], expected, atol=1e-4)
    # What lies outside the crop has no say.
    other = image.array.copy()
    place_ = restore_prepared(np.ones(found.array.shape[1:], np.uint8), found, 3) > 0
    other[~place_ & (other > -1000)] = 30000
    again, _ = prepared(replace(image, array=other), label, settings_)
    np.testing.assert_array_equal(again.array, found.array)


@pytest.mark.parametrize("plane", [(8, 30), (30, 30), (6, 6)])
def test_prediction_scales_the_whole_scan_as_training_scales_the_crop(plane):
    image, label = scan((20, 22, 18), (1.0, 1.0, 1.0), "RAS", 2)
    settings_ = framed(plane, {}, raw=False, spacing=(1.0, 1.0, 1.0))
    whole = preprocess([image], "ct", settings_)
    assert whole.frame is None and whole.array.shape[1:] == whole.grid
    crop, _ = prepared(image, label, settings_)
    for fill in {float(crop.array.min())}:
        expected = cut(whole.array[0], crop.frame, fill)
    np.testing.assert_array_equal(crop.array[0], expected)
    # Where the crop depends on the label, the scan is scaled as if there were no crop.
    heart = framed(plane, HEART, raw=False, spacing=(1.0, 1.0, 1.0))
    bare = framed(None, {}, raw=False, spacing=(1.0, 1.0, 1.0))
    np.testing.assert_array_equal(
        preprocess([image], "ct", heart).array, preprocess([image], "ct", bare).array
    )


def test_frame_without_label_is_about_the_middle_of_the_file():
    """Not of its content: what is cut must not depend on where the air ends."""
    image, _ = scan((20, 20, 10), (1.0, 1.0, 3.0), "LPS", 0)
    off = image.array.copy()
    off[:7] = -1000  # the body now fills the left part only
    settings_ = framed((10, 10), {})
    for array in (image.array, off):
        where = place([replace(image, array=array)], "ct", settings_)
        frame = frame_without_label(where.grid, where.middle, settings_, settings_.modalities["ct"])
        native = [a + b[0] for a, b in zip((frame[1][0], frame[2][0]), where.box[1:], strict=True)]
        assert native == [5, 5]


# --- the cache


def test_prepare_cuts_labelled_cases_only(tmp_path):
    data = {"ct": open_dataset("ct", write_set(tmp_path / "raw", [(16, 16, 10)]))}
    settings_ = framed((12, 12), HEART)
    (case,) = prepare(data, settings_, tmp_path / "out").cases["ct"]
    label = case.label()
    assert case.shape == label.shape == case.image().shape[1:] and case.shape[1:] == (12, 12)
    assert case.frame is not None and case.grid == (8, 14, 14)
    assert {z for found in case.slices.values() for z in found} >= {0, case.shape[0] - 1}
    bare = replace(data["ct"], cases=tuple(replace(c, label=None) for c in data["ct"].cases))
    (case,) = prepare({"ct": bare}, settings_, tmp_path / "bare").cases["ct"]
    assert case.frame is None and case.shape == case.grid == (8, 14, 14)


def test_a_label_without_a_class_is_refused_with_the_case(tmp_path):
    root = write_set(tmp_path / "raw", [(12, 12, 6)])
    data = open_dataset("ct", root)
    empty = replace(data, labels={"background": 0, "gall bladder": 3, "stomach": 7})
    with pytest.raises(DataError, match=r"ct/a0: the label holds none of the classes liver"):
        prepare({"ct": empty}, framed((8, 8), ORGANS), tmp_path / "out")
    prepare({"ct": empty}, framed((8, 8), {}), tmp_path / "out")


def test_calls_on_other_cases_share_an_index(tmp_path):
    data = open_dataset("ct", write_set(tmp_path / "raw", [(10, 12, 6)] * 4))
    out = tmp_path / "out"

    def some(*numbers):
        return {"ct": replace(data, cases=tuple(data.cases[n] for n in numbers))}

    prepare(some(0, 1), plan(), out)
    prepare(some(1, 3), plan(), out)
    assert [case.id for case in open_prepared(out).cases["ct"]] == ["a0", "a1", "a3"]
    (out / "ct/a0.npy").unlink()
    prepare(some(2), plan(), out)
    assert [case.id for case in open_prepared(out).cases["ct"]] == ["a1", "a2", "a3"]
    other = plan(spacing=(3.0, 2.0, 2.0))
    prepare(some(3), other, out)
    assert [case.id for case in open_prepared(out).cases["ct"]] == ["a3"]


def test_fingerprint_changes_with_the_frame_and_not_without():
    # As it was before there were frames: caches made then stay valid.
    assert plan().fingerprint("ct") == "6bcede901b377b05"
    assert plan(spacing=(1.0, 1.0, 1.0), slice_axis="P").fingerprint("ct") == "51a937af87e56e8d"
    made = [framed(p, how) for p, how in [(None, {}), ((8, 8), {}), ((8, 9), {}), ((8, 8), ORGANS),
                                          ((8, 8), HEART), (None, ORGANS)]]  # fmt: skip
    assert len({one.fingerprint("ct") for one in made}) == len(made)


# --- the plan


def planned(tmp_path, data, modalities):
    from unpaired.config import Config
    from unpaired.data.make_plan import make_plan

    root = tmp_path / "raw"
    if not root.exists():
        write_set(root, [(12, 12, 6)])
    settings_ = Config.model_validate({"data": data, "modalities": modalities})
    datasets = {"ct": open_dataset("ct", root)}
    return make_plan(datasets, settings_.data, settings_.modalities, (4, 4))


def test_the_plan_says_where_the_crop_comes_from(tmp_path):
    heart = planned(tmp_path, {"plane": [8, 8]}, {"ct": HEART})
    said = heart.reasons["frame.ct"]
    assert "comes from the labels" in said and "published" in said and "whole scan" in said
    assert "mean position" in said and "first to the last" in said
    assert heart.patch == (8, 8) and "8 x 8" in heart.reasons["plane"]
    by_image = planned(tmp_path, {"plane": [8, 8]}, {})
    assert "frame.ct" not in by_image.reasons and "plane" in by_image.reasons
    assert not {"plane", "frame.ct"} & set(planned(tmp_path, {}, {}).reasons)
    with pytest.raises(UsageError, match=r"set data\.plane"):
        planned(tmp_path, {}, {"ct": HEART})


def test_no_clip_leaves_every_intensity(tmp_path):
    made = planned(tmp_path, {}, {"ct": {"clip": "none"}})
    assert "not clipped" in made.reasons["modalities.ct"]
    image, _ = body((12, 12, 6))
    image[4, 4, 3] = 30000
    found = preprocess([Volume(image, straight((1.0, 1.0, 3.0)))], "ct", made).array[0]
    kept = image[1:-1, 1:-1, 1:-1].astype(np.float64)
    expected = ((kept - kept.mean()) / kept.std()).transpose(2, 1, 0)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_classes_are_chosen_by_name(tmp_path):
    data = {"ct": open_dataset("ct", write_set(tmp_path / "raw", [(12, 12, 6)]))}
    assert class_names(data) == ("background", "liver", "left kidney")
    assert class_names(data, ["Left_Kidney"]) == ("background", "left kidney")
    assert class_names(data, ["left kidney", "liver"])[1:] == ("left kidney", "liver")
    with pytest.raises(DataError, match=r"names 'lever'.*Did you mean 'liver'"):
        class_names(data, ["lever"])
    with pytest.raises(DataError, match="no organ"):
        class_names(data, ["background"])
    made = planned(tmp_path, {"classes": ["left kidney"]}, {})
    assert made.classes == ("background", "left kidney")
