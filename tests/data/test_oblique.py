"""Scans that lie oblique to the body keep the planes they were acquired in.

The control is always the same scans with the rotation taken out of their affines: there the file's
axes are the patient's, and nothing has to be decided.
"""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.affines import from_matvec

from nifti_files import dataset
from orientations import SIGNED, rotation, stored, turned
from small_sets import LABELS, body, straight
from unpaired.checks.check import examine_roots
from unpaired.config import DataConfig
from unpaired.data.augment import mirror_axes
from unpaired.data.make_plan import make_plan
from unpaired.data.measure import lattices
from unpaired.data.plan import Plan
from unpaired.data.preprocess import preprocess, restore_labels
from unpaired.datasets.planes import Lattice, common_planes, lattice_of, orient
from unpaired.datasets.sources import open_dataset
from unpaired.io.read import read_image
from unpaired.io.volume import Volume

SHAPE = (20, 18, 7)
# Turns about the patient's axes in degrees, drawn about the short axis of a heart.
HEART = [(38, -12, 41), (42, 8, 55), (30, 0, 33), (55, -5, 47), (47, 10, 60), (33, -15, 38)]


def affine(degrees, spacing=(1.0, 1.0, 6.0), axes="LPS"):
    """Axis-aligned axes of this spacing, turned."""
    return from_matvec(rotation(degrees) @ straight(spacing, axes)[:3, :3], (10.0, -20.0, 5.0))


def lattice(degrees, spacing=(1.0, 1.0, 6.0), axes="LPS", shape=SHAPE):
    return Lattice(affine(degrees, spacing, axes)[:3, :3], shape)


def write(root: Path, places) -> Path:
    """One case of `body` an affine, the same anatomy in the file's axes."""
    cases = {}
    for number, place in enumerate(places):
        image, label = body(SHAPE, number)
        cases[f"a{number}"] = ([image], label, place)
    return dataset(root, cases, labels=LABELS, channels=("MR",))


def planned(root: Path, **data) -> tuple[Plan, list[Volume]]:
    found = {"mr": open_dataset("mr", root)}
    plan = make_plan(found, DataConfig(**data), {}, (4, 4))
    return plan, [read_image(case.images[0]) for case in found["mr"].cases]


def test_oblique_scans_are_prepared_as_without_their_rotation(tmp_path):
    """Case by case the same voxels in the same order: no slice is cut across, no plane turned
    against the others."""
    plan, images = planned(write(tmp_path / "oblique", [affine(turn) for turn in HEART]))
    control, straight_images = planned(write(tmp_path / "straight", [affine((0, 0, 0))] * 6))
    assert plan.spacing_mm == control.spacing_mm == (6.0, 1.0, 1.0)
    assert sorted(plan.patch) == sorted(control.patch)
    assert plan.oblique is not None and control.oblique is None
    assert "acquired" in plan.reasons["slice_axis"]
    found = [preprocess([image], "mr", plan).array[0] for image in images]
    wanted = [preprocess([image], "mr", control).array[0] for image in straight_images]
    # One turn for all of them, transposed and mirrored or not: that it is one is what matters.
    turns = [turn for turn in SIGNED if np.array_equal(turned(wanted[0], *turn), found[0])]
    assert len(turns) == 1 and turns[0][0][0] == 0
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(one, turned(other, *turns[0]))


@pytest.mark.parametrize("dims", [2, 3])
def test_the_storage_of_an_oblique_scan_changes_nothing(tmp_path, dims):
    """48 ways to store each scan: the same plan, the same prepared image, the labels back."""
    degrees = [HEART[0], HEART[3], (80, 5, 35)]
    multiple = (4,) * dims
    scans = [lattice(turn) for turn in degrees]
    planes, _, _ = common_planes(scans, "S")
    roots = write(tmp_path / "set", [affine(turn) for turn in degrees])
    plan = make_plan({"mr": open_dataset("mr", roots)}, DataConfig(dims=dims), {}, multiple)
    assert plan.planes == planes
    array, _ = body(SHAPE)
    for turn in degrees:
        expected = preprocess([Volume(array, affine(turn))], "mr", plan)
        marks = np.arange(np.prod(expected.box_shape)).reshape(expected.box_shape)
        back = restore_labels(marks, expected)
        for order, flips in SIGNED:
            image, place = stored(array, affine(turn), order, flips)
            found = preprocess([Volume(image, place)], "mr", plan)
            np.testing.assert_array_equal(found.array, expected.array)
            again = restore_labels(marks, found)
            np.testing.assert_array_equal(again, stored(back, np.eye(4), order, flips)[0])
    for order, flips in SIGNED[::5]:
        other = [lattice_of(Volume(*stored(array, affine(turn), order, flips))) for turn in degrees]
        assert common_planes(other, "S")[0] == planes


def test_one_acquired_axis_has_one_spacing(tmp_path):
    """Gaps of 5 and 7 mm, midway between the patient's axes, are not mixed with the pixels."""
    plan, images = planned(
        write(tmp_path, [affine((45 + d, 0, 44 - d), (0.8, 0.8, gap)) for d, gap in
                         [(-9, 5.0), (-3, 5.0), (2, 6.0), (8, 7.0), (11, 7.0)]])
    )  # fmt: skip
    assert plan.spacing_mm == (6.0, 0.8, 0.8)
    for image in images:
        orientation = plan.orientation(image)
        assert orientation.axes[0] == 2
        assert preprocess([image], "mr", plan).array.shape[1] <= 9


AGREED = {
    "axial": ["LPS", "RAI", "PLS"], "coronal": ["LSP", "RIA", "SLA"],
    "sagittal": ["PSL", "AIR", "SPL"],
}  # fmt: skip


