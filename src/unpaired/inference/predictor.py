"""Volume -> labels on the image's own grid, in bounded memory."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from unpaired.artifact.model import Member, load_members
from unpaired.data.preprocess import PreparedImage, preprocess, slices
from unpaired.device import Precision, autocast_dtype, find_device
from unpaired.errors import UsageError
from unpaired.inference.images import Image, grid_of, told_otherwise, volumes_of
from unpaired.inference.inferer import (
    is_memory,
    labels_into,
    native_slices,
    scores_into,
    segment_slices,
    told_for,
)
from unpaired.inference.label_files import (
    SCALE,
    colours,
    encode,
    probability_file,
    recipe_mark,
    write_label_files,
)
from unpaired.inference.outcome import Outcome
from unpaired.inference.targets import case_of_target, refuse_unwritable, targets_of
from unpaired.io.read import Reading
from unpaired.io.volume import Volume
from unpaired.io.write import Names, Writing, write_labels
from unpaired.metrics import keep_largest
from unpaired.names import did_you_mean

# One network, or the mean of several, from volumes to labels on their own grid.


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


_EXPORT = 2  # part of a prediction's mark: raise it when the same inputs give other labels


@dataclass(frozen=True)
class Prediction:
    """The segmentation of one image.

    Attributes:
        labels: uint8 [i j k], class indices in the file's axis order, on the image's grid.
        volume: that grid (its array is empty of content); `write_volume(path, labels, volume)`.
        classes: class names, background first.
        probabilities: float32 [Z i j k] if asked for; beyond the image's content background is 1.
        notes: what was odd, yet accepted, and how memory ran short.
        files: the label files written.
    """

    labels: np.ndarray
    volume: Volume
    classes: tuple[str, ...]
    modality: str
    probabilities: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()


class Predictor:
    """Segments images with one trained model, or the mean of several.

    Args:
        members: loaded models of equal classes and grid.
        batch_size: patches per call of the network; the model's configuration by default.
        precision: of the network; the model's training configuration by default.
        mirror: mean over mirrored images; the model's configuration by default.
    """

    def __init__(
        self,
        members: Sequence[Member],
        device: torch.device,
        batch_size: int | None = None,
        precision: Precision | None = None,
        mirror: bool | None = None,
    ) -> None:
        first = members[0]
        self.members = tuple(members)
        self.plan, self.classes = first.plan, first.plan.classes
        self.modalities = tuple(first.plan.modalities)
        self.largest_component = first.config.predict.largest_component
        self._ensemble = Ensemble(
            members,
            device,
            batch_size or first.config.predict.batch_size,
            first.config.predict.overlap,
            precision or first.config.train.precision,
            first.config.predict.mirror == "auto" if mirror is None else mirror,
        )

    @classmethod
    def from_folder(
        cls, run: Path | str | Sequence[Path | str], device: str = "auto", **options: Any
    ) -> "Predictor":
        """From a run, a folder of folds (fold_0, ...), an exported model, or several of these.

        Args:
            device: auto, cpu or cuda.
            options: `batch_size`, `precision`, `mirror` of the constructor.

        Raises:
            DataError: no model, a damaged one, or models that do not belong together.
            ResourceError: the device is not there.
        """
        named = [run] if isinstance(run, str | Path) else list(run)
        return cls(load_members([Path(one) for one in named]), find_device(device), **options)

    def predict(
        self,
        image: Image | Sequence[Image],
        modality: str | None = None,
        *,
        affine: np.ndarray | None = None,
        spacing_mm: Sequence[float] | None = None,
        probabilities: bool = False,
        largest_component: Sequence[str] | None = None,
        reading: Reading | None = None,
    ) -> Prediction:
        """Segment one image: a path (a file, or the folder of a DICOM series), a volume, an array
        [i j k], or a sequence of one a channel.

        Args:
            modality: may be left out where the model knows only one.
            affine, spacing_mm: the geometry of arrays, see `unpaired.inference.images.volumes_of`.
            probabilities: keep those of all classes; they take 4 bytes per class and voxel.
            largest_component: class names of which only the largest connected piece is kept; the
                model's configuration by default. The probabilities are left as they are.
            reading: which DICOM series, and whether its slices may be resampled.

        Raises:
            UsageError: an unknown modality or class, or an array without geometry.
            DataError: the image is at fault.
            ResourceError: there is not enough memory.
        """
        name, largest = self.modality(modality), self.class_indices(largest_component)
        volumes = volumes_of(image, affine, spacing_mm, reading)
        scores = None
        if probabilities:
            with told_for(volumes[0]):
                scores = np.zeros((len(self.classes), *volumes[0].array.shape), np.float32)
                scores[0] = 1
        found = self._segment(volumes, name, largest, scores)
        return replace(found, probabilities=scores)

    def predict_file(
        self,
        image: Path | Sequence[Path],
        out: Path,
        modality: str | None = None,
        *,
        probabilities: bool = False,
        largest_component: Sequence[str] | None = None,
        label_files: bool = True,
        reading: Reading | None = None,
        writing: Writing | None = None,
    ) -> Prediction:
        """Segment files and write the labels on the image's grid, to `out` or into the folder
        `out` in the image's own format (see `unpaired.inference.targets`).

        Beside it: `<name>_labels.json`, `.txt` (ITK-SNAP) and `.ctbl` (3D Slicer), and, if asked
        for, `<name>_probabilities.nii`. The file's description holds `mark(...)`.

        Raises:
            as `predict`, and UsageError where `out` would overwrite the image.
        """
        paths = [image] if isinstance(image, Path) else list(image)
        return self.predict_into(
            paths,
            targets_of(out, paths, writing or Writing()),
            modality,
            probabilities=probabilities,
            largest_component=largest_component,
            label_files=label_files,
            reading=reading,
            writing=writing,
        )

    def predict_into(
        self,
        paths: Sequence[Path],
        targets: Sequence[Path],
        modality: str | None = None,
        *,
        probabilities: bool = False,
        largest_component: Sequence[str] | None = None,
        label_files: bool = True,
        reading: Reading | None = None,
        writing: Writing | None = None,
    ) -> Prediction:
        """As `predict_file`, into label files of given names, each in the format of its ending."""
        name, largest = self.modality(modality), self.class_indices(largest_component)
        volumes = volumes_of(paths, reading=reading)
        refuse_unwritable(targets, volumes[0])
        mark = self.mark(name, largest_component, reading)
        grid, first, case = grid_of(volumes[0], mark), targets[0], case_of_target(targets[0])
        if probabilities:
            beside = first.with_name(f"{case}_probabilities.nii")
            with probability_file(beside, len(self.classes), grid) as scores:
                scores[0] = SCALE
                found = self._segment(volumes, name, largest, scores, encode)
                del scores  # Windows renames no file that is mapped
        else:
            found = self._segment(volumes, name, largest)
        notes, told = list(found.notes), Names(self.classes, colours(len(self.classes)), mark)
        for target in targets:
            notes += write_labels(target, found.labels, grid, told, writing)
        if label_files:
            write_label_files(first.parent, self.classes, f"{case}_")
        return replace(found, notes=tuple(notes), files=tuple(targets))

    def modality(self, name: str | None) -> str:
        """The modality's name, checked; the only one where there is one.

        Raises:
            UsageError: unknown, or left out though there are several.
        """
        if name in self.modalities:
            return name
        if name is None and len(self.modalities) == 1:
            return self.modalities[0]
        known = ", ".join(self.modalities)
        if name is None:
            raise UsageError(f"say which modality the image is; the model knows {known}.")
        hint = did_you_mean(name, self.modalities)
        raise UsageError(f"the model does not know the modality {name!r}.{hint} It knows {known}.")

    def class_indices(self, names: Sequence[str] | None) -> list[int]:
        """The indices of foreground classes.

        Raises:
            UsageError: a name that is not one of the model's.
        """
        known = self.classes[1:]
        found = self.largest_component if names is None else names
        for name in found:
            if name not in known:
                raise UsageError(
                    f"the model has no class {name!r}.{did_you_mean(name, known)} "
                    f"It has {', '.join(known)}."
                )
        return [self.classes.index(name) for name in found]

    def mark(
        self,
        modality: str,
        largest_component: Sequence[str] | None = None,
        reading: Reading | None = None,
    ) -> str:
        """What a prediction depends on besides the image, as a short text for its header."""
        largest = self.class_indices(largest_component)
        weights = [member.digest for member in self.members]
        facts = [modality, f"{self._ensemble.overlap}", f"{sorted(largest)}", f"{_EXPORT}"]
        facts += ["mirrored"] if self._ensemble.mirror else []
        facts += [] if reading in (None, Reading()) else [repr(reading)]
        return f"unpaired {recipe_mark(*weights, *facts)}"

    def predict_folder(
        self,
        images: Path | Sequence[Path],
        out: Path,
        modality: str | None = None,
        **options: Any,
    ) -> Outcome:
        """Segment every image of a folder; see `unpaired.inference.folder.predict_folder`."""
        from unpaired.inference.folder import predict_folder

        return predict_folder(self, images, out, modality, **options)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was changed because memory ran out, over all images so far."""
        return tuple(self._ensemble.notes)

    def _segment(
        self, volumes: list[Volume], modality: str, largest: Sequence[int], *into: Any
    ) -> Prediction:
        grid, already = grid_of(volumes[0]), len(self.notes)
        notes = [note for volume in volumes for note in volume.notes]
        notes += told_otherwise(volumes[0], modality, self.modalities)
        labels = self._ensemble.segment(volumes, modality, largest, *into)
        notes += self.notes[already:]
        return Prediction(labels, grid, self.classes, modality, notes=tuple(notes))
