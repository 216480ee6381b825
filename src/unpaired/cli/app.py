"""The program `unpaired`: its verbs, and every way it may end."""

import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from unpaired import __version__
from unpaired.cli import (
    check,
    compare,
    demo,
    evaluate,
    export,
    import_,
    predict,
    prepare,
    report,
    reproduce,
    train,
)
from unpaired.cli.failures import code_of
from unpaired.cli.termination import terminable

app = typer.Typer(
    name="unpaired",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for verb in (
    demo,
    import_,
    check,
    prepare,
    train,
    predict,
    evaluate,
    report,
    compare,
    export,
    reproduce,
):
    app.command(verb.NAME)(verb.command)


def _version(asked: bool) -> bool:
    if asked:
        typer.echo(f"unpaired {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def unpaired(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error arose.")] = False,
) -> None:
    """One segmentation network for several modalities, from scans of different patients.

    Exit codes: 0 done; 2 wrong usage; 3 the data are at fault; 4 memory, disk or device is
    missing; 5 interrupted, the same command goes on.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the program and leave with its exit code."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: Sequence[str]) -> int:
    """The exit code of the program for these arguments; errors become one message on stderr."""
    debug = "--debug" in arguments
    try:
        with terminable():
            left = [a for a in arguments if a != "--debug"]
            done = app(left, prog_name="unpaired", standalone_mode=False)
    except BaseException as error:
        return code_of(error, debug)
    return code_of(KeyboardInterrupt(), debug) if done == 130 else int(done or 0)
