"""The road from file to cache and back: geometry, content, restart, faults."""

import json
import os
import stat
from contextlib import suppress
from itertools import permutations, product
from pathlib import Path

import nibabel as nib
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nifti_files import save
from small_sets import body, plan, straight, write_set
from unpaired.data import prepare as module
from unpaired.data.cache import class_slices, open_prepared, quantise
from unpaired.data.content import content_box
from unpaired.data.prepare import prepare
from unpaired.data.preprocess import (
    check_label_grid,
    preprocess,
    preprocess_label,
    restore_labels,
    slices,
    to_classes,
    zscore_,
)
from unpaired.datasets.sources import open_dataset
from unpaired.errors import DataError, ResourceError
from unpaired.files import read_json, write_json
from unpaired.io.nifti import read_volume
from unpaired.io.resample import resample_label
from unpaired.io.volume import Volume
from unpaired.leftovers import _machine

ENDS = {"L": "LR", "P": "PA", "S": "SI"}
ORIENTATIONS = [
    "".join(code)
    for order in permutations("LPS")
    for code in product(*(ENDS[letter] for letter in order))
]
TABLE = {0: 0, 3: 1, 7: 2}


def volume(array, spacing=(1.0, 1.0, 3.0), axes="LPS"):
    return Volume(array, straight(spacing, axes))


def everything(folder: Path):
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


# --- preprocess


def test_all_48_orientations_prepare_alike():
    image, _ = body((14, 12, 9))
    first = volume(image)
    expected = preprocess([first], "ct", plan(spacing=(2.0, 1.5, 1.5)))
    assert len(set(ORIENTATIONS)) == 48
    source = nib.Nifti1Image(image, first.affine)
    for axes in ORIENTATIONS:
        ornt = nib.orientations.ornt_transform(
            nib.io_orientation(first.affine), nib.orientations.axcodes2ornt(axes)
        )
        turned = source.as_reoriented(ornt)
        other = Volume(np.asarray(turned.dataobj), turned.affine)
        found = preprocess([other], "ct", plan(spacing=(2.0, 1.5, 1.5)))
        np.testing.assert_array_equal(found.array, expected.array, err_msg=axes)
        assert found.spacing_mm == pytest.approx(expected.spacing_mm)


def test_canonical_axes_are_superior_posterior_left():
    image = np.full((8, 8, 8), -1000, np.int16)
    image[1:7, 1:7, 1:7] = np.arange(216).reshape(6, 6, 6)  # R, A, S in the file
    found = preprocess([volume(image, (1.0, 1.0, 1.0), "RAS")], "ct", plan(spacing=(1.0, 1.0, 1.0)))
    expected = image[1:7, 1:7, 1:7].transpose(2, 1, 0)[:, ::-1, ::-1]
    order = np.argsort(found.array[0].ravel())
    np.testing.assert_array_equal(order, np.argsort(expected.ravel()))


@settings(deadline=None, max_examples=30)
@given(
    axes=st.sampled_from(ORIENTATIONS),
    shape=st.tuples(*[st.integers(3, 12)] * 3),
    spacing=st.tuples(*[st.sampled_from([0.5, 1.0, 2.7, 5.0])] * 3),
    slice_axis=st.sampled_from("SPL"),
)
def test_labels_of_the_box_return_to_their_voxels(axes, shape, spacing, slice_axis):
    image, label = body(shape, 3)
    settings_ = plan(spacing=(3.0, 1.0, 1.0), slice_axis=slice_axis)
    found = preprocess([volume(image, spacing, axes)], "ct", settings_)
    inside = found.orientation.apply(label)[slices(found.box)]
    assert inside.shape == found.box_shape
    np.testing.assert_array_equal(restore_labels(inside, found), label)


def test_label_survives_the_way_to_a_finer_grid_and_back():
    image, label = body((20, 18, 12))
    found = preprocess([volume(image)], "ct", plan(spacing=(1.0, 0.5, 0.5)))
    fine = preprocess_label(volume(label), found, TABLE, 3)
    assert fine.shape == found.array.shape[1:] == (30, 32, 36)
    back = restore_labels(resample_label(fine, found.box_shape, 3), found)
    np.testing.assert_array_equal(back, to_classes(label, TABLE, "label"))


