"""The crop around the structures, and the coarse view, chosen from files of known geometry."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from small_sets import straight
from unpaired.config import DataConfig
from unpaired.data.make_plan import make_plan
from unpaired.datasets.dataset import Case, Dataset
from unpaired.errors import DataError
from unpaired.methods.payer.plan import CropRule

RULE = CropRule(margin_mm=6.0, coarse_mm=10.0, coarse_step=4)
SPACING = {"L": 1.5, "P": 2.0, "S": 5.0}
SIZE = {"L": 60, "P": 50, "S": 24}
BOX = {"L": (10, 30), "P": (20, 28), "S": (3, 11)}  # 30, 16 and 40 mm
LABELS = {"background": 0, "liver": 3, "spleen": 7, "other": 9}


def write_case(root: Path, name: str, axes: str, grow: int = 0) -> Case:
    """Two structures in opposite corners of BOX, a class that nobody shares beyond it."""
    root.mkdir(parents=True, exist_ok=True)
    letters = [{"R": "L", "A": "P", "I": "S"}.get(a, a) for a in axes]
    affine = straight([SPACING[a] for a in letters], axes)
    label = np.zeros([SIZE[a] for a in letters], np.uint8)
    spans = []
    for a, letter in zip(axes, letters, strict=True):
        low, high = BOX[letter][0], BOX[letter][1] + grow
        n = SIZE[letter]
        spans.append((low, high) if a == letter else (n - high, n - low))
    label[tuple(slice(a, a + 2) for a, _ in spans)] = 3
    label[tuple(slice(b - 2, b) for _, b in spans)] = 7
    label[-1, -1, -1] = 9
    paths = root / f"{name}.nii.gz", root / f"{name}_label.nii.gz"
    rng = np.random.default_rng(0)
    nib.save(nib.Nifti1Image(rng.integers(0, 9, label.shape).astype(np.int16), affine), paths[0])
    nib.save(nib.Nifti1Image(label, affine), paths[1])
    return Case(name, "a", (paths[0],), paths[1], name)


def sets(root: Path, *cases: Case) -> dict[str, Dataset]:
    other = Dataset(
        "b", root, ("MR",), {k: LABELS[k] for k in ("background", "liver", "spleen")}, ()
    )
    return {"a": Dataset("a", root, ("MR",), LABELS, cases), "b": other}


def options(**values: object) -> DataConfig:
    base = {"dims": 3, "spacing_mm": (5.0, 2.0, 2.0), "slice_axis": "S"}
    return DataConfig.model_validate({**base, **values})


@pytest.mark.parametrize("axes", ["LPS", "RAS", "SLP", "PIR"])
def test_the_crop_holds_the_box_in_any_orientation(axes: str, tmp_path: Path) -> None:
    data = sets(tmp_path, write_case(tmp_path, "one", axes))
    plan = make_plan(data, options(), {}, (4, 4, 4), rule=RULE)
    # S 40 + 12 = 52 mm = 10.4 -> 12; P 16 + 12 = 28 mm = 14 -> 16; L 30 + 12 = 42 mm = 21 -> 24.
    assert plan.patch == (12, 16, 24)
    assert "40 x 16 x 30 mm" in plan.reasons["patch"] and "6 mm" in plan.reasons["patch"]


def test_the_largest_training_case_decides_and_a_test_case_is_not_read(tmp_path: Path) -> None:
    cases = [write_case(tmp_path, n, "LPS", grow) for n, grow in [("s", 0), ("m", 2), ("xl", 9)]]
    data = sets(tmp_path, *cases)
    plan = make_plan(data, options(), {}, (1, 1, 1), train={"a": ["s", "m"]}, rule=RULE)
    assert plan.patch == (13, 16, 23)  # 50 + 12, 20 + 12, 33 + 12 mm; 12.4, 16, 22.5 voxels
    cases[2].label.write_bytes(b"damaged")  # type: ignore[union-attr]
    again = make_plan(data, options(), {}, (1, 1, 1), train={"a": ["s", "m"]}, rule=RULE)
    assert again.patch == plan.patch


def test_the_view_is_nearly_isotropic_and_holds_every_image(tmp_path: Path) -> None:
    data = sets(tmp_path, write_case(tmp_path, "one", "LPS"))
    view = make_plan(data, options(), {}, (4, 4, 4), rule=RULE).coarse
    assert view is not None
    assert view.stride == (2, 5, 5)  # 10 mm each
    # 120, 100 and 90 mm: 12, 10 and 9 cells, in steps of 4.
    assert view.shape == (12, 12, 12) and view.step == 4
    coarser = CropRule(6.0, 60.0, 4)
    small = make_plan(data, options(), {}, (4, 4, 4), rule=coarser).coarse
    assert small is not None and small.shape == (8, 8, 8)  # never fewer than two steps


def test_a_configured_patch_is_taken_and_other_models_have_no_view(tmp_path: Path) -> None:
    data = sets(tmp_path, write_case(tmp_path, "one", "LPS"))
    plan = make_plan(data, options(patch=(16, 32, 32)), {}, (4, 4, 4), rule=RULE)
    assert plan.patch == (16, 32, 32) and plan.coarse is not None
    assert make_plan(data, options(), {}, (4, 4, 4)).coarse is None


def test_without_structures_there_is_nothing_to_localise(tmp_path: Path) -> None:
    case = write_case(tmp_path, "one", "LPS")
    empty = nib.Nifti1Image(np.zeros((60, 50, 24), np.uint8), straight([1.5, 2.0, 5.0], "LPS"))
    nib.save(empty, case.label)
    with pytest.raises(DataError, match="nothing to localise"):
        make_plan(sets(tmp_path, case), options(), {}, (4, 4, 4), rule=RULE)
