"""Whole images slice by slice: against plain loops, and against the network on the whole plane."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from inferers import inferer_of
from unpaired.artifact.model import probabilities
from unpaired.inference.inferer import read_patch
from unpaired.inference.native import best_class
from unpaired.inference.tiling import make_tiling


def image_of(channels: int, d: int, h: int, w: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(channels, d, h, w)).astype(np.float32)


def pointwise(inputs: int, classes: int, seed: int = 0) -> nn.Conv2d:
    torch.manual_seed(seed)
    return nn.Conv2d(inputs, classes, 1)


def whole(network: nn.Module, image: np.ndarray, context: int) -> Tensor:
    """The plain loop: no tiles, no batches; [d Z h w]."""
    channels, d = image.shape[:2]
    found = []
    for i in range(d):
        planes = [
            image[k, min(max(i + j, 0), d - 1)]
            for k in range(channels)
            for j in range(-(context // 2), context - context // 2)
        ]
        found.append(network(torch.from_numpy(np.stack(planes))[None])[0])
    return torch.stack(found).detach()


def joined(network: nn.Module, image: np.ndarray, **options: object) -> Tensor:
    """All runs put together, each checked to follow the one before; [d Z h w]."""
    found: list[Tensor] = []
    for start, scores in inferer_of(network, **options).scores(image):  # type: ignore[arg-type]
        assert start == len(found)
        found.extend(scores)
    return torch.stack(found).detach()


@settings(deadline=None, max_examples=30)
@given(
    channels=st.integers(1, 2),
    context=st.sampled_from([1, 3, 5]),
    size=st.tuples(st.integers(1, 4), st.integers(1, 30), st.integers(1, 30)),
    patch=st.tuples(st.integers(1, 24), st.integers(1, 24)),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.7]),
    batch_size=st.integers(1, 7),
)
def test_a_pointwise_network_gives_the_same_tiled_padded_or_whole(
    channels: int,
    context: int,
    size: tuple[int, int, int],
    patch: tuple[int, int],
    overlap: float,
    batch_size: int,
) -> None:
    image = image_of(channels, *size)
    network = pointwise(channels * context, 4)
    options = {"context": context, "patch": patch, "overlap": overlap, "batch_size": batch_size}
    expected = whole(network, image, context)
    torch.testing.assert_close(joined(network, image, **options), expected, rtol=1e-4, atol=1e-5)


def test_labels_are_the_arg_max() -> None:
    image, network = image_of(1, 5, 20, 33), pointwise(3, 6)
    labels = inferer_of(network, (16, 16), 3).labels(image)
    np.testing.assert_array_equal(labels, whole(network, image, 3).argmax(1).numpy())


def test_a_tie_goes_to_the_lower_class() -> None:
    scores = torch.tensor([0.0, 2.0, 2.0, 1.0]).view(1, 4, 1, 1)
    assert best_class(scores).item() == 1


def test_padding_is_each_channels_own_minimum() -> None:
    image = image_of(2, 4, 3, 3)
    seen: list[Tensor] = []

    def network(x: Tensor) -> Tensor:
        seen.append(x)
        return x[:, :2]

    joined(network, image, context=1, patch=(6, 5), batch_size=2)  # type: ignore[arg-type]
    batch = torch.cat(seen)
    for k in range(2):
        outside = batch[:, k].clone()
        outside[:, 1:4, 1:4] = float("nan")
        values = outside[~outside.isnan()]
        assert (values == image[k].min()).all() and len(values) == 4 * (30 - 9)
        np.testing.assert_array_equal(batch[:, k, 1:4, 1:4].numpy(), image[k])


def test_the_middle_of_a_tile_weighs_more_than_its_edge() -> None:
    """Where two tiles disagree, the one whose centre is nearer wins; the sum of weights is one."""
    image = np.zeros((1, 1, 8, 24), np.float32)
    calls = iter(range(10))

    def network(x: Tensor) -> Tensor:
        return torch.full((1, 1, *x.shape[2:]), float(next(calls)))

    found = joined(network, image, context=1, patch=(8, 16), batch_size=1)[0, 0]  # type: ignore[arg-type]
    assert (found[:, :8] == 0).all()
    torch.testing.assert_close(found[:, 16:], torch.ones(8, 8))
    middle = found[0, 8:16]
    assert (middle.diff() > 0).all() and middle[0] < 0.1 and middle[-1] > 0.9
    torch.testing.assert_close(middle + middle.flip(0), torch.ones(8))


def test_every_patch_is_exactly_of_the_patch_size_and_batches_are_full() -> None:
    sizes: list[tuple[int, ...]] = []

    def network(x: Tensor) -> Tensor:
        sizes.append(tuple(x.shape))
        return x[:, :1]

    joined(network, image_of(1, 3, 20, 40), context=3, patch=(32, 16), batch_size=4)  # type: ignore[arg-type]
    tiles = 3 * 4
    assert sizes == [(4, 3, 32, 16)] * (tiles // 4)


def test_context_repeats_the_edge_slice_channel_by_channel() -> None:
    image = np.arange(8, dtype=np.float32).reshape(2, 4, 1, 1)
    tiling, fill = make_tiling((4, 1, 1), (1, 1), 0.0), np.zeros(2, np.float32)
    first, last = (read_patch(image, tiling, (i, 0, 0), n, fill) for i, n in ((0, 3), (3, 5)))
    assert first.ravel().tolist() == [0, 0, 1, 4, 4, 5]
    assert last.ravel().tolist() == [1, 2, 3, 3, 3, 5, 6, 7, 7, 7]


def test_probabilities_are_the_softmax_over_the_classes() -> None:
    network, x = pointwise(1, 3), torch.randn(2, 1, 4, 4)
    torch.testing.assert_close(probabilities(network)(x), torch.softmax(network(x), 1))


def test_a_memory_map_of_integers_is_taken_as_it_is(tmp_path: object) -> None:
    image = image_of(1, 3, 9, 9)
    network = pointwise(3, 3)
    whole_numbers = (image * 100).astype(np.int16)
    inferer = inferer_of(network, (8, 8), 3)
    a, b = inferer.labels(whole_numbers), inferer.labels(whole_numbers.astype(np.float32))
    np.testing.assert_array_equal(a, b)


def test_autocast_reaches_the_network() -> None:
    kinds: list[torch.dtype] = []
    conv = pointwise(1, 2)

    def network(x: Tensor) -> Tensor:
        found = conv(x)
        kinds.append(found.dtype)
        return found

    image = image_of(1, 1, 4, 4)
    runs = inferer_of(network, (4, 4), autocast=torch.bfloat16).scores(image)
    assert next(runs)[1].dtype == torch.float32 and kinds == [torch.bfloat16]


def test_an_impossible_overlap_is_refused() -> None:
    with pytest.raises(ValueError, match="overlap"):
        joined(pointwise(1, 1), image_of(1, 1, 4, 4), context=1, patch=(4, 4), overlap=1.0)
