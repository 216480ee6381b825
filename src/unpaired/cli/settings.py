"""`unpaired settings`: every setting, what it takes, its default, and what it is."""

from typing import Annotated

import typer

from unpaired.cli.options import Json
from unpaired.cli.output import say_json, say_table
from unpaired.tables import Table

NAME = "settings"


def command(
    word: Annotated[
        str, typer.Argument(metavar="[WORD]", help="Part of a name, or of a description.")
    ] = "",
    json: Json = False,
) -> None:
    """List the settings of a run, for KEY=VALUE and --config (docs/settings.md)."""
    from unpaired.config.reference import settings

    found = settings(word)
    if json:
        say_json(found)
        return
    rows = [[one.key, one.takes, one.default, one.text] for one in found]
    say_table(Table(["setting", "takes", "default", "what it is"], rows))
