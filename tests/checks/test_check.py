"""One planted fault, one finding: right severity, right file, the number in the sentence."""

import json

import numpy as np
import pytest

from dicom_files import turned, voxels, write_series
from nifti_files import affine, dataset, noise, patch, save
from unpaired.checks.check import check, check_path
from unpaired.datasets.sources import open_dataset
from unpaired.errors import DataError

SHAPE = (9, 8, 7)


def label(number=0):
    """Two organs; no two numbers give the same label."""
    out = np.zeros(SHAPE, np.uint8)
    out[1:4, 2:5, 1:5] = 1
    out[5:8, 2:5, 1:5] = 2
    out[1 + number % 3, 5, 1 + number // 3 % 4] = 1
    out[5 + number // 12, 5, 2] = 2
    return out


def good(count=3, channels=1, seed=0):
    return {
        f"c{i}": (
            [noise(seed=seed + 10 * i + k) for k in range(channels)],
            label(i + seed % 7),
            affine(),
        )
        for i in range(count)
    }


def run(root, modality="ct"):
    return check({modality: open_dataset(modality, root)})


def only(findings, words):
    """The one finding whose sentence holds `words`."""
    found = [f for f in findings if words in f.what]
    assert len(found) == 1, findings
    assert found[0].mend
    return found[0]


def test_good_data_has_no_findings_and_progress_counts(tmp_path):
    root = dataset(tmp_path / "ct", good())
    seen = []
    findings = check(
        {"ct": open_dataset("ct", root)}, lambda done, total, _: seen.append((done, total))
    )
    assert findings == []
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_nothing_is_changed(tmp_path):
    root = dataset(tmp_path / "ct", good())
    (root / "imagesTr" / "c1_0000.nii.gz").write_bytes(b"broken")
    before = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in root.rglob("*") if p.is_file()}
    assert run(root)
    after = {p: (p.stat().st_mtime_ns, p.read_bytes()) for p in root.rglob("*") if p.is_file()}
    assert before == after


def test_one_bad_case_never_stops_the_others(tmp_path):
    root = dataset(tmp_path / "ct", good(4))
    truncated = root / "imagesTr" / "c0_0000.nii.gz"
    truncated.write_bytes(truncated.read_bytes()[:-30])
    (root / "labelsTr" / "c1.nii.gz").write_bytes(b"")
    blank = root / "imagesTr" / "c2_0000.nii.gz"
    save(blank, np.full(SHAPE, 5, np.int16))
    findings = run(root)
    first = only(findings, "damaged") if any("damaged" in f.what for f in findings) else None
    first = first or only(findings, "early")
    assert (first.case, first.severity, first.file) == ("c0", "error", str(truncated))
    assert first.mend == "copy or download it again"
    assert only(findings, "empty").case == "c1"
    assert only(findings, "every voxel is 5").case == "c2"
    assert len(findings) == 3


def test_worst_first(tmp_path):
    cases = good(4)
    cases["c3"][1][:] = 0
    root = dataset(tmp_path / "ct", cases)
    save(root / "imagesTr" / "c1_0000.nii.gz", np.zeros(SHAPE, np.int16))
    plain = save(root / "imagesTr" / "c0.nii", noise(seed=99), affine())
    plain.rename(root / "imagesTr" / "c0_0000.nii.gz")
    assert [f.severity for f in run(root)] == ["error", "warning", "note"]
    assert [f.case for f in run(root)] == ["c1", "c3", "c0"]


def test_label_on_another_shape(tmp_path):
    root = dataset(tmp_path / "ct", good())
    path = save(root / "labelsTr" / "c1.nii.gz", label(1)[:, :, :6])
    found = only(run(root), "the label has 9 x 8 x 6 voxels, the image 9 x 8 x 7")
    assert (found.severity, found.case, found.file) == ("error", "c1", str(path))


@pytest.mark.parametrize(("offset", "wrong"), [(0.0008, False), (0.002, True), (7.5, True)])
def test_label_off_the_grid(tmp_path, offset, wrong):
    root = dataset(tmp_path / "ct", good())
    moved = affine(origin=(-80.0 + offset, 33.0, 12.5))
    save(root / "labelsTr" / "c2.nii.gz", label(2), moved)
    findings = run(root)
    if wrong:
        assert only(findings, f"the label lies up to {offset:.3g} mm").severity == "error"
    else:
        assert findings == []


def test_channels_on_different_grids(tmp_path):
    root = dataset(tmp_path / "mr", good(3, 2), channels=("T1", "T2"))
    path = save(root / "imagesTr" / "c0_0001.nii.gz", noise(seed=77), affine((0.9, 1.1, 3.5)))
    found = only(run(root), "the channel lies up to 3 mm")
    assert found.file == str(path)


@pytest.mark.parametrize(
    ("values", "words", "severity"),
    [
        ({7: 3, 9: 1}, "does not name: 7 (3 voxels), 9 (1 voxel)", "error"),
        ({-1: 2}, "negative values (down to -1)", "error"),
        ({0.5: 1}, "holds fractions", "error"),
        ({0.9999999: 2}, "float labels, rounded", "note"),
    ],
)
def test_label_values(tmp_path, values, words, severity):
    root = dataset(tmp_path / "ct", good())
    array = label(1).astype(np.float64 if any(v % 1 for v in values) else np.int16)
    flat = array.reshape(-1)
    start = 0
    for value, count in values.items():
        flat[start : start + count] = value
        start += count
    path = save(root / "labelsTr" / "c1.nii.gz", array)
    found = only(run(root), words)
    assert (found.severity, found.case, found.file) == (severity, "c1", str(path))


def test_empty_label_and_absent_class(tmp_path):
    cases = good()
    for case in cases.values():
        case[1][case[1] == 2] = 0
    cases["c1"][1][:] = 0
    findings = run(dataset(tmp_path / "ct", cases))
    assert only(findings, "the label is empty").case == "c1"
    absent = only(findings, "no label holds 'spleen' (value 2)")
    assert (absent.severity, absent.case) == ("warning", "")
    assert len(findings) == 2


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (np.abs(noise()), "neither air nor fat"),
        (noise().clip(None, 20), "no soft tissue"),
        (noise(dtype=np.float32) / 5 + 3, "not in Hounsfield"),
        (np.where(noise() > -500, 30000, -900).astype(np.int16), "above 30000"),
    ],
)
def test_ct_not_in_hounsfield_units(tmp_path, image, words):
    cases = good()
    cases["c1"] = ([image], label(1), affine())
    root = dataset(tmp_path / "ct", cases)
    found = only(run(root), words)
    assert (found.severity, found.case) == ("warning", "c1")
    about = json.loads((root / "dataset.json").read_text())
    (root / "dataset.json").write_text(json.dumps(about | {"channel_names": {"0": "T1"}}))
    assert run(root, "mr") == []


