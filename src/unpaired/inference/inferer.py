"""From a prepared image to class scores, slab by slab, in memory that does not grow with it.

A network of pictures sees slice after slice with its neighbours as channels; one of volumes sees
patches of several slices. Either way the image is cut into a grid of patches with overlap, whose
scores are averaged with Gaussian weights. Images smaller than the patch are padded with their
minimum (air), and cropped back.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

from unpaired.errors import ResourceError
from unpaired.files import shown
from unpaired.inference.located import Located
from unpaired.inference.tiling import Corner, Ring, Tiling, make_tiling
from unpaired.io.resample import neighbours
from unpaired.io.volume import Volume

Network = Callable[[Float[Tensor, "B K *space"]], Float[Tensor, "B Z *space"]]


@runtime_checkable
class Sliceable(Protocol):
    """A prepared image [K d h w]: an array, or what gives float arrays when it is indexed."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, slices, rows, columns."""

    def __getitem__(self, key: Any, /) -> Any:
        """Numpy's indexing."""


def segment_slices(
    network: Network,
    image: Sliceable,
    *,
    context: int,
    patch: tuple[int, ...],
    overlap: float = 0.5,
    batch_size: int = 8,
    device: torch.device,
    autocast: torch.dtype | None = None,
) -> Iterator[tuple[int, Float32[Tensor, "n Z h w"]]]:
    """Segment every slice of an image, patch by patch; a `Located` network segments one crop.

    Args:
        network: scores [B Z *patch] of a batch [B context*K *patch] of patches.
        image: [K d h w]; slices along the first of the three.
        context: slices that a network of pictures sees, the middle one is segmented; the edge
            slice is repeated. 1 for a network of volumes.
        patch: rows and columns that the network takes, or slices, rows and columns.
        overlap: share of a patch that its neighbour covers too, in [0, 1).
        batch_size: patches per call of the network.
        autocast: the type of mixed precision, or None for the network's own.

    Yields:
        The first slice's index and the scores of n consecutive slices, in order, on `device`.
    """
    if isinstance(network, Located):
        yield from network.slices(image, patch, device, autocast)
        return
    tiling = make_tiling(image.shape[1:], patch, overlap)
    padded = tiling.padded != tiling.size
    fill = _minimum(image) if padded else np.zeros(image.shape[0], np.float32)
    work = tiling.corners()
    batches = (work[i : i + batch_size] for i in range(0, len(work), batch_size))

    def scores(batch: Sequence[Corner]) -> Float32[Tensor, "B Z D h w"]:
        patches = np.stack([read_patch(image, tiling, corner, context, fill) for corner in batch])
        flat = torch.from_numpy(patches.reshape(*patches.shape[:2], *patch)).to(device)
        with torch.no_grad(), torch.autocast(device.type, autocast, enabled=autocast is not None):
            found = network(flat).float()
        return found.reshape(*found.shape[:2], *tiling.patch)

    if tiling.lonely:
        _, top, left = tiling.before
        rows, columns = slice(top, top + tiling.size[1]), slice(left, left + tiling.size[2])
        for batch in batches:
            yield batch[0][0], scores(batch)[:, :, 0, rows, columns]
    else:
        yield from _blend(((batch, scores(batch)) for batch in batches), tiling, device)


def segment_labels(
    network: Network,
    image: Sliceable,
    *,
    context: int,
    patch: tuple[int, ...],
    overlap: float = 0.5,
    batch_size: int = 8,
    device: torch.device,
    autocast: torch.dtype | None = None,
) -> UInt8[np.ndarray, "d h w"]:
    """The class of the highest score per voxel of the prepared image; ties to the lower class."""
    labels = np.empty(image.shape[1:], np.uint8)
    runs = segment_slices(
        network,
        image,
        context=context,
        patch=patch,
        overlap=overlap,
        batch_size=batch_size,
        device=device,
        autocast=autocast,
    )
    for start, scores in runs:
        labels[start : start + len(scores)] = best_class(scores).cpu().numpy()
    return labels


def best_class(scores: Float[Tensor, "n Z h w"]) -> Tensor:
    """Index of the highest score, uint8 [n h w]; ties to the lower class.

    A running maximum over the classes: `argmax` over an axis that is not the last is ten times
    slower on a CPU.
    """
    best = scores[:, 0].clone()
    label = torch.zeros(best.shape, dtype=torch.uint8, device=scores.device)
    for z in range(1, scores.shape[1]):
        take_better(best, label, scores[:, z], z)
    return label