def test_resampling_keeps_millimetre_positions():
    # A ramp in mm stays that ramp: only the voxels at the ends lie outside the input's centres.
    x = np.arange(40, dtype=np.float32)
    image = np.broadcast_to(x, (6, 7, 40)).copy()
    wide = plan(spacing=(0.7, 1.0, 1.0)).model_copy(
        update={
            "modalities": {
                "ct": plan()
                .modalities["ct"]
                .model_copy(update={"zscore": "dataset", "mean": (0.0,), "std": (1.0,)})
            }
        }
    )
    found = preprocess([volume(image, (1.0, 1.0, 2.0), "LPS")], "ct", wide)
    (start, stop), n = found.box[0], found.array.shape[1]
    assert found.spacing_mm[0] == pytest.approx((stop - start) * 2.0 / n)
    expected = start + (np.arange(n) + 0.5) * (stop - start) / n - 0.5
    np.testing.assert_allclose(found.array[0, 20:-20, 2, 2], expected[20:-20], atol=1e-3)


def test_clip_then_unit_deviation():
    image, _ = body((16, 16, 8))
    image[5, 5, 5] = 20000
    found = preprocess([volume(image)], "ct", plan()).array[0]
    kept = image[1:-1, 1:-1, 1:-1].clip(-200, 300).astype(np.float64)  # all but the air
    expected = ((kept - kept.mean()) / kept.std()).transpose(2, 1, 0)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_percentile_clip_is_per_volume():
    image, _ = body((16, 16, 8))
    recipe = (
        plan()
        .modalities["ct"]
        .model_copy(
            update={
                "clip": (
                    plan()
                    .modalities["ct"]
                    .clip[0]
                    .model_copy(update={"kind": "percentile", "low": 10.0, "high": 90.0}),
                )
            }
        )
    )
    percent = plan().model_copy(update={"modalities": {"ct": recipe}})
    once = preprocess([volume(image)], "ct", percent).array
    # MR has no unit: another gain and offset of the scanner change nothing.
    other = preprocess([volume(image * 3.0 + 70)], "ct", percent).array
    np.testing.assert_allclose(once, other, atol=1e-4)
    share = np.mean(once == once.min())
    assert 0.08 < share < 0.12


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000))
def test_content_box_against_a_plain_loop(seed):
    rng = np.random.default_rng(seed)
    array = np.full(rng.integers(2, 7, 3), 5)
    for _ in range(rng.integers(0, 3)):
        array[tuple(rng.integers(0, n) for n in array.shape)] = rng.integers(0, 4)
    if seed % 2:
        array[0, 0, 0] = 9  # noise in one corner hides no border
    where = [index for index in np.ndindex(array.shape) if array[index] != corner_value(array)]
    expected = tuple(
        (min(i[a] for i in where), max(i[a] for i in where) + 1) if where else (0, array.shape[a])
        for a in range(3)
    )
    assert content_box([array]) == expected


def corner_value(array):
    corners = [array[i, j, k] for i in (0, -1) for j in (0, -1) for k in (0, -1)]
    return min(set(corners), key=lambda value: (-corners.count(value), value))


def test_no_constant_border_no_crop_and_channels_share_the_box():
    rng = np.random.default_rng(0)
    full = rng.permutation(6 * 7 * 8).reshape(6, 7, 8)
    assert content_box([full]) == ((0, 6), (0, 7), (0, 8))
    empty = np.zeros((6, 7, 8))
    a, b = empty.copy(), empty.copy()
    a[1, 2, 3], b[4, 2, 6] = 1, 1
    assert content_box([a, b, empty]) == ((1, 5), (2, 3), (3, 7))


def test_constant_volume_becomes_zero():
    for value in (0, 7.25, -1024.1):
        array = np.full((4, 4, 4), value, np.float32)
        found = preprocess([volume(array)], "ct", plan())
        assert not found.array.any() and np.isfinite(found.array).all()
    shifted = np.full((2, 2), 3, np.float32)
    zscore_(shifted, (1.0, 4.0))
    assert (shifted == 0.5).all()


def test_input_volumes_are_not_changed():
    image = body((10, 10, 10))[0].astype(np.float32)
    kept = image.copy()
    preprocess([volume(image, (1.0, 1.0, 1.0))], "ct", plan(spacing=(1.0, 1.0, 1.0)))
    np.testing.assert_array_equal(image, kept)