def test_nan_is_counted(tmp_path):
    cases = good()
    image = noise(dtype=np.float32)
    image[0, 0, 0] = np.nan
    cases["c1"] = ([image], label(1), affine())
    root = dataset(tmp_path / "mr", cases, channels=("T1",))
    assert only(run(root), "1 of 504 voxels are NaN").case == "c1"


def test_spacing_outlier_and_anisotropy(tmp_path):
    cases = good(5)
    cases["c3"] = ([noise(seed=5)], label(), affine((0.9, 1.1, 12.0)))
    findings = run(dataset(tmp_path / "ct", cases))
    outlier = only(findings, "far from the usual")
    assert (outlier.case, outlier.severity) == ("c3", "warning")
    assert outlier.what.startswith("the spacing 12 x 1.1 x 0.9 mm")
    assert only(findings, "voxels are very long").severity == "note"


def test_mixed_orientations(tmp_path):
    cases = good()
    turned = affine() @ np.diag([-1.0, -1.0, 1.0, 1.0])
    cases["c0"] = (cases["c0"][0], cases["c0"][1], turned)
    found = only(run(dataset(tmp_path / "ct", cases)), "RAS 2, LPS 1")
    assert found.severity == "note"


def test_same_image_twice_and_across_modalities(tmp_path):
    cases = good()
    cases["c2"] = (cases["c0"][0], label(), affine())
    ct = dataset(tmp_path / "ct", cases)
    mr = dataset(tmp_path / "mr", {"x": (cases["c1"][0], label(), affine())}, channels=("T1",))
    findings = check({m: open_dataset(m, root) for m, root in (("ct", ct), ("mr", mr))})
    twins = [f for f in findings if "the same image as" in f.what]
    assert {(f.modality, f.case) for f in twins} == {("ct", "c2"), ("mr", "x")}
    assert all(f.severity == "error" for f in twins)
    assert any("c0_0000.nii.gz" in f.what for f in twins)


def test_channels_that_are_the_same_file_content(tmp_path):
    cases = good(3, 2)
    cases["c1"] = ([noise(seed=3), noise(seed=3)], label(), affine())
    found = only(run(dataset(tmp_path / "mr", cases, channels=("a", "b"))), "the same image as")
    assert found.case == "c1"