def take_better(best: Tensor, label: Tensor, score: Tensor, z: int) -> None:
    """Where `score` of class z is above `best`, note both in place; z must grow from call to call.

    The maximum of indices does what a masked fill would do at a tenth of its time.
    """
    wins = torch.gt(score, best).view(torch.uint8)
    torch.maximum(label, wins.mul_(z), out=label)
    torch.maximum(best, score, out=best)


def mean_probabilities(networks: Sequence[Network]) -> Network:
    """One network that averages the softmax probabilities of several (or of one); no gradients."""

    @torch.no_grad()
    def network(image: Float[Tensor, "B K *space"]) -> Float[Tensor, "B Z *space"]:
        total = _softmax_(networks[0](image).float())
        for other in networks[1:]:
            total += _softmax_(other(image).float())
        return total.div_(len(networks)) if len(networks) > 1 else total

    return network


def mirrored(network: Network, axes: Sequence[int]) -> Network:
    """The mean of the network's scores over every mirroring along some of these spatial axes."""
    flips = [f for n in range(len(axes) + 1) for f in combinations([2 + a for a in axes], n)]
    if len(flips) == 1:
        return network

    @torch.no_grad()
    def mean(image: Float[Tensor, "B K *space"]) -> Float[Tensor, "B Z *space"]:
        total = network(image)
        for flip in flips[1:]:
            total += network(image.flip(flip)).flip(flip)
        return total.div_(len(flips))

    return mean


def _softmax_(scores: Float[Tensor, "B Z *space"]) -> Float[Tensor, "B Z *space"]:
    """In place, a sample at a time: what is read again is still in the cache (half the time)."""
    for one in scores:
        one.copy_(torch.softmax(one, 0))
    return scores


