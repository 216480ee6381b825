"""From a prepared image to class scores, slab by slab, in memory that does not grow with it.

A network of pictures sees slice after slice with its neighbours as channels; one of volumes sees
patches of several slices. Either way the image is cut into a grid of patches with overlap, whose
scores are averaged with Gaussian weights. Images smaller than the patch are padded with their
minimum (air), and cropped back.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from unpaired.artifact.model import Model, Network
from unpaired.config.schema import PredictConfig
from unpaired.data.plan import Plan
from unpaired.data.preprocess import PreparedImage
from unpaired.device import Precision, autocast_dtype
from unpaired.inference.native import Runs, native_labels, noting
from unpaired.inference.tiling import Corner, Ring, Tiling, make_tiling


@runtime_checkable
class Sliceable(Protocol):
    """A prepared image [K d h w]: an array, or what gives float arrays when it is indexed."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Channels, slices, rows, columns."""

    def __getitem__(self, key: Any, /) -> Any:
        """Numpy's indexing."""


@runtime_checkable
class Looking(Protocol):
    """A network that goes through an image in its own way, not patch by patch."""

    def slices(
        self,
        image: Sliceable,
        patch: tuple[int, ...],
        device: torch.device,
        autocast: torch.dtype | None = None,
    ) -> Runs:
        """The scores of every slice of the image, in order, as `Inferer.scores` gives them."""


@dataclass(frozen=True)
class Inferer:
    """A network over whole images.

    Attributes:
        network: scores [B Z *patch] of a batch of patches [B context*K *patch]; or a
            `Looking` network.
        plan: says the patch (rows and columns, or slices, rows and columns) and, for a network of
            pictures, how many slices it sees: it segments the middle one, and the edge repeats.
        settings: the overlap of patches and how many go through the network at a time.
        autocast: the type of mixed precision, or None for the network's own.
    """

    network: Network
    plan: Plan
    settings: PredictConfig
    device: torch.device
    autocast: torch.dtype | None = None

    @classmethod
    def of(
        cls,
        model: Model,
        modality: str,
        device: torch.device,
        settings: PredictConfig | None = None,
        precision: Precision | None = None,
    ) -> "Inferer":
        """For a model that is on the device: class probabilities of images of this modality.

        Args:
            settings, precision: the model's configuration by default.
        """
        settings = settings or model.config.predict
        return cls(
            model.network(modality, settings.mirror == "auto"),
            model.plan,
            settings,
            device,
            autocast_dtype(precision or model.config.train.precision, device),
        )

    def scores(self, image: Sliceable) -> Runs:
        """Segment every slice of an image [K d h w], patch by patch.

        Yields:
            The first slice's index and the scores of n consecutive slices, in order, on `device`.
        """
        if isinstance(self.network, Looking):
            yield from self.network.slices(image, self.plan.patch, self.device, self.autocast)
            return
        tiling = make_tiling(image.shape[1:], self.plan.patch, self.settings.overlap)
        work, size = tiling.corners(), self.settings.batch_size
        padded = tiling.padded != tiling.size
        fill = _minimum(image) if padded else np.zeros(image.shape[0], np.float32)
        scored = (
            (batch, self._patches(image, tiling, batch, fill))
            for batch in (work[i : i + size] for i in range(0, len(work), size))
        )
        if not tiling.lonely:
            yield from _blend(scored, tiling, self.device)
            return
        _, top, left = tiling.before
        rows, columns = slice(top, top + tiling.size[1]), slice(left, left + tiling.size[2])
        for batch, scores in scored:
            yield batch[0][0], scores[:, :, 0, rows, columns]

    def _patches(
        self,
        image: Sliceable,
        tiling: Tiling,
        batch: Sequence[Corner],
        fill: Float32[np.ndarray, " channels"],
    ) -> Float32[Tensor, "B Z D h w"]:
        context, patch = self.plan.context, self.plan.patch
        patches = np.stack([read_patch(image, tiling, corner, context, fill) for corner in batch])
        flat = torch.from_numpy(patches.reshape(*patches.shape[:2], *patch)).to(self.device)
        kind, mixed = self.autocast, self.autocast is not None
        with torch.no_grad(), torch.autocast(self.device.type, kind, enabled=mixed):
            scores = self.network(flat).float()
        return scores.reshape(*scores.shape[:2], *tiling.patch)

    def labels(self, image: Sliceable) -> UInt8[np.ndarray, "d h w"]:
        """The class of the highest score per voxel of the prepared image; ties to the lower."""
        labels = np.empty(image.shape[1:], np.uint8)
        deque(noting(self.scores(image), labels), maxlen=0)
        return labels

    def both(self, image: PreparedImage) -> tuple[np.ndarray, np.ndarray]:
        """The labels on the prepared grid [d h w], and on the file's in canonical axes."""
        prepared = np.empty(image.array.shape[1:], np.uint8)
        return prepared, native_labels(noting(self.scores(image.array), prepared), image)


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
