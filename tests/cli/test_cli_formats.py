"""DICOM and the other formats on the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from dicom_files import pydicom, turned, voxels, write_series
from unpaired.artifact.model import Model
from unpaired.cli import main
from unpaired.io.dicom.codes import CODES
from unpaired.io.read import read_image, read_label_image
from unpaired.io.write import FORMATS

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    from tiny_model import tiny_config, tiny_plan, tiny_segmenter

    folder = tmp_path_factory.mktemp("model")
    config, plan = tiny_config(), tiny_plan(("background", "liver", "spleen"))
    Model(tiny_segmenter(config, plan), plan, config).save(folder, {"steps": 3})
    return ["--model", str(folder), "--modality", "ct", "--device", "cpu"]


def run(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert isinstance(stop.value.code, int | None)
    return stop.value.code or 0


def test_a_series_becomes_nifti_and_a_segmentation(
    model: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    series, out = tmp_path / "scan", tmp_path / "out"
    write_series(series, voxels((20, 18, 6)), turned())
    assert run(["predict", str(series), *model, "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["written"] == {"out": str(out / "scan.nii.gz")}
    assert read_label_image(out / "scan.nii.gz").array.shape == (20, 18, 6)
    assert pydicom.dcmread(out / "scan_seg.dcm").PatientID == "P 7"
    codes = tmp_path / "codes.toml"
    codes.write_text('[liver]\ntype = ["X1", "99LAB", "Our liver"]\n')
    more = ["--format", "dicom-seg,mha", "--empty-segments", "--codes", str(codes)]
    assert run(["predict", str(series), *model, "--out", str(tmp_path / "two"), *more]) == 0
    names = {path.name for path in (tmp_path / "two").iterdir()}
    assert names == {"scan.mha", "scan_seg.dcm", "scan_labels.json", "scan_labels.txt",
                     "scan_labels.ctbl", "scan_plausibility.csv",
                     "scan_plausibility.json"}  # fmt: skip
    first, *_ = segments = pydicom.dcmread(tmp_path / "two" / "scan_seg.dcm").SegmentSequence
    assert [one.SegmentLabel for one in segments] == ["liver", "spleen"]
    assert first.SegmentedPropertyTypeCodeSequence[0].CodeValue == "X1"


def test_options_reach_the_reader(
    model: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    paths = write_series(folder / "a", voxels((20, 18, 6)), turned())
    write_series(folder / "b", voxels((20, 18, 6)), turned(), uid="1.2.3", number=8)
    scan = str(folder / "a")
    paths[2].unlink()
    call = [*model, "--out", str(tmp_path / "out")]
    assert run(["predict", scan, *call]) == 3
    assert "slices are missing (1)" in capsys.readouterr().err
    assert run(["predict", scan, *call, "--resample-slices"]) == 0
    assert "linearly between neighbours" in capsys.readouterr().err
    assert read_image(tmp_path / "out" / "a.nii.gz").array.shape == (20, 18, 6)
    for path in (folder / "b").iterdir():
        path.rename(folder / "a" / f"b{path.name}")
    assert run(["predict", scan, *call]) == 2
    assert "choose one with --series" in capsys.readouterr().err
    assert run(["predict", scan, *call, "--series", "8"]) == 0
    assert "another series is not read" in capsys.readouterr().err
    assert run(["predict", scan, *call, "--format", "png"]) == 2
    assert "there is no format 'png'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def coarse(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A model on a grid so coarse that real scans are predicted in seconds."""
    from tiny_model import tiny_config, tiny_plan, tiny_segmenter

    folder = tmp_path_factory.mktemp("coarse")
    plan = tiny_plan(("background", "liver", "right kidney"), spacing_mm=(8.0, 6.0, 6.0))
    Model(tiny_segmenter(tiny_config(), plan), plan, tiny_config()).save(folder, {"steps": 3})
    return ["--model", str(folder), "--device", "cpu"]


