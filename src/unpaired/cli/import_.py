"""`unpaired import`: an archive as downloaded -> one nnU-Net folder a modality."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unpaired.cli.options import NAME as MODALITY_NAME
from unpaired.cli.options import Json
from unpaired.cli.output import note, say, say_json, say_table
from unpaired.errors import DataError, UsageError
from unpaired.progress import ProgressBar
from unpaired.tables import Table

if TYPE_CHECKING:
    from unpaired.importing.run import Outcome

PHANTOM = "phantom"


SourceName = Annotated[
    str,
    typer.Argument(
        help="mmwhs, btcv, chaos, amos, totalsegmentator, decathlon, manifest, nnunet, bids, or "
        "phantom, which is computed."
    ),
]
Paths = Annotated[
    list[Path],
    typer.Argument(
        metavar="ARCHIVE OUT",
        help="The folder, .zip, .tar or .tar.gz as downloaded (none for phantom), and the folder "
        "to write to.",
    ),
]
Literature = Annotated[
    bool, typer.Option("--literature-split", help="Put the literature's test cases into imagesTs.")
]
Swapped = Annotated[
    bool, typer.Option("--allow-swapped", help="Import organs that lie on the wrong side, too.")
]
Link = Annotated[
    bool, typer.Option("--link", help="Hard links instead of copies where nothing changes.")
]
Classes = Annotated[
    str | None,
    typer.Option("--classes", metavar="A,B", help="Only these organs (totalsegmentator)."),
]
Modality = Annotated[
    str | None,
    typer.Option("--modality", metavar="NAME", help="The folder's name (decathlon, nnunet)."),
]
Workers = Annotated[int, typer.Option("--workers", min=1, help="Cases at a time.")]
Cases = Annotated[
    str | None, typer.Option("--cases", metavar="ct=12,mr=12", help="How many (phantom).")
]
Level = Annotated[
    str | None, typer.Option("--level", help="easy, std, benchmark or hard (phantom).")
]
Seed = Annotated[int | None, typer.Option("--seed", help="Random seed (phantom).")]


def command(
    source: SourceName,
    paths: Paths,
    literature_split: Literature = False,
    allow_swapped: Swapped = False,
    link: Link = False,
    classes: Classes = None,
    modality: Modality = None,
    workers: Workers = 2,
    cases: Cases = None,
    level: Level = None,
    seed: Seed = None,
    as_json: Json = False,
) -> None:
    """Bring an official data set into folders that --data takes. A second call goes on.

    Exit code 3 if some case could not be imported; the others are there.
    """
    if source == PHANTOM:
        others = {
            "--literature-split": literature_split or None,
            "--allow-swapped": allow_swapped or None,
            "--link": link or None,
            "--classes": classes,
            "--modality": modality,
        }
        _refuse(others, source)
        _phantom(_paths(paths, 1)[0], cases, level or "std", seed or 0, workers, as_json)
        return
    _refuse({"--cases": cases, "--level": level, "--seed": seed}, source)
    archive, out = _paths(paths, 2)
    if modality is not None and not MODALITY_NAME.fullmatch(modality):
        raise UsageError(f"--modality {modality}: write letters, digits and _, a letter first.")

    from unpaired.importing.run import ImportOptions, import_source

    wanted = tuple(c.strip() for c in (classes or "").split(",") if c.strip())
    with ProgressBar("import") as progress:
        options = ImportOptions(wanted, modality, literature_split, allow_swapped, link, workers)
        outcome = import_source(source, archive, out, options, progress)
    say_json(outcome) if as_json else _tell(outcome)
    if outcome.failed:
        raise typer.Exit(DataError.exit_code)


def _paths(paths: list[Path], count: int) -> list[Path]:
    if len(paths) != count:
        what = (
            "the folder to write to" if count == 1 else "the archive, then the folder to write to"
        )
        raise UsageError(f"{len(paths)} paths were given; give {what}.")
    return [path.expanduser() for path in paths]


def _refuse(options: Mapping[str, Any], source: str) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise UsageError(f"{source} does not take {', '.join(given)}; leave it out.")


def _tell(outcome: "Outcome") -> None:
    for text in outcome.dropped:
        note(f"not imported: {text}")
    for case, texts in outcome.notes.items():
        note(f"{case}: {'; '.join(texts)}")
    if outcome.failed:
        say_table(Table(("case", "not imported, since"), list(outcome.failed.items()), names=2))
    counts = ", ".join(f"{count} of {key}" for key, count in outcome.cases.items())
    kept = f", {outcome.kept} of them from before" if outcome.kept else ""
    failed = f"; {len(outcome.failed)} could not be imported" if outcome.failed else ""
    say(f"Imported {counts}{kept}{failed}.")
    say("Use: " + " ".join(f"--data {key}={folder}" for key, folder in outcome.folders.items()))
    if outcome.splits is not None:
        say(f"The parts that the archive gives: data.splits={outcome.splits}")


def _phantom(
    out: Path, cases: str | None, level: str, seed: int, workers: int, as_json: bool
) -> None:
    from unpaired.phantom import write_phantom

    counts = _counts(cases or "ct=12,mr=12")
    with ProgressBar("import") as progress:
        folders = write_phantom(
            out, counts, level=level, seed=seed, workers=workers, progress=progress
        )
    if as_json:
        say_json({"folders": folders, "cases": counts})
        return
    say(f"Made {', '.join(f'{count} of {key}' for key, count in counts.items())}.")
    say("Use: " + " ".join(f"--data {key}={folder}" for key, folder in folders.items()))


def _counts(text: str) -> dict[str, int]:
    """ "ct=12,mr=12" -> {"ct": 12, "mr": 12}."""
    counts: dict[str, int] = {}
    for part in text.split(","):
        match = re.fullmatch(r"\s*([A-Za-z]\w*)\s*=\s*(\d+)\s*", part)
        if match is None or match[1] in counts:
            raise UsageError(f"--cases {text}: write each modality once, such as ct=12,mr=12.")
        counts[match[1]] = int(match[2])
    return counts
