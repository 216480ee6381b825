"""Divergences of correlations against loops over pairs of images, and against L_icr."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch

from unpaired.losses import icr
from unpaired.metrics.correlations import describe


def softmax(row: np.ndarray) -> list[float]:
    parts = [math.exp(value) for value in row]
    return [part / sum(parts) for part in parts]


def divergence(a: np.ndarray, b: np.ndarray, tau: float) -> float:
    """Symmetric KL of the rows of two images, summed."""
    total = 0.0
    for i in range(len(a)):
        p, q = softmax(a[i] / tau), softmax(b[i] / tau)
        total += sum(x * math.log(x / y) + y * math.log(y / x) for x, y in zip(p, q, strict=True))
    return total


@pytest.mark.parametrize("sizes", [(2, 3), (1, 4), (2, 2, 3)])
def test_a_scale_is_described_as_by_loops(sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(len(sizes))
    e = {f"m{k}": 5 * rng.standard_normal((n, 4, 4)) for k, n in enumerate(sizes)}
    found = describe(e, 2.0)
    for m, images in e.items():
        own = [divergence(a, b, 2.0) for a, b in combinations(images, 2)]
        np.testing.assert_allclose(found.within[m], np.mean(own) if own else np.nan, rtol=1e-10)
        rows = [softmax(row / 2.0) for image in images for row in image]
        entropy = np.mean([-sum(x * math.log(x) for x in p) for p in rows])
        assert found.entropy[m] == pytest.approx(entropy, rel=1e-12)
        assert found.norm[m] == pytest.approx(math.sqrt(np.mean(images**2)), rel=1e-12)
    pairs = [divergence(a, b, 2.0) for m, n in combinations(e, 2) for a in e[m] for b in e[n]]
    assert found.across == pytest.approx(np.mean(pairs), rel=1e-10)
    known = [value for value in found.within.values() if math.isfinite(value)]
    assert found.ratio == pytest.approx(found.across / np.mean(known))
    tensors = {m: torch.from_numpy(images) for m, images in e.items()}
    assert found.across == pytest.approx(float(icr(tensors, 2.0)), rel=1e-10)


def test_what_does_not_exist_is_not_a_number() -> None:
    one = describe({"a": np.zeros((1, 3, 3))}, 4.0)
    assert math.isnan(one.within["a"]) and math.isnan(one.across) and math.isnan(one.ratio)
    assert one.entropy["a"] == pytest.approx(math.log(3))
    alike = describe({m: np.zeros((2, 3, 3)) for m in "ab"}, 4.0)
    assert alike.across == pytest.approx(0, abs=1e-12) and math.isnan(alike.ratio)
    with pytest.raises(ValueError, match="b has no image"):
        describe({"a": np.zeros((1, 3, 3)), "b": np.zeros((0, 3, 3))}, 4.0)


def test_saturated_rows_have_no_entropy_and_finite_divergence() -> None:
    far = {"a": 1e4 * np.eye(3)[None].repeat(2, 0), "b": 1e4 * np.eye(3)[None, ::-1].repeat(2, 0)}
    found = describe(far, 4.0)
    assert found.entropy["a"] == pytest.approx(0, abs=1e-12)
    assert math.isfinite(found.across) and found.across > 1000
