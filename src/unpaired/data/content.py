"""What an array holds: the box of an image's content, values and slices of a label."""

from collections.abc import Sequence
from itertools import product

import numpy as np

from unpaired.datasets.dataset import IGNORED

Box = tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
_CHUNK = 1 << 22


def content_box(channels: Sequence[np.ndarray]) -> Box:
    """The smallest box that holds every voxel other than the border's constant value.

    Each channel's border value is the one most of its eight corners hold; a channel that is
    constant altogether does not count. With no constant border the box is the whole array.
    """
    spans = [_content_span(channel) for channel in channels]
    known = [span for span in spans if span is not None]
    if not known:
        a, b, c = channels[0].shape
        return (0, a), (0, b), (0, c)
    a, b, c = (
        (min(span[axis][0] for span in known), max(span[axis][1] for span in known))
        for axis in range(3)
    )
    return a, b, c


def _content_span(array: np.ndarray) -> Box | None:
    corners = [array[corner] for corner in product((0, -1), repeat=3)]
    values, counts = np.unique(corners, return_counts=True)
    content = array != values[counts.argmax()]
    spans = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        inside = np.flatnonzero(content.any(axis=others))
        if not len(inside):
            return None
        spans.append((int(inside[0]), int(inside[-1]) + 1))
    return spans[0], spans[1], spans[2]


def count_values(array: np.ndarray) -> dict[int, int]:
    """Value -> voxels of a label without negative values, without sorting the volume."""
    high = int(array.max())
    if high > 65535:
        values, counts = np.unique(array, return_counts=True)
        return {int(v): int(n) for v, n in zip(values, counts, strict=True)}
    total = np.zeros(high + 1, np.int64)
    flat = array.ravel(order="K")
    for start in range(0, flat.size, _CHUNK):
        total += np.bincount(flat[start : start + _CHUNK], minlength=high + 1)
    return {int(v): int(total[v]) for v in np.flatnonzero(total)}


def class_slices(label: np.ndarray) -> dict[int, list[int]]:
    """Foreground class -> the slices of `label` [d h w] that hold it."""
    slices_of: dict[int, list[int]] = {}
    for z, plane in enumerate(label):
        for value in np.flatnonzero(np.bincount(plane.reshape(-1))):
            if value not in (0, IGNORED):
                slices_of.setdefault(int(value), []).append(z)
    return dict(sorted(slices_of.items()))


def annotated_slices(label: np.ndarray) -> list[int] | None:
    """The slices of `label` [d h w] that hold an annotated voxel; None where every voxel is."""
    ignored = [np.count_nonzero(plane == IGNORED) for plane in label]
    if not any(ignored):
        return None
    return [z for z, count in enumerate(ignored) if count < label[z].size]
