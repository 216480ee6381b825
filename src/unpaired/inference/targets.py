"""Where the labels of an image go, in which formats, and whether they are there already."""

from collections.abc import Sequence
from pathlib import Path

from unpaired.errors import DataError, UsageError
from unpaired.files import printable
from unpaired.inference.images import case_of, case_of_channel
from unpaired.io.dicom import DicomSource
from unpaired.io.dicom.library import library
from unpaired.io.read import format_of
from unpaired.io.volume import Volume
from unpaired.io.write import FORMATS, LABEL_ENDINGS, Writing, read_mark
from unpaired.names import ending_of, file_name


def targets_of(out: Path, images: Sequence[Path], writing: Writing) -> tuple[Path, ...]:
    """The label files of one image: `out` itself if its name ends as a label file's does, else
    files in the folder `out`, named after the image, in the formats that `writing` asks for.

    Raises:
        UsageError: an unknown ending, a label file that is the image or lies among its slices.
    """
    file = bool(ending_of(out.name, LABEL_ENDINGS)) and not out.is_dir()
    if file and writing.formats:
        raise UsageError(
            f"{printable(out)} names a file, and so its format; with --format give a folder."
        )
    if not file and out.suffix and not out.is_dir():
        raise UsageError(
            f"{printable(out)}: the name must end in {', '.join(LABEL_ENDINGS)}, or be a folder."
        )
    found = (out,) if file else case_targets(out, case_of_channel(images[0]), images[0], writing)
    for target in found:
        if any(target.resolve() == image.resolve() for image in images):
            raise UsageError(
                f"{printable(target)} is the image itself; choose another name for the labels."
            )
        if any(image.is_dir() and target.parent.resolve() == image.resolve() for image in images):
            raise UsageError(
                f"{printable(target.parent)} holds the image's slices; choose another folder."
            )
    return found


def case_targets(out: Path, case: str, image: Path, writing: Writing) -> tuple[Path, ...]:
    """The label files of a case in a folder, the first the one to evaluate."""
    asked = writing.formats_for(format_of(image))
    return tuple(
        out / f"{file_name(case)}{ending}" for name, ending in FORMATS.items() if name in asked
    )


def case_of_target(target: Path) -> str:
    """The case that a label file is named after."""
    case = case_of(target)
    return case.removesuffix("_seg") if target.name.lower().endswith(FORMATS["dicom-seg"]) else case


def refuse_unwritable(targets: Sequence[Path], image: Volume) -> None:
    """Before anything is computed: a DICOM segmentation needs a series, and highdicom.

    Raises:
        UsageError: one of them is missing.
    """
    for target in targets:
        if target.suffix.lower() == ".dcm":
            if not isinstance(image.source, DicomSource):
                raise UsageError(
                    f"{printable(target)}: a DICOM segmentation points at the slices it was made "
                    "on, and the image is no DICOM series; write NIfTI instead."
                )
            library("highdicom")


def is_done(
    targets: Sequence[Path],
    extra: Sequence[Path],
    mark: str,
    classes: int,
) -> bool:
    """Whether the label files are whole and they, and what lies beside, would come out the same.

    Args:
        mark: of the recipe and of the image's content.
    """
    try:
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
