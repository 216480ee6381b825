"""Streaming to the native grid equals the dense resampling of everything at once."""

import tracemalloc
from collections.abc import Iterator

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from unpaired.data.preprocess import Placement
from unpaired.inference.native import native_labels, native_slices
from unpaired.io.resample import resample_argmax
from unpaired.io.volume import Orientation


def runs_of(scores: Tensor, lengths: list[int]) -> Iterator[tuple[int, Tensor]]:
    """[Z d h w] cut into runs of the given lengths, over and over."""
    start, turn = 0, 0
    while start < scores.shape[1]:
        stop = start + lengths[turn % len(lengths)]
        yield start, scores[:, start:stop].transpose(0, 1)
        start, turn = stop, turn + 1


def placed(grid: tuple[int, int, int], native: tuple[int, int, int]) -> Placement:
    """An image that fills its file."""
    whole = tuple((0, n) for n in native)
    return Placement(Orientation((0, 1, 2), (False,) * 3), native, whole, grid, (1.0, 1.0, 1.0))


def dense(scores: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Interpolation of the whole volume with all classes: the textbook way; [Z D H W]."""
    return torch.nn.functional.interpolate(
        scores[None].double(), size=shape, mode="trilinear", align_corners=False
    )[0]


sizes = st.tuples(*[st.integers(1, 9)] * 3)


@settings(deadline=None, max_examples=80)
@given(old=sizes, new=sizes, lengths=st.lists(st.integers(1, 4), min_size=1, max_size=3))
def test_scores_and_labels_equal_the_dense_resampling(
    old: tuple[int, int, int], new: tuple[int, int, int], lengths: list[int]
) -> None:
    scores = torch.rand(4, *old, generator=torch.Generator().manual_seed(sum(old)))
    found = np.zeros((4, *new), np.float32)
    labels = native_labels(runs_of(scores, lengths), placed(old, new), found)
    expected = dense(scores, new)
    np.testing.assert_allclose(found, expected.numpy(), atol=2e-6)
    np.testing.assert_array_equal(labels, found.argmax(0))
    alone = native_labels(runs_of(scores, lengths), placed(old, new))
    np.testing.assert_array_equal(alone, labels)
    np.testing.assert_array_equal(alone, resample_argmax(scores, new))


def test_each_native_slice_comes_once_in_order_and_as_soon_as_it_can() -> None:
    seen: list[int] = []

    def runs() -> Iterator[tuple[int, Tensor]]:
        for i in range(6):
            seen.append(i)
            yield i, torch.rand(1, 2, 3, 3)

    order = []
    for between in native_slices(runs(), 6, (24, 3, 3)):
        order.append(between.index)
        # Native slice i reads up to prepared slice (i + 1/2) / 4 + 1/2.
        assert seen[-1] == min(5, int((between.index + 0.5) / 4 + 0.5))
    assert order == list(range(24))


def test_memory_grows_with_neither_the_length_nor_the_classes_times_the_volume() -> None:
    def peak(length: int) -> int:
        def runs() -> Iterator[tuple[int, Tensor]]:
            for i in range(length // 4):
                # Torch's memory is not traced, so the tensors share numpy's.
                yield i, torch.from_numpy(np.zeros((1, 12, 32, 32), np.float32))

        tracemalloc.start()
        native_labels(runs(), placed((length // 4, 32, 32), (length, 32, 32)))
        found = tracemalloc.get_traced_memory()[1] - length * 32 * 32  # the labels themselves
        tracemalloc.stop()
        return found

    short, long = peak(40), peak(800)
    assert long < short + 50_000 < 12 * 800 * 32 * 32 * 4 / 50
