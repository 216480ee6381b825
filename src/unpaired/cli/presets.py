"""`unpaired presets`: the sets of settings that come with the program."""

from typing import Annotated

import typer

from unpaired.cli.options import Json
from unpaired.cli.output import say, say_json, say_table
from unpaired.tables import Table

NAME = "presets"


def command(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="Say what this preset sets; else list all.")
    ] = "",
    json: Json = False,
) -> None:
    """List the presets for --preset, or what one of them sets (docs/settings.md)."""
    from unpaired.config.reference import describe_preset, presets

    if not name:
        found = presets()
        if json:
            say_json(found)
        else:
            say_table(Table(["preset", "what it is"], [[one.name, one.about] for one in found]))
        return
    one = describe_preset(name)
    if json:
        say_json(one)
        return
    say(f"{one.name}: {one.about}")
    rows = [[key, value] for key, value in one.settings.items()]
    say_table(Table(["setting", "value, where it is not the default"], rows))
