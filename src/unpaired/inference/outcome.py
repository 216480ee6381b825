"""What is asked of a prediction, and what comes of one image or of many."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from unpaired.colours import class_rgb
from unpaired.errors import DataError, UsageError
from unpaired.inference.ensemble import OutOfMemoryError
from unpaired.inference.needs import Needs
from unpaired.io.raw import Names
from unpaired.io.read import Reading
from unpaired.io.volume import Volume
from unpaired.io.write import Writing, write_labels
from unpaired.names import did_you_mean, printable
from unpaired.plausibility.judge import Plausibility

log = logging.getLogger(__name__)
_NOT_COMPARED = Plausibility("", compared=False)


@dataclass(frozen=True)
class Options:
    """What is asked of a prediction.

    Attributes:
        probabilities: those of all classes too, kept (4 bytes per class and voxel), or written
            beside a label file.
        largest_component: class names of which only the largest connected piece is kept; the
            model's configuration by default. The probabilities are left as they are.
        reading: which DICOM series, and whether its slices may be resampled.
        writing: the formats of label files.
        label_files: write what the numbers mean beside each label file.
        on_needs: called with what each image will take of memory, before it is predicted; by
            default that is not found out.
    """

    probabilities: bool = False
    largest_component: Sequence[str] | None = None
    reading: Reading | None = None
    writing: Writing | None = None
    label_files: bool = True
    on_needs: Callable[[Needs], None] | None = None


@dataclass(frozen=True, repr=False)
class Prediction:
    """The segmentation of one image.

    Attributes:
        labels: uint8 [i j k], class indices in the file's axis order, on the image's grid.
        volume: that grid (its array is empty of content); `write_volume(path, labels, volume)`.
        classes: class names, background first.
        probabilities: float32 [Z i j k] if asked for; beyond the image's content background is 1.
        notes: what was odd, yet accepted, and how memory ran short.
        files: the label files written.
        plausibility: how the labels and the scan compare with those of the training, see
            docs/plausibility.md; `plausibility.odd` says whether anything is odd.
    """

    labels: np.ndarray
    volume: Volume
    classes: tuple[str, ...]
    modality: str
    probabilities: np.ndarray | None = None
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    plausibility: Plausibility = _NOT_COMPARED

    def __repr__(self) -> str:
        shape = " x ".join(map(str, self.labels.shape))
        names = [name for i, name in enumerate(self.classes) if i and (self.labels == i).any()]
        found = f"Prediction({self.modality}, {shape} voxels: {', '.join(names) or 'nothing'})"
        return "\n  ".join([found, *self.notes])

    def save(self, path: str | Path) -> None:
        """Write the labels on the image's grid, in the format of the path's ending.

        Raises:
            UsageError: the ending is of no format that labels are written in.
            ResourceError: the file cannot be written.
        """
        target = Path(path).expanduser()
        target.parent.mkdir(parents=True, exist_ok=True)
        names = Names(self.classes, class_rgb(self.classes), self.modality)
        write_labels(target, self.labels, self.volume, names)

    def volume_ml(self, cls: str) -> float:
        """The volume of a class in millilitres.

        Raises:
            UsageError: there is no class of that name.
        """
        if cls not in self.classes:
            hint = did_you_mean(cls, self.classes)
            raise UsageError(f"there is no class {cls!r}.{hint} It has {', '.join(self.classes)}.")
        voxels = np.count_nonzero(self.labels == self.classes.index(cls))
        return float(voxels * abs(np.linalg.det(self.volume.affine[:3, :3])) / 1000)


@dataclass(frozen=True)
class Outcome:
    """What became of a list of cases; every case is in one of the first three.

    Attributes:
        written, kept: case -> label file; kept were whole and of the same model already.
        failures: case -> what was wrong and how to mend it.
        notes: case -> what was odd, yet accepted.
        passed_over: what lay in the folder and is no image by its name's ending.
        plausibility: case -> how its labels compare with those of the training, of the written and
            the kept.
    """

    written: dict[str, Path] = field(default_factory=dict)
    kept: dict[str, Path] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    notes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    passed_over: list[Path] = field(default_factory=list)
    plausibility: dict[str, Plausibility] = field(default_factory=dict)

    @property
    def odd(self) -> dict[str, str]:
        """Case -> what is odd in it, for the cases that are."""
        return {case: found.line for case, found in self.plausibility.items() if found.odd}

    @contextmanager
    def attempt(self, case: str) -> Iterator[None]:
        """Note the failure of a case; the others go on."""
        try:
            yield
        except (DataError, UsageError, OutOfMemoryError) as error:
            self.failures[case] = str(error)
            log.warning("%s: %s", printable(case), error)

    def raise_failures(self) -> None:
        """Raise DataError if a case failed, with the list."""
        if self.failures:
            count = len(self.failures) + len(self.written) + len(self.kept)
            lines = "\n".join(f"  {case}: {why}" for case, why in self.failures.items())
            raise DataError(
                f"{len(self.failures)} of {count} cases could not be predicted, the others are "
                f"done. Mend these and run the same command again:\n{lines}"
            )