def test_channels_off_their_grid_and_unknown_modalities_are_refused():
    image, _ = body((10, 10, 6))
    two = plan(channels=("CT", "PET"))
    moved = Volume(image, straight((1, 1, 3)) + np.eye(4, k=3) * 2.5, path=Path("second.nii.gz"))
    with pytest.raises(DataError, match=r"second.nii.gz is off by up to 2.5 mm"):
        preprocess([volume(image), moved], "ct", two)
    with pytest.raises(DataError, match="10 x 10 x 5 voxels instead of 10 x 10 x 6"):
        preprocess([volume(image), volume(image[:, :, 1:])], "ct", two)
    with pytest.raises(DataError, match=r"needs 2 channel\(s\) \(CT, PET\), got 1"):
        preprocess([volume(image)], "ct", two)
    with pytest.raises(DataError, match="'us'; it knows ct"):
        preprocess([volume(image)], "us", plan())


def test_unknown_label_values_are_named():
    label = np.array([0, 3, 9, 12], np.int32)
    with pytest.raises(DataError, match=r"\[9, 12\]"):
        to_classes(label, TABLE, "a.nii.gz")
    large = np.array([[0, 3], [100_000, 3]])
    np.testing.assert_array_equal(to_classes(large, {**TABLE, 100_000: 2}, ""), [[0, 1], [2, 1]])


# --- the cache


def test_cache_holds_what_preprocess_gives(tmp_path):
    names = ("CT", "PET")
    root = write_set(tmp_path / "raw", [(14, 16, 7), (20, 11, 8)], axes="ASR", channels=names)
    data = open_dataset("ct", root)
    settings_ = plan(spacing=(2.5, 1.2, 1.2), channels=names)
    found = prepare({"ct": data}, settings_, tmp_path / "out")
    for case, source in zip(found.cases["ct"], data.cases, strict=True):
        expected = preprocess([read_volume(p) for p in source.images], "ct", settings_)
        stored = case.image()
        assert stored.dtype == np.int16 and isinstance(stored, np.memmap)
        assert case.spacing_mm == pytest.approx(expected.spacing_mm)
        for k in range(2):
            error = np.abs(case.intensities(stored[k], k) - expected.array[k]).max()
            assert error <= case.scale[k] * 0.51
            assert case.minimum[k] == pytest.approx(expected.array[k].min(), abs=1e-5)
        label = preprocess_label(read_volume(source.label), expected, TABLE, 3)
        np.testing.assert_array_equal(case.label(), label)
        for c in (1, 2):
            np.testing.assert_array_equal(case.slices[c], np.flatnonzero((label == c).any((1, 2))))
    again = open_prepared(tmp_path / "out")
    assert again.plan == settings_
    assert [case.id for case in again.cases["ct"]] == ["a0", "a1"]


def test_record_names_its_sources(tmp_path):
    root = write_set(tmp_path / "raw", [(10, 10, 6)])
    prepare({"ct": open_dataset("ct", root)}, plan(), tmp_path / "out")
    record = json.loads((tmp_path / "out/ct/a0.json").read_text())
    assert [Path(s["path"]).name for s in record["sources"]] == ["a0_0000.nii.gz", "a0.nii.gz"]
    assert record["sources"][0]["size"] == (root / "imagesTr/a0_0000.nii.gz").stat().st_size
    assert record["plan"] == plan().fingerprint("ct") and "torch" in record["versions"]


def test_quantised_within_half_a_step_and_constant_exact():
    rng = np.random.default_rng(0)
    image = np.stack([rng.normal(0, 40, (3, 9, 9)), np.full((3, 9, 9), 2.5)]).astype(np.float32)
    stored, scale, shift = quantise(image)
    back = stored[0] * scale[0] + shift[0]
    assert np.abs(back - image[0]).max() <= scale[0] * 0.501
    assert (stored[1] * scale[1] + shift[1] == 2.5).all()


def test_class_slices_against_a_plain_loop():
    label = np.random.default_rng(1).choice([0, 0, 0, 1, 4], (6, 2, 2)).astype(np.uint8)
    assert class_slices(label) == {
        c: [z for z in range(6) if (label[z] == c).any()] for c in (1, 4)
    }


