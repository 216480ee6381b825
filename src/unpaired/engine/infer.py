"""From a prepared image to class scores, slice by slice, in memory that does not grow with it.

Planes larger than the patch are tiled with overlap; the tiles' scores are averaged with Gaussian
weights. Smaller planes are padded with the image's minimum (air), and cropped back.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8
from torch import Tensor

Network = Callable[[Float[Tensor, "B K h w"]], Float[Tensor, "B Z h w"]]


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
    patch: tuple[int, int],
    overlap: float = 0.5,
    batch_size: int = 8,
    device: torch.device,
    autocast: torch.dtype | None = None,
) -> Iterator[tuple[int, Float32[Tensor, "n Z h w"]]]:
    """Segment every slice of an image with its neighbours as channels (2.5D).

    Args:
        network: scores [B Z h w] of a batch [B context*K h w] of patches.
        image: [K d h w]; slices along the first of the three.
        context: slices the network sees, the middle one is segmented; the edge is repeated.
        patch: rows and columns that the network takes.
        overlap: share of a patch that its neighbour covers too, in [0, 1).
        batch_size: patches per call of the network.
        autocast: the type of mixed precision, or None for the network's own.

    Yields:
        The first slice's index and the scores of n consecutive slices, in order, on `device`.
    """
    plan = _tiling(image.shape[2:], patch, overlap)
    fill = _minimum(image) if plan.padding != (0, 0) else np.zeros(image.shape[0], np.float32)
    work = [(i, tile) for i in range(image.shape[1]) for tile in range(len(plan.corners))]
    batches = (work[i : i + batch_size] for i in range(0, len(work), batch_size))

    def scores(batch: Sequence[tuple[int, int]]) -> Float32[Tensor, "B Z h w"]:
        patches = _patches(image, batch, plan, context, fill).to(device)
        with torch.no_grad(), torch.autocast(device.type, autocast, enabled=autocast is not None):
            return network(patches).float()

    if len(plan.corners) == 1:
        rows, columns = (slice(a, a + n) for a, n in zip(plan.before, plan.size, strict=True))
        for batch in batches:
            yield batch[0][0], scores(batch)[..., rows, columns]
    else:
        yield from _blend(((batch, scores(batch)) for batch in batches), plan, device)


def segment_labels(
    network: Network,
    image: Sliceable,
    *,
    context: int,
    patch: tuple[int, int],
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
    def network(image: Float[Tensor, "B K h w"]) -> Float[Tensor, "B Z h w"]:
        total = _softmax_(networks[0](image).float())
        for other in networks[1:]:
            total += _softmax_(other(image).float())
        return total.div_(len(networks)) if len(networks) > 1 else total

    return network


def _softmax_(scores: Float[Tensor, "B Z h w"]) -> Float[Tensor, "B Z h w"]:
    """In place, a sample at a time: what is read again is still in the cache (half the time)."""
    for one in scores:
        one.copy_(torch.softmax(one, 0))
    return scores


@dataclass(frozen=True)
class _Tiling:
    """Where the patches lie in a plane, the same for every slice."""

    size: tuple[int, int]
    patch: tuple[int, int]
    padding: tuple[int, int]
    corners: tuple[tuple[int, int], ...]
    weights: Float32[Tensor, "tiles h w"]
    """Gaussians divided by their sum at each position: adding the tiles averages them."""

    @property
    def before(self) -> tuple[int, int]:
        """Rows and columns of padding before the plane."""
        return self.padding[0] // 2, self.padding[1] // 2


def _tiling(size: Sequence[int], patch: tuple[int, int], overlap: float) -> _Tiling:
    if not 0 <= overlap < 1:
        raise ValueError(f"an overlap of {overlap} is not in [0, 1)")
    padding = (max(patch[0] - size[0], 0), max(patch[1] - size[1], 0))
    rows, columns = (_starts(max(n, p), p, overlap) for n, p in zip(size, patch, strict=True))
    corners = tuple((y, x) for y in rows for x in columns)
    gauss = _gaussian(patch[0])[:, None] * _gaussian(patch[1])[None]
    total = torch.zeros(max(size[0], patch[0]), max(size[1], patch[1]))
    for y, x in corners:
        total[y : y + patch[0], x : x + patch[1]] += gauss
    weights = torch.stack([gauss / total[y : y + patch[0], x : x + patch[1]] for y, x in corners])
    return _Tiling((size[0], size[1]), patch, padding, corners, weights)


def _starts(size: int, patch: int, overlap: float) -> list[int]:
    """First positions of evenly spread patches that cover `size` and overlap at least so much."""
    count = math.ceil((size - patch) / max(1, int(patch * (1 - overlap)))) + 1
    return [round(i * (size - patch) / max(count - 1, 1)) for i in range(count)]


def _gaussian(size: int) -> Float32[Tensor, " h"]:
    """Standard deviation an eighth of the patch, at least 1e-3 of the peak."""
    position = (torch.arange(size) - (size - 1) / 2) / (size / 8)
    return torch.exp(-0.5 * position**2).clamp_min(1e-3)


def _minimum(image: Sliceable) -> Float32[np.ndarray, " channels"]:
    planes = (_values(image[:, i : i + 1]) for i in range(image.shape[1]))
    return np.min([plane.min((-3, -2, -1)) for plane in planes], axis=0)


def _values(array: Any) -> np.ndarray:
    return np.asarray(array, np.float32)


def _patches(
    image: Sliceable,
    batch: Sequence[tuple[int, int]],
    plan: _Tiling,
    context: int,
    fill: Float32[np.ndarray, " channels"],
) -> Float32[Tensor, "B K h w"]:
    """The network's input for these (slice, tile) pairs; each slice is read once."""
    stacks = {i: context_stack(image, i, context) for i in dict.fromkeys(i for i, _ in batch)}
    if plan.padding != (0, 0):
        pad = [(b, n - b) for b, n in zip(plan.before, plan.padding, strict=True)]
        border = np.repeat(fill, context)
        stacks = {i: _pad(stack, pad, border) for i, stack in stacks.items()}
    found = np.empty((len(batch), len(stacks[batch[0][0]]), *plan.patch), np.float32)
    for n, (i, tile) in enumerate(batch):
        y, x = plan.corners[tile]
        found[n] = stacks[i][:, y : y + plan.patch[0], x : x + plan.patch[1]]
    return torch.from_numpy(found)


