"""Validation problems in the user's words: the full key, what came, what was meant."""

from collections.abc import Iterable
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from unpaired.config.schema import Config
from unpaired.names import closest

PLAIN = {
    "missing": "too few numbers in the list",
    "too_long": "too many entries in the list",
    "tuple_type": "must be a list such as [1, 2] (write 0.5, not .5)",
    "dict_type": "must be a table",
    "model_type": "must be a table",
}
"""Pydantic's kinds of error that need other words."""


def near(name: str, known: Iterable[str]) -> str:
    """' Did you mean ...?', or nothing where no known name is close."""
    close = closest(name, known)
    return f" Did you mean {close}?" if close else ""


def leaves() -> list[str]:
    """Every full key, `section.field`; modalities have names of the user's and are left out."""
    return [
        f"{section}.{name}"
        for section, field in Config.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        for name in field.annotation.model_fields
    ]


def explain(error: ValidationError) -> list[str]:
    """One line per key at fault."""
    lines: dict[str, str] = {}
    for problem in error.errors(include_url=False):
        path = _path(problem["loc"])
        lines.setdefault(".".join(path), _line(path, problem))
    return list(lines.values())


def _path(loc: tuple[int | str, ...]) -> list[str]:
    """The key as the user writes it: the names that exist in the schema, list positions left out.

    Pydantic adds the branch of a union to the location; such parts name no field.
    """
    table: Any = Config
    path: list[str] = []
    for part in loc:
        if table is None or isinstance(part, int):
            break
        path.append(part)
        table = _inside(table, part)
    return path


def _inside(table: Any, key: str) -> Any:
    """The table under `key`, or None at a leaf."""
    if isinstance(table, type) and issubclass(table, BaseModel):
        field = table.model_fields.get(key)
        table = None if field is None else field.annotation
    else:
        table = get_args(table)[1]  # dict[str, Table]
    is_table = isinstance(table, type) and issubclass(table, BaseModel)
    named = get_args(table)[1:]
    holds = bool(named) and isinstance(named[0], type) and issubclass(named[0], BaseModel)
    return table if is_table or holds else None


def _line(path: list[str], problem: Any) -> str:
    key = ".".join(path)
    if problem["type"] == "extra_forbidden":
        return f"  {key}: there is no such key.{_alternative(path)}"
    if problem["type"] == "value_error":  # one of our own, whole as it is
        return f"  {key}: {problem['msg'].removeprefix('Value error, ')}."
    message = PLAIN.get(problem["type"], problem["msg"]).replace("Input should", "must")
    return f"  {key}: {message}, got {problem['input']!r}."


def _alternative(path: list[str]) -> str:
    """The very name in another table first, then a near name in the same one, then elsewhere."""
    *parents, name = path
    siblings = _siblings(parents)
    elsewhere = {full.split(".")[1]: full for full in leaves()}
    if name in elsewhere:
        return f" Did you mean {elsewhere[name]}?"
    hint = near(name, siblings)
    if hint:
        return hint.replace("mean ", "mean " + "".join(f"{p}." for p in parents), 1)
    if close := closest(name, elsewhere):
        return f" Did you mean {elsewhere[close]}?"
    return f" Known here: {', '.join(siblings)}." if siblings else ""


def _siblings(parents: list[str]) -> list[str]:
    table: Any = Config
    for part in parents:
        table = _inside(table, part)
    return list(table.model_fields) if hasattr(table, "model_fields") else []
