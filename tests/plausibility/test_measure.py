"""What a label map measures, against plain loops and SciPy."""

import json
from itertools import product

import numpy as np
import pytest
from scipy import ndimage

from unpaired.metrics.components import component_sizes
from unpaired.plausibility import measure
from unpaired.plausibility.measure import (
    EDGE,
    INTENSITY,
    ML,
    PIECES,
    PLACE,
    Measures,
    levels_of,
    measure_classes,
)

SPACING = (4.0, 1.5, 2.0)


def made(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three classes, one of them in pieces, a fourth absent; image [2 d h w]."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((14, 20, 18), np.uint8)
    labels[2:9, 3:9, 4:10] = 1
    labels[0:3, 12:16, 2:6] = 2
    labels[8:12, 12:16, 10:14] = 2
    labels[5, 17, 17] = 2  # too small for a piece, at the edge of the columns
    labels[10:13, 2:5, 12:15] = 3
    return labels, rng.normal(size=(2, *labels.shape)).astype(np.float32)


def test_against_plain_loops() -> None:
    labels, image = made()
    rows = measure_classes(labels, image, SPACING, 4, (7.0, 10.0, 9.0))
    for z in (1, 2, 3):
        own = [p for p in product(*map(range, labels.shape)) if labels[p] == z]
        assert rows[z - 1, ML] == pytest.approx(len(own) * 4 * 1.5 * 2 / 1000)
        centre = [
            sum((p[a] + 0.5 - (7, 10, 9)[a]) * SPACING[a] for p in own) / len(own) for a in range(3)
        ]
        assert rows[z - 1, PLACE] == pytest.approx(centre)
        for k in range(2):
            values = sorted(float(image[(k, *p)]) for p in own)
            assert rows[z - 1, INTENSITY][k] == pytest.approx(np.median(values))
    assert rows[:3, PIECES].tolist() == [1, 2, 1]
    assert rows[:3, EDGE].tolist() == [0, 1, 0]
    assert rows[3, ML] == 0 and np.isnan(rows[3, 1:]).all()
    assert np.array_equal(rows, measure_classes(labels, image, SPACING, 4), equal_nan=True)


def test_of_evenly_spaced_voxels_it_is_nearly_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a class that falls between them is still there."""
    labels, image = made()
    big = labels.repeat(4, 0).repeat(4, 1).repeat(4, 2)
    big[1, 1, 1] = 4
    spacing = [mm / 4 for mm in SPACING]
    monkeypatch.setattr(measure, "_SAMPLE", big.size // 20)
    few = measure_classes(big, image, spacing, 4)  # the image has a grid of its own
    whole = measure_classes(labels, image, SPACING, 4)
    np.testing.assert_allclose(few[:3, ML], whole[:3, ML], rtol=0.02)
    assert np.array_equal(few[:3, PIECES], whole[:3, PIECES])
    np.testing.assert_allclose(few[:3, PLACE], whole[:3, PLACE], atol=1.0)
    np.testing.assert_allclose(few[:3, INTENSITY], whole[:3, INTENSITY], atol=0.15)
    assert few[3, ML] == pytest.approx(np.prod(spacing) / 1000)
    assert np.isnan(few[3, PIECES])


@pytest.mark.parametrize("seed", range(3))
def test_sizes_of_components_are_scipys(seed: int) -> None:
    labels = np.random.default_rng(seed).integers(0, 4, (9, 8, 7)).astype(np.uint8)
    labels[labels == 2] *= np.random.default_rng(seed).random((labels == 2).sum()) < 0.3
    found = component_sizes(labels, [1, 2, 3, 4])
    for z in (1, 2, 3, 4):
        number, count = ndimage.label(labels == z, np.ones((3, 3, 3)))
        sizes = sorted(np.bincount(number.reshape(-1), minlength=count + 1)[1:], reverse=True)
        assert found[z].tolist() == sizes


def test_a_record_is_read_back() -> None:
    labels, image = made()
    rows = measure_classes(labels, image, SPACING, 4)
    own = Measures(rows, np.array(SPACING), np.array([56.0, 30.0, 36.0]), levels_of(image))
    again = Measures.from_record(json.loads(json.dumps(own.record())), 4)
    assert again is not None
    for name in vars(own):
        np.testing.assert_allclose(getattr(again, name), getattr(own, name), rtol=1e-5)
    np.testing.assert_allclose(
        own.levels, np.percentile(image.reshape(2, -1), (25, 50, 75), 1).T, rtol=1e-5
    )
    for damaged in (None, {}, [], {"classes": {"9": [1]}}, {**own.record(), "classes": {"7": [0]}}):
        assert Measures.from_record(damaged, 4) is None
