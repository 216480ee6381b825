"""Each choice of the plan against the rule it states, and every rule's reason."""

import json

import numpy as np
import pytest

from nifti_files import dataset
from small_sets import LABELS, body, straight, write_set
from unpaired.config import DataConfig, ModalityConfig
from unpaired.data.make_plan import make_plan
from unpaired.data.measure import read_lattice, turned
from unpaired.data.plan import Clip, Plan
from unpaired.datasets.planes import orient
from unpaired.datasets.sources import open_dataset
from unpaired.errors import DataError, UsageError
from unpaired.io.nifti import read_volume


def opened(tmp_path, **sets):
    roots = {name: write_set(tmp_path / name, **how) for name, how in sets.items()}
    return {name: open_dataset(name, root) for name, root in roots.items()}


def planned(datasets, modalities=None, multiple=(8, 8), train=None, **data):
    return make_plan(datasets, DataConfig(**data), modalities or {}, multiple, train=train)


def test_spacing_is_the_median_over_all_modalities_in_patient_axes(tmp_path):
    # MR is stored coronally: its third file axis is P. The rows below are S, P, L.
    datasets = opened(
        tmp_path,
        ct={"shapes": [(30, 20, 8)] * 2, "spacing": (0.8, 1.0, 5.0)},
        mr={"shapes": [(24, 10, 20)], "spacing": (1.2, 4.0, 2.0), "axes": "RSA"},
    )
    plan = planned(datasets)
    rows = [(5.0, 1.0, 0.8), (5.0, 1.0, 0.8), (4.0, 2.0, 1.2)]
    assert plan.spacing_mm == pytest.approx(tuple(np.median(rows, axis=0)))
    assert plan.slice_axis == "S" and plan.axes == ("S", "P", "L")
    assert "3 cases" in plan.reasons["spacing_mm"] and "axial" in plan.reasons["slice_axis"]


@pytest.mark.parametrize(("axes", "expected"), [("LSP", "P"), ("PSL", "L"), ("LPI", "S")])
def test_slices_run_along_the_coarsest_axis(tmp_path, axes, expected):
    plan = planned(opened(tmp_path, ct={"shapes": [(12, 12, 12)], "axes": axes}))
    assert plan.slice_axis == expected
    assert plan.spacing_mm == (3.0, 1.0, 1.0)


def test_equal_spacings_give_axial_slices_unless_configured(tmp_path):
    datasets = opened(tmp_path, ct={"shapes": [(12, 14, 16)], "spacing": (2.0, 2.0, 2.04)})
    assert planned(datasets).slice_axis == "S"
    assert planned(datasets, slice_axis="L").axes == ("L", "S", "P")


@pytest.mark.parametrize(("row", "expected"), [(1.04, (1.02, 1.02)), (1.06, (1.06, 1.0))])
def test_nearly_equal_in_plane_spacings_are_made_equal(tmp_path, row, expected):
    datasets = opened(tmp_path, ct={"shapes": [(12, 12, 12)], "spacing": (1.0, row, 5.0)})
    assert planned(datasets).spacing_mm[1:] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("rows", "columns", "multiple", "expected"),
    [
        (35, 37, (8, 8), (32, 40)),
        (3, 5, (8, 16), (8, 16)),
        (300, 600, (96, 32), (192, 256)),
        (60, 60, (300, 16), (300, 64)),
    ],
)
def test_patch_is_the_nearest_legal_size(tmp_path, rows, columns, multiple, expected):
    datasets = opened(tmp_path, ct={"shapes": [(columns, rows, 6)]})
    assert planned(datasets, multiple=multiple).patch == expected


def test_patch_counts_voxels_of_the_target_spacing(tmp_path):
    datasets = opened(tmp_path, ct={"shapes": [(32, 32, 6)], "spacing": (2.0, 2.0, 5.0)})
    assert planned(datasets, spacing_mm=(5.0, 1.0, 1.0)).patch == (64, 64)


