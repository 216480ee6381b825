"""What a planned patch shows: the labelled structures where they are a part of the planes."""

from pathlib import Path

import numpy as np
import pytest

from small_sets import write_set
from unpaired.config import load_config
from unpaired.data import measure
from unpaired.data.plan import Plan
from unpaired.datasets.dataset import Dataset
from unpaired.datasets.planes import orient
from unpaired.datasets.sources import open_dataset
from unpaired.methods import method_of
from unpaired.training.region import is_part, patch_of, seen_mm, turned_of


def planned(folder: Path) -> tuple[dict[str, Dataset], Plan, list[measure.Geometry]]:
    datasets = {"ct": open_dataset("ct", folder)}
    config = load_config("default", None, ["data.slice_axis=S", "modalities.ct.clip=percentile"])
    plan = method_of(config).plan(config, datasets)
    return datasets, plan, turned_of(measure.lattices(datasets), plan)


@pytest.mark.parametrize(
    ("axes", "shape", "spacing"),
    [("LPS", (160, 128, 8), (2.0, 1.0, 5.0)), ("SLP", (8, 160, 128), (5.0, 2.0, 1.0))],
)
def test_a_patch_shows_the_labels_and_a_third_more_however_a_file_lies(
    tmp_path: Path, axes: str, shape: tuple[int, int, int], spacing: tuple[float, float, float]
) -> None:
    """Half of every axis is labelled: 20 of 40 mm, 64 of 128, 160 of 320."""
    datasets, plan, scans = planned(write_set(tmp_path, [shape] * 3, spacing, axes))
    assert scans[0].shape == (8, 128, 160)
    box = measure.labelled_extent_mm(
        datasets["ct"], [3, 7], lambda scan: orient(scan, plan.slice_axis, plan.planes)
    )
    assert box.tolist() == [20, 64, 160]
    seen = seen_mm(datasets, plan, scans)
    np.testing.assert_allclose(seen, 1.33 * np.array([20, 64, 160]))
    assert is_part(seen, scans)


def test_labels_that_fill_the_planes_leave_them_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets, plan, scans = planned(write_set(tmp_path, [(40, 24, 8)] * 3, (2.0, 1.0, 5.0)))
    # Nor do small structures in small planes, which need some voxels around them.
    for box in ([20.0, 20, 60], [0.0, 0, 0], [5.0, 2, 2]):
        monkeypatch.setattr(measure, "labelled_extent_mm", lambda *_, box=box: np.array(box))
        seen = seen_mm(datasets, plan, scans)
        assert seen.tolist() == [40, 24, 80] and not is_part(seen, scans)


def test_sides_are_multiples_that_show_it_all_or_as_much_as_asked() -> None:
    seen = np.array([50.0, 100.0, 60.0])
    assert patch_of(seen, (5.0, 1.0, 1.0), 16, 128) == (112, 64)
    assert patch_of(seen, (5.0, 2.0, 2.0), 16, 128) == (64, 32)
    assert patch_of(seen, (5.0, 1.0, 1.0), 16, 64) == (64, 64)
    assert patch_of(seen, (5.0, 9.0, 9.0), 16, 8) == (16, 16)
