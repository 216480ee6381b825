"""`unpaired export`: the trained model in other programs' formats."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unpaired.cli.options import Json
from unpaired.cli.output import say, say_json
from unpaired.progress import ProgressBar

if TYPE_CHECKING:
    from unpaired.artifact.export import Exported


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run, or one fold of it.")],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to make.")],
    form: Annotated[
        str,
        typer.Option(
            "--form",
            metavar="gains|folded",
            help="One network of all modalities, or a plain one per modality.",
        ),
    ] = "gains",
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            metavar="safetensors|pt2|onnx|bundle|all",
            help="Once per format; safetensors by default.",
        ),
    ] = None,
    modalities: Annotated[
        list[str] | None,
        typer.Option("--modality", metavar="NAME", help="Fold only these; once per modality."),
    ] = None,
    fixed_size: Annotated[
        bool,
        typer.Option("--fixed-size", help="pt2, onnx: the patch's size only; quicker to write."),
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier export in OUT.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Write a run's model as safetensors, torch.export, ONNX or MONAI Bundle, and check it."""
    from unpaired.artifact.export import export

    with ProgressBar("export") as progress:
        done = export(
            run,
            out,
            form,
            formats or ("safetensors",),
            modalities or (),
            fixed_size=fixed_size,
            overwrite=overwrite,
            progress=progress,
        )
    if as_json:
        say_json(done)
    else:
        _tell(done)


def _tell(done: "Exported") -> None:
    for where, parity in done.parity.items():
        say(
            f"{done.out / where}: scores within {parity.largest_difference:.2g} of the live "
            f"network, {parity.labels_differing} of {parity.positions} labels differ (ties)."
        )
    say(f"Exported to {done.out}.")
