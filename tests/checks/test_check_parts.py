"""The parts of the check: against plain loops, real preparation, and each other."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bad_inputs import (
    GRID,
    cases,
    ct,
    image_of,
    label_of,
    mr,
    organs,
    scan,
    split_file,
)
from nifti_files import save
from small_sets import LABELS, straight, write_set
from small_sets import plan as make_plan
from unpaired.checks import case, labels
from unpaired.checks import labels as body
from unpaired.checks.check import examine, examine_roots
from unpaired.checks.finding import Remark, quantity
from unpaired.checks.intensity import digest, intensities
from unpaired.checks.labels import table
from unpaired.checks.resources import (
    patch_findings,
    preparation_finding,
    preparation_resources,
    training_finding,
)
from unpaired.data.content import count_values
from unpaired.data.prepare import prepare
from unpaired.data.units import looks_hounsfield, not_hounsfield
from unpaired.datasets.planes import orient
from unpaired.datasets.sources import open_dataset
from unpaired.errors import DataError
from unpaired.io.volume import Volume


def kinds(done):
    return [f.kind for f in done.findings]


# ---- as a whole


def test_processes_find_what_one_process_finds(tmp_path):
    base = ct(tmp_path, cases(9))
    image_of(base, "c3").write_bytes(b"")
    save(label_of(base, "c5"), organs(5)[..., :16], GRID)
    save(image_of(base, "c7"), scan(0), GRID)
    alone = examine_roots({"ct": base})
    several = examine_roots({"ct": base}, workers=2)
    assert alone.findings == several.findings
    assert {"file", "label-shape", "copy"} <= set(kinds(alone))
    assert [f.case for f in alone.scans] == [f.case for f in several.scans]
    assert [f.digests for f in alone.scans] == [f.digests for f in several.scans]


def test_faults_of_a_layout_are_all_listed_and_the_other_cases_read(tmp_path):
    base = ct(tmp_path, cases(8))
    label_of(base, "c0").unlink()
    image_of(base, "c1").unlink()
    save(image_of(base, "c2").with_suffix(""), scan(2), GRID)
    image_of(base, "c3").rename(base / "imagesTr" / "c3.nii.gz")
    save(base / "imagesTr" / "c4_0001.nii.gz", scan(9), GRID)
    image_of(base, "c5").write_bytes(b"")
    done = examine_roots({"ct": base})
    errors = {(f.case, f.kind) for f in done.findings if f.severity == "error"}
    assert errors == {
        ("c0", "no-label"), ("c1", "no-image"), ("c2", "twins"), ("c3", "channel-name"),
        ("c3", "no-image"), ("c4", "channels"), ("c5", "file"),
    }  # fmt: skip
    assert [f.case for f in done.scans if f.shape] == ["c0", "c2", "c6", "c7"]


def test_a_broken_dataset_json_does_not_stop_the_files(tmp_path):
    base = ct(tmp_path)
    (base / "dataset.json").write_text("{")
    image_of(base, "c2").write_bytes(b"")
    done = examine_roots({"ct": base})
    assert {"dataset-json", "file"} <= {f.kind for f in done.findings if f.severity == "error"}
    assert len([f for f in done.scans if f.shape]) == 3


def test_manifest_lines(tmp_path):
    base = ct(tmp_path)
    (base / "scans.json").write_text((base / "dataset.json").read_text())
    image, label = "imagesTr/c{}_0000.nii.gz", "labelsTr/c{}.nii.gz"
    lines = ["case,image,label,modality,split"]
    lines += [f"c{n},{image.format(n)},{label.format(n)},ct," for n in range(3)]
    lines += [f"C0,{image.format(3)},{label.format(3)},ct,"]
    lines += ["gone,nowhere.nii.gz,,ct,", f"bare,{image.format(3)},,ct,train"]
    lines += [f"two,{image.format(3)}|{image.format(2)},,ct,"]
    (base / "scans.csv").write_text("\n".join(lines))
    done = examine_roots({"ct": base / "scans.csv"})
    errors = {(f.case, f.kind) for f in done.findings if f.severity == "error"}
    assert errors == {
        ("C0", "case-name"), ("gone", "no-file"), ("bare", "no-label"), ("two", "channels"),
    }  # fmt: skip
    assert [f.case for f in done.scans] == ["c0", "c1", "c2"]


def test_one_file_in_two_lines_of_a_manifest(tmp_path):
    """The same file is the same image, though its path is one; the name of a case counts once."""
    base = ct(tmp_path)
    (base / "scans.json").write_text((base / "dataset.json").read_text())
    line = "{},imagesTr/c{n}_0000.nii.gz,labelsTr/c{n}.nii.gz,ct,{},{}"
    lines = ["case,image,label,modality,patient,split", line.format("a", "p1", "train", n=0)]
    lines += [line.format("b", "p2", "test", n=0), line.format("a", "p3", "", n=1)]
    (base / "scans.csv").write_text("\n".join(lines))
    found = examine_roots({"ct": base / "scans.csv"}).findings
    errors = {(f.case, f.kind): f for f in found if f.severity == "error"}
    assert set(errors) == {("a", "case-name"), ("b", "copy")}
    assert errors["a", "case-name"].what == "another line has the case a already"
    assert errors["b", "copy"].mend == "remove one: it is in training and in test"


def test_a_fault_of_the_program_does_not_stop_the_others(tmp_path, monkeypatch):
    def fails(*_):
        raise RuntimeError("boom")

    monkeypatch.setattr("unpaired.checks.labels.fragments", fails)
    done = examine_roots({"ct": ct(tmp_path)})
    assert [f.case for f in done.findings if f.kind == "fault"] == ["c0", "c1", "c2", "c3"]
    assert "boom" in done.findings[0].what


def test_memory_running_out_is_one_finding(tmp_path, monkeypatch):
    base = ct(tmp_path)
    real = Path.read_bytes

    def full(self):
        if self == image_of(base):
            raise MemoryError
        return real(self)

    monkeypatch.setattr(Path, "read_bytes", full)
    found = [f for f in examine_roots({"ct": base}).findings if f.severity == "error"]
    assert [(f.case, f.kind) for f in found] == [("c1", "memory")]


# ---- splits


def test_every_leak_of_every_fold(tmp_path):
    base = ct(tmp_path, cases(6))
    about = json.loads((base / "dataset.json").read_text())
    about["patients"] = {"c0": "p", "c1": "p", "c2": "q", "c3": "q"}
    (base / "dataset.json").write_text(json.dumps(about))
    save(image_of(base, "c5"), scan(4), GRID)
    folds = (
        {"train": ["c0", "c2", "c4"], "val": ["c1", "c3", "c5"]},
        {"train": ["c0", "c1", "ct/c2", "c0"], "val": ["nobody", "c0"]},
        {"train": ["c0", "c1", "c2", "c3"], "val": []},
    )
    done = examine_roots({"ct": base}, splits=split_file(tmp_path, *folds))
    said = [f.what for f in done.findings if f.kind.startswith("split")]
    for words in (
        "fold 0: the patient p is in train (ct/c0) and val (ct/c1)",
        "fold 0: the patient q is in train (ct/c2) and val (ct/c3)",
        "fold 0: one image is in train (ct/c4) and val (ct/c5)",
        "fold 1, val: there is no case 'nobody'",
        "fold 1: ct/c0 is in train and in val",
        "fold 1: 3 labelled cases are in no part (ct/c3, ct/c4, ct/c5)",
        "fold 2: no case of ct is in val",
    ):
        assert words in said, said
    file = split_file(tmp_path, {"train": ["c0"]})
    done = examine_roots({"ct": base}, splits=file)
    assert any("expected" in f.what for f in done.findings if f.kind == "splits")


def test_a_sound_split_says_nothing(tmp_path):
    file = split_file(tmp_path, {"train": ["c0", "c1"], "val": ["c2"], "test": ["c3"]})
    done = examine_roots({"ct": ct(tmp_path)}, splits=file, folds=4)
    assert done.findings == []


def test_held_out_patients(tmp_path):
    base = ct(tmp_path)
    about = json.loads((base / "dataset.json").read_text())
    about["patients"] = {"t": "p", "c0": "p"}
    (base / "dataset.json").write_text(json.dumps(about))
    save(base / "imagesTs" / "t_0000.nii.gz", scan(9), GRID)
    save(base / "imagesTs" / "u_0000.nii.gz", scan(2), GRID)
    done = examine_roots({"ct": base})
    assert [f.case for f in done.findings if f.kind == "patient-parted"] == ["t"]
    (copy,) = [f for f in done.findings if f.kind == "copy"]
    assert (copy.case, copy.mend) == ("u", "remove one: it is in training and in test")


# ---- the parts


@pytest.mark.parametrize("axes", ["LPS", "RAS", "PIR", "SAL", "IRP"])
def test_content_does_not_depend_on_axes_type_or_file(tmp_path, axes):
    start = nib.orientations.axcodes2ornt("LPS")
    turn = nib.orientations.ornt_transform(start, nib.orientations.axcodes2ornt(axes))
    image = nib.Nifti1Image(scan(1), straight((3.0, 2.0, 4.0))).as_reoriented(turn)
    one = digest(Volume(scan(1), straight((3.0, 2.0, 4.0))))
    array = np.asanyarray(image.dataobj)
    assert digest(Volume(array.astype(np.float64), image.affine)) == one
    other = array.copy()
    other.reshape(-1)[77] += 1
    assert digest(Volume(other, image.affine)) != one


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32])
def test_values_are_counted_as_numpy_counts(dtype, monkeypatch):
    array = np.random.default_rng(0).choice([0, 1, 7, 120], (9, 8, 7)).astype(dtype)
    monkeypatch.setattr("unpaired.data.content._CHUNK", 50)
    for one in (array, np.asfortranarray(array)[::2]):
        values, counts = np.unique(one, return_counts=True)
        assert count_values(one) == dict(zip(values.tolist(), counts.tolist(), strict=True))
    if np.dtype(dtype).itemsize == 4:
        assert count_values(array * 100_000)[700_000] == int((array == 7).sum())


def test_fragments_against_all_pairs():
    spacing = (0.5, 2.0, 3.0)
    array = np.zeros((30, 20, 12), np.uint8)
    array[2:14, 3:12, 2:8] = 4
    array[13, 12, 8] = 4  # touches by a corner: no piece of its own
    array[25, 3, 2] = array[16:18, 15, 3] = 4
    array[20:29, 14:19, 8:11] = 9  # another organ
    found = list(labels.fragments(
        Volume(array, straight(spacing)), {"a": 4, "b": 9}, count_values(array)
    ))  # fmt: skip
    main = np.argwhere(array[:14] == 4) * spacing
    gaps = [
        min(np.linalg.norm(main - np.array(at) * spacing, axis=1).min() for at in piece)
        for piece in ([(25, 3, 2)], [(16, 15, 3), (17, 15, 3)])
    ]
    (one,) = found
    assert "a 2 pieces of 3 voxels" in one.what
    assert f"the farthest {max(gaps):.0f} mm away" in one.what
    assert one.severity == "note"
    far = labels.fragments(
        Volume(array, straight((10.0, 2.0, 3.0))), {"a": 4, "b": 9}, count_values(array)
    )
    assert [(f.severity, f.at) for f in far] == [("warning", (25, 3, 2))]


def test_two_kidneys_are_no_fragments():
    array = np.zeros((30, 20, 12), np.uint8)
    array[2:12, 3:12, 2:8] = array[18:26, 3:12, 2:8] = 1
    counts = count_values(array)
    assert not list(labels.fragments(Volume(array, GRID), {"kidneys": 1}, counts))


def test_touching_against_a_loop():
    array = np.random.default_rng(1).integers(0, 4, (6, 7, 5)).astype(np.uint8)
    found = {touch.value: touch for touch in labels.touches(Volume(array, GRID))}
    for value in (1, 2, 3):
        count = sum(
            int((face == value).sum())
            for face in (array[0], array[-1], array[:, 0], array[:, -1], array[..., 0],
                         array[..., -1])
        )  # fmt: skip
        assert found[value].count == count
        assert array[found[value].at] == value
        edges = zip(found[value].at, array.shape, strict=True)
        assert any(at in (0, n - 1) for at, n in edges)
    # Every organ lies at the edge of a picture.
    assert labels.touches(Volume(array[..., :1], GRID))[0].count < (array[..., 0] == 1).sum()


def test_a_body_in_two_parts_with_lungs():
    image = np.full((40, 40, 60), -1000.0)
    image[:18, 5:35, 5:55] = image[22:, 5:35, 5:55] = 30
    image[25:35, 15:25, 15:45] = -850  # lungs
    inside = body.body(image)
    assert inside[10, 20, 30]
    assert inside[30, 20, 30]
    assert not inside[10, 0, 0]
    assert not inside[20, 0, 0]


def test_units_of_a_ct():
    values = scan(1).astype(np.float32).ravel()
    assert not_hounsfield(values, float(values.min()), float(values.max())) == ""
    assert looks_hounsfield(values)
    assert not looks_hounsfield((values + 1000) / 2)
    high = values + 600
    assert "air lies near -4" in not_hounsfield(high, float(high.min()), float(high.max()))
    padded = np.where(np.arange(values.size) % 3 == 0, -3024, values).astype(np.float32)
    assert not_hounsfield(padded, -3024.0, float(padded.max())) == ""


def test_a_slice_is_lost_along_the_coarsest_axis():
    array = scan(1)
    array[7] = 3
    thick = Volume(array, straight((9.0, 1.0, 1.0)))
    (one,) = [r for r in intensities(thick, "CT") if r.kind == "blank-slice"]
    assert one.amount == "1 of 24 slices"
    assert one.at is not None
    assert one.at[0] == 7
    thin = Volume(array, straight((3.0, 3.0, 3.0)))
    assert not [r for r in intensities(thin, "CT") if r.kind == "blank-slice"]


def test_where_a_slice_is_repeated_and_where_a_scan_is_padded():
    array = scan(1)
    array[..., 9] = array[..., 8]
    array[..., :3] = -1000
    found = {r.kind: r for r in intensities(Volume(array, straight((1.0, 1.0, 3.0))), "CT")}
    assert set(found) == {"same-slice", "blank-end"}
    assert (found["same-slice"].amount, found["same-slice"].at) == ("1 of 17 slices", (12, 10, 9))
    end = found["blank-end"]
    assert (end.severity, end.amount, end.at) == ("note", "3 of 17 slices", (12, 10, 0))
    array[..., :2] = scan(1)[..., :2]  # one slice at the start of 17 is no padding
    array[..., 0] = -1000
    kinds_now = {r.kind for r in intensities(Volume(array, straight((1.0, 1.0, 3.0))), "CT")}
    assert kinds_now == {"same-slice", "blank-slice"}


def told(values):
    values = np.asarray(values, np.float32)
    return not_hounsfield(values, float(values.min()), float(values.max()))


def test_where_the_air_of_a_ct_lies():
    rng = np.random.default_rng(0)
    tissue = rng.normal(30, 40, 10_000)
    fat = rng.normal(-100, 10, 1000)
    # Noise is told by the middle of its bin of 50, padding as it is.
    for air, bin_, wrong in ((-1000, "", False), (-760, "", False), (-510, "-525", True),
                             (-410, "-425", True)):  # fmt: skip
        noisy = told(np.concatenate([tissue, fat, rng.normal(air, 8, 4000)]))
        assert noisy == (f"air lies near {bin_}, expected near -1000" if wrong else "")
        padded = told(np.concatenate([tissue, fat, np.full(4000, air)]))
        assert padded == (f"air lies near {air}, expected near -1000" if wrong else "")
    # A few cold voxels are gas in the bowel, whatever their value.
    assert told(np.concatenate([tissue, fat, np.full(300, -500)])) == ""
    # Lungs spread from -900 to -500: no peak.
    assert told(np.concatenate([tissue, fat, rng.uniform(-900, -350, 4000)])) == ""
    # Outside the scanner's circle.
    assert told(np.concatenate([tissue, fat, np.full(4000, -2000)])) == ""


def test_other_units_of_a_ct():
    rng = np.random.default_rng(0)
    tissue, air = rng.normal(30, 40, 10_000), rng.normal(-1000, 8, 4000)
    assert "no soft tissue" in told(np.clip(np.concatenate([tissue, air]), None, 49))
    assert told(np.clip(np.concatenate([tissue, air]), None, 51)) == ""
    metal = np.concatenate([tissue, air, np.full(500, 6000)])
    assert "1 % of the values are above 6000" in told(metal)
    assert told(np.where(metal == 6000, 4900, metal)) == ""
    assert told(np.concatenate([tissue, air, np.full(50, 20000)])) == ""  # a clip
    assert "neither air nor fat" in told(np.concatenate([np.abs(tissue), air[:40]]))
    assert told(np.concatenate([np.abs(tissue), air[:80]])) == ""


def test_many_unknown_values_are_counted_and_the_first_shown():
    array = np.zeros((9, 8, 7), np.uint8)
    array[4, 1:8, 3] = range(11, 18)
    (one,) = labels.values(Volume(array, GRID), count_values(array), {"a": 3})
    assert "11 (1 voxel), 12 (1 voxel), 13 (1 voxel), 14 (1 voxel), 15 (1 voxel) and 2 more" in (
        one.what
    )
    assert (one.amount, one.at) == ("7 voxels", (4, 1, 3))
    few = np.where(array > 15, 0, array)
    (one,) = labels.values(Volume(few, GRID), count_values(few), {"a": 3})
    assert one.what.endswith("15 (1 voxel)")


def test_a_rounded_grid_is_mended_a_moved_one_resampled():
    image = Volume(scan(1), GRID)
    for mm, words in ((0.29, "--fix-headers"), (0.31, "resample the label")):
        moved_grid = GRID.copy()
        moved_grid[0, 3] += mm
        (one,) = case.same_place(image, Volume(organs(1), moved_grid), "label")
        assert words in one.mend


def test_class_table(tmp_path):
    done = examine_roots({"ct": ct(tmp_path)})
    rows = table(done.datasets["ct"], done.scans)
    sizes = [(organs(n) == 1).sum() * 27 / 1000 for n in range(4)]
    assert rows[0][:3] == ("liver", 4, 4)
    assert rows[0][3] == pytest.approx(np.median(sizes))


def test_quantities():
    assert quantity("lies up to 3.5 mm off, 7 voxels") == "3.5 mm"
    assert quantity("promises 32767 x 2 x 9 voxels") == "32767 x 2 x 9 voxels"
    assert quantity("3 of 504 voxels are NaN") == "3 of 504 voxels"
    assert quantity("it is 1 slices") == "1 slice"
    assert quantity("no number") == ""
    assert Remark("k", "note", "2 mm", "m", "own").about("ct").amount == "own"


# ---- needs


def test_needs_are_those_of_a_preparation(tmp_path):
    base = write_set(tmp_path / "ct", [(60, 50, 40), (50, 60, 30), (55, 55, 35)])
    done = examine({"ct": open_dataset("ct", base)})
    found = preparation_resources(done.datasets, done.scans)
    assert found is not None
    assert found.cases == 3
    plan = make_plan(spacing=(3.0, 1.0, 1.0))
    prepare(done.datasets, plan, tmp_path / "out")
    written = sum(f.stat().st_size for f in (tmp_path / "out").rglob("*.npy"))
    # The air around the body is cropped, which the sizes alone do not tell.
    assert written < found.disk_bytes < 1.5 * written
    enough = preparation_finding(found, 2, 1 << 40, 1 << 40)
    assert enough.severity == "note"
    assert "preparing 3 cases" in enough.what
    assert preparation_finding(found, 2, 1 << 20, 1 << 40).severity == "warning"
    assert preparation_finding(found, 2, 1 << 40, 1 << 10).severity == "warning"
    assert set(LABELS) == set(done.datasets["ct"].labels)
    assert preparation_resources({}, ()) is None


@pytest.mark.linux
@pytest.mark.slow
def test_a_preparation_stays_within_its_forecast(tmp_path):
    """Its largest size, as the system counts it, and a fifth."""
    base = write_set(tmp_path / "ct", [(120, 110, 60)] * 2)
    done = examine({"ct": open_dataset("ct", base)})
    found = preparation_resources(done.datasets, done.scans)
    program = (
        "import sys; from pathlib import Path; from small_sets import plan\n"
        "from unpaired.data.prepare import prepare\n"
        "from unpaired.datasets.sources import open_dataset\n"
        "root, out = map(Path, sys.argv[1:])\n"
        "prepare({'ct': open_dataset('ct', root)}, plan(spacing=(3.0, 1.0, 1.0)), out)\n"
        "text = Path('/proc/self/status').read_text()\n"
        "print(int(text.split('VmHWM:')[1].split()[0]) << 10)"
    )
    call = [sys.executable, "-c", program, str(base), str(tmp_path / "out")]
    path = os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    peak = int(subprocess.run(call, env=environment, capture_output=True, check=True).stdout)
    assert found is not None
    assert 0.5 * found.memory_bytes < peak < 1.2 * found.memory_bytes


def test_patch_larger_than_images(tmp_path):
    done = examine_roots({"ct": ct(tmp_path)})
    grid = (3.0, 3.0, 3.0)

    def along(letter):
        return lambda lattice: orient(lattice, letter, None)

    assert patch_findings(done.scans, grid, along("S"), (16, 16)) == []
    (one,) = patch_findings(done.scans, grid, along("S"), (32, 32))
    assert (one.severity, one.amount) == ("note", "62 %")  # 20 rows of 32
    assert "32 x 32 voxels is much larger than 4 images" in one.what
    (one,) = patch_findings(done.scans, grid, along("S"), (64, 16, 16))
    assert (one.severity, one.amount) == ("warning", "27 %")  # 17 slices of 64
    (one,) = patch_findings(done.scans, grid, along("L"), (32, 16))
    assert one.amount == "53 %"  # 17 rows of 32
    assert training_finding(1 << 30, 1 << 29, 0.5, 7200, "cpu").severity == "warning"
    told = training_finding(1 << 29, 1 << 30, 0.5, 14400, "cpu").what
    assert "2.0 h for 14400 steps" in told


# ---- names


def test_a_data_set_that_is_not_there_is_no_finding(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        examine_roots({"ct": tmp_path / "none"})


def test_one_data_set_that_cannot_be_opened_leaves_the_other(tmp_path):
    (tmp_path / "ct").mkdir()
    done = examine_roots({"ct": tmp_path / "ct", "mr": mr(tmp_path)})
    assert [(f.modality, f.kind) for f in done.findings if f.severity == "error"] == [
        ("ct", "layout")
    ]
    assert len(done.scans) == 4


def test_loose_images_know_no_units():
    assert list(intensities(Volume(scan(1), GRID), "")) == []
