"""The check between writing a file and naming it: it must answer as the live network does."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from unpaired.artifact.model import Model
from unpaired.data.cache import Intensities
from unpaired.errors import DataError, UnpairedError
from unpaired.files import printable
from unpaired.run import RunFolder

TOLERANCE = 1e-4
"""Largest difference of logits in float32; classes whose logits are closer than this are tied."""

Reloaded = Callable[[Float[Tensor, "B Km *space"], str], Float[Tensor, "B Z *space"]]
"""Logits of the written file, for images of a modality."""


class ParityError(UnpairedError):
    """The written file does not answer as the network it was made from."""


@dataclass(frozen=True)
class Parity:
    """How far a written file is from the live network."""

    largest_difference: float
    """Of any logit."""
    labels_differing: int
    """Positions whose class differs; all are ties of the live network."""
    positions: int
    prepared_images: int
    """Prepared images of the run among those compared; the others are random."""

    def as_json(self) -> dict[str, Any]:
        """For the export's record."""
        return asdict(self)


@torch.no_grad()
def check_parity(
    live: nn.Module, model: Model, reloaded: Reloaded, sizes: Iterable[tuple[int, ...]], what: str
) -> Parity:
    """Compare on random images of every modality and size, and on a prepared one where there is.

    Args:
        live: the network to equal, called with images and a modality.
        model: what was written.
        reloaded: the written file.
        what: the file's name, for the message.

    Raises:
        ParityError: logits or labels differ.
    """
    largest, differing, positions, real = 0.0, 0, 0, 0
    for modality, image, is_real in _images(model, tuple(sizes)):
        expected = live(image, modality).logits.float()
        found = reloaded(image, modality)
        same = found.shape == expected.shape
        difference = (found - expected).abs().max().item() if same else np.inf
        if not difference <= TOLERANCE:  # not a number fails too
            raise ParityError(
                f"{what} does not answer as the network it was made from: for "
                f"{printable(modality)} its scores are off by {difference:.3g}, {TOLERANCE:g} is "
                "allowed. Nothing was written. Please report this, with the configuration of the "
                "run."
            )
        a, b = expected.argmax(1), found.argmax(1)
        margin = _at(expected, a) - _at(expected, b)
        if (margin > TOLERANCE).any():
            raise ParityError(
                f"{what} labels {int((margin > TOLERANCE).sum())} positions otherwise than the "
                f"network it was made from, for {printable(modality)}. Nothing was written. Please "
                "report this, with the configuration of the run."
            )
        largest, differing = max(largest, difference), differing + int((a != b).sum())
        positions, real = positions + a.numel(), real + is_real
    return Parity(largest, differing, positions, real)


def _at(logits: Float[Tensor, "B Z *space"], label: Tensor) -> Tensor:
    return logits.gather(1, label[:, None])[:, 0]


def _images(
    model: Model, sizes: tuple[tuple[int, ...], ...]
) -> Iterator[tuple[str, Float[Tensor, "B Km *space"], bool]]:
    """Modality, images, whether they are of the run: another batch size for every size."""
    generator = torch.Generator().manual_seed(0)
    for modality, channels in model.channels.items():
        for batch, size in enumerate(dict.fromkeys(sizes), start=1):
            yield modality, torch.randn(batch, channels, *size, generator=generator), False
        image = _prepared(model, modality)
        if image is not None:
            yield modality, image, True


def _prepared(model: Model, modality: str) -> Float[Tensor, "1 Km *space"] | None:
    """The middle of the first prepared case of the run that the model lies in, if it is there."""
    run = RunFolder(model.folder.parent)
    if run.files.model != model.folder or not run.files.data.is_file():
        return None
    try:
        cases = list(run.prepared.get(modality, {}).values())
    except DataError:  # the cache may be gone; random images remain
        return None
    if not cases:
        return None
    image, plan = Intensities(cases[0]), model.plan
    if len(plan.patch) == 2:
        depth, near = image.shape[1], np.arange(plan.context) - plan.context // 2
        stack = image[:, (depth // 2 + near).clip(0, depth - 1)].reshape(-1, *image.shape[2:])
    else:
        stack = np.asarray(image[:], np.float32)
    return torch.from_numpy(_fitted(stack, plan.patch))[None]


def _fitted(stack: np.ndarray, patch: tuple[int, ...]) -> np.ndarray:
    """Cut or filled to the patch, about the middle."""
    for axis, wanted in enumerate(patch, start=1):
        have = stack.shape[axis]
        start = max(0, (have - wanted) // 2)
        stack = np.take(stack, range(start, min(have, start + wanted)), axis)
        pad = [(0, 0)] * stack.ndim
        pad[axis] = (0, wanted - stack.shape[axis])
        stack = np.pad(stack, pad, constant_values=float(stack.min()))
    return np.ascontiguousarray(stack)
