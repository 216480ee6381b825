"""`unpaired predict`: labels for an image, or for a folder of images."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unpaired.cli.options import (
    Codes,
    Device,
    EmptySegments,
    Formats,
    Json,
    ResampleSlices,
    Series,
)
from unpaired.cli.output import memory, note, say, say_json
from unpaired.errors import DataError
from unpaired.names import some
from unpaired.progress import ProgressBar

if TYPE_CHECKING:
    from unpaired.inference.needs import Needs
    from unpaired.inference.outcome import Outcome
    from unpaired.inference.predictor import Predictor


def command(
    images: Annotated[list[Path], typer.Argument(metavar="INPUT...", help="Image, folder of a "
                                                 "DICOM series, or folder of images; several files "
                                                 "are the channels of one image.")],
    model: Annotated[
        list[Path],
        typer.Option(
            "--model",
            metavar="RUN",
            help="A run, the runs of --folds, a choice (best.json) or an export; several: mean.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Label file, or folder for a folder.")],
    modality: Annotated[
        str | None, typer.Option("--modality", help="What the images are; one name of the model's.")
    ] = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write the probability of every class.")
    ] = False,
    largest_component: Annotated[
        list[str] | None,
        typer.Option("--largest-component", metavar="CLASS", help="Keep its largest piece only."),
    ] = None,
    mirror: Annotated[
        bool | None,
        typer.Option("--mirror/--no-mirror", help="Mean over mirrored images, as in training."),
    ] = None,
    batch_size: Annotated[int | None, typer.Option("--batch-size", min=1)] = None,
    series: Series = None,
    resample_slices: ResampleSlices = False,
    formats: Formats = None,
    empty_segments: EmptySegments = False,
    codes: Codes = None,
    device: Device = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 3 if a result is odd.")] = False,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Segment images with a trained model. The labels lie on the image's own grid."""
    for path in images:
        if not path.exists():
            raise DataError(f"{path} does not exist.")
    asked = _asked(series, resample_slices, formats, empty_segments, codes)

    from unpaired.inference.predictor import Predictor

    predictor = Predictor.from_folder(
        model, device=device or "auto", batch_size=batch_size, mirror=mirror
    )
    outcome = _segment(
        predictor, images, out, modality,
        probabilities=probabilities, largest_component=largest_component, **asked,
    )  # fmt: skip
    if as_json:
        _tell_json(outcome, predictor.classes)
    outcome.raise_failures()
    if not as_json:
        _tell(outcome, out)
    if strict and outcome.odd:
        raise typer.Exit(DataError.exit_code)


def _asked(
    series: str | None,
    resample_slices: bool,
    formats: list[str] | None,
    empty_segments: bool,
    codes: Path | None,
) -> dict[str, Any]:
    """The options on formats, as the predictor takes them."""
    from unpaired.io.dicom.codes import read_codes
    from unpaired.io.read import Reading
    from unpaired.io.write import Writing

    names = tuple(name for text in formats or () for name in text.split(","))
    own = read_codes(codes) if codes is not None else {}
    return {
        "reading": Reading(series, resample_slices),
        "writing": Writing(names, empty_segments, own),
        "on_needs": _teller(),
    }


def _teller() -> Callable[["Needs"], None]:
    """Says what an image will take of memory: of the first, and of each that takes more."""
    most = 0

    def tell(needs: "Needs") -> None:
        nonlocal most
        short = needs.memory_bytes > needs.free_bytes
        if needs.memory_bytes <= 1.1 * most and not short:
            return
        most = max(most, needs.memory_bytes)
        need, free = memory(needs.memory_bytes), memory(needs.free_bytes)
        note(f"{needs.image}: about {need} of memory ({free} free).")
        if short:
            note(f"warning: that may not fit; close other programs, {needs.remedy}.")

    return tell


def _segment(
    predictor: "Predictor", images: list[Path], out: Path, modality: str | None, **options: Any
) -> "Outcome":
    """A folder image by image; anything else is the channels of one image."""
    from unpaired.inference.outcome import Outcome
    from unpaired.io.read import is_series_folder

    if len(images) == 1 and images[0].is_dir() and not is_series_folder(images[0]):
        with ProgressBar("predict") as progress:
            return predictor.predict_folder(
                images[0], out, modality, **options, progress=progress, strict=False
            )
    prediction = predictor.predict_file(images, out, modality, **options)
    notes = {out.name: prediction.notes} if prediction.notes else {}
    return Outcome(
        {out.name: prediction.files[0]}, notes=notes,
        plausibility={out.name: prediction.plausibility},
    )  # fmt: skip


def _tell_json(outcome: "Outcome", classes: Sequence[str]) -> None:
    """Its parts, and what is odd; the measures are in plausibility.json."""
    parts = {name: part for name, part in vars(outcome).items() if name != "plausibility"}
    say_json({**parts, "odd": outcome.odd, "classes": classes})


def _tell(outcome: "Outcome", out: Path) -> None:
    for case, texts in outcome.notes.items():
        for text in texts:
            note(f"{case}: {text}")
    for case in outcome.kept:
        if case in outcome.odd:
            note(f"{case}: {outcome.odd[case]}")
    if not any(found.compared for found in outcome.plausibility.values()):
        note("the model does not know what its training labels measure; nothing was compared.")
    if outcome.passed_over:
        names = some([path.name for path in outcome.passed_over])
        note(f"passed over, no image by the ending of its name: {names}")
    odd = f", {len(outcome.odd)} odd" if outcome.odd else ""
    say(f"{len(outcome.written)} predicted, {len(outcome.kept)} kept from before{odd}, in {out}.")
