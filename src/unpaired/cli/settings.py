"""`unpaired settings` and `unpaired presets`: what can be set, and the sets that come along."""

from typing import Annotated

import typer

from unpaired.cli.options import Json
from unpaired.cli.output import say, say_json, say_table
from unpaired.tables import Table


def settings(
    word: Annotated[
        str, typer.Argument(metavar="[WORD]", help="Part of a name, or of a description.")
    ] = "",
    json: Json = False,
) -> None:
    """List the settings of a run, for KEY=VALUE and --config (docs/settings.md)."""
    from unpaired.config.reference import settings as matching

    found = matching(word)
    if json:
        say_json(found)
        return
    rows = [[one.key, one.takes, one.default, one.text] for one in found]
    say_table(Table(["setting", "takes", "default", "what it is"], rows))


def presets(
    name: Annotated[
        str, typer.Argument(metavar="[NAME]", help="Say what this preset sets; else list all.")
    ] = "",
    json: Json = False,
) -> None:
    """List the presets for --preset, or what one of them sets (docs/settings.md)."""
    from unpaired.config.reference import describe_preset
    from unpaired.config.reference import presets as all_presets

    if not name:
        found = all_presets()
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
