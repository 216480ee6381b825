"""One network, or the mean of several, from volumes to labels on their own grid; and what happens
when memory runs out."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch

from unpaired.artifact.model import GRID, Model
from unpaired.config.schema import PredictConfig
from unpaired.data.preprocess import PreparedImage, check_volumes, preprocess
from unpaired.device import Precision
from unpaired.errors import ResourceError
from unpaired.files import printable
from unpaired.inference.compared import Agreement, Segmented, measures_of
from unpaired.inference.images import grid_of
from unpaired.inference.inferer import Inferer
from unpaired.inference.native import Runs, best_class, mean_labels, native_labels
from unpaired.inference.needs import Needs, bytes_of_a_patch, needs_of
from unpaired.io.volume import Volume
from unpaired.metrics import keep_largest

log = logging.getLogger(__name__)


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
        name = "the image" if grid.path is None else printable(grid.path)
        raise OutOfMemoryError(
            f"there is not enough memory for {name} ({_size(grid)} voxels). Close other programs, "
            "or crop the image."
        ) from error


def _size(volume: Volume) -> str:
    return " x ".join(map(str, volume.array.shape))


class Ensemble:
    """Models that predict together; it goes on in smaller batches when memory runs out.

    The mean is over their class probabilities: on the prepared grid where they share one, on the
    image's own grid, slice by slice, where they do not.

    Args:
        settings: of each model; its configuration's by default.
        precision: of all; each model's configuration by default.

    Attributes:
        device, settings: as they are now.
        notes: what was changed because memory ran out.
    """

    def __init__(
        self,
        models: Sequence[Model],
        device: torch.device,
        settings: Sequence[PredictConfig] | None = None,
        precision: Precision | None = None,
    ) -> None:
        self.models, self.precision = tuple(models), precision
        self.settings = list(settings or (model.config.predict for model in models))
        self.notes: list[str] = []
        self._patch_bytes: dict[str, int] = {}
        self._move(device)

    def segment(
        self,
        volumes: list[Volume],
        modality: str,
        largest: Sequence[int] = (),
        scores: np.ndarray | None = None,
        encode: Callable[[np.ndarray], np.ndarray] = lambda x: x,
    ) -> Segmented:
        """Labels of one image, and what they measure.

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
                model.recipe(modality): preprocess(volumes, modality, model.plan)
                for model in self.models
            }
            volumes.clear()
            turn = next(iter(images.values())).orientation
            turned = None if scores is None else turn.apply(scores)
            labels, agreement = self._labels(images, modality, turned, encode)
            image = images[self.models[0].recipe(modality)]
            images.clear()
            if largest:
                labels = keep_largest(labels, largest)
            measures = measures_of(labels, image, len(self.models[0].plan.classes) - 1)
            return Segmented(_positive(turn.undo(labels)), measures, agreement)

    def needs(
        self,
        volumes: Sequence[Volume],
        modality: str,
        largest: Sequence[int] = (),
        scores: np.ndarray | None = None,
    ) -> Needs:
        """What `segment` will take of memory; the first image of a modality takes a patch's time.

        Raises:
            DataError: the volumes do not fit the modality.
            OutOfMemoryError: the machine has not so much, swap included.
        """
        check_volumes(volumes, modality, self.models[0].plan)
        inferers = self._inferers(modality)
        if modality not in self._patch_bytes:
            found = [bytes_of_a_patch(one, len(volumes)) for one in inferers]
            self._patch_bytes[modality] = max(found)
        recipes = len({model.recipe(modality) for model in self.models})
        patch_bytes = self._patch_bytes[modality]
        # Of other grids each in turn stands for all: the finest, or the deepest patch, decides.
        leads = {(one.plan.spacing_mm, one.plan.patch): one for one in reversed(inferers)}
        each = [
            needs_of([lead, *inferers[1:]], recipes, volumes, patch_bytes, bool(largest), scores)
            for lead in leads.values()
        ]
        needs = max(each, key=lambda one: one.memory_bytes)
        if needs.memory_bytes > needs.machine_bytes:
            there, needed = (
                f"{n / 2**30:.1f} GiB" for n in (needs.machine_bytes, needs.memory_bytes)
            )
            raise OutOfMemoryError(
                f"{printable(needs.image)} ({_size(volumes[0])} voxels) needs about {needed} of "
                f"memory, and this machine has {there}, swap included. To go on, {needs.remedy}."
            )
        return needs

    def _inferers(self, modality: str) -> list[Inferer]:
        return [
            Inferer.of(model, modality, self.device, settings, self.precision)
            for model, settings in zip(self.models, self.settings, strict=True)
        ]

    def _labels(
        self,
        images: Mapping[str, PreparedImage],
        modality: str,
        scores: np.ndarray | None,
        encode: Callable[[np.ndarray], np.ndarray],
    ) -> tuple[np.ndarray, list[float] | None]:
        """In canonical axes, and how the models agree; smaller batches, then the CPU, when memory
        runs out."""
        while True:
            try:
                return self._mean(images, modality, scores, encode)
            except (MemoryError, RuntimeError) as error:
                if not is_memory(error):
                    raise
                reason = str(error)
            # Only here, when the error has let go of the tensors in its frames.
            self._shrink(reason)

    def _mean(
        self,
        images: Mapping[str, PreparedImage],
        modality: str,
        scores: np.ndarray | None,
        encode: Callable[[np.ndarray], np.ndarray],
    ) -> tuple[np.ndarray, list[float] | None]:
        groups = self._groups()
        parts = len(groups) if len(groups) > 1 else len(self.models)
        agreement = Agreement(parts, len(self.models[0].plan.classes)) if parts > 1 else None
        inside = agreement if len(groups) == 1 else None
        streams = [
            (
                self._runs(group, images, modality, inside),
                images[group[0][0].recipe(modality)],
                len(group) / len(self.models),
            )
            for group in groups
        ]
        if agreement is not None and len(groups) > 1:
            labels = mean_labels(streams, scores, encode, agreement.add)
        else:
            runs, image, _ = streams[0]
            labels = native_labels(runs, image, scores, encode)
        return labels, None if agreement is None else agreement.dice()

    def _groups(self) -> list[list[tuple[Model, PredictConfig]]]:
        """Models that go through an image alike, patch by patch: their scores come in step."""
        groups: dict[object, list[tuple[Model, PredictConfig]]] = {}
        for model, settings in zip(self.models, self.settings, strict=True):
            grid = [repr(getattr(model.plan, name)) for name in GRID]
            key = (*grid, settings.batch_size, settings.overlap)
            groups.setdefault(key, []).append((model, settings))
        return list(groups.values())

    def _runs(
        self,
        models: Sequence[tuple[Model, PredictConfig]],
        images: Mapping[str, PreparedImage],
        modality: str,
        agreement: Agreement | None,
    ) -> Runs:
        """Consecutive slices with the mean class probabilities of models that go in step."""
        streams = [
            Inferer.of(model, modality, self.device, settings, self.precision).scores(
                images[model.recipe(modality)].array
            )
            for model, settings in models
        ]
        for together in zip(*streams, strict=True):
            start, total = together[0]
            for _, other in together[1:]:
                total = total + other
            if len(streams) > 1:
                total = total / len(streams)
            if agreement is not None:
                agreement.add([best_class(one) for _, one in together], best_class(total))
            yield start, total

    def _shrink(self, reason: str) -> None:
        """Half the batch; the CPU where there is no half.

        Raises:
            MemoryError: that was tried already.
        """
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        if (largest := max(one.batch_size for one in self.settings)) > 1:
            half = largest // 2
            self.settings = [
                one.model_copy(update={"batch_size": min(one.batch_size, half)})
                for one in self.settings
            ]
            note = f"out of memory on {self.device}: going on with batches of {half}"
        elif self.device.type != "cpu":
            self._move(torch.device("cpu"))
            note = "out of memory on the GPU even with one patch: going on on the CPU, slowly"
        else:
            raise MemoryError(reason)
        log.warning("%s (%s)", note, reason)
        self.notes.append(note)

    def _move(self, device: torch.device) -> None:
        self.device = device
        for model in self.models:
            model.segmenter.to(device)


def _positive(view: np.ndarray) -> np.ndarray:
    """The same values without negative strides, which torch cannot take."""
    return view if min(view.strides) > 0 else view.copy(order="K")