def test_case_without_a_label(tmp_path):
    root = write_set(tmp_path / "raw", [(10, 10, 6)] * 2)
    (root / "imagesTs").mkdir()
    (root / "imagesTr/a1_0000.nii.gz").rename(root / "imagesTs/b_0000.nii.gz")
    (root / "labelsTr/a1.nii.gz").unlink()
    found = prepare({"ct": open_dataset("ct", root)}, plan(), tmp_path / "out")
    bare = found.cases["ct"][1]
    assert bare.id == "b" and bare.label() is None and bare.slices == {}


# --- restart


def test_second_run_touches_nothing_but_what_changed(tmp_path):
    root = write_set(tmp_path / "raw", [(10, 12, 6)] * 3)
    out = tmp_path / "out"
    prepare({"ct": open_dataset("ct", root)}, plan(), out)
    before = everything(out / "ct")
    os.utime(root / "imagesTr/a0_0000.nii.gz", (1, 1))  # touched, the same content
    prepare({"ct": open_dataset("ct", root)}, plan(), out)
    assert everything(out / "ct") == before
    image, _ = body((10, 12, 6), 77)
    save(root / "imagesTr/a1_0000.nii.gz", image, straight((1.0, 1.0, 3.0)))
    prepare({"ct": open_dataset("ct", root)}, plan(), out)
    after = everything(out / "ct")
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"a1.npy", "a1.label.npy", "a1.json"}
    assert after["a1.npy"][1] != before["a1.npy"][1]


@pytest.mark.parametrize("damage", ["record", "truncated", "label gone", "other plan"])
def test_damaged_or_outdated_cases_are_redone(tmp_path, damage):
    root = write_set(tmp_path / "raw", [(10, 12, 6)])
    out, settings_ = tmp_path / "out", plan()
    prepare({"ct": open_dataset("ct", root)}, settings_, out)
    good = (out / "ct/a0.npy").read_bytes()
    if damage == "record":
        (out / "ct/a0.json").write_text('{"id": "a0"}')
    elif damage == "truncated":
        (out / "ct/a0.npy").write_bytes(good[:-10])
    elif damage == "label gone":
        (out / "ct/a0.label.npy").unlink()
    else:
        settings_ = plan(spacing=(3.0, 2.0, 2.0))
        prepare({"ct": open_dataset("ct", root)}, settings_, out)
        assert (out / "ct/a0.npy").read_bytes() != good
        assert open_prepared(out).cases["ct"][0].image().shape[2:] == (5, 4)
        return
    with pytest.raises(DataError, match="prepare again"):
        open_prepared(out)
    found = prepare({"ct": open_dataset("ct", root)}, settings_, out)
    assert (out / "ct/a0.npy").read_bytes() == good
    assert found.cases["ct"][0].label() is not None


@pytest.mark.parametrize(
    ("index", "words"),
    [
        ({"ct": ["../a0"]}, "no safe file name"),
        ({"../ct": ["a0"]}, "no safe file name"),
        ({"ct": [3]}, "not an index"),
        (["ct"], "not an index"),
    ],
)
def test_an_index_that_points_outside_is_refused(tmp_path, index, words):
    out = tmp_path / "out"
    root = write_set(tmp_path / "raw", [(10, 10, 6)])
    prepare({"ct": open_dataset("ct", root)}, plan(), out)
    (out / "prepared.json").write_text(json.dumps(index))
    with pytest.raises(DataError, match=words):
        open_prepared(out)


def test_a_record_with_the_name_of_another_case_is_refused(tmp_path):
    out = tmp_path / "out"
    root = write_set(tmp_path / "raw", [(10, 10, 6)])
    prepare({"ct": open_dataset("ct", root)}, plan(), out)
    path = out / "ct/a0.json"
    write_json(path, {**read_json(path), "id": "../ct/a0"}, seal=True)
    with pytest.raises(DataError, match="another case"):
        open_prepared(out)


def interrupt_at(monkeypatch, when):
    """Ctrl-C just before the `when`-th file gets its final name."""
    calls = []
    real = os.fsync

    def interrupted(handle):
        if not stat.S_ISDIR(os.fstat(handle).st_mode):
            calls.append(handle)
        if len(calls) == when:
            raise KeyboardInterrupt
        real(handle)

    monkeypatch.setattr(os, "fsync", interrupted)