def test_configured_grid_is_taken_or_refused(tmp_path):
    datasets = opened(tmp_path, ct={"shapes": [(12, 12, 12)]})
    plan = planned(datasets, spacing_mm=(2.0, 1.5, 1.5), patch=(24, 40), context=5)
    assert (plan.spacing_mm, plan.patch, plan.context) == ((2.0, 1.5, 1.5), (24, 40), 5)
    with pytest.raises(UsageError, match="multiples of 8 x 8"):
        planned(datasets, patch=(24, 41))


def foreground(root, cases):
    """All labelled intensities, read the plain way."""
    pairs = [
        (
            read_volume(root / "imagesTr" / f"{c}_0000.nii.gz").array,
            read_volume(root / "labelsTr" / f"{c}.nii.gz").array,
        )
        for c in cases
    ]
    return np.concatenate([image[np.isin(label, (3, 7))] for image, label in pairs])


def test_the_channel_name_not_the_key_decides_the_clip(tmp_path):
    datasets = opened(
        tmp_path,
        ct={"shapes": [(16, 16, 8)], "channels": ("MR_T1",)},
        mr={"shapes": [(16, 16, 8)] * 2, "channels": ("cT",)},
    )
    plan = planned(datasets)
    assert plan.modalities["ct"].clip == (Clip(kind="percentile", low=0.5, high=99.5),)
    window = plan.modalities["mr"].clip[0]
    expected = np.percentile(foreground(tmp_path / "mr", ["a0", "a1"]), (0.5, 99.5))
    assert window.kind == "window"
    assert (window.low, window.high) == pytest.approx(tuple(expected), abs=1e-3)


def test_intensities_are_learnt_from_training_cases_only(tmp_path):
    root = write_set(tmp_path / "ct", [(16, 16, 8)] * 2)
    image, label = body((16, 16, 8), 5)
    dataset(root, {"odd": ([image + 500], label, straight((1, 1, 3)))}, labels=LABELS)
    datasets = {"ct": open_dataset("ct", root)}
    clip = planned(datasets, train={"ct": ("a0", "a1")}).modalities["ct"].clip[0]
    assert clip.high == pytest.approx(np.percentile(foreground(root, ["a0", "a1"]), 99.5), abs=1e-3)
    assert planned(datasets).modalities["ct"].clip[0].high > clip.high + 100


def test_configured_intensities(tmp_path):
    datasets = opened(tmp_path, x={"shapes": [(16, 16, 8)], "channels": ("CT", "PET")})
    options = ModalityConfig(clip="window", low=-100, high=200, zscore="dataset")
    recipe = planned(datasets, {"x": options}).modalities["x"]
    assert recipe.clip == (Clip(kind="window", low=-100, high=200),) * 2
    values = foreground(tmp_path / "x", ["a0"]).clip(-100, 200)
    assert recipe.mean[0] == pytest.approx(values.mean(), rel=1e-5)
    assert recipe.std[0] == pytest.approx(values.std(), rel=1e-5)
    second = (foreground(tmp_path / "x", ["a0"]) + 10).clip(-100, 200)
    assert recipe.mean[1] == pytest.approx(second.mean(), rel=1e-5)


def test_ct_without_a_labelled_voxel_falls_back_to_percentiles(tmp_path):
    image, label = body((12, 12, 6))
    root = dataset(tmp_path / "ct", {"a": ([image], 0 * label, straight((1, 1, 3)))}, labels=LABELS)
    plan = planned({"ct": open_dataset("ct", root)})
    assert plan.modalities["ct"].clip[0].kind == "percentile"
    assert "no labelled voxel" in plan.reasons["modalities.ct"]


def test_every_damaged_case_is_named(tmp_path):
    datasets = opened(tmp_path, ct={"shapes": [(12, 12, 6)] * 3})
    for case in ("a0", "a2"):
        (tmp_path / "ct" / "imagesTr" / f"{case}_0000.nii.gz").write_bytes(b"junk" * 200)
    with pytest.raises(DataError, match=r"2 of 3.*\n.*ct/a0.*\n.*ct/a2"):
        planned(datasets)


