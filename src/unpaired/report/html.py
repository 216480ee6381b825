"""Pages from the templates: one HTML file that needs nothing else, everything escaped."""

from functools import cache
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from unpaired.names import printable


class Card(NamedTuple):
    """One number in the head of a page: "MR", "88.1", "% Dice", and a line beneath."""

    name: str
    value: object
    unit: str = ""
    beneath: str = ""
    cls: str = "big"


@cache
def environment() -> Environment:
    """Templates beside this file; what a user named is escaped where it enters the page."""
    return Environment(
        loader=PackageLoader("unpaired.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_safe,
    )


def _safe(value: object) -> object:
    """What a browser would obey or hide, such as a mark that turns the direction, is escaped."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "\n".join(printable(line) for line in value.split("\n"))


def render(template: str, **content: object) -> str:
    """The page as text."""
    return environment().get_template(template).render(content)
