"""One crop instead of a sliding window: find the structures, segment there, background elsewhere.

Whole image -> coarse view -> heat map -> its maximum -> crop of fixed size around it -> scores,
pasted slice by slice. In memory are the view, the crop's scores and one slice of the image.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor

from unpaired.data.plan import CoarseView
from unpaired.methods.payer.crops import (
    Indexed,
    cell_position,
    coarse_image,
    corner_of,
    cut,
    overlap,
)

Network = Callable[[Float[Tensor, "B K *space"]], Float[Tensor, "B _ *space"]]


@dataclass(frozen=True)
class Located:
    """A network that says where it wants to look; others see every patch.

    Attributes:
        network: scores [B Z *patch] of crops.
        find: heat maps [B 1 *space] of coarse views.
        view: how the coarse view is made.
    """

    network: Network
    find: Network
    view: CoarseView

    def __call__(self, image: Float[Tensor, "B K *space"]) -> Float[Tensor, "B Z *space"]:
        return self.network(image)

    def centre(
        self, image: Indexed, device: torch.device, autocast: torch.dtype | None = None
    ) -> np.ndarray:
        """Where the heat map is highest, in voxels of the image [K d h w]; ties to the first."""
        view = torch.from_numpy(coarse_image(image, self.view))[None].to(device)
        heat = _run(self.find, view, autocast)[0, 0]
        cell = np.unravel_index(int(heat.argmax()), tuple(heat.shape))
        return cell_position([int(i) for i in cell], image.shape[1:], self.view)

    def slices(
        self,
        image: Indexed,
        patch: tuple[int, ...],
        device: torch.device,
        autocast: torch.dtype | None = None,
    ) -> Iterator[tuple[int, Float32[Tensor, "1 Z h w"]]]:
        """The scores of every slice of the image, in order, as `Inferer.scores` gives them.

        Outside the crop they are 1 for the background and 0 for the other classes, as
        probabilities are.
        """
        corner = corner_of(self.centre(image, device, autocast), patch)
        crop = torch.from_numpy(read_crop(image, corner, patch))[None].to(device)
        scores = _run(self.network, crop, autocast)[0]
        there, here = overlap(corner, patch, image.shape[1:])
        for z in range(image.shape[1]):
            plane = torch.zeros(1, len(scores), *image.shape[2:], device=device)
            plane[:, 0] = 1
            if there[0].start <= z < there[0].stop:
                inside = scores[:, z - corner[0], here[1], here[2]]
                plane[0, :, there[1], there[2]] = inside
            yield z, plane


def read_crop(
    image: Indexed, corner: tuple[int, ...], patch: tuple[int, ...]
) -> Float32[np.ndarray, "K D h w"]:
    """A crop of every channel, with the channel's minimum (air) where it reaches outside."""
    there, _ = overlap(corner, patch, image.shape[1:])
    outside = any(span.stop - span.start < size for span, size in zip(there, patch, strict=True))
    parts = []
    for k in range(image.shape[0]):
        fill = _minimum(image, k) if outside else 0.0
        read = lambda where, k=k: np.asarray(image[(k, *where)], np.float32)  # noqa: E731
        parts.append(cut(read, image.shape[1:], corner, patch, fill))
    return np.stack(parts)


def _run(network: Network, image: Tensor, autocast: torch.dtype | None) -> Tensor:
    kind = image.device.type
    with torch.no_grad(), torch.autocast(kind, autocast, enabled=autocast is not None):
        return network(image).float()


def _minimum(image: Indexed, channel: int) -> float:
    """Read slice by slice."""
    return min(float(np.min(image[channel, z])) for z in range(image.shape[1]))
