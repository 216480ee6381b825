"""Images, files and folders -> labels on the images' own grids."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from unpaired.artifact.members import load_models
from unpaired.artifact.model import Model
from unpaired.colours import class_rgb
from unpaired.data.units import doubt
from unpaired.device import Precision, find_device
from unpaired.errors import UsageError
from unpaired.files import printable
from unpaired.inference.ensemble import Ensemble, told_for
from unpaired.inference.images import (
    AnyPath,
    Image,
    content_mark,
    files_in,
    grid_of,
    group_channels,
    paths_of,
    told_otherwise,
    volumes_of,
)
from unpaired.inference.label_files import (
    SCALE,
    encode,
    probability_file,
    recipe_mark,
    write_label_files,
)
from unpaired.inference.outcome import Options, Outcome, Prediction
from unpaired.inference.targets import (
    case_of_target,
    case_targets,
    is_done,
    refuse_unwritable,
    targets_of,
)
from unpaired.io.raw import Names
from unpaired.io.read import Reading, others_in
from unpaired.io.volume import Number, Volume
from unpaired.io.write import Writing, write_labels
from unpaired.leftovers import sweep
from unpaired.names import did_you_mean, file_name
from unpaired.plausibility.files import Entries, Entry, write_entries
from unpaired.progress import Progress

_EXPORT = 3  # part of a prediction's mark: raise it when the same inputs give other labels


class Predictor:
    """Segments images with one trained model, or the mean of several.

    Its methods take the fields of `Options` by name.

    Args:
        models: of equal classes.
        batch_size: patches per call of the network; the model's configuration by default.
        precision: of the networks; each model's training configuration by default.
        mirror: mean over mirrored images; the model's configuration by default.
    """

    def __init__(
        self,
        models: Sequence[Model],
        device: torch.device,
        batch_size: int | None = None,
        precision: Precision | None = None,
        mirror: bool | None = None,
    ) -> None:
        first = models[0]
        self.models = tuple(models)
        self.plan, self.classes, self.modalities = first.plan, first.plan.classes, first.modalities
        changed: dict[str, Any] = {"batch_size": batch_size} if batch_size else {}
        if mirror is not None:
            changed["mirror"] = "auto" if mirror else "none"
        settings = [model.config.predict.model_copy(update=changed) for model in models]
        self._ensemble = Ensemble(models, device, settings, precision)

    @classmethod
    def from_folder(
        cls, run: Path | str | Sequence[Path | str], device: str = "auto", **options: Any
    ) -> "Predictor":
        """From a run, a folder of folds (fold_0, ...), a choice (best.json), an exported model, or
        several of these: the mean of all networks.

        Args:
            device: auto, cpu or cuda.
            options: `batch_size`, `precision`, `mirror` of the constructor.

        Raises:
            DataError: no model, a damaged one, or models that do not belong together.
            ResourceError: the device is not there.
        """
        named = [run] if isinstance(run, str | Path) else list(run)
        return cls(load_models([Path(one) for one in named]), find_device(device), **options)

    def predict(
        self,
        image: Image | Sequence[Image],
        modality: str | None = None,
        *,
        affine: np.ndarray | None = None,
        spacing_mm: Sequence[Number] | None = None,
        **options: Any,
    ) -> Prediction:
        """Segment one image: a path (a file, or the folder of a DICOM series), a volume, an array
        [i j k], or a sequence of one a channel.

        Args:
            modality: may be left out where the model knows only one.
            affine, spacing_mm: the geometry of arrays, see `unpaired.inference.images.volumes_of`.
            options: `probabilities`, `largest_component`, `reading`, `on_needs` of `Options`.

        Raises:
            UsageError: an unknown modality or class, or an array without geometry.
            DataError: the image is at fault.
            ResourceError: there is not enough memory.
        """
        asked = Options(**options)
        name = self._check(modality, asked)
        volumes = volumes_of(image, affine, spacing_mm, asked.reading)
        scores = None
        if asked.probabilities:
            with told_for(volumes[0]):
                scores = np.zeros((len(self.classes), *volumes[0].array.shape), np.float32)
                scores[0] = 1
        found = self._segment(volumes, name, asked, scores)
        return replace(found, probabilities=scores)

    def predict_file(
        self,
        image: AnyPath | Sequence[AnyPath],
        out: AnyPath,
        modality: str | None = None,
        **options: Any,
    ) -> Prediction:
        """Segment files and write the labels on the image's grid, to `out` or into the folder
        `out` in the image's own format (see `unpaired.inference.targets`).

        Beside it: `<name>_labels.json`, `.txt` (ITK-SNAP) and `.ctbl` (3D Slicer), and, if asked
        for, `<name>_probabilities.nii`. The file's description holds `mark(...)`.

        Raises:
            as `predict`, and UsageError where `out` would overwrite the image.
        """
        paths, asked = paths_of(image), Options(**options)
        targets = targets_of(paths_of(out)[0], paths, asked.writing or Writing())
        sweep(targets[0].parent)
        return self._predict_into(paths, targets, modality, asked)

    def _predict_into(
        self, paths: Sequence[Path], targets: Sequence[Path], modality: str | None, asked: Options
    ) -> Prediction:
        """Into label files of given names, each in the format of its ending."""
        name = self._check(modality, asked)
        volumes = volumes_of(paths, reading=asked.reading)
        refuse_unwritable(targets, volumes[0])
        mark = f"{self.mark(name, asked)} {content_mark(paths)}"
        grid, first, case = grid_of(volumes[0], mark), targets[0], case_of_target(targets[0])
        if asked.probabilities:
            beside = first.with_name(f"{case}_probabilities.nii")
            with probability_file(beside, len(self.classes), grid) as scores:
                scores[0] = SCALE
                found = self._segment(volumes, name, asked, scores, encode)
                del scores  # Windows renames no file that is mapped
        else:
            found = self._segment(volumes, name, asked)
        notes, told = list(found.notes), Names(self.classes, class_rgb(self.classes), mark)
        for target in targets:
            notes += write_labels(target, found.labels, grid, told, asked.writing)
        if asked.label_files:
            write_label_files(first.parent, self.classes, f"{case}_")
            write_entries(first.parent, {case: Entry(found.plausibility, mark)}, f"{case}_")
        return replace(found, notes=tuple(notes), files=tuple(targets))

    def predict_folder(
        self,
        images: AnyPath | Sequence[AnyPath],
        out: AnyPath,
        modality: str | None = None,
        *,
        strict: bool = True,
        **options: Any,
    ) -> Outcome:
        """Predict every image of a folder (or list of files) into the folder `out`, each in its own
        format (NIfTI: `<case>.nii.gz`). A folder with a DICOM series in it is an image.

        Files named `<case>_0000.nii.gz`, `<case>_0001.nii.gz` are the channels of a case; other
        names are cases of one channel. See `predict_cases` for the rest.

        Args:
            strict: raise at the end if cases failed; else they are in the outcome's `failures`.

        Raises:
            DataError: no image; or some cases failed, all of them are listed and the others done.
            UsageError: an unknown modality or class, or `out` is the folder of the images.
        """
        name = self.modality(modality)
        paths, (target,) = paths_of(images), paths_of(out)
        folder = paths[0] if isinstance(images, str | Path) else None
        paths = files_in(folder) if folder else paths
        if any(target.resolve() in (path.resolve(), path.resolve().parent) for path in paths):
            raise UsageError(
                f"{printable(target)} holds the images; choose another folder for the labels."
            )
        cases, broken = group_channels(paths, len(self.plan.modalities[name].channel_names))
        outcome = self.predict_cases(cases, target, name, **options)
        outcome.failures.update(broken)
        if folder and folder not in paths:  # itself where it is a series
            outcome.passed_over.extend(others_in(folder, paths))
        if strict:
            outcome.raise_failures()
        return outcome

    def predict_cases(
        self,
        cases: Mapping[str, Sequence[AnyPath]],
        out: AnyPath,
        modality: str,
        *,
        overwrite: bool = False,
        progress: Progress | None = None,
        **options: Any,
    ) -> Outcome:
        """Predict cases, each a file a channel; a case at fault does not stop the others.

        Interrupted, the same call goes on: a label file is kept if it is whole and made of the same
        image by the same model and options (its header says so), unless `overwrite`.

        Args:
            progress: called with (cases done, cases in all, case).

        Raises:
            ResourceError: `out` cannot be written.
        """
        asked = Options(**{**options, "label_files": False})
        mark, outcome, (out,) = self.mark(modality, asked), Outcome(), paths_of(out)
        sweep(out)
        write_label_files(out, self.classes)
        compares = self.plan.modalities[modality].expected is not None
        with Entries(out) as entries:
            for done, (case, given) in enumerate(cases.items(), 1):
                paths = paths_of(given)
                targets = case_targets(out, case, paths[0], asked.writing or Writing())
                extra = [out / f"{file_name(case)}_probabilities.nii"] * asked.probabilities
                with outcome.attempt(case):
                    own = f"{mark} {content_mark(paths)}"
                    known = not compares or entries.of(case, own) is not None
                    done_before = known and is_done(targets, extra, own, len(self.classes))
                    if done_before and not overwrite:
                        outcome.kept[case] = targets[0]
                    else:
                        found = self._predict_into(paths, targets, modality, asked)
                        outcome.written[case] = targets[0]
                        if found.notes:
                            outcome.notes[case] = found.notes
                        entries.add(case, found.plausibility, own)
                    if (compared := entries.of(case, own)) is not None:
                        outcome.plausibility[case] = compared
                if progress is not None:
                    progress(done, len(cases), case)
        return outcome

    def modality(self, name: str | None) -> str:
        """The modality's name, checked; the only one where there is one.

        Raises:
            UsageError: unknown, or left out though there are several.
        """
        if name is None and len(self.modalities) == 1:
            return self.modalities[0]
        if name is None:
            known = ", ".join(self.modalities)
            raise UsageError(f"say which modality the image is; the model knows {known}.")
        self.models[0].check_modality(name)
        return name

    def class_indices(self, names: Sequence[str] | None) -> list[int]:
        """The indices of foreground classes; of those of the model's configuration by default.

        Raises:
            UsageError: a name that is not one of the model's.
        """
        known = self.classes[1:]
        chosen = self._ensemble.settings[0].largest_component if names is None else names
        for name in chosen:
            if name not in known:
                raise UsageError(
                    f"the model has no class {name!r}.{did_you_mean(name, known)} "
                    f"It has {', '.join(known)}."
                )
        return [self.classes.index(name) for name in chosen]

    def fold(self, modality: str) -> nn.Module:
        """A plain network of one modality, a copy: images [B K *space] in, `Decoded` out.

        Raises:
            UsageError: an unknown modality, several models, or one that is ONNX.
        """
        if len(self.models) > 1:
            raise UsageError("several models predict together here; load one of them to fold it.")
        self.models[0].need_weights()
        self.models[0].check_modality(modality)
        return self.models[0].fold(modality)

    def mark(self, modality: str, asked: Options | None = None) -> str:
        """What a prediction depends on besides the image, as a short text for its header."""
        asked, settings = asked or Options(), self._ensemble.settings[0]
        largest = sorted(self.class_indices(asked.largest_component))
        facts = [modality, f"{settings.overlap}", f"{largest}", f"{_EXPORT}"]
        facts += ["mirrored"] if settings.mirror == "auto" else []
        facts += [] if asked.reading in (None, Reading()) else [repr(asked.reading)]
        return f"unpaired {recipe_mark(*(model.digest for model in self.models), *facts)}"

    @property
    def notes(self) -> tuple[str, ...]:
        """What was changed because memory ran out, over all images so far."""
        return tuple(self._ensemble.notes)

    def _check(self, modality: str | None, asked: Options) -> str:
        """The modality's name; wrong names are refused before anything is read."""
        name = self.modality(modality)
        self.class_indices(asked.largest_component)
        return name

    def _segment(
        self, volumes: list[Volume], modality: str, asked: Options, *into: Any
    ) -> Prediction:
        largest = self.class_indices(asked.largest_component)
        if asked.on_needs is not None:
            asked.on_needs(self._ensemble.needs(volumes, modality, largest, *into[:1]))
        grid, already = grid_of(volumes[0]), len(self.notes)
        notes = [note for volume in volumes for note in volume.notes]
        told = told_otherwise(volumes[0], modality, self.modalities)
        doubts = told or filter(None, [doubt(volumes, modality, self.plan)])
        found = self._ensemble.segment(volumes, modality, largest, *into)
        plausibility = found.compared(modality, self.plan, doubts)
        notes += filter(None, [plausibility.line, *self.notes[already:]])
        known = (grid, self.classes, modality, None, tuple(notes), (), plausibility)
        return Prediction(found.labels, *known)
