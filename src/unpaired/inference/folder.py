"""Many cases: each on its own, what is done is kept, what fails is told at the end."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from unpaired.errors import DataError, UsageError
from unpaired.files import shown
from unpaired.inference.images import files_in, group_channels, newest_change
from unpaired.inference.inferer import OutOfMemoryError
from unpaired.inference.label_files import write_label_files
from unpaired.inference.outcome import Outcome
from unpaired.inference.predictor import Predictor
from unpaired.inference.targets import case_targets
from unpaired.io.read import Reading
from unpaired.io.write import Writing, read_mark

log = logging.getLogger(__name__)
Progress = Callable[[int, int, str], None]


def predict_folder(
    predictor: Predictor,
    images: Path | Sequence[Path],
    out: Path,
    modality: str | None = None,
    *,
    probabilities: bool = False,
    largest_component: Sequence[str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    strict: bool = True,
    reading: Reading | None = None,
    writing: Writing | None = None,
) -> Outcome:
    """Predict every image of a folder (or list of files) into the folder `out`, each in its own
    format (NIfTI: `<case>.nii.gz`). A folder with a DICOM series in it is an image.

    Files named `<case>_0000.nii.gz`, `<case>_0001.nii.gz` are the channels of a case; other names
    are cases of one channel. See `predict_cases` for the rest.

    Args:
        strict: raise at the end if cases failed; otherwise they are in the outcome's `failures`.

    Raises:
        DataError: no image; or some cases failed, all of them are listed and the others done.
        UsageError: an unknown modality or class, or `out` is the folder of the images.
    """
    name = predictor.modality(modality)
    paths = files_in(images) if isinstance(images, Path) else list(images)
    if any(out.resolve() in (path.resolve(), path.resolve().parent) for path in paths):
        raise UsageError(f"{shown(out)} holds the images; choose another folder for the labels.")
    channels = len(predictor.plan.modalities[name].channel_names)
    cases, broken = group_channels(paths, channels)
    outcome = predict_cases(
        predictor,
        cases,
        out,
        name,
        probabilities=probabilities,
        largest_component=largest_component,
        overwrite=overwrite,
        progress=progress,
        reading=reading,
        writing=writing,
    )
    outcome.failures.update(broken)
    if strict:
        outcome.raise_failures()
    return outcome


def predict_cases(
    predictor: Predictor,
    cases: Mapping[str, Sequence[Path]],
    out: Path,
    modality: str,
    *,
    probabilities: bool = False,
    largest_component: Sequence[str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
    reading: Reading | None = None,
    writing: Writing | None = None,
) -> Outcome:
    """Predict cases, each a file a channel; a case at fault does not stop the others.

    Interrupted, the same call goes on: a label file is kept if it is whole, newer than its image
    and made by the same model and options (its header says so), unless `overwrite`.

    Args:
        progress: called with (cases done, cases in all, case).

    Raises:
        ResourceError: `out` cannot be written.
    """
    mark = predictor.mark(modality, largest_component, reading)
    outcome, asked = Outcome({}, {}, {}, {}), writing or Writing()
    write_label_files(out, predictor.classes)
    for done, (case, paths) in enumerate(cases.items(), 1):
        targets = case_targets(out, case, paths[0], asked)
        extra = (out / f"{case}_probabilities.nii",) if probabilities else ()
        if not overwrite and _is_done(targets, extra, paths, mark, len(predictor.classes)):
            outcome.kept[case] = targets[0]
        else:
            try:
                found = predictor.predict_into(
                    list(paths),
                    targets,
                    modality,
                    probabilities=probabilities,
                    largest_component=largest_component,
                    label_files=False,
                    reading=reading,
                    writing=asked,
                )
                outcome.written[case] = targets[0]
                if found.notes:
                    outcome.notes[case] = found.notes
            except (DataError, UsageError, OutOfMemoryError) as error:
                outcome.failures[case] = str(error)
                log.warning("%s: %s", case, error)
        if progress is not None:
            progress(done, len(cases), case)
    return outcome


def _is_done(
    targets: Sequence[Path],
    extra: Sequence[Path],
    images: Sequence[Path],
    mark: str,
    classes: int,
) -> bool:
    """Whether the label files are whole and they, and what lies beside, would come out the same."""
    try:
        newest = max(newest_change(path) for path in images)
        if any(path.stat().st_mtime < newest for path in (*targets, *extra)):
            return False
        if any(_description(path) != mark for path in extra):
            return False
        told = [read_mark(path) for path in targets]
    except (OSError, DataError):
        return False
    return all(found == mark and highest < classes for found, highest in told)


def _description(path: Path) -> str:
    """The `descrip` of a plain NIfTI header, without reading what follows."""
    with path.open("rb") as file:
        return file.read(348)[148:228].rstrip(b"\0").decode(errors="replace")
