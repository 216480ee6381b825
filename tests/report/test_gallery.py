"""The picture of several rows: the truth and the predictions in the paper's colours, aligned."""

import io
from pathlib import Path

import numpy as np
import pytest
from made_run import CLASSES, make_run, small_subject
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from unpaired.colours import class_colours
from unpaired.errors import DataError
from unpaired.report.overlays import OPACITY, PANEL, Line, gallery
from unpaired.report.slices import load_slice
from unpaired.run.contents import read_contents


def pixels(png: bytes) -> np.ndarray:
    return imread(io.BytesIO(png))[..., :3]


def coloured(picture: np.ndarray, colour: str) -> int:
    """Pixels that are some grey under this colour."""
    tint = np.array(to_rgb(colour))
    grey = (picture - OPACITY * tint) / (1 - OPACITY)
    flat = grey.max(-1) - grey.min(-1) < 0.03
    return int(np.count_nonzero(flat & (np.ptp(picture, -1) > 0.05)))


def test_organs_stand_in_the_papers_colours_in_truth_and_predictions(tmp_path: Path) -> None:
    run = make_run(tmp_path, 2)
    lines = [Line(m, f"{m}_001", {"V3": run, "Ours": run}) for m in ("ct", "mr")]
    picture = pixels(gallery(lines))
    height, width, _ = picture.shape
    columns = [picture[:, i * width // 4 : (i + 1) * width // 4] for i in range(4)]
    shown = load_slice(read_contents(run), "ct", "ct_001", by_truth=True)
    present = [CLASSES[i] for i in np.unique(shown.truth) if i]
    assert len(present) > 2
    body = height - int(0.45 * height / (2 * PANEL + 0.8))  # above the legend
    for name in present:
        colour = class_colours(CLASSES)[name]
        counts = [coloured(column[:body], colour) for column in columns]
        assert counts[0] == 0 and min(counts[1:]) > 50
        assert counts[2] == pytest.approx(counts[3], rel=0.1)
    assert gallery(lines) == gallery(lines)


def beside_air(modality: str, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    image, label, affine = small_subject(modality, number)
    image[:6] = -900
    return image, label, affine


def test_pictures_of_two_runs_show_the_same_crop(tmp_path: Path) -> None:
    run = make_run(tmp_path, 1, beside_air)
    first = load_slice(read_contents(run), "ct", "ct_000", by_truth=True)
    path = run / "predictions" / "ct" / "ct_000.nii.gz"
    import nibabel as nib

    file = nib.load(path)
    stray = np.asarray(file.dataobj).copy()
    stray[0, 0] = 1  # far outside the body
    nib.save(nib.Nifti1Image(stray, file.affine), path)
    second = load_slice(read_contents(run), "ct", "ct_000", by_truth=True)
    assert np.array_equal(first.image, second.image) and np.array_equal(first.truth, second.truth)
    assert load_slice(read_contents(run), "ct", "ct_000").image.shape != first.image.shape


def test_a_missing_prediction_is_said(tmp_path: Path) -> None:
    run = make_run(tmp_path, 1)
    (run / "predictions" / "ct" / "ct_000.nii.gz").unlink()
    with pytest.raises(DataError, match="ct_000"):
        gallery([Line("ct", "ct_000", {"Ours": run})])
