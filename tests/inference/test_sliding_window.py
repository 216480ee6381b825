"""Volumes in patches: against plain loops over dense sums, and the ring's bound."""

from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from inferers import inferer_of
from unpaired.artifact.model import mirrored
from unpaired.inference import tiling as ring
from unpaired.inference.tiling import Ring, make_tiling

CPU = torch.device("cpu")


def image_of(channels: int, d: int, h: int, w: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(channels, d, h, w)).astype(np.float32)


def joined(network, image: np.ndarray, **options) -> Tensor:
    """All runs, each checked to follow the one before, copied as they come; [Z d h w]."""
    found: list[Tensor] = []
    for start, scores in inferer_of(network, **options).scores(image):
        assert start == len(found)
        found.extend(scores)
    return torch.stack(found, 1).detach()


def gaussian(n: int) -> np.ndarray:
    x = (np.arange(n) - (n - 1) / 2) / (n / 8)
    return np.maximum(np.exp(-0.5 * x**2), 1e-3)


def dense(network, image: np.ndarray, patch: tuple[int, ...], overlap: float) -> np.ndarray:
    """The plain way: pad, every patch into sums as large as the image, divide; [Z d h w]."""
    size = image.shape[1:]
    lack = [max(p - n, 0) for n, p in zip(size, patch, strict=True)]
    pads = [(0, 0), *((n // 2, n - n // 2) for n in lack)]
    padded = np.stack([np.pad(k, pads[1:], constant_values=k.min()) for k in image])
    starts = []
    for n, p in zip(padded.shape[1:], patch, strict=True):
        count = int(np.ceil((n - p) / max(1, int(p * (1 - overlap))))) + 1
        starts.append([round(i * (n - p) / max(count - 1, 1)) for i in range(count)])
    weight = gaussian(patch[0])[:, None, None] * gaussian(patch[1])[:, None] * gaussian(patch[2])
    total: np.ndarray | None = None
    norm = np.zeros(padded.shape[1:])
    for corner in product(*starts):
        window = tuple(slice(a, a + p) for a, p in zip(corner, patch, strict=True))
        found = network(torch.from_numpy(padded[:, *window][None]))[0].detach().numpy()
        if total is None:
            total = np.zeros((len(found), *padded.shape[1:]))
        total[:, *window] += weight * found
        norm[window] += weight
    assert total is not None
    inside = tuple(slice(b, b + n) for (b, _), n in zip(pads[1:], size, strict=True))
    return (total / norm)[:, *inside]


sizes = st.tuples(st.integers(1, 11), st.integers(1, 13), st.integers(1, 13))
patches = st.tuples(st.integers(1, 6), st.integers(1, 9), st.integers(1, 9))
overlaps = st.sampled_from([0.0, 0.25, 0.5, 0.7])


@settings(deadline=None, max_examples=30)
@given(size=sizes, patch=patches, overlap=overlaps, batch_size=st.integers(1, 7))
def test_a_pointwise_network_gives_the_same_tiled_padded_or_whole(size, patch, overlap, batch_size):
    torch.manual_seed(0)
    image, network = image_of(2, *size), nn.Conv3d(2, 4, 1)
    found = joined(network, image, patch=patch, overlap=overlap, batch_size=batch_size)
    expected = network(torch.from_numpy(image)[None])[0].detach()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(size=sizes, patch=patches, overlap=overlaps, batch_size=st.integers(1, 7))
def test_overlapping_patches_are_averaged_as_in_the_plain_loop(size, patch, overlap, batch_size):
    torch.manual_seed(1)
    image, network = image_of(1, *size), nn.Conv3d(1, 3, 3, padding=1)
    found = joined(network, image, patch=patch, overlap=overlap, batch_size=batch_size)
    expected = dense(network, image, patch, overlap)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_a_yielded_slice_is_the_callers_own():
    """A consumer that holds slices must not see the ring being used again."""
    torch.manual_seed(0)
    image, network = image_of(1, 9, 6, 6), nn.Conv3d(1, 2, 1)
    runs = inferer_of(network, (4, 4, 4)).scores(image)
    held = torch.cat([scores for _, scores in runs])
    expected = network(torch.from_numpy(image)[None])[0].detach()
    torch.testing.assert_close(held.transpose(0, 1), expected, rtol=1e-4, atol=1e-5)


def test_the_ring_does_not_grow_with_the_scan():
    for depth in (8, 80):
        tiling = make_tiling((depth, 6, 6), (8, 4, 4), 0.5)
        assert Ring(tiling, 3, CPU)._sums.numel() == 8 * 3 * 6 * 6


def test_a_large_ring_is_kept_in_half_precision_and_labels_hardly_change(monkeypatch):
    torch.manual_seed(2)
    image, conv = image_of(1, 12, 16, 16), nn.Conv3d(1, 4, 3, padding=1)

    def network(x: Tensor) -> Tensor:
        return conv(x).softmax(1)

    inferer = inferer_of(network, (4, 8, 8))
    exact = inferer.labels(image)
    monkeypatch.setattr(ring, "EXACT_BYTES", 0)
    half = inferer.labels(image)
    assert Ring(make_tiling((12, 16, 16), (4, 8, 8), 0.5), 4, CPU)._sums.dtype == torch.float16
    assert (exact != half).mean() < 0.005
    scores = joined(network, image, patch=(4, 8, 8))
    np.testing.assert_allclose(scores, dense(network, image, (4, 8, 8), 0.5), atol=2e-3)


@pytest.mark.parametrize("axes", [(), (0,), (1, 2), (0, 1, 2)])
def test_mirroring_is_the_mean_over_every_combination(axes):
    torch.manual_seed(3)
    network, image = nn.Conv3d(1, 2, 3, padding=1), torch.randn(2, 1, 4, 5, 6)
    total, count = torch.zeros(2, 2, 4, 5, 6), 0
    for used in product((False, True), repeat=len(axes)):
        flip = [2 + axis for axis, on in zip(axes, used, strict=True) if on]
        total += network(image.flip(flip)).flip(flip).detach()
        count += 1
    found = mirrored(network, axes)(image).detach()
    torch.testing.assert_close(found, total / count, rtol=1e-5, atol=1e-6)
    assert count == 2 ** len(axes)