@pytest.mark.parametrize("kind", AGREED)
def test_scans_that_agree_lie_along_the_patients_axes(tmp_path, kind):
    """Tilted a little each: as if the axis had been configured."""
    places = [affine((4 * n, -6, 9 - n), axes=axes) for n, axes in enumerate(AGREED[kind])]
    root = write(tmp_path, places)
    plan, images = planned(root)
    letter = {"axial": "S", "coronal": "P", "sagittal": "L"}[kind]
    configured, _ = planned(root, slice_axis=letter)
    assert plan.slice_axis == letter and plan.oblique is None
    assert plan.fingerprint("mr") == configured.fingerprint("mr")
    assert (plan.spacing_mm, plan.axes) == (configured.spacing_mm, configured.axes)
    for image in images:
        one, other = (preprocess([image], "mr", p) for p in (plan, configured))
        np.testing.assert_array_equal(one.array, other.array)


def test_a_scan_to_predict_keeps_its_planes_unless_they_are_quite_others():
    """A network of axial slices, and scans whose slices are turned by so many degrees."""
    planes, axis, agree = common_planes([lattice((3 * n, 0, 0)) for n in range(5)], "S")
    assert agree and axis == "S"
    for degrees, keeps in [(0, True), (30, True), (52, True), (59, True), (61, False), (90, False)]:
        turn = orient(lattice((degrees, 0, 0)), axis, planes)
        assert (turn.axes[0] == 2) == keeps, degrees


@pytest.mark.parametrize("tilt", [-12, -3, 3, 12])
def test_one_coronal_scan_among_axial_ones_is_upright_at_any_tilt(tmp_path, tilt):
    scans = [lattice((n, 0, 1)) for n in range(9)] + [lattice((tilt, 2, tilt), axes="LSP")]
    planes, axis, agree = common_planes(scans, "S")
    assert not agree and axis == "S"
    turns = [planes.orientation(scan) for scan in scans]
    assert {turn.axes[0] for turn in turns} == {2}
    assert len(set(turns[:9])) == 1
    # Slices towards the back, rows towards the head, columns to the left.
    assert turns[9].axes == (2, 1, 0) and turns[9].flips == (False, False, False)


def test_coronal_and_sagittal_knees_in_one_set():
    scans = [lattice((n, 2, 0), (0.4, 0.4, 3.5), axes) for axes in ("LSP", "PSL") for n in range(4)]
    planes, _, agree = common_planes(scans, "P")
    assert not agree
    turns = [planes.orientation(scan) for scan in scans]
    assert {turn.axes for turn in turns} == {(2, 1, 0)}  # rows run to the head in both
    assert len({turn.flips for turn in turns[:4]}) == len({turn.flips for turn in turns[4:]}) == 1
    assert not any(turn.flips[1] for turn in turns)


def test_volumes_without_thick_slices_follow_the_others():
    """An isotropic CT beside oblique hearts: the common directions are those of the hearts."""
    ct = lattice((0, 0, 0), (1.0, 1.0, 1.2))
    assert ct.through_plane is None
    heart = [lattice(turn) for turn in HEART]
    planes, _, _ = common_planes([*heart, ct, ct], "S")
    alone, _, _ = common_planes(heart, "S")
    assert planes == alone
    slices = np.array(planes.units[0])
    turn = planes.orientation(ct)
    assert abs((ct.axes / ct.spacing_mm).T @ slices).argmax() == turn.axes[0]


def test_a_single_slice_lies_across_its_plane():
    assert lattice((40, 0, 40), (1.0, 1.0, 1.0), shape=(20, 18, 1)).through_plane == 2


def test_left_and_right_are_not_mirrored_across_an_oblique_plane(tmp_path):
    """Columns halfway between left and back: mirrored, they would change sides."""
    plan, _ = planned(write(tmp_path, [affine((90, 0, 45 + d)) for d in (-6, -2, 4, 8)]))
    assert plan.oblique is not None and "left kidney" in plan.classes
    rows, columns = plan.axes[1:]
    assert rows == "S" and columns in "PL"
    assert mirror_axes(plan)[0] == (True, False)


def test_sound_oblique_scans_are_no_finding(tmp_path):
    root = write(tmp_path / "set", [affine(turn) for turn in HEART])
    found = examine_roots({"mr": root}).findings
    assert not [f for f in found if f.kind in ("spacing", "size")]
    places = [affine(turn) for turn in HEART]
    places[2] = affine(HEART[2], (1.0, 1.0, 20.0))
    odd = examine_roots({"mr": write(tmp_path / "odd", places)}).findings
    (one,) = [f for f in odd if f.kind == "spacing"]
    assert one.case == "a2" and "slices, rows, columns" in one.what


def test_the_real_hearts_are_stacks_of_their_own_slices(shared):
    """Short axis, turned by 30 to 60 degrees: 10 to 20 planes of 5 mm, never cut across."""
    root = shared("data/mscmr")
    found = {m: open_dataset(m, root / m) for m in ("lge", "bssfp")}
    for name in ("lge", "bssfp"):
        scans = lattices({name: found[name]})
        planes, _, agree = common_planes(scans, "S")
        assert not agree
        assert {planes.orientation(scan).axes for scan in scans} == {(2, 1, 0)}
        assert len({planes.orientation(scan).flips for scan in scans}) == 1
    plan = make_plan({"lge": found["lge"]}, DataConfig(), {}, (16, 16))
    assert plan.spacing_mm == pytest.approx((5.0, 0.73, 0.73), abs=0.02)
    for case in found["lge"].cases[:4]:
        image = preprocess([read_image(case.images[0])], "lge", plan)
        native = nib.load(case.images[0]).shape
        assert image.array.shape[1] == native[2]
        assert min(image.array.shape[2:]) > 180