def test_the_real_tilted_head_is_refused_with_the_reason(
    shared: Callable[[str], Path], coarse: list[str], tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    head, out = str(shared("data/dicom/ct_head_tilt_uneven_gaps")), tmp_path / "out"
    assert run(["predict", head, *coarse, "--modality", "ct", "--out", str(out)]) == 3
    said = capsys.readouterr().err
    assert "tilted by 18.5 degrees" in said
    assert "uneven, 1.08 to 7.00 mm" in said
    assert not out.exists() or not any(out.iterdir())
    assert run(["check", head]) == 3
    assert run(["predict", head, *coarse, "--modality", "ct", "--out", str(out),
                "--resample-slices"]) == 0  # fmt: skip
    assert "linearly between neighbours" in capsys.readouterr().err
    assert {p.name for p in out.glob("*_*")} >= {"ct_head_tilt_uneven_gaps_seg.dcm"}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "modality"), [("ct_abdomen", "ct"), ("mr_abdomen_t2", "mr")])
def test_real_abdomens_come_back_on_the_right_slices(
    shared: Callable[[str], Path], coarse: list[str], tmp_path: Path, name: str, modality: str
) -> None:
    """NIfTI by nibabel and DICOM-SEG by highdicom agree, slice by slice, at the places that the
    original headers give."""
    highdicom = pytest.importorskip("highdicom", reason="highdicom is an extra")
    folder = shared(f"data/dicom/{name}")
    call = [*coarse, "--modality", modality, "--out", str(tmp_path)]
    assert run(["predict", str(folder), *call]) == 0
    found = nib.load(tmp_path / f"{name}.nii.gz")
    array, back = np.asarray(found.dataobj), np.linalg.inv(LPS @ found.affine)
    values = json.loads((tmp_path / f"{name}_labels.json").read_text())
    values = values.get("labels", values)
    seen = highdicom.seg.segread(tmp_path / f"{name}_seg.dcm")
    assert len(seen.SegmentSequence) == len(set(np.unique(array)) - {0}) > 0
    for path in folder.glob("*.dcm"):
        source = pydicom.dcmread(path, stop_before_pixels=True)
        assert seen.PatientID == source.PatientID
        assert seen.StudyInstanceUID == source.StudyInstanceUID
        corner = back @ [*map(float, source.ImagePositionPatient), 1.0]
        np.testing.assert_allclose(corner, [0, 0, round(corner[2]), 1], atol=0.01)
        plane = array[..., round(corner[2])].T
        for number, segment in enumerate(seen.SegmentSequence, 1):
            mask = seen.get_pixels_by_source_instance([source.SOPInstanceUID], [number])[0, ..., 0]
            assert np.array_equal(mask, plane == values[segment.SegmentLabel])


def test_a_name_that_says_dicom(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.dcm").write_bytes(b"abc" * 200)
    assert run(["check", str(tmp_path / "a.dcm")]) == 3
    assert "the header DICM is missing" in capsys.readouterr().out


def test_check_takes_a_series(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    paths = write_series(tmp_path / "scan", voxels((20, 18, 6)), turned())
    assert run(["check", str(tmp_path / "scan")]) == 0
    paths[1].write_bytes(paths[1].read_bytes()[:900])
    assert run(["check", str(tmp_path / "scan")]) == 3
    assert "001.dcm" in capsys.readouterr().out
    assert run(["check", str(tmp_path)]) == 3


def test_the_page_tells_every_option_format_and_code() -> None:
    text = (DOCS / "dicom.md").read_text()
    for words in ("--series", "--resample-slices", "--format", "--empty-segments", "--codes"):
        assert words in text
    assert all(f"`{name}`" in text and ending in text for name, ending in FORMATS.items())
    for name, code in CODES.items():
        assert f"| {name} | {code.type.value} | {code.type.meaning} |" in text, name
    assert "Not a medical device" in text
    assert np.all([word in text for word in ("MONOCHROME1", "tilted", "uneven", "missing")])
