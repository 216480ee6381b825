"""Options that several verbs share."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from unpaired.errors import UsageError

NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")

Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        metavar="NAME=FOLDER",
        help="A modality's name and the folder of its data set; once per modality.",
    ),
]
Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        metavar="NAME",
        help="A set of settings to start from; `unpaired presets` lists them.",
    ),
]
ConfigFile = Annotated[
    Path | None, typer.Option("--config", metavar="FILE", help="TOML file laid over the preset.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Single settings, such as train.steps=5000; `unpaired settings` lists all.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs to read.")]
Device = Annotated[
    str | None, typer.Option("--device", metavar="auto|cpu|cuda", help="Where to compute.")
]

Series = Annotated[
    str | None,
    typer.Option(
        "--series",
        metavar="UID|NUMBER[:IMAGE]",
        help="Which series of a DICOM folder to read; 4:2 is the second image in series 4.",
    ),
]
ResampleSlices = Annotated[
    bool,
    typer.Option(
        "--resample-slices",
        help="Mend tilted, uneven or missing DICOM slices by interpolation, and say so.",
    ),
]
Formats = Annotated[
    list[str] | None,
    typer.Option(
        "--format",
        metavar="nifti|nrrd|mha|mgz|dicom-seg",
        help="Write labels so, into the folder --out; several: all. Else the image's own format.",
    ),
]
EmptySegments = Annotated[
    bool,
    typer.Option("--empty-segments", help="DICOM-SEG: also classes of which nothing was found."),
]
Codes = Annotated[
    Path | None,
    typer.Option("--codes", metavar="FILE", help="DICOM-SEG: codes of classes (TOML or JSON)."),
]


def parse_data(given: Sequence[str] | None) -> dict[str, Path]:
    """`["a=/one", "b=/two"]` -> {"a": Path("/one"), "b": Path("/two")}.

    Raises:
        UsageError: nothing given, no `=`, an odd name, a name given twice.
    """
    if not given:
        raise UsageError("there is no data: give --data NAME=FOLDER, once per modality.")
    roots: dict[str, Path] = {}
    for text in given:
        name, separator, folder = text.partition("=")
        if not separator or not folder:
            raise UsageError(f"--data {text}: write NAME=FOLDER, such as ct=scans/ct.")
        if not NAME.fullmatch(name):
            raise UsageError(
                f"--data {text}: the name {name!r} must be letters, digits and _, a letter first."
            )
        if name in roots:
            raise UsageError(f"--data: {name} is given twice; every modality has one folder.")
        roots[name] = Path(folder).expanduser()
    return roots