def test_geometry_is_read_as_the_whole_file_would_be(tmp_path):
    root = write_set(tmp_path / "ct", [(9, 10, 11)], (0.5, 2.0, 3.0), "ASR")
    path = root / "imagesTr" / "a0_0000.nii.gz"
    found = read_lattice(path)
    assert found.shape == (9, 10, 11)
    assert found.spacing_mm == pytest.approx((0.5, 2.0, 3.0))
    geometry = turned(found, orient(found, "S", None))
    assert geometry.shape == (10, 9, 11)  # S, P, L of file axes A, S, R
    assert geometry.spacing_mm == pytest.approx((2.0, 0.5, 3.0))
    with pytest.raises(DataError, match="cannot read"):
        read_lattice(root / "missing.nii.gz")


def test_plan_survives_its_file_and_refuses_others(tmp_path):
    plan = planned(opened(tmp_path, ct={"shapes": [(12, 12, 6)]}))
    path = tmp_path / "plan.json"
    plan.write(path)
    assert Plan.read(path) == plan
    stored = {k: v for k, v in json.loads(path.read_text()).items() if k != "checksum"}
    for damage in ({"version": 2}, {"patch": "16x16"}, {"context": 1.5}, {"extra": 1}):
        path.write_text(json.dumps({**stored, **damage}))
        with pytest.raises(DataError, match=next(iter(damage))):
            Plan.read(path)


def test_fingerprint_follows_what_is_prepared_and_nothing_else(tmp_path):
    plan = planned(opened(tmp_path, a={"shapes": [(12, 12, 6)]}, b={"shapes": [(12, 12, 6)]}))
    same = plan.model_copy(update={"patch": (64, 64), "context": 1, "reasons": {}})
    assert same.fingerprint("a") == plan.fingerprint("a")
    recipe = plan.modalities["b"].model_copy(update={"clip": (Clip(kind="window", low=0, high=1),)})
    other = plan.model_copy(update={"modalities": {**plan.modalities, "b": recipe}})
    assert other.fingerprint("a") == plan.fingerprint("a")
    assert other.fingerprint("b") != plan.fingerprint("b")
    coarser = plan.model_copy(update={"spacing_mm": (4.0, 1.0, 1.0)})
    assert coarser.fingerprint("a") != plan.fingerprint("a")


def test_real_pair(shared):
    root = shared("data/torso")
    plan = planned({m: open_dataset(m, root / m) for m in ("ct", "mr")}, multiple=(32, 32))
    assert plan.classes == ("background", "liver", "right kidney", "left kidney", "spleen")
    assert plan.spacing_mm == (3.0, 3.0, 3.0) and plan.patch == (96, 128)
    assert plan.modalities["ct"].clip[0].kind == "window"
    assert plan.modalities["mr"].clip[0].kind == "percentile"


@pytest.mark.parametrize(
    ("shape", "multiple", "expected"),
    [
        ((40, 40, 20), (4, 8, 8), (20, 40, 40)),
        ((300, 300, 60), (16, 32, 32), (48, 128, 160)),  # shrunk to a million voxels
        ((90, 90, 200), (16, 32, 32), (112, 96, 96)),
    ],
)
def test_a_patch_of_a_volume_is_as_large_as_allowed_and_of_equal_extent(
    tmp_path, shape, multiple, expected
):
    datasets = opened(tmp_path, ct={"shapes": [shape], "spacing": (1.0, 1.0, 3.0)})
    plan = planned(datasets, multiple=multiple, dims=3)
    assert plan.patch == expected and plan.dims == 3 and plan.context == 1
    assert (
        np.prod(plan.patch) <= 64 * 128 * 128 and "at most 1048576 voxels" in plan.reasons["patch"]
    )
    assert plan.patch_axes == ("S", "P", "L")


def test_a_patch_must_have_as_many_numbers_as_the_network_has_axes(tmp_path):
    datasets = opened(tmp_path, ct={"shapes": [(12, 12, 12)]})
    with pytest.raises(
        UsageError, match=r"data\.patch is 8 x 8, but data.dims is 3; give 3 numbers"
    ):
        planned(datasets, multiple=(4, 8, 8), patch=(8, 8))
    with pytest.raises(UsageError, match="needs multiples of 4 x 8 x 8"):
        planned(datasets, multiple=(4, 8, 8), dims=3, patch=(6, 8, 8))