@pytest.mark.parametrize("when", [1, 2, 3])
def test_stopped_while_writing_leaves_nothing_that_counts(tmp_path, monkeypatch, when):
    """Ctrl-C at the `when`-th file of the case: image, label, record."""
    root = write_set(tmp_path / "raw", [(10, 12, 6)])
    data, out = {"ct": open_dataset("ct", root)}, tmp_path / "out"
    interrupt_at(monkeypatch, when)
    with pytest.raises(KeyboardInterrupt):
        prepare(data, plan(), out)
    monkeypatch.undo()
    left = {path.name for path in (out / "ct").iterdir()}
    assert left == {1: set(), 2: {"a0.npy"}, 3: {"a0.npy", "a0.label.npy"}}[when]
    with pytest.raises(DataError, match="no finished preparation"):
        open_prepared(out)
    writer = f"{2**31:x}-1-{_machine()}-0123ab"  # such a process there is not
    for end in (f"{writer}.npy", f"{writer}.label.npy", f"{writer}.json", "working"):
        (out / "ct" / f".a0.{end}").write_bytes(b"half")  # what kill -9 would leave
    prepare(data, plan(), out)
    assert {p.name for p in (out / "ct").iterdir()} == {"a0.npy", "a0.label.npy", "a0.json"}


def test_stopped_while_redoing_leaves_no_old_record_beside_the_new_image(tmp_path, monkeypatch):
    root = write_set(tmp_path / "raw", [(10, 12, 6)])
    data, out = {"ct": open_dataset("ct", root)}, tmp_path / "out"
    prepare(data, plan(), out)
    save(root / "imagesTr/a0_0000.nii.gz", body((10, 12, 6), 9)[0], straight((1.0, 1.0, 3.0)))
    interrupt_at(monkeypatch, 2)  # the new image lies there, the label does not
    with pytest.raises(KeyboardInterrupt):
        prepare(data, plan(), out)
    monkeypatch.undo()
    with pytest.raises(DataError, match=r"a0\.json does not exist"):
        open_prepared(out)


def test_another_size_counts_as_changed_whatever_the_clock_says(tmp_path):
    root = write_set(tmp_path / "raw", [(10, 12, 6)])
    data, out = {"ct": open_dataset("ct", root)}, tmp_path / "out"
    before = prepare(data, plan(), out).cases["ct"][0].record
    path = root / "imagesTr/a0_0000.nii.gz"
    clock = path.stat().st_mtime_ns
    save(path, body((10, 12, 6), 9)[0] // 100, straight((1.0, 1.0, 3.0)))
    assert path.stat().st_size != before["sources"][0]["size"]
    os.utime(path, ns=(clock, clock))
    after = prepare(data, plan(), out).cases["ct"][0].record
    assert after["sources"][0]["sha256"] != before["sources"][0]["sha256"]


# --- faults


def test_bad_cases_are_all_listed_and_the_others_done(tmp_path):
    root = write_set(tmp_path / "raw", [(10, 10, 6)] * 5)
    _, label = body((10, 10, 6))
    shifted = straight((1.0, 1.0, 3.0))
    shifted[2, 3] += 1.5
    save(root / "labelsTr/a1.nii.gz", label, shifted)
    save(root / "labelsTr/a2.nii.gz", label + 50, straight((1.0, 1.0, 3.0)))
    (root / "imagesTr/a3_0000.nii.gz").write_bytes(b"")
    seen = []
    with pytest.raises(DataError) as caught:
        prepare(
            {"ct": open_dataset("ct", root)},
            plan(),
            tmp_path / "out",
            progress=lambda done, total, name: seen.append((done, total, name)),
        )
    text = str(caught.value)
    assert "3 of 5 cases" in text and "ct/a3" in text
    assert "ct/a1" in text and "off by up to 1.5 mm" in text
    assert "ct/a2" in text and "[50, 53, 57]" in text
    assert seen == [(i + 1, 5, f"ct/a{i}") for i in range(5)]
    assert {p.name for p in (tmp_path / "out/ct").glob("*.json")} == {"a0.json", "a4.json"}


def test_label_grid():
    image, label = body((10, 10, 6))
    check_label_grid(volume(image), volume(label))
    with pytest.raises(DataError, match="the label"):
        check_label_grid(volume(image), volume(label[1:]))


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (MemoryError(), ResourceError, "fewer workers"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), ResourceError, "a0"),
        (ZeroDivisionError("odd"), DataError, "ZeroDivisionError: odd"),
        (ResourceError("disk full"), ResourceError, "disk full"),
        (OSError(28, "No space left on device"), ResourceError, "No space left"),
    ],
)
def test_causes_are_told_apart(tmp_path, monkeypatch, error, kind, words):
    def fail(*_):
        raise error

    monkeypatch.setattr(module, "preprocess", fail)
    root = write_set(tmp_path / "raw", [(10, 10, 6)])
    with pytest.raises(kind, match=words) as caught:
        prepare({"ct": open_dataset("ct", root)}, plan(), tmp_path / "out")
    assert "ct/a0" in str(caught.value)