def context_stack(image: Sliceable, i: int, context: int) -> Float32[np.ndarray, "K h w"]:
    """Slice `i` and its neighbours as channels, channel by channel; the edge slice is repeated."""
    near = np.clip(np.arange(i - context // 2, i - context // 2 + context), 0, image.shape[1] - 1)
    return _values(image[:, near]).reshape(-1, *image.shape[2:])


def _pad(
    stack: Float32[np.ndarray, "K _ _"], pad: list[tuple[int, int]], border: np.ndarray
) -> Float32[np.ndarray, "K _ _"]:
    (top, bottom), (left, right) = pad
    channels, h, w = stack.shape
    found = np.empty((channels, h + top + bottom, w + left + right), np.float32)
    found[:] = border[:, None, None]
    found[:, top : top + h, left : left + w] = stack
    return found


def _blend(
    results: Iterator[tuple[Sequence[tuple[int, int]], Float32[Tensor, "B Z ph pw"]]],
    plan: _Tiling,
    device: torch.device,
) -> Iterator[tuple[int, Float32[Tensor, "1 Z h w"]]]:
    """Add up weighted tiles; a slice leaves when its last tile is in, so one at a time is held."""
    weights, total, last = plan.weights.to(device), None, len(plan.corners) - 1
    (top, left), (h, w) = plan.before, plan.size
    for batch, scores in results:
        for (i, tile), score in zip(batch, scores, strict=True):
            if total is None:
                full = (max(h, plan.patch[0]), max(w, plan.patch[1]))
                total = score.new_zeros(len(score), *full)
            y, x = plan.corners[tile]
            total[:, y : y + plan.patch[0], x : x + plan.patch[1]].addcmul_(score, weights[tile])
            if tile == last:
                yield i, total[None, :, top : top + h, left : left + w]
                total = None