def test_patient_in_two_modalities(tmp_path):
    roots = {
        "ct": dataset(tmp_path / "ct", good()),
        "mr": dataset(tmp_path / "mr", good(2, seed=500), channels=("T1",)),
    }
    found = only(check({m: open_dataset(m, r) for m, r in roots.items()}), "2 patients")
    assert found.severity == "note"
    assert "c0, c1" in found.what


def test_modality_with_one_case_or_none(tmp_path):
    root = dataset(tmp_path / "ct", good(1))
    assert only(run(root), "one labelled case").severity == "warning"
    for folder, name in (("labelsTr", "c0.nii.gz"), ("imagesTr", "c0_0000.nii.gz")):
        (root / folder / name).unlink()
    save(root / "imagesTs" / "t_0000.nii.gz", noise())
    with pytest.raises(DataError, match="add images"):
        run(root)


def test_names_that_are_not_shared(tmp_path):
    ct = dataset(tmp_path / "ct", good())
    only_liver = {"background": 0, "Liver": 1, "aorta": 2}
    mr = dataset(tmp_path / "mr", good(3, seed=500), labels=only_liver, channels=("T1",))
    opened = {m: open_dataset(m, r) for m, r in (("ct", ct), ("mr", mr))}
    findings = check(opened)
    assert only(findings, "only this modality has spleen").modality == "ct"
    assert only(findings, "only this modality has aorta").modality == "mr"
    other = {"background": 0, "heart": 1, "aorta": 2}
    (tmp_path / "b").mkdir()
    far = dataset(tmp_path / "b" / "mr", good(3, seed=500), labels=other, channels=("T1",))
    lone = check({"ct": opened["ct"], "mr": open_dataset("mr", far)})
    assert only(lone, "share no class name").severity == "error"


# ---- a path


def test_single_file(tmp_path):
    path = save(tmp_path / "a.nii.gz", noise())
    assert check_path(path) == []
    path.write_bytes(path.read_bytes()[:100])
    (found,) = check_path(path)
    assert (found.severity, found.file) == ("error", str(path))
    (missing,) = check_path(tmp_path / "b.nii.gz")
    assert "does not exist" in missing.what
    (tmp_path / "l.nii").symlink_to(tmp_path / "l.nii")
    assert len(check_path(tmp_path / "l.nii")) == 1


def test_folder_of_files(tmp_path):
    save(tmp_path / "a.nii.gz", noise())
    save(tmp_path / "deep" / "b.nii", noise(seed=1))
    (tmp_path / "._c.nii").write_bytes(b"x")
    assert check_path(tmp_path) == []
    save(tmp_path / "deep" / "c.nii", noise(seed=1))
    assert "same image" in check_path(tmp_path)[0].what
    patch(tmp_path / "deep" / "b.nii", "srow_x", (np.nan, 0, 0, 0))
    assert "NaN or infinity" in check_path(tmp_path)[0].what
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="holds no"):
        check_path(tmp_path / "none")


def test_slices_among_images_are_not_passed_over(tmp_path):
    save(tmp_path / "a.nii.gz", noise())
    save(tmp_path / "deep" / "b.nii.gz", noise(seed=1))
    assert check_path(tmp_path) == []
    write_series(tmp_path / "deep", voxels(), turned())
    (found,) = check_path(tmp_path)
    assert (found.severity, found.kind, found.file) == ("error", "mixed", str(tmp_path / "deep"))
    (tmp_path / "deep" / "b.nii.gz").unlink()
    assert all(one.severity != "error" for one in check_path(tmp_path))


def test_folder_of_data_sets_one_of_them_broken(tmp_path):
    dataset(tmp_path / "ct", good())
    dataset(tmp_path / "mr", good(3, seed=500), channels=("T1",))
    assert [f.severity for f in check_path(tmp_path)] == ["note"]  # the same patients
    assert check_path(tmp_path / "ct") == []
    (tmp_path / "mr" / "labelsTr" / "c1.nii.gz").unlink()
    found, *rest = check_path(tmp_path)
    assert (found.modality, found.case, found.severity) == ("mr", "c1", "error")
    assert found.what == "there is no label in labelsTr"
    assert [f.kind for f in rest] == ["cases", "patients"]


def test_real_data(shared):
    torso = check_path(shared("data/torso"))
    assert [f.severity for f in torso] == ["warning", "warning", "note", "note", "note"]
    assert [f.kind for f in torso] == ["cases", "cases", "patients", "edge", "edge"]
    odd = check_path(shared("data/odd"))
    errors = [f.case for f in odd if f.severity == "error"]
    assert errors == ["dicom", "example4d.nii.gz", "functional.nii", "test.mgz"]
    assert check_path(shared("data/odd/pir")) == []
    assert not [f for f in check_path(shared("data/sts") / "mr") if f.severity == "error"]