def test_folder_that_cannot_be_written(tmp_path):
    root = write_set(tmp_path / "raw", [(10, 10, 6)])
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ResourceError, match="out"):
        prepare({"ct": open_dataset("ct", root)}, plan(), tmp_path / "out")


@pytest.mark.slow
def test_two_processes_write_what_one_does_and_a_killed_one_is_told(tmp_path):
    root = write_set(tmp_path / "raw", [(12, 12, 6)] * 4)
    data = {"ct": open_dataset("ct", root)}
    prepare(data, plan(), tmp_path / "one")
    prepare(data, plan(), tmp_path / "two", workers=2)
    for name in ("a0.npy", "a3.label.npy"):
        one, two = (tmp_path / folder / "ct" / name for folder in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()

    def kill(done, total, name):
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):  # it may have ended since
                if "LokyProcess" in " ".join(child.cmdline()):
                    child.kill()

    many = {"ct": open_dataset("ct", write_set(tmp_path / "many", [(12, 12, 6)] * 40))}
    with pytest.raises(ResourceError, match="fewer workers than 2"):
        prepare(many, plan(), tmp_path / "three", workers=2, progress=kill)
    found = prepare(many, plan(), tmp_path / "three")  # the same call, in this process, goes on
    assert len(found.cases["ct"]) == 40
    assert not list((tmp_path / "three/ct").glob(".*"))


def test_folders_of_another_plan_or_content_are_refused(tmp_path):
    root = write_set(tmp_path / "raw", [(10, 10, 6)])
    out = tmp_path / "out"
    prepare({"ct": open_dataset("ct", root)}, plan(), out)
    plan(spacing=(9.0, 9.0, 9.0)).write(out / "plan.json")
    with pytest.raises(DataError, match="another plan"):
        open_prepared(out)
    plan(modalities=("mr",)).write(out / "plan.json")
    with pytest.raises(DataError, match="'ct'"):
        open_prepared(out)
    plan().write(out / "plan.json")
    stored = (out / "ct/a0.npy").read_bytes()
    (out / "ct/a0.npy").write_bytes(b"x" * len(stored))
    with pytest.raises(DataError, match=r"a0.npy.*[Pp]repare again"):
        open_prepared(out).cases["ct"][0].image()


def test_real_pair(shared, tmp_path):
    root = shared("data/torso")
    names = ("background", "liver", "right kidney", "left kidney", "spleen")
    settings_ = plan(spacing=(3.0, 3.0, 3.0), modalities=("ct", "mr")).model_copy(
        update={"classes": names}
    )
    data = {m: open_dataset(m, root / m) for m in ("ct", "mr")}
    found = prepare(data, settings_, tmp_path)
    for m in ("ct", "mr"):
        case, source = found.cases[m][0], data[m].cases[0]
        label = np.asarray(case.label())
        # Both are stored differently (RAS, LPS); in canonical axes the liver lies right (index
        # grows to Left) of the spleen, the right kidney right of the left one.
        left = {c: np.argwhere(label == c)[:, 2].mean() for c in (1, 2, 3, 4)}
        assert left[1] < left[4] and left[2] < left[3]
        native = read_volume(source.label)
        image = preprocess([read_volume(source.images[0])], m, settings_)
        np.testing.assert_array_equal(restore_labels(label, image), native.array)
