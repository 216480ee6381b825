"""One network, or the mean of several, from volumes to labels on their own grid."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unpaired.data.preprocess import PreparedImage, preprocess, slices
from unpaired.engine.device import Precision, autocast_dtype
from unpaired.engine.images import grid_of
from unpaired.engine.infer import segment_slices
from unpaired.engine.members import Member
from unpaired.engine.memory import is_memory, told_for
from unpaired.engine.native import labels_into, native_slices, scores_into
from unpaired.io.volume import Volume
from unpaired.metrics import keep_largest

log = logging.getLogger(__name__)


class Ensemble:
    """Members that predict together; it goes on in smaller batches when memory runs out.

    Attributes:
        device, batch_size: as they are now.
        notes: what was changed because memory ran out.
    """

    def __init__(
        self,
        members: Sequence[Member],
        device: torch.device,
        batch_size: int,
        overlap: float,
        precision: Precision,
        mirror: bool = False,
    ) -> None:
        self.members, self.mirror = tuple(members), mirror
        self.batch_size, self.overlap, self.precision = batch_size, overlap, precision
        self.notes: list[str] = []
        self._move(device)

    def segment(
        self,
        volumes: list[Volume],
        modality: str,
        largest: Sequence[int] = (),
        scores: np.ndarray | None = None,
        encode: Callable[[np.ndarray], np.ndarray] = lambda x: x,
    ) -> np.ndarray:
        """uint8 labels [i j k] of one image.

        Args:
            volumes: one a channel; the list is emptied, since their memory is needed.
            largest: classes of which the largest connected piece is kept.
            scores: [Z i j k], filled with the encoded probabilities inside the content box.

        Raises:
            DataError: the volumes do not fit the modality.
            OutOfMemoryError: smaller batches, or the CPU, did not help.
        """
        with told_for(grid_of(volumes[0])):
            images = {
                member.recipe(modality): preprocess(volumes, modality, member.plan)
                for member in self.members
            }
            volumes.clear()
            turn = next(iter(images.values())).orientation
            whole = self._labels(images, modality, scores, encode)
            images.clear()
            if largest:
                whole = keep_largest(whole, largest)
            return _positive(turn.undo(whole))

    def _labels(
        self,
        images: Mapping[str, PreparedImage],
        modality: str,
        scores: np.ndarray | None,
        encode: Callable[[np.ndarray], np.ndarray],
    ) -> np.ndarray:
        """uint8 labels in canonical axes; smaller batches, then the CPU, when memory runs out."""
        image = next(iter(images.values()))
        whole = np.zeros(image.native_shape, np.uint8)
        box = slices(image.box)
        while True:
            runs = self._runs(images, modality)
            between = native_slices(runs, image.array.shape[1], image.box_shape)
            try:
                if scores is None:
                    labels_into(whole[box], between)
                else:
                    turned = image.orientation.apply(scores)
                    scores_into(whole[box], turned[:, *box], between, encode)
                return whole
            except (MemoryError, RuntimeError) as error:
                if not is_memory(error):
                    raise
                reason = str(error)
            # Only here, when the error has let go of the tensors in its frames.
            self._shrink(reason)

    def _runs(
        self, images: Mapping[str, PreparedImage], modality: str
    ) -> Iterator[tuple[int, Float[Tensor, "n Z h w"]]]:
        """Consecutive slices with the members' mean class probabilities."""
        streams = [
            segment_slices(
                member.network(modality, self.mirror),
                images[member.recipe(modality)].array,
                context=member.plan.context,
                patch=member.plan.patch,
                overlap=self.overlap,
                batch_size=self.batch_size,
                device=self.device,
                autocast=self.autocast,
            )
            for member in self.members
        ]
        for together in zip(*streams, strict=True):
            start, total = together[0]
            for _, other in together[1:]:
                total = total + other
            yield start, total / len(streams) if len(streams) > 1 else total

    def _shrink(self, reason: str) -> None:
        """Half the batch; the CPU where there is no half.

        Raises:
            MemoryError: that was tried already.
        """
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if self.batch_size > 1:
            self.batch_size //= 2
            note = f"out of memory on {self.device}: going on with batches of {self.batch_size}"
        elif self.device.type != "cpu":
            self._move(torch.device("cpu"))
            note = "out of memory on the GPU even with one patch: going on on the CPU, slowly"
        else:
            raise MemoryError(reason)
        log.warning("%s (%s)", note, reason)
        self.notes.append(note)

    def _move(self, device: torch.device) -> None:
        self.device = device
        self.autocast = autocast_dtype(self.precision, device)
        for member in self.members:
            member.segmenter.to(device)


def _positive(view: np.ndarray) -> np.ndarray:
    """The same values without negative strides, which torch cannot take."""
    return view if min(view.strides) > 0 else view.copy(order="K")