def read_patch(
    image: Sliceable,
    tiling: Tiling,
    corner: Corner,
    context: int,
    fill: Float32[np.ndarray, " channels"],
) -> Float32[np.ndarray, "K D h w"]:
    """The network's input for one patch: K = channels * context, channel by channel."""
    found = np.empty((image.shape[0], context, *tiling.patch), np.float32)
    if tiling.padded != tiling.size:
        found[:] = fill.reshape(-1, *[1] * (found.ndim - 1))
    spans = [
        _span(start - before, size, n)
        for start, before, size, n in zip(
            tiling.origin(corner), tiling.before, tiling.patch, tiling.size, strict=True
        )
    ]
    (depth, there), (rows, down), (columns, across) = spans
    for c in range(context):
        # Neighbours are other slices, the edge repeated; a slab of several slices has none.
        z = min(max(depth.start + c - context // 2, 0), tiling.size[0] - 1)
        near = slice(z, z + depth.stop - depth.start)
        found[:, c, there, down, across] = image[:, near, rows, columns]
    return found.reshape(-1, *tiling.patch)


def context_stack(image: Sliceable, i: int, context: int) -> Float32[np.ndarray, "K h w"]:
    """Slice `i` and its neighbours as channels, channel by channel; the edge slice is repeated."""
    tiling = make_tiling(image.shape[1:], image.shape[2:], 0.0)
    return read_patch(image, tiling, (i, 0, 0), context, np.zeros(image.shape[0], np.float32))[:, 0]


def _span(start: int, size: int, n: int) -> tuple[slice, slice]:
    """Where a patch reads an axis of n positions, and where that lies in the patch."""
    first, last = max(start, 0), min(start + size, n)
    return slice(first, last), slice(first - start, last - start)


def _minimum(image: Sliceable) -> Float32[np.ndarray, " channels"]:
    planes = (np.asarray(image[:, i : i + 1], np.float32) for i in range(image.shape[1]))
    return np.min([plane.min((-3, -2, -1)) for plane in planes], axis=0)


def _blend(
    results: Iterator[tuple[Sequence[Corner], Float32[Tensor, "B Z D h w"]]],
    tiling: Tiling,
    device: torch.device,
) -> Iterator[tuple[int, Float32[Tensor, "1 Z h w"]]]:
    """Add up weighted patches; a slice leaves when its last patch is in."""
    ring, last = None, (len(tiling.starts[1]) - 1, len(tiling.starts[2]) - 1)
    for batch, scores in results:
        for corner, score in zip(batch, scores, strict=True):
            ring = ring or Ring(tiling, len(score), device)
            ring.add(corner, score)
            if corner[1:] == last:
                yield from ring.whole(corner[0])


# Running out of memory, told in the user's words, whoever noticed it.


class OutOfMemoryError(ResourceError):
    """A case needs more memory than there is; other cases may not."""


def is_memory(error: BaseException) -> bool:
    """Whether an error of numpy, of a GPU, or of torch's CPU allocator means no memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in text or "out of memory" in text
    )


@contextmanager
def told_for(grid: Volume) -> Iterator[None]:
    """Turn such errors into one that names the image and what to do.

    Raises:
        OutOfMemoryError: instead of them.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_memory(error):
            raise
        size = " x ".join(map(str, grid.array.shape))
        name = "the image" if grid.path is None else shown(grid.path)
        raise OutOfMemoryError(
            f"there is not enough memory for {name} ({size} voxels). Close other programs, or crop "
            "the image."
        ) from error


# From scores on the prepared grid to labels on the image's own grid, one slice at a time.
#
# The interpolation is linear and separable (`unpaired.io.resample`), so a native slice needs only
# the two prepared slices that it lies between: neither all slices nor all classes of a native
# volume are ever held, however long the scan is.


Runs = Iterable[tuple[int, Float[Tensor, "n Z h w"]]]
"""Consecutive slices of the prepared grid with their scores, as `segment_slices` yields them."""


@dataclass(frozen=True)
class Between:
    """One native slice: the two prepared slices around it and the share of the upper one.

    The planes have the native size where slices are added, the prepared size where they are
    thinned out (the fewest planes are resampled).
    """

    index: int
    lower: Float[Tensor, "Z _ _"]
    upper: Float[Tensor, "Z _ _"]
    share: float
    plane: tuple[int, int]

    def scores(self) -> Float[Tensor, "Z H W"]:
        """All classes of this slice."""
        return _plane(_mix(self.lower, self.upper, self.share), self.plane)

    def label(self) -> Tensor:
        """uint8 [H W]: the class of the highest score, ties to the lower class."""
        if self.share == 0 and tuple(self.lower.shape[1:]) == self.plane:
            return best_class(self.lower[None])[0]
        if tuple(self.lower.shape[1:]) != self.plane:
            return best_class(self.scores()[None])[0]
        # A class at a time: the planes stay in the processor's cache.
        best = _mix(self.lower[0], self.upper[0], self.share)
        label = torch.zeros(best.shape, dtype=torch.uint8, device=best.device)
        for z in range(1, len(self.lower)):
            take_better(best, label, _mix(self.lower[z], self.upper[z], self.share), z)
        return label


def native_slices(runs: Runs, depth: int, shape: Sequence[int]) -> Iterator[Between]:
    """Every slice of the native grid, in order, as soon as the prepared slices allow it.

    Args:
        runs: the prepared slices, in order.
        depth: number of prepared slices.
        shape: native (slices, rows, columns).
    """
    count, plane = shape[0], (int(shape[1]), int(shape[2]))
    pair = neighbours(depth, count)
    thinned = count < depth
    held: deque[tuple[int, Tensor]] = deque()
    index = 0
    for place, scores in _singly(runs):
        if index == count or place < pair.below[index]:
            continue  # thinned out: no native slice reads it
        held.append((place, scores if thinned else _plane(scores, plane)))
        while index < count and pair.above[index] <= place:
            while held[0][0] < pair.below[index]:
                held.popleft()
            share = float(pair.weight[index] / pair.total)
            # At the last slice below and above are one; held[-1] is `above` by construction.
            yield Between(index, held[0][1], held[-1][1], share, plane)
            index += 1


def labels_into(out: np.ndarray, slices: Iterable[Between]) -> None:
    """Write the label of every slice into `out` [D H W], which may be a view in any order."""
    for between in slices:
        out[between.index] = between.label().cpu().numpy()


def scores_into(
    labels: np.ndarray,
    scores: np.ndarray,
    slices: Iterable[Between],
    encode: Callable[[np.ndarray], np.ndarray] = lambda x: x,
) -> None:
    """As `labels_into`, and the scores of all classes into `scores` [Z D H W], encoded."""
    for between in slices:
        found = between.scores()
        labels[between.index] = best_class(found[None])[0].cpu().numpy()
        scores[:, between.index] = encode(found.cpu().numpy())


def _singly(runs: Runs) -> Iterator[tuple[int, Tensor]]:
    for start, scores in runs:
        for offset, one in enumerate(scores):
            yield start + offset, one


def _mix(lower: Tensor, upper: Tensor, share: float) -> Tensor:
    return lower if share == 0 else torch.lerp(lower, upper, share)


def _plane(scores: Float[Tensor, "Z _ _"], size: tuple[int, int]) -> Float[Tensor, "Z _ _"]:
    if tuple(scores.shape[1:]) == size:
        return scores
    return F.interpolate(scores[None], size=size, mode="bilinear", align_corners=False)[0]
